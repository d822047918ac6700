//! The version and the publisher, which `Cargo.toml` has and other files repeat.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::readme;
use crate::language::texts;
use crate::manual::pages;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const REPOSITORY: &str = env!("CARGO_PKG_REPOSITORY");
/// `NAME <ADDRESS>`.
const AUTHOR: &str = env!("CARGO_PKG_AUTHORS");

/// `Cargo.toml` has these until a publisher fills in others. In two parts, so that the command which replaces
/// them everywhere leaves them here.
const PLACEHOLDERS: [&str; 2] = [
    concat!("https://example", ".org/udp-echo"),
    concat!("maintainers@example", ".org"),
];

#[test]
fn files_have_the_publisher_of_the_manifest() {
    let (_, address) = AUTHOR.split_once(" <").expect("NAME <ADDRESS>");
    assert_eq!(AUTHOR.matches(':').count(), 0, "one author");
    let own = [REPOSITORY, address.trim_end_matches('>')];
    let texts = texts();
    let mut left = Vec::new();
    for (placeholder, own) in PLACEHOLDERS.iter().zip(own) {
        // The instructions have both.
        let others = texts.iter().filter(|(name, _)| name != "CONTRIBUTING.md");
        for (name, text) in others.filter(|_| own != *placeholder) {
            let lines = text.lines().zip(1..);
            let lines = lines.filter(|(line, _)| line.contains(placeholder));
            left.extend(
                lines.map(|(_, number)| format!("{name}:{number} has {placeholder}, not {own}")),
            );
        }
    }
    assert!(left.is_empty(), "{}", left.join("\n"));
    // cargo-deb takes both of the package: an own maintainer would hide the author.
    assert!(!read("Cargo.toml").contains("\nmaintainer = "));
    let copyright = read("packaging/copyright");
    let contact = format!("\nUpstream-Contact: {AUTHOR}\nSource: {REPOSITORY}\n");
    assert!(copyright.contains(&contact), "{copyright}");
    let changelog = read("packaging/changelog");
    let signed = changelog.lines().find_map(|line| line.strip_prefix(" -- "));
    let signed = signed.and_then(|line| line.split_once("  "));
    assert_eq!(signed.expect("a signature").0, AUTHOR);
    // The rules are in the test of the rows that they link to.
    let cases = read("packaging/prometheus/tests.yml");
    let links: Vec<_> = cases.split("runbook_url: ").skip(1).collect();
    let start = format!("\"{REPOSITORY}#");
    assert!(links.iter().all(|link| link.starts_with(&start)), "{start}");
    assert!(links.len() > 10, "{}", links.len());
}

#[test]
fn changelogs_begin_with_the_version_of_the_manifest() {
    let text = read("CHANGELOG.md");
    let titles = text.lines().filter_map(|line| line.strip_prefix("## ["));
    let titles: Vec<_> = titles.map(|title| title.split_once(']').unwrap()).collect();
    assert_eq!(titles[0], ("Unreleased", ""));
    let (version, date) = titles[1];
    assert_eq!(version, VERSION);
    let date = date.strip_prefix(" - ").expect("a date");
    let debian = read("packaging/changelog");
    assert!(debian.starts_with(&format!("udp-echo ({VERSION}) ")));
    let image = read("packaging/kubernetes/kustomization.yaml");
    assert!(image.ends_with(&format!("\n    newTag: {VERSION}\n")));
    // The manual has the date of that changelog.
    for (name, page) in pages() {
        let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap();
        assert!(title.contains(&format!(" {date} ")), "{name}: {title}");
    }

    // Each title is a link, and each link has a title.
    let (_, links) = text.rsplit_once("\n\n").unwrap();
    let links = links.lines().map(|line| {
        let (name, url) = line.split_once("]: ").expect("a link");
        assert!(url.starts_with(REPOSITORY), "{line}");
        (name.trim_start_matches('['), url)
    });
    let links: Vec<_> = links.collect();
    let names = links.iter().map(|(name, _)| *name);
    let expected = titles.iter().map(|(name, _)| *name);
    assert_eq!(
        names.collect::<BTreeSet<_>>(),
        expected.collect::<BTreeSet<_>>()
    );
    let compared = format!("{REPOSITORY}/compare/v{VERSION}...HEAD");
    let released = format!("{REPOSITORY}/releases/tag/v{VERSION}");
    assert_eq!([links[0].1, links[1].1], [compared, released]);
}

fn read(file: &str) -> String {
    fs::read_to_string(readme::root().join(file)).unwrap()
}
