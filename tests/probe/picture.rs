//! The README's picture of a terminal shows the current output of the client.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::harness::calm::undisturbed;
use crate::reflectors::{Reflector, ended, probe, sequence};

const PICTURE: &str = "tests/pictures/terminal.svg";
const ARGS: &str = "--mode echo --flows 4 --rate 200 --duration 2 --quiet";

/// To update the picture after a failure: `cp target/tmp/terminal.svg tests/pictures/`.
#[test]
fn terminal_picture_shows_the_output_of_the_client() {
    // The path of the third source port is broken.
    let reflector = Reflector::new(|request| {
        let lost = sequence(request) % 4 == 3;
        (!lost).then(|| request.to_vec()).into_iter().collect()
    });
    let run = || {
        let out = ended(&mut probe(reflector.address, ARGS)).1;
        let address = reflector.address.to_string();
        let out = out.replace(&address, "reflector:9999 (192.0.2.7:9999)");
        let prompt = format!("$ udp-echo probe reflector:9999 {ARGS}");
        picture(&format!("{prompt}\n{out}"))
    };
    let kept = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PICTURE)).unwrap();
    let kept = shapes(&kept);
    // A slow machine adds a line.
    let made = undisturbed(run, |made| shapes(made) == kept);
    if kept != shapes(&made) {
        let made_at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("terminal.svg");
        fs::write(made_at, &made).unwrap();
    }
    assert_eq!(kept, shapes(&made), "see above how to update it");
    assert!(
        kept.iter().any(|line| line.starts_with("flow 9")),
        "{kept:#?}"
    );
}

/// Draws a terminal with this text as SVG.
fn picture(text: &str) -> String {
    const LINE: usize = 18;
    const COLUMN: usize = 8;
    let lines: Vec<_> = text.trim_end().lines().collect();
    let columns = lines.iter().map(|line| line.chars().count()).max().unwrap();
    let (width, height) = (columns * COLUMN + 32, lines.len() * LINE + 28);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#18181b\"/>\n\
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"13\" fill=\"#e4e4e7\">\n"
    );
    for (number, line) in lines.iter().enumerate() {
        let y = 26 + number * LINE;
        let line = line
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        // The width depends on the number of characters, not on the font.
        let length = line.chars().count() * COLUMN;
        writeln!(
            svg,
            "<text x=\"16\" y=\"{y}\" textLength=\"{length}\" xml:space=\"preserve\">{line}</text>"
        )
        .unwrap();
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

/// Returns the lines of a picture without their numbers, and a histogram as one line.
fn shapes(svg: &str) -> Vec<String> {
    let lines = svg
        .lines()
        .filter_map(|line| line.strip_prefix("<text ")?.split_once('>'));
    let mut shapes: Vec<_> = lines
        .map(|(_, text)| {
            let mut shape = String::new();
            for character in text.trim_end_matches("</text>").chars() {
                match character {
                    '0'..='9' => push_once(&mut shape, '9'),
                    ' ' | '#' => push_once(&mut shape, ' '),
                    other => shape.push(other),
                }
            }
            shape.trim().replace("9.9", "9")
        })
        .collect();
    shapes.dedup();
    shapes
}

fn push_once(text: &mut String, character: char) {
    if !text.ends_with(character) {
        text.push(character);
    }
}
