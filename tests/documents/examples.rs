//! The examples for Prometheus and Grafana: names, units and numbers.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::harness::readme;
use crate::skip;
use crate::units::{METRICS, one};

/// The dashboards of daemons and of monitors, each with its picture.
const DASHBOARDS: [(&str, &str); 2] =
    [("udp-echo", "dashboard.png"), ("udp-echo-mesh", "mesh.png")];

/// The starts of queries whose value is a state or a whole number.
const NUMBERS: [&str; 4] = [
    "up{",
    "count ",
    "min(udp_echo_clock_",
    "min(udp_echo_monitor_config_",
];

/// The parts of `datagrams_received_total`.
const OUTCOMES: [&str; 6] = [
    "datagrams_echoed_total",
    "records_decoded_total",
    "decode_errors_total",
    "datagrams_empty_total",
    "datagrams_refused_total",
    "send_errors_total",
];

#[test]
fn scrape_examples_fit_the_ports_and_the_rules() {
    // The default of `monitor --metrics-listen`.
    let monitor = "127.0.0.1:9863".to_owned();
    for (files, target) in [("", one(METRICS, "ListenStream")), ("monitor.", monitor)] {
        let scrape = read(&format!("prometheus/{files}scrape.yml"));
        let value = |name: &str| {
            let mut values = scrape
                .lines()
                .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(name));
            values.next().unwrap().trim().to_owned()
        };
        let target = format!("          - {target}\n");
        assert!(scrape.contains(&target), "{target}");
        let rules = ["alerting", "recording"].map(|kind| {
            let file = format!("prometheus/{files}{kind}.rules.yml");
            assert!(
                scrape.contains(&format!("  - /usr/share/udp-echo/{file}\n")),
                "{file}"
            );
            read(&file)
        });
        let jobs = rules[0].split("job=\"").skip(1);
        let jobs: BTreeSet<_> = jobs.map(|rest| rest.split('"').next().unwrap()).collect();
        assert_eq!(jobs, BTreeSet::from([value("job_name:").as_str()]));
        // A rate over the shortest window needs more than two samples.
        let seconds = |text: &str| match text.split_at(text.len() - 1) {
            (number, "s") => number.parse::<u32>().unwrap(),
            (number, unit) => number.parse::<u32>().unwrap() * [60, 3600][usize::from(unit != "m")],
        };
        let windows = rules.iter().flat_map(|text| text.split("_total[").skip(1));
        let windows = windows.filter_map(|rest| rest.split(']').next());
        let shortest = windows.map(seconds).min().unwrap();
        assert!(4 * seconds(&value("scrape_interval:")) <= shortest);
    }
}

/// The system tests compare the rest of the file.
#[test]
fn compose_images_have_the_version_of_the_program() {
    let compose = read("compose/compose.yaml");
    let version = env!("CARGO_PKG_VERSION");
    let line = format!("    image: udp-echo:{version}\n");
    assert_eq!(compose.matches(&line).count(), 2, "{line}");
    let build = format!("#   docker build --tag udp-echo:{version} --file ");
    assert_eq!(compose.matches(&build).count(), 1, "{build}");
    assert_eq!(compose.matches("udp-echo:").count(), 3);
}

/// `:rate1m` is a rate over one minute.
#[test]
fn recording_rules_have_the_windows_of_their_names() {
    let rules = ["", "monitor."].map(|of| read(&format!("prometheus/{of}recording.rules.yml")));
    let rules = rules.concat();
    let mut count = 0;
    for rule in rules.split("- record: ").skip(1) {
        let (name, expression) = rule.split_once("expr: ").unwrap();
        for rest in expression.split("_total[").skip(1) {
            let window = rest.split(']').next().unwrap();
            assert!(name.trim().ends_with(&format!(":rate{window}")), "{name}");
            count += 1;
        }
    }
    assert!(count > 4, "{count}");
}

#[test]
fn dashboard_units_are_those_of_the_queries() {
    let mut count = 0;
    for (panel, query, _) in queries() {
        let unit = &panel["fieldConfig"]["defaults"]["unit"];
        // A share of a whole, or of a CPU.
        // A denominator is "x", "(x + y)" or "(x > 0)"; other queries have one in their choice of series.
        let shown = query.split(" and ").next().unwrap();
        let is_ratio = shown.contains("} / ")
            || shown.contains(" / (")
            || shown.contains("_cpu_seconds_total");
        let is_time = ["timestamp", "_seconds_bucket", "_error_seconds{"];
        let expected = if panel["type"] == "heatmap" {
            // The unit of the buckets is that of the axis.
            assert_eq!(panel["options"]["yAxis"]["unit"], "s");
            "short"
        } else if is_time.iter().any(|part| shown.contains(part)) {
            "s"
        } else if is_ratio {
            "percentunit"
        } else if query.contains("_bytes_total") || query.contains("_bytes{") {
            "bytes"
        } else if NUMBERS.iter().any(|start| query.starts_with(start)) {
            "none"
        } else {
            "short"
        };
        assert_eq!(unit, expected, "{query}");
        // No unit of Grafana's for rates is right below 1: it shows 0.04 p/s as 40 mp/s.
        let is_rate = query.contains("rate(udp_echo_") && unit != "s" && unit != "percentunit";
        let is_heat_map = panel["type"] == "heatmap";
        if is_rate && !is_heat_map && !query.contains("batch_datagrams") {
            let per = ["per second", "per minute"][usize::from(query.starts_with("60 * "))];
            assert!(panel["title"].as_str().unwrap().contains(per), "{query}");
        }
        // The buffer gauges are twice the size that an option requests.
        assert!(query.starts_with("2 * ") || !query.contains("_limit_bytes"));
        count += 1;
    }
    assert!(count > 20, "{count}");
    for (name, _) in DASHBOARDS {
        for annotation in list(&dashboard(name)["annotations"]["list"]) {
            // Grafana expects milliseconds.
            let query = annotation["expr"].as_str().unwrap();
            assert!(query.contains("_seconds{") && query.ends_with(" * 1000"));
        }
    }
}

#[test]
fn dashboard_quantiles_are_those_of_their_labels() {
    let mut count = 0;
    for (panel, query, legend) in queries() {
        let query = query.trim_start_matches("clamp_min(");
        let Some(rest) = query.strip_prefix("histogram_quantile(") else {
            continue;
        };
        let label = match rest.split(',').next().unwrap() {
            "0.5" => "median".to_owned(),
            // 0.999 is 99.9%.
            other => {
                let digits = format!("{:0<2}", other.trim_start_matches("0."));
                let (percent, rest) = digits.split_at(2);
                let point = if rest.is_empty() { "" } else { "." };
                format!("{percent}{point}{rest}%")
            }
        };
        // A legend that names paths leaves the quantile to the title.
        let title = panel["title"].as_str().unwrap();
        let is_in_title = title.ends_with(&format!(", {label}"));
        assert!(legend == label || is_in_title, "{title}: {query}");
        count += 1;
    }
    assert!(count > 4, "{count}");
}

#[test]
fn dashboard_accounts_for_received_by_every_outcome() {
    for title in [
        "Received per second, by outcome",
        "Received minus all outcomes",
    ] {
        let own = queries().into_iter();
        let own: String = own
            .filter(|(panel, ..)| panel["title"] == title)
            .map(|(_, query, _)| query.split(" and ").next().unwrap().to_owned())
            .collect();
        for outcome in OUTCOMES {
            let name = format!("(udp_echo_{outcome}{{");
            assert_eq!(own.matches(&name).count(), 1, "{title}: {outcome}");
        }
    }
}

#[test]
fn dashboard_overrides_match_a_legend() {
    let mut count = 0;
    for panel in panels() {
        // The columns of a table have no legend.
        if panel["type"] == "table" {
            continue;
        }
        let rules = panel["fieldConfig"]["overrides"].as_array();
        for rule in rules.into_iter().flatten() {
            let pattern = rule["matcher"]["options"].as_str().unwrap();
            // Without slashes it is the whole name.
            let start = pattern.strip_prefix("/^");
            let start = start.and_then(|rest| rest.strip_suffix('/'));
            let mut legends = list(&panel["targets"]).iter();
            let is_matched = legends.any(|target| {
                let legend = target["legendFormat"].as_str().unwrap();
                start.map_or(legend == pattern, |start| legend.starts_with(start))
            });
            assert!(is_matched, "{pattern}");
            count += 1;
        }
    }
    assert!(count > 2, "{count}");
}

/// To update a picture after a failure: `tests/pictures/dashboard/run`, with `mesh` for the second.
#[test]
fn dashboard_pictures_have_every_row_of_their_dashboards() {
    if readme::is_published_crate() {
        skip!("the published crate has no pictures");
    }
    let folder = readme::root().join("tests/pictures");
    let text = |file: &str| fs::read_to_string(folder.join("dashboard").join(file)).unwrap();
    let script = text("draw.mjs");
    let value = |name: &str| {
        let value = script.split(&format!("const {name} = ")).nth(1).unwrap();
        value.split(';').next().unwrap()
    };
    let [cell, gap] = ["CELL", "GAP"].map(|name| value(name).parse::<u64>().unwrap());
    let drawn = text("panels.jsx");
    let drawn = drawn.split("const DRAW = {").nth(1).unwrap();
    let drawn = drawn.split('}').next().unwrap();
    for (name, picture) in DASHBOARDS {
        let panels = dashboard(name)["panels"].clone();
        let side = |panel: &Value, name: &str| panel["gridPos"][name].as_u64().unwrap();
        let ends = list(&panels).iter();
        let rows = ends.map(|panel| side(panel, "y") + side(panel, "h")).max();
        let height = gap + rows.unwrap() * (cell + gap);
        let (_, width) = value("WIDTHS")
            .split_once(&format!("'{name}': "))
            .expect(name);
        let width = width
            .split([',', ' '])
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap();

        let picture = fs::read(folder.join(picture)).unwrap();
        // Width and height are the first fields of a PNG's first chunk.
        let field = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
        assert_eq!([field(16), field(20)].map(u64::from), [width, height]);

        for panel in list(&panels) {
            let kind = panel["type"].as_str().unwrap();
            let is_drawn = kind == "row" || drawn.contains(&format!(" {kind}: "));
            assert!(is_drawn, "panels.jsx does not draw {kind}");
        }
    }
}

/// Each query with its panel and its legend.
fn queries() -> Vec<(Value, String, String)> {
    let mut queries = Vec::new();
    for panel in panels() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = |name: &str| target[name].as_str().unwrap().to_owned();
            queries.push((panel.clone(), text("expr"), text("legendFormat")));
        }
    }
    queries
}

/// The panels of all dashboards.
fn panels() -> Vec<Value> {
    let all = DASHBOARDS.map(|(name, _)| list(&dashboard(name)["panels"]).to_vec());
    all.concat()
}

fn dashboard(name: &str) -> Value {
    serde_json::from_str(&read(&format!("grafana/{name}.json"))).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn read(file: &str) -> String {
    fs::read_to_string(readme::root().join("packaging").join(file)).unwrap()
}
