//! `--mode stamp` against the daemon, faulty reflectors and a path with a delay.

mod daemon;
mod faults;
mod keys;
mod loss;
mod options;
mod peer;
mod relay;

use std::fmt::Display;

use serde_json::Value;

use crate::harness::Daemon;
use crate::harness::tidy::Folder;
use crate::reflectors::{LONG, Reflector, ended, joined, json, object, probe};

/// Starts a daemon in stamp mode.
fn stamp(args: &[&str]) -> Daemon {
    Daemon::start(&[&["--mode=stamp"], args].concat())
}

/// Adds the mode, and a short interval unless `args` set one.
fn with_mode(args: &str) -> String {
    let interval = if args.contains("--interval") {
        ""
    } else {
        "--interval=0.01"
    };
    format!("--mode=stamp {interval} {args}")
}

/// Sends requests that are all answered. Returns the object of a client.
fn answered(target: impl Display, args: &str) -> Value {
    let (status, seen) = json(target, &with_mode(&format!("{args} {LONG}")));
    assert_eq!((status, &seen["lost"]), (0, &0.into()), "{args}: {seen}");
    assert_eq!(seen["received"], seen["sent"], "{seen}");
    seen
}

/// Sends requests that are all answered. Returns the text of a client.
fn text(target: impl Display, args: &str) -> String {
    let (status, out, err) = ended(&mut probe(target, &with_mode(&format!("{args} {LONG}"))));
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert_fits(&out);
    out
}

/// Sends `count` requests to a reflector, by two clients: one prints an object, the other text.
/// Returns the object, whose sentences are those of the text.
fn both(reflector: &Reflector, count: u64, args: &str) -> Value {
    let args = with_mode(args);
    let (_, seen) = object(reflector.measure(count, &format!("{args} --json")));
    let (_, out, err) = reflector.measure(count, &args);
    assert_eq!((err.as_str(), &seen["sent"]), ("", &count.into()), "{out}");
    assert_fits(&out);
    let text = joined(&out);
    for sentence in unusual(&seen) {
        assert!(text.contains(&sentence), "{sentence}: {out}");
    }
    seen
}

/// The sentences, except for those about the clocks and the path that every run has, and those about
/// a busy machine.
fn unusual(seen: &Value) -> Vec<String> {
    const USUAL: [&str; 4] = [
        "one-way times are ",
        "the reflector's clock is ",
        "TTL ",
        "requests due but not sent",
    ];
    let notes = seen["notes"].as_array().unwrap().iter();
    notes
        .map(|note| note.as_str().unwrap().to_owned())
        .filter(|note| !USUAL.iter().any(|usual| note.starts_with(usual)))
        .collect()
}

fn assert_fits(out: &str) {
    for line in out.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

/// The number at a path of an object.
fn at(seen: &Value, path: &str) -> f64 {
    let number = seen.pointer(path).and_then(Value::as_f64);
    number.unwrap_or_else(|| panic!("no number at {path}: {seen}"))
}

/// The lost requests: on the way there, on the way back, unknown.
fn directions(seen: &Value) -> [u64; 3] {
    ["forward", "backward", "unknown"].map(|direction| {
        let lost = &seen["lost_by_direction"][direction];
        lost.as_u64()
            .unwrap_or_else(|| panic!("{direction}: {seen}"))
    })
}

/// Writes a key file. Returns its path.
fn key_file(folder: &Folder, name: &str, text: &str, mode: u32) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}
