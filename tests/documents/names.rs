//! The names of metrics, labels and JSON members in texts, rules and dashboard.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::harness::{Daemon, program, readme, run};

#[path = "../harness/monitor.rs"]
mod monitor;

/// The files that name metrics with their prefix.
const FILES: [&str; 12] = [
    "README.md",
    "SECURITY.md",
    "packaging/generate.rs",
    "packaging/grafana/udp-echo.json",
    "packaging/grafana/udp-echo-mesh.json",
    "packaging/prometheus/alerting.rules.yml",
    "packaging/prometheus/recording.rules.yml",
    "packaging/prometheus/monitor.alerting.rules.yml",
    "packaging/prometheus/monitor.recording.rules.yml",
    "packaging/prometheus/tests.yml",
    "src/cli.rs",
    "packaging/manual/udp-echo.8.in",
];

/// Labels that Prometheus adds, and those that the rules add themselves.
const ADDED: [&str; 4] = ["instance", "job", "sysctl", "le"];

#[test]
fn texts_and_rules_name_existing_metrics() {
    let series = all_series();
    let names: BTreeSet<_> = series.iter().map(|series| name(series)).collect();
    let mut count = 0;
    for file in FILES {
        let text = read(file);
        for (start, _) in text.match_indices("udp_echo_") {
            let word: String = text[start..]
                .chars()
                .take_while(|char| is_of_a_name(*char))
                .collect();
            // A recording rule has its name between colons; `udp_echo_…` stands for all.
            let stands_for_all = ["udp_echo_", "udp_echo_monitor_"].contains(&word.as_str());
            let is_recorded = text[..start].ends_with(':') || stands_for_all;
            let is_there = names.contains(word.as_str()) || is_recorded;
            assert!(is_there, "{file}: no metric {word}");
            count += 1;
        }
        for word in text.split(|other| !is_of_a_name(other)) {
            let is_process = word.starts_with("process_") && word.matches('_').count() > 1;
            assert!(
                !is_process || names.contains(word),
                "{file}: no metric {word}"
            );
        }
    }
    assert!(count > 50, "{count}");
}

/// Without the prefix, as the texts have most of them.
#[test]
fn texts_quote_existing_metrics() {
    let series = all_series();
    let names: BTreeSet<_> = series.iter().map(|series| name(series)).collect();
    let mut count = 0;
    for file in ["README.md", "SECURITY.md"] {
        for quoted in read(file).split('`').skip(1).step_by(2) {
            let word = quoted.split('{').next().unwrap();
            // Tests have more words.
            let is_metric = word.matches('_').count() < 5
                && word.chars().all(is_of_a_name)
                && ["_total", "_bytes", "_seconds"]
                    .iter()
                    .any(|end| word.ends_with(end));
            let is_there = ["", "udp_echo_", "udp_echo_monitor_"].iter().any(|prefix| {
                let own = format!("{prefix}{word}");
                names.contains(own.as_str()) || names.contains(format!("{own}_count").as_str())
            });
            assert!(!is_metric || is_there, "{file}: no metric {quoted}");
            count += u32::from(is_metric);
        }
    }
    assert!(count > 20, "{count}");
}

#[test]
fn recorded_names_are_used_as_they_are_defined() {
    let rules = [6, 8].map(|file| read(FILES[file])).concat();
    let defined: BTreeSet<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
        .collect();
    for file in &FILES[3..10] {
        let text = read(file);
        for (start, _) in text.match_indices(":udp_echo_") {
            let level = text[..start].rfind(|other| !is_of_a_name(other)).unwrap();
            let recorded: String = text[level + 1..]
                .chars()
                .take_while(|char| is_of_a_name(*char) || *char == ':')
                .collect();
            assert!(
                defined.contains(recorded.as_str()),
                "{file}: no rule {recorded}"
            );
        }
    }
}

#[test]
fn rules_and_dashboard_use_existing_labels() {
    let series = all_series();
    let pairs = series.iter().filter_map(|series| series.split_once('{'));
    let pairs = pairs.flat_map(|(_, labels)| labels.trim_end_matches('}').split(','));
    let pairs: BTreeSet<_> = pairs.filter_map(|pair| pair.split_once('=')).collect();
    let mut labels: BTreeSet<_> = pairs.iter().map(|(label, _)| *label).collect();
    labels.extend(ADDED);
    for file in &FILES[3..9] {
        let text = read(file);
        let lists = ["by (", "on (", "by(", "on("]
            .iter()
            .flat_map(|start| text.split(start).skip(1));
        let lists = lists.filter_map(|rest| rest.split(')').next());
        let mut used: Vec<_> = lists
            .flat_map(|list| list.split(','))
            .map(str::trim)
            .collect();
        for start in ["$labels.", "{{"] {
            let words = text.split(start).skip(1);
            used.extend(words.filter_map(|rest| rest.split(|other| !is_of_a_name(other)).next()));
        }
        for label in used.into_iter().filter(|label| !label.is_empty()) {
            assert!(labels.contains(label), "{file}: no label {label}");
        }
        for rest in text.split("eq $labels.reason \\\"").skip(1) {
            let reason = rest.split('\\').next().unwrap();
            let value = format!("\"{reason}\"");
            assert!(
                pairs.contains(&("reason", value.as_str())),
                "{file}: no {reason}"
            );
        }
    }
}

#[test]
fn alerts_link_to_their_rows_in_readme() {
    let mut names = BTreeSet::new();
    for (file, record) in [
        ("alerting", "runbooks"),
        ("monitor.alerting", "monitor_runbooks"),
    ] {
        let rules = read(&format!("packaging/prometheus/{file}.rules.yml"));
        let url = concat!("url: ", env!("CARGO_PKG_REPOSITORY"), "\n");
        assert_eq!(rules.matches(url).count(), 1, "one prefix");
        for alert in rules.split("- alert: ").skip(1) {
            let name = alert.lines().next().unwrap().to_lowercase();
            let prefix = format!("{{{{ query \"udp_echo:{record}\" | first | label \"url\" }}}}");
            let link = format!("\n          runbook_url: '{prefix}#{name}'\n");
            assert!(alert.contains(&link), "no {link} in {alert}");
            names.insert(name);
        }
    }
    let mut sections = readme::sections().into_iter();
    let section = sections.find(|section| section.title == "When something is wrong");
    let section = section.unwrap().text;
    let rows = section.lines().filter(|line| line.starts_with('|'));
    let anchors: Vec<_> = rows
        .flat_map(|row| row.split("<a id=\"").skip(1))
        .map(|rest| rest.split("\"></a>").next().unwrap().to_owned())
        .collect();
    assert_eq!(anchors.len(), names.len(), "{anchors:?}");
    assert_eq!(anchors.into_iter().collect::<BTreeSet<_>>(), names);
}

#[test]
fn manual_names_the_members_of_the_json_object() {
    let manual = read("packaging/manual/udp-echo-probe.1.in");
    let words: BTreeSet<_> = manual.split(|other| !is_of_a_name(other)).collect();
    let daemon = Daemon::start(&["--mode=echo"]);
    let (target, http) = (daemon.address().to_string(), daemon.http.unwrap());
    let url = format!("--metrics-url=http://{http}/metrics");
    let args = ["probe", &target, "--mode=echo", "--count=1", "--json", &url];
    let seen = run(program().args(args)).1;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    for member in members(&seen) {
        let name = member.rsplit('.').next().unwrap();
        assert!(words.contains(name), "{member}");
    }
}

/// All names of an object's members, and of those inside it.
fn members(value: &Value) -> BTreeSet<String> {
    let object = value.as_object().into_iter().flatten();
    object
        .flat_map(|(name, value)| {
            let inner = members(value)
                .into_iter()
                .map(move |inner| format!("{name}.{inner}"));
            inner.chain([name.clone()])
        })
        .collect()
}

/// The series of a daemon with every optional metric, and those of a monitor.
fn all_series() -> BTreeSet<String> {
    let args = ["--timestamps", "--recv-buffer=64KiB", "--send-buffer=64KiB"];
    let modes = ["--mode=exchange", "--mode=stamp"];
    let daemons = modes.map(|mode| Daemon::start(&[&args[..], &[mode]].concat()));
    let series = daemons.iter().flat_map(Daemon::metrics);
    let text = monitor::text();
    let of_monitor = text.lines().filter(|line| !line.starts_with('#'));
    let of_monitor = of_monitor.map(|line| line.rsplit_once(' ').unwrap().0.to_owned());
    let series = series.map(|(series, _)| series).chain(of_monitor);
    // A daemon has these only with a program in the kernel.
    let kernel_path = ["datagrams_total", "bytes_total", "passed_total", "active"];
    let kernel_path = kernel_path.map(|name| format!("udp_echo_kernel_echo_{name}"));
    series.chain(kernel_path).collect()
}

fn name(series: &str) -> &str {
    series.split('{').next().unwrap()
}

fn is_of_a_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

fn read(file: &str) -> String {
    fs::read_to_string(readme::root().join(file)).unwrap()
}
