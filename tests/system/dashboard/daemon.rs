//! The dashboard of daemons.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use super::{DAEMONS, Stop, dashboard, has_data, list, queries};
use crate::harness::{Daemon, client, receive, wait_until};
use crate::namespace::Namespace;
use crate::prometheus::{Prometheus, example};

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
    let queries = queries(&dashboard(DAEMONS), "udp-echo");

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
                has_data(&prometheus, title, query, ZERO.contains(&&**title));
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
fn empty_stamp_panels_name_the_reason() {
    let mut count = 0;
    for panel in list(&dashboard(DAEMONS)["panels"]) {
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
    let dashboard = dashboard(DAEMONS);
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
