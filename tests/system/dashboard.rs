//! The Grafana dashboard: its queries have data.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Daemon, client, receive, wait_until};
use crate::namespace::Namespace;
use crate::prometheus::{EXAMPLES, Prometheus, example};

/// Panels whose data is 0 in this test.
const ZERO: [&str; 3] = [
    "Last datagram",
    "Receive queue, share of the buffer",
    "Received minus all outcomes",
];
/// Panels of rare events that only a slow machine causes in this test, and their counters.
const NONE: [(&str, &str); 2] = [
    ("Receive errors per minute, by name", "receive_errors_total"),
    ("Log lines dropped per minute", "log_lines_dropped_total"),
];
/// The source port that a firewall keeps replies from.
const BLOCKED: u16 = 5555;

#[test]
#[ignore = "needs root, nft and prometheus; .ci/run runs it"]
fn dashboard_queries_have_data_from_a_loaded_daemon() {
    let queries = queries(&dashboard());

    let host = Namespace::new();
    host.shell(&format!(
        "nft 'add table inet t; add chain inet t out {{ type filter hook output priority 0; }}; \
         add rule inet t out udp dport {BLOCKED} drop'"
    ));
    // The second socket receives nothing.
    let daemon = host.daemon(&[
        "--listen=127.0.0.1:9999,127.0.0.1:9998",
        "--timestamps",
        "--recv-buffer=64KiB",
        "--send-buffer=64KiB",
        "--timeout=600ms",
        "--max-datagram=100",
        "--max-peers=4",
    ]);
    let reflector = host.daemon(&["--mode=stamp", "--stamp-clock=1ms", "--max-peers=1"]);
    let daemons = [&daemon, &reflector];
    let targets = daemons.map(|daemon| daemon.http.unwrap().to_string());
    let prometheus = host.inside(|| Prometheus::start(&example(&targets)));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            host.inside(|| {
                let session = client(reflector.address());
                while !done.load(Relaxed) {
                    measure(&reflector, &session);
                    everything(&daemon);
                }
            });
        });
        let _stop = Stop(&done);
        host.inside(|| {
            for (title, query) in &queries {
                let mut values = Vec::new();
                if let Some((_, counter)) = NONE.iter().find(|(panel, _)| panel == title) {
                    let (rates, _) = query.split_once(" and ").expect(title);
                    wait_until(&format!("{title:?} has series"), || {
                        !prometheus.query(rates).is_empty()
                    });
                    // The legend leaves out series that are 0.
                    let is_empty = prometheus.query(query).is_empty();
                    let has_events = daemons.iter().any(|daemon| daemon.metric(counter) > 0.0);
                    assert!(is_empty || has_events, "{title}: {query}");
                    continue;
                }
                wait_until(&format!("{title:?} has data: {query}"), || {
                    values = prometheus.query(query);
                    let finite = values.iter().any(|value| value.is_finite());
                    finite && (ZERO.contains(&&**title) || values.iter().any(|value| *value > 0.0))
                });
            }
            let (_, starts) = queries.iter().find(|(title, _)| title == "Starts").unwrap();
            // In milliseconds. A scrape that takes too long leaves no value.
            let recent = format!("count({starts} / 1000 > time() - 3600)");
            prometheus.wait_for(&recent, 2.0);
            prometheus.wait_for_rules();
        });
    });
    host.inside(|| daemons.map(Daemon::assert_accounted_for));
    eprintln!("{} queries have data", queries.len());
}

#[test]
fn dashboard_is_portable_and_describes_each_panel() {
    let dashboard = dashboard();
    // Grafana 10 and later read this schema version without migration.
    assert!(dashboard["schemaVersion"].as_u64() >= Some(38));
    assert!(dashboard["id"].is_null() && dashboard["uid"] == "udp-echo");
    let source = json!({ "type": "prometheus", "uid": "${datasource}" });
    let variables = list(&dashboard["templating"]["list"]);
    let names: Vec<_> = variables.iter().map(|variable| &variable["name"]).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
    assert_eq!(variables[0]["type"], "datasource");
    let starts = &list(&dashboard["annotations"]["list"])[0];
    assert_eq!(starts["useValueForTime"], true);
    assert_eq!(starts["datasource"], source);
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
    let types = ["grafana", "prometheus", "stat", "timeseries"];
    let kinds = ["grafana", "datasource", "panel", "panel"];
    assert_eq!(required, kinds.into_iter().zip(types).collect());
    for variable in &variables[1..] {
        assert_eq!(variable["datasource"], source, "{variable}");
        assert_eq!(variable["query"]["query"], variable["definition"]);
    }

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
        assert_eq!(panel["datasource"], source, "{title}");
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{title}: {description:?}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string());
        if panel["type"] == "stat" {
            // Grafana's default for "No data" is green.
            let steps = &panel["fieldConfig"]["defaults"]["thresholds"]["steps"];
            assert_ne!(steps[0]["color"].as_str().expect("a color"), "green");
        }
        let mut references = BTreeSet::new();
        for target in list(&panel["targets"]) {
            assert!(references.insert(target["refId"].as_str().unwrap()));
            assert_eq!(target["datasource"], source, "{title}");
            let query = target["expr"].as_str().unwrap();
            // Each selector has the chosen labels, each rate the window of the scrape interval.
            let selectors = query.matches("udp_echo_").count() + query.matches("process_").count();
            let chosen = query.matches("{job=~\"$job\",instance=~\"$instance\"}");
            assert_eq!(chosen.count(), selectors.max(1), "{query}");
            let windows = query.matches('[').count();
            let fitting = query.matches("[$__rate_interval]").count();
            assert_eq!(fitting + query.matches("[$__range]").count(), windows);
            if panel["type"] == "timeseries" {
                assert_ne!(target["legendFormat"], "", "{title}");
            }
        }
    }
    // No gap: a row is as wide as the grid.
    let lowest = cells.iter().map(|(_, y)| y + 1).max().unwrap();
    assert_eq!(cells.len() as u64, 24 * lowest);
}

#[test]
fn empty_stamp_panels_name_the_reason() {
    let mut count = 0;
    for panel in list(&dashboard()["panels"]) {
        let query = panel["targets"][0]["expr"].as_str().unwrap_or_default();
        let reason = if query.starts_with("60 * ") {
            "None in this time range"
        } else if query.contains(" / (") {
            "No STAMP requests in this time range"
        } else {
            "No daemon in stamp mode"
        };
        if query.contains("udp_echo_stamp_") || query.contains("udp_echo_clock_") {
            let defaults = &panel["fieldConfig"]["defaults"];
            assert_eq!(defaults["noValue"], reason, "{query}");
            count += 1;
        }
    }
    assert_eq!(count, 6);
}

#[test]
fn dashboard_shows_rare_events_without_zero_series() {
    let counters = [
        "datagrams_refused",
        "datagrams_truncated",
        "socket_drops",
        "peers_evicted",
        "timeouts",
        "send_errors",
        "receive_errors",
        "log_lines_dropped",
        "stamp_uplink_lost",
        "stamp_uplink_reordered",
        "stamp_uplink_duplicates",
        "stamp_sessions_reset",
        "stamp_sessions_unkept",
    ];
    let mut shown = BTreeSet::new();
    let dashboard = dashboard();
    for panel in list(&dashboard["panels"]) {
        if panel["type"] != "timeseries" {
            continue;
        }
        let title = panel["title"].as_str().unwrap();
        let defaults = &panel["fieldConfig"]["defaults"];
        for target in list(&panel["targets"]) {
            let query = target["expr"].as_str().unwrap();
            // The lowest bucket is 0 to 1: an interpolated quantile is below 1 there.
            let interpolated = query.starts_with("histogram_quantile");
            assert!(
                !interpolated || query.contains("_seconds_bucket"),
                "{query}"
            );
            // A limit far above the value flattens it.
            assert!(!query.starts_with("process_max_fds"), "{title}");
            if query.contains("residence") {
                let hint = defaults["noValue"].as_str().unwrap_or_default();
                assert!(hint.contains("--timestamps"), "{title}");
                // The slowest of a thousand would flatten the median.
                assert_eq!(defaults["custom"]["scaleDistribution"]["type"], "log");
            }
            // Two outcomes always occur.
            let outcome = title.ends_with("by outcome")
                && !["received", "echoed"].contains(&target["legendFormat"].as_str().unwrap());
            assert!(!outcome || query.ends_with(" @ end())) > 0"), "{query}");
            // A share of nothing is no number, but has a name in the legend.
            let share = query.split_once(" / (");
            assert!(
                share.is_none_or(|(_, whole)| whole.ends_with(" > 0)")),
                "{query}"
            );
            let rare = counters.iter().find(|counter| {
                query.starts_with("60 * ") && query.contains(&format!("udp_echo_{counter}_total"))
            });
            if let Some(counter) = rare {
                assert!(title.contains("per minute"), "{title}");
                assert!(query.contains("[$__range] @ end())"), "{query}");
                assert!(query.ends_with(" > 0"), "{query}");
                assert_eq!(defaults["noValue"], "None in this time range", "{title}");
                shown.insert(*counter);
            }
        }
    }
    assert_eq!(shown, counters.into_iter().collect());
    // increase() is seldom a whole number.
    assert!(!dashboard.to_string().contains("\"sum(increase("));
    // The version of Prometheus that allows a query to refer to the end of the time range.
    let description = dashboard["description"].as_str().unwrap();
    assert!(description.contains("Prometheus 2.33 or later"));
    // These units show 0.04 as 40 m.
    for unit in ["pps", "Bps", "bps", "reqps"] {
        let unit = format!("\"unit\":\"{unit}\"");
        assert!(!dashboard.to_string().contains(&unit), "{unit}");
    }
}

fn dashboard() -> Value {
    let text = fs::read_to_string(format!("{EXAMPLES}/grafana/udp-echo.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// All queries as Grafana would send them, each with its panel's title.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut queries = Vec::new();
    let mut add = |title: &Value, query: &str| {
        let query = query
            .replace("$__rate_interval", "10s")
            .replace("$__range", "1m")
            .replace("$job", "udp-echo")
            .replace("$instance", ".*");
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

/// STAMP requests of a session: one is lost, one reordered, one a duplicate. One has no session.
fn measure(reflector: &Daemon, session: &UdpSocket) {
    // 3 is lost when 0 starts the session again.
    let first = [0, 2, 1, 1, 4].map(|sequence| (session, sequence));
    let other = client(reflector.address());
    for (socket, sequence) in first.into_iter().chain([(&other, 0)]) {
        let mut request = [0; 44];
        request[3] = sequence;
        socket.send(&request).unwrap();
        receive(socket);
    }
}

/// Traffic for all metrics of a daemon in exchange mode. On a slow machine, any record may expire:
/// no peer is used for two exchanges.
fn everything(daemon: &Daemon) {
    let from = |port: u16| {
        let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
        socket.connect(daemon.address()).unwrap();
        socket
    };
    let waited = "timeouts_total{waiting_for=\"record\"}";
    let expired = daemon.metric(waited);
    // Open to the end: no peer gets the port of another that owes a record.
    let mut peers = Vec::new();
    for (echo, record) in [
        (&b"hello"[..], &[0; 22][..]),
        (b"short", b"short"),
        (&[7; 200], &[0; 22]),
        (b"empty", b""),
    ] {
        let peer = client(daemon.address());
        peer.send(echo).unwrap();
        assert_eq!(receive(&peer), &echo[..echo.len().min(100)]);
        peer.send(record).unwrap();
        peers.push(peer);
    }
    let peer = client(daemon.address());
    peer.send(b"").unwrap();
    from(1000).send(b"refused").unwrap();
    from(BLOCKED).send(b"no reply").unwrap();
    // More peers than the table holds, and no records from them.
    for _ in 0..6 {
        let owes = client(daemon.address());
        owes.send(b"owes").unwrap();
        receive(&owes);
        peers.push(owes);
    }
    // More than the receive buffer holds.
    daemon.pause();
    for _ in 0..400 {
        peer.send(b"flood").unwrap();
    }
    daemon.resume();
    wait_until("the receive queue is empty", || {
        let labels = format!("{{listen=\"{}\",worker=\"0\"}}", daemon.address());
        daemon.metric(&format!("socket_receive_queue_bytes{labels}")) < 0.5
    });
    // Also time for more than one scrape until the next flood.
    wait_until("all records expire", || {
        daemon.metric(waited) > expired && daemon.metric("peers") < 0.5
    });
}

/// Ends the load, even when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
