//! The Grafana dashboards: their queries have data.

mod daemon;
mod mesh;

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};

use crate::harness::wait_until;
use crate::prometheus::{EXAMPLES, Prometheus};

/// The names of the dashboards; each is the name of its file, too.
const DAEMONS: &str = "udp-echo";
const MONITORS: &str = "udp-echo-mesh";

/// Metrics of a monitor that have no label `target`.
const OWN: [&str; 6] = [
    "build_info",
    "config_reload_success",
    "log_lines_dropped_total",
    "requests_not_sent_total",
    "schedule_delay_seconds_bucket",
    "socket_drops_total",
];

#[test]
fn dashboards_are_portable_and_describe_each_panel() {
    for (name, expected) in [
        (DAEMONS, &["datasource", "job", "instance"][..]),
        (MONITORS, &["datasource", "job", "instance", "target"]),
    ] {
        let dashboard = dashboard(name);
        // Grafana 10 and later read this schema version without migration.
        assert!(dashboard["schemaVersion"].as_u64() >= Some(38));
        assert!(dashboard["id"].is_null() && dashboard["uid"] == name);
        let variables = list(&dashboard["templating"]["list"]);
        let names: Vec<_> = variables.iter().map(|variable| &variable["name"]).collect();
        assert_eq!(names, expected);
        assert_eq!(variables[0]["type"], "datasource");
        let starts = &list(&dashboard["annotations"]["list"])[0];
        assert_eq!(starts["useValueForTime"], true);
        assert_eq!(starts["datasource"], source());
        // The import asks for the data source and puts it in the place of its name.
        let input = &list(&dashboard["__inputs"])[0];
        assert_eq!(input["pluginId"], "prometheus");
        let place = format!("${{{}}}", input["name"].as_str().unwrap());
        assert_eq!(variables[0]["current"]["value"], place);
        let required: BTreeSet<_> = list(&dashboard["__requires"])
            .iter()
            .map(|required| (&required["type"], &required["id"]))
            .map(|(kind, id)| (kind.as_str().unwrap(), id.as_str().unwrap()))
            .collect();
        let panels = list(&dashboard["panels"]).iter();
        let types = panels.map(|panel| ("panel", panel["type"].as_str().unwrap()));
        let types = types.filter(|(_, kind)| *kind != "row");
        let others = [("grafana", "grafana"), ("datasource", "prometheus")];
        assert_eq!(required, types.chain(others).collect());
        for variable in &variables[1..] {
            assert_eq!(variable["datasource"], source(), "{variable}");
            assert_eq!(variable["query"]["query"], variable["definition"]);
        }
        // The version of Prometheus that allows a query to refer to the end of the time range.
        let description = dashboard["description"].as_str().unwrap();
        assert!(description.contains("Prometheus 2.33 or later"));
        // These units show 0.04 as 40 m.
        for unit in ["pps", "Bps", "bps", "reqps"] {
            let unit = format!("\"unit\":\"{unit}\"");
            assert!(!dashboard.to_string().contains(&unit), "{unit}");
        }
        assert_panels(&dashboard);
    }
}

/// Asserts that panels fill the grid, and that each has a description, a unit and portable queries.
fn assert_panels(dashboard: &Value) {
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard["panels"]) {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let [x, y, width, height] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + width <= 24, "{title} is on the grid");
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{title} covers another at {cell:?}");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"], source(), "{title}");
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{title}: {description:?}");
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(defaults["unit"].is_string(), "{title}");
        if panel["type"] == "stat" || defaults["unit"] == "percentunit" && panel["type"] == "table"
        {
            // "No data" and a cell without a value have the first color, by default green.
            let steps = &defaults["thresholds"]["steps"];
            assert_ne!(steps[0]["color"].as_str().expect("a color"), "green");
        }
        let mut references = BTreeSet::new();
        for target in list(&panel["targets"]) {
            assert!(references.insert(target["refId"].as_str().unwrap()));
            assert_eq!(target["datasource"], source(), "{title}");
            assert_query(panel, target["expr"].as_str().unwrap());
            if panel["type"] == "timeseries" {
                assert_ne!(target["legendFormat"], "", "{title}");
            }
        }
    }
    // No gap: a row is as wide as the grid.
    let lowest = cells.iter().map(|(_, y)| y + 1).max().unwrap();
    assert_eq!(cells.len() as u64, 24 * lowest);
}

/// Asserts that each selector has the chosen labels, and each rate the window of the scrape interval.
fn assert_query(panel: &Value, query: &str) {
    let mut count = 0;
    for (start, _) in query.match_indices("{job=") {
        let name = query[..start].rsplit(|char: char| !char.is_alphanumeric() && char != '_');
        let monitor = name
            .into_iter()
            .next()
            .unwrap()
            .strip_prefix("udp_echo_monitor_");
        let chosen = if monitor.is_some_and(|name| !OWN.contains(&name)) {
            "{job=~\"$job\",instance=~\"$instance\",target=~\"$target\"}"
        } else {
            "{job=~\"$job\",instance=~\"$instance\"}"
        };
        assert!(query[start..].starts_with(chosen), "{query}");
        count += 1;
    }
    let metrics = ["udp_echo_", "process_", "up{"].map(|name| query.matches(name).count());
    assert_eq!(count, metrics.iter().sum::<usize>(), "{query}");
    let windows = query.matches('[').count();
    let mut fitting = query.matches("[$__rate_interval]").count();
    fitting += query.matches("[$__range]").count();
    if panel["type"] != "timeseries" {
        // The window of UdpEchoTargetSilent: the state now, for any time range.
        fitting += query.matches("[2m]").count();
    }
    assert_eq!(fitting, windows, "{query}");
}

/// The reference of each panel to the variable for the data source.
fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// Waits until a query has a number, other than 0 unless `zero` allows it.
fn has_data(prometheus: &Prometheus, title: &str, query: &str, zero: bool) {
    wait_until(&format!("{title:?} has data: {query}"), || {
        let values = prometheus.query(query);
        let finite = values.iter().any(|value| value.is_finite());
        finite && (zero || values.iter().any(|value| *value > 0.0))
    });
}

fn dashboard(name: &str) -> Value {
    let text = fs::read_to_string(format!("{EXAMPLES}/grafana/{name}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// All queries as Grafana would send them, each with its panel's title.
fn queries(dashboard: &Value, job: &str) -> Vec<(String, String)> {
    let mut queries = Vec::new();
    let mut add = |title: &Value, query: &str| {
        let query = query
            .replace("$__rate_interval", "10s")
            .replace("$__range", "1m")
            .replace("$job", job)
            .replace("$instance", ".*")
            .replace("$target", ".*");
        assert!(!query.contains('$'), "{query}");
        queries.push((title.as_str().expect("a title").to_owned(), query));
    };
    for panel in list(&dashboard["panels"]) {
        if panel["type"] == "row" {
            continue;
        }
        for target in list(&panel["targets"]) {
            add(&panel["title"], target["expr"].as_str().unwrap());
        }
    }
    for variable in list(&dashboard["templating"]["list"]) {
        if variable["type"] != "query" {
            continue;
        }
        // label_values(series, label)
        let query = variable["definition"].as_str().unwrap();
        let inner = query.strip_prefix("label_values(").unwrap();
        let (series, label) = inner.trim_end_matches(')').rsplit_once(", ").unwrap();
        add(
            &variable["label"],
            &format!("count by ({label}) ({series}{{{label}!=\"\"}})").replace("}{", ","),
        );
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        add(&annotation["name"], annotation["expr"].as_str().unwrap());
    }
    queries
}

fn list(value: &Value) -> &[Value] {
    let list = value.as_array().expect("a list");
    assert!(!list.is_empty());
    list
}

/// Ends the load, even when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
