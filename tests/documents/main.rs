//! The documents match the code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    dead_code,
    reason = "tests say what broke by panicking"
)]

#[path = "../harness/mod.rs"]
mod harness;
mod language;

mod completions;
mod contributing;
mod defaults;
mod examples;
mod manual;
mod names;
mod numbers;
mod packaged;
mod publisher;
mod units;
mod workflows;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use harness::Daemon;
use harness::readme::{self, Place};

/// The README's section on other programs.
const OTHERS: &str = "Other reflectors";

#[test]
fn tests_named_in_the_threat_model_exist() {
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

/// `within_15_seconds` in a row says `15 s`.
#[test]
fn threat_model_has_the_numbers_of_its_tests() {
    let security = fs::read_to_string(readme::root().join("SECURITY.md")).unwrap();
    let mut count = 0;
    for row in security.lines().filter(|line| line.starts_with('|')) {
        let parts: Vec<_> = row.split('`').collect();
        let said: String = parts.iter().step_by(2).copied().collect();
        let said: BTreeSet<_> = said.split([' ', ',', '.', ';']).collect();
        for name in parts.iter().skip(1).step_by(2) {
            let numbers = name.split('_').filter(|word| word.parse::<u32>().is_ok());
            for number in numbers {
                assert!(said.contains(number), "no {number} beside {name}");
                count += 1;
            }
        }
    }
    assert!(count > 2, "{count}");
}

/// `UDP_ECHO_MODE=echo` and the like.
#[test]
fn readme_assignments_pass_the_check() {
    let text = readme::text();
    let quoted = text.split('`').skip(1).step_by(2);
    let assignments = quoted.filter(|word| word.starts_with("UDP_ECHO_") && word.contains('='));
    let mut count = 0;
    for assignment in assignments {
        let (name, value) = assignment.split_once('=').unwrap();
        let mut command = harness::program();
        let (status, out, err) = harness::run(command.arg("--check").env(name, value));
        assert!(status.success() && err.is_empty(), "{assignment}: {err}");
        assert!(out.lines().any(|line| line == assignment), "{assignment}");
        count += 1;
    }
    assert!(count > 1, "{count}");
}

#[test]
fn readme_developer_commands_are_steps_of_the_check() {
    let steps = steps_of_the_check();
    let mut count = 0;
    for section in readme::sections() {
        for passage in &section.passages {
            for command in section.commands(passage, Place::Step) {
                assert!(is_step(&steps, command), "no step of .ci/run is {command}");
                count += 1;
            }
        }
    }
    assert!(count > 2, "{count}");
}

pub(crate) fn steps_of_the_check() -> Vec<String> {
    let check = fs::read_to_string(readme::root().join(".ci/run")).unwrap();
    let steps = check
        .lines()
        .filter_map(|line| line.trim().strip_prefix("step "));
    steps.map(str::to_owned).collect()
}

/// Whether a step has all words of a command, in their order.
pub(crate) fn is_step(steps: &[String], command: &str) -> bool {
    steps.iter().any(|step| {
        let mut rest = step.split_whitespace();
        let mut words = readme::bare(command).split_whitespace();
        words.all(|word| rest.any(|other| other == word))
    })
}

#[test]
fn environments_are_a_step_of_the_check() {
    let check = fs::read_to_string(readme::root().join(".ci/run")).unwrap();
    assert!(check.contains("\nstep .ci/environments "));
}

/// `.ci/run` tries millions of texts in the tests whose names have this part.
#[test]
fn parser_tests_are_selected_by_the_check() {
    let check = fs::read_to_string(readme::root().join(".ci/run")).unwrap();
    let before = check.split(" --nocapture").next().unwrap();
    let filter = before.rsplit(' ').next().unwrap();
    let parsers = fs::read_to_string(readme::root().join("tests/parsers/main.rs")).unwrap();
    for test in parsers
        .split("\nfn ")
        .filter(|text| text.contains("try_cases(\""))
    {
        let name = test.split('(').next().unwrap();
        assert!(name.contains(filter), "{name} has no {filter}");
    }
    let security = fs::read_to_string(readme::root().join("SECURITY.md")).unwrap();
    assert!(security.contains(&format!("…_{filter}_…")), "{filter}");
}

#[test]
fn readme_commands_tested_elsewhere_have_a_test() {
    let mut code = String::new();
    read_all(&readme::root().join("tests"), &mut code);
    let sections = readme::sections();
    for (command, test) in readme::ELSEWHERE {
        assert!(code.contains(&format!("fn {test}()")), "no test {test}");
        let is_there = sections.iter().any(|section| section.has(command));
        assert!(is_there, "{command} is no longer in README.md");
    }
}

#[test]
fn readme_files_links_and_options_exist() {
    let text = readme::text();
    // Paths in the table of examples are relative to the packaging.
    let folders = ["", "packaging/"];
    let exists = |path: &str| {
        let path = path.trim_end_matches('/');
        folders
            .iter()
            .any(|folder| readme::exists(&format!("{folder}{path}")))
    };
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let headings: BTreeSet<_> = headings.map(anchor).collect();
    let parts = ["](", "src=\"", "srcset=\"", "href=\""];
    let links = parts.iter().flat_map(|part| text.split(part).skip(1));
    let mut count = 0;
    for link in links.filter_map(|rest| rest.split([')', '"', ' ']).next()) {
        if link.starts_with("https://") {
            continue;
        }
        let (path, heading) = link.split_once('#').unwrap_or((link, ""));
        assert!(path.is_empty() || exists(path), "no {path}");
        let is_there = heading.is_empty() || !path.is_empty() || headings.contains(heading);
        assert!(is_there, "no heading {heading}");
        count += 1;
    }
    assert!(count > 0, "{count}");

    let mut help = harness::run(harness::program().arg("--help")).1;
    for command in ["probe", "monitor", "attach"] {
        help += &harness::run(harness::program().args([command, "--help"])).1;
    }
    let sections = readme::sections();
    // Options of other programs are not checked.
    let own = sections.iter().filter(|section| section.title != OTHERS);
    let passages = own.flat_map(|section| &section.passages);
    for span in passages.flat_map(|passage| &passage.spans) {
        if let Some(name) = span.strip_prefix("--") {
            let name = name.split([' ', '=']).next().unwrap();
            let starts = ["      --", ", --"].map(|start| format!("{start}{name}"));
            assert!(
                starts.iter().any(|start| help.contains(start)),
                "no --{name}"
            );
        }
        let folders = [
            "packaging/",
            "tests/",
            "src/",
            "systemd/",
            "benches/",
            ".ci/",
        ];
        let ours = ["prometheus/", "grafana/", "balancing/", "nginx/"];
        let is_path = folders
            .iter()
            .chain(&ours)
            .any(|start| span.starts_with(start));
        assert!(!is_path || exists(span), "no {span}");
    }
}

#[test]
fn readme_metrics_exist_with_their_labels() {
    // The mode with the most metrics.
    let daemon = Daemon::start(&["--mode=stamp", "--recv-buffer=64KiB", "--send-buffer=64KiB"]);
    let described = daemon.get("/metrics").body;
    let described: BTreeSet<_> = described
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE udp_echo_")?.split(' ').next())
        .collect();
    let table = metrics_table();
    let names = table.iter().flat_map(|(names, ..)| names);
    let names: BTreeSet<_> = names.map(String::as_str).collect();
    let unknown: Vec<_> = names.difference(&described).collect();
    assert!(unknown.is_empty(), "no metric {unknown:?}");
    assert!(names.len() > 10, "{names:?}");

    let series: Vec<_> = daemon.metrics().into_keys().collect();
    for (names, labels, meaning) in &table {
        for name in names {
            let start = format!("udp_echo_{name}{{");
            let own = series
                .iter()
                .filter_map(|series| series.strip_prefix(&start));
            let own = own.flat_map(|labels| labels.trim_end_matches('}').split(','));
            let own: BTreeSet<_> = own.filter_map(|label| label.split_once('=')).collect();
            let keys: BTreeSet<_> = own.iter().map(|(key, _)| (*key).to_owned()).collect();
            assert_eq!(*labels, keys, "{name}");
            for (key, value) in own {
                let value = value.trim_matches('"');
                let is_explained = !["reason", "waiting_for"].contains(&key)
                    || meaning.contains(&format!("`{value}`"));
                assert!(is_explained, "{name}: no {value} in {meaning}");
            }
        }
    }
    let sections = readme::sections();
    let passages = sections.iter().flat_map(|section| &section.passages);
    for span in passages.flat_map(|passage| &passage.spans) {
        let is_series = span.contains('{') && span.contains("=\"");
        let name = span.trim_start_matches("udp_echo_");
        // A label may be left out.
        let (name, label) = name.split_once('{').unwrap_or((name, ""));
        let start = format!("udp_echo_{name}{{");
        let label = label.trim_end_matches('}');
        let is_there = series
            .iter()
            .any(|series| series.starts_with(&start) && series.contains(label));
        assert!(!is_series || is_there, "no {span}");
    }
}

#[test]
fn readme_options_have_the_defaults_of_help() {
    rows_have_the_defaults_of_help("Modes", &["-h"]);
}

#[test]
fn readme_options_of_the_client_have_the_defaults_of_help() {
    rows_have_the_defaults_of_help("Measure", &["probe", "-h"]);
}

/// Compares each row about an option under a heading with the option's default.
fn rows_have_the_defaults_of_help(title: &str, arguments: &[&str]) {
    let help = harness::run(harness::program().args(arguments)).1;
    let sections = readme::sections();
    let section = sections.iter().find(|section| section.title == title);
    let section = section.unwrap_or_else(|| panic!("no section {title}"));
    let options = help.split("Options:").nth(1).expect("options");
    // A letter can be in front: `-c, --count`.
    let options = options.lines().filter_map(|line| line.split_once("--"));
    let options: Vec<_> = options.map(|(_, option)| option).collect();
    let mut count = 0;
    for row in section.text.lines() {
        let Some(rest) = row.strip_prefix("| `--") else {
            continue;
        };
        let name = rest.split([' ', '`']).next().unwrap();
        let option = options
            .iter()
            .find(|option| option.split([' ', '\n']).next() == Some(name));
        let option = option.unwrap_or_else(|| panic!("no --{name}, which {title} has"));
        let words: Vec<_> = option.split_whitespace().collect();
        let option = words.join(" ");
        let default = option.split("[default: ").nth(1).expect("a default");
        let default = default.split(']').next().unwrap();
        let said = row.split('|').nth(2).unwrap().trim().trim_matches('`');
        assert_eq!(said, default, "--{name} under {title}");
        count += 1;
    }
    assert!(count > 5, "{count}");
}

/// The names, labels and meaning of each row.
fn metrics_table() -> Vec<(Vec<String>, BTreeSet<String>, String)> {
    let text = readme::text();
    let table = text.split("| metric (`udp_echo_…`)").nth(1);
    let rows = table.expect("the table").lines();
    let rows = rows.take_while(|line| line.contains('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        let quoted = |cell: &str| -> Vec<_> {
            let quoted = cell.split('`').skip(1).step_by(2);
            quoted.map(str::to_owned).collect()
        };
        (
            quoted(cells[1]),
            quoted(cells[2]).into_iter().collect(),
            cells[3].to_owned(),
        )
    })
    .collect()
}

/// The anchor of a heading.
pub(crate) fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.replace(' ', "-");
    kept.chars()
        .filter(|character| character.is_alphanumeric() || "-_".contains(*character))
        .collect()
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
