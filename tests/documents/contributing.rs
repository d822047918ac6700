//! CONTRIBUTING.md: its map of the code, its commands and its links.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::readme;
use crate::packaged::{anchors, links};
use crate::{is_step, steps_of_the_check};

/// The folders whose files and folders are in the map, each on its own.
const MAPPED: [&str; 4] = ["tests/", "packaging/", "benches/", ".ci/"];

/// The ends of files that editors and `patch` leave.
const LEFT: [&str; 4] = ["~", ".orig", ".rej", ".swp"];

#[test]
fn map_of_the_code_has_every_module_and_folder() {
    let text = text();
    let (_, map) = text.split_once("\n## Map of the code\n").unwrap();
    let map = map.split("\n## ").next().unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("| `"));
    let named = rows.flat_map(|row| {
        let cell = row.split(" | ").next().unwrap();
        cell.split('`').step_by(2)
    });
    let named: Vec<_> = named.map(str::to_owned).collect();
    let others = ["systemd/", ".github/workflows/", ".cargo/config.toml"];
    let mut expected = BTreeSet::from(others.map(str::to_owned));
    // A folder of src/ is part of the module beside it.
    for path in entries("src/") {
        match path.strip_suffix('/') {
            Some(module) => assert!(
                readme::root().join(format!("{module}.rs")).exists(),
                "{path}"
            ),
            None => {
                expected.insert(path);
            }
        }
    }
    expected.extend(MAPPED.iter().flat_map(|folder| entries(folder)));
    // Of the root, the files of cargo and its tools.
    let root = entries("").into_iter().filter(|path| path != "Cargo.toml");
    expected.extend(root.filter(|path| [".rs", ".toml"].iter().any(|end| path.ends_with(end))));
    assert_eq!(named.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(named.len(), expected.len(), "{named:#?}");
}

#[test]
fn contributing_commands_and_paths_exist() {
    let text = text();
    let steps = steps_of_the_check();
    let mut counts = [0; 2];
    for span in text.split('`').skip(1).step_by(2) {
        if span.starts_with("cargo ") {
            // One program of `cargo test`.
            let one = ["daemon", "documents"].map(|test| format!(" --test {test}"));
            let command = span.trim_end_matches(" NAME").to_owned();
            let command = one.iter().fold(command, |all, one| all.replace(one, ""));
            assert!(is_step(&steps, &command), "no step of .ci/run is {span}");
            counts[0] += 1;
        }
        let word = span.split(' ').next().unwrap();
        let starts = [
            "src/",
            "systemd/",
            ".github/",
            "tests/",
            "packaging/",
            "benches/",
            ".ci/",
        ];
        if starts.iter().any(|start| word.starts_with(start)) {
            assert!(readme::root().join(word).exists(), "no {word}");
            counts[1] += 1;
        }
    }
    assert!(counts[0] > 4 && counts[1] > 40, "{counts:?}");
    for link in links(&text) {
        let (path, place) = link.split_once('#').unwrap_or((link, ""));
        let linked = fs::read_to_string(readme::root().join(path)).expect(link);
        assert!(
            place.is_empty() || anchors(&linked).contains(place),
            "{link}"
        );
    }
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    assert!(
        text.contains(&format!("Rust {oldest} or later")),
        "{oldest}"
    );
    assert!(readme::text().contains("](CONTRIBUTING.md)"));
}

/// The entries of a folder, with a slash after each folder, but for hidden ones and [`LEFT`].
fn entries(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(readme::root().join(folder)).unwrap();
    let entries = entries.map(|entry| {
        let entry = entry.unwrap();
        let end = if entry.path().is_dir() { "/" } else { "" };
        format!("{}{end}", entry.file_name().to_str().unwrap())
    });
    let is_left = |name: &str| name.starts_with('.') || LEFT.iter().any(|end| name.ends_with(end));
    let names = entries.filter(|name| !is_left(name));
    names.map(|name| format!("{folder}{name}")).collect()
}

fn text() -> String {
    fs::read_to_string(readme::root().join("CONTRIBUTING.md")).unwrap()
}
