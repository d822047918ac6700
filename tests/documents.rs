//! That what is written is so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    dead_code,
    reason = "tests say what broke by panicking"
)]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use harness::Daemon;

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    for folder in ["src", "tests"] {
        read_all(&root.join(folder), &mut code);
    }
    let security = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let quoted: Vec<_> = security.split('`').skip(1).step_by(2).collect();
    let tests = quoted.iter().filter(|name| name.matches('_').count() > 3);
    let mut count = 0;
    for name in tests {
        assert!(code.contains(&format!("fn {name}()")), "no test {name}");
        count += 1;
    }
    assert!(count > 15, "{count}");
    for path in quoted.iter().filter(|text| text.starts_with("tests/")) {
        assert!(root.join(path).exists(), "no {path}");
    }
}

#[test]
fn the_readme_has_every_metric_and_no_other() {
    let daemon = Daemon::start(&["--timestamps", "--recv-buffer=64KiB", "--send-buffer=64KiB"]);
    let described = daemon.get("/metrics").body;
    let described: BTreeSet<_> = described
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE udp_echo_")?.split(' ').next())
        .collect();
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let table = readme
        .split("| metric (`udp_echo_…`)")
        .nth(1)
        .expect("the table");
    let table = table.lines().take_while(|line| line.contains('|')).skip(2);
    let names: BTreeSet<_> = table
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|names| names.split('`').skip(1).step_by(2))
        .collect();
    assert_eq!(names, described);
}

#[test]
fn the_readme_has_every_option_and_its_default() {
    let help = harness::run(harness::program().arg("-h")).1;
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let options = help.split("Options:").nth(1).expect("options");
    let options = options.split("\n      --").skip(1);
    for option in options {
        let name = option.split([' ', '\n']).next().unwrap();
        let rest = option.split("[default: ").nth(1);
        let Some(default) = rest.and_then(|rest| rest.split(']').next()) else {
            continue;
        };
        let default: Vec<_> = default.split_whitespace().collect();
        let default = default.join(" ");
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `--{name}")));
        let row = row.unwrap_or_else(|| panic!("no --{name}"));
        let said = row.split('|').nth(2).unwrap().trim().trim_matches('`');
        assert_eq!(said, default, "--{name}");
    }
}

fn read_all(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
