//! The figures of targets.

use std::net::SocketAddr;

use crate::harness::Daemon;
use crate::process::{Monitor, Reflector, Scrape, document, rewrite, targets};

/// No request is lost on a machine that stalls.
const PATIENT: &str = "interval = 0.02\nwait = 60";

/// An address of this host at which nothing listens: no test and no kernel chooses this port.
const CLOSED: &str = "127.99.88.77:7";

#[test]
fn each_mode_counts_what_its_daemon_counts() {
    let modes = ["echo", "exchange", "lockstep", "stamp"];
    let daemons = modes.map(|mode| Daemon::start(&[&format!("--mode={mode}"), "--timeout=none"]));
    let mode = |mode| format!("mode = \"{mode}\", per_flow = true, flows = 4");
    let lines = modes.map(mode);
    let all: Vec<_> = modes
        .iter()
        .zip(&daemons)
        .zip(&lines)
        .map(|((mode, daemon), line)| (*mode, daemon.address(), line.as_str()))
        .collect();
    let folder = targets(PATIENT, &all);
    let monitor = Monitor::start_with(&folder);
    monitor.wait_for("each target has replies", |seen| {
        let received = |mode: &&str| seen.of(mode, "replies_received_total");
        modes.iter().map(received).min() > Some(20)
    });
    // The others end: their counts are final when no request is in flight.
    let other = Reflector::start(|_| 1);
    let last = document(PATIENT, &[("other", other.address, "mode = \"echo\"")]);
    rewrite(&folder, &last);
    monitor.reload();
    let seen = monitor.wait_for("nothing is in flight", |seen| {
        let in_flight = |mode: &&str| seen.of(mode, "requests_in_flight");
        modes.iter().map(in_flight).sum::<u64>() == 0
    });
    for (mode, daemon) in modes.iter().zip(&daemons) {
        assert_figures(&seen, mode, daemon);
    }
    assert_eq!(seen.own("socket_drops_total"), 0);
    let delays = seen.own("schedule_delay_seconds_count");
    let sent = seen.own("requests_sent_total");
    assert!(delays <= sent && delays > sent / 2, "{delays} of {sent}");
}

fn assert_figures(seen: &Scrape, mode: &str, daemon: &Daemon) {
    let sent = seen.of(mode, "requests_sent_total");
    for (name, value) in [
        ("replies_received_total", sent),
        ("requests_lost_total", 0),
        ("duplicates_total", 0),
        ("reordered_total", 0),
        ("corrupted_total", 0),
        ("send_errors_total", 0),
        ("icmp_errors_total", 0),
        ("rtt_seconds_count", sent),
        ("rtt_seconds_bucket{le=\"+Inf\"}", sent),
        // One for each pair of requests of a flow.
        ("jitter_seconds_count", sent - 4),
        ("flow_requests_sent_total", sent),
        ("flow_requests_lost_total", 0),
        ("reply_ttl", if mode == "stamp" { 255 } else { 64 }),
        (&format!("target_info{{mode=\"{mode}\"}}"), 1),
    ] {
        assert_eq!(seen.of(mode, name), value, "{mode} {name}");
    }
    let flows = [0, 1, 2, 3].map(|flow| {
        let name = format!("flow_requests_sent_total{{flow=\"{flow}\"}}");
        seen.of(mode, &name)
    });
    assert!(flows[0] - flows[3] <= 1, "{mode} {flows:?}");
    daemon.wait_for_metric("datagrams_echoed_total", as_float(sent));
    let records = match mode {
        "exchange" | "lockstep" => sent,
        _ => 0,
    };
    daemon.wait_for_metric("records_decoded_total", as_float(records));
    if mode == "stamp" {
        for direction in ["forward", "backward"] {
            let of = |name| seen.of(mode, &format!("{name}{{direction=\"{direction}\"}}"));
            assert_eq!(of("one_way_delay_seconds_count"), sent, "{direction}");
            assert_eq!(of("delay_variation_seconds_count"), sent - 4, "{direction}");
            assert_eq!(of("lost_by_direction_total"), 0, "{direction}");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[test]
fn icmp_errors_are_counted_and_their_requests_lost_after_wait() {
    let closed: SocketAddr = CLOSED.parse().unwrap();
    let folder = targets(
        "interval = 0.02\nmode = \"echo\"",
        &[
            ("lost", closed, "wait = 0.1"),
            ("waits", closed, "wait = 600"),
        ],
    );
    let monitor = Monitor::start_with(&folder);
    let kind = "icmp_errors_total{kind=\"icmp_port_unreachable\"}";
    let seen = monitor.wait_for("errors and losses are counted", |seen| {
        let errors = ["lost", "waits"].map(|target| seen.of(target, kind));
        errors.into_iter().min() > Some(10) && seen.of("lost", "requests_lost_total") > 10
    });
    for target in ["lost", "waits"] {
        let sent = seen.of(target, "requests_sent_total");
        assert_eq!(seen.of(target, "replies_received_total"), 0, "{target}");
        assert_eq!(seen.of(target, "send_errors_total"), 0, "{target}");
        assert!(seen.of(target, kind) <= sent, "{target}");
        assert_eq!(seen.of(target, "icmp_errors_total"), seen.of(target, kind));
        assert!(!seen.0.keys().any(|series| series.contains("_reply_ttl")));
        seen.assert_accounted_for(target);
    }
    assert_eq!(seen.of("waits", "requests_lost_total"), 0);
}

#[test]
fn name_that_does_not_resolve_is_a_series_and_a_warning() {
    let reflector = Reflector::start(|_| 1);
    let folder = targets(
        "mode = \"echo\"\ninterval = 0.02",
        &[
            ("known", reflector.address, ""),
            ("unknown", reflector.address, ""),
        ],
    );
    let text = document(
        "mode = \"echo\"\ninterval = 0.02",
        &[("known", reflector.address, "")],
    );
    let unknown = "[[target]]\nname = \"unknown\"\naddress = \"no-such-host.invalid:9\"\n";
    rewrite(&folder, &format!("{text}{unknown}"));
    let monitor = Monitor::start_with(&folder);
    monitor.wait_for_log("target \"unknown\": ");
    let seen = monitor.wait_for("the other target has replies", |seen| {
        seen.of("known", "replies_received_total") > 10
    });
    assert_eq!(seen.of("known", "target_resolved"), 1);
    assert_eq!(seen.of("unknown", "target_resolved"), 0);
    assert!(!seen.has("unknown"));
    assert_eq!(monitor.logged("target \"unknown\": ").len(), 1);
    // A name that resolves without a server.
    let localhost = format!("localhost:{}", reflector.address.port());
    let resolved = unknown.replace("no-such-host.invalid:9", &localhost);
    rewrite(
        &folder,
        &format!("{text}family = \"ipv4\"\n{resolved}family = \"ipv4\"\n"),
    );
    monitor.reload();
    monitor.wait_for("the target resolves and has replies", |seen| {
        seen.of("unknown", "target_resolved") == 1
            && seen.has("unknown")
            && seen.of("unknown", "replies_received_total") > 0
    });
}

#[test]
fn counters_never_fall_and_add_up_at_every_scrape() {
    // Lost, duplicated, and both ways open.
    let reflector = Reflector::start(|sequence| match sequence % 7 {
        0 | 3 => 0,
        5 => 3,
        _ => 1,
    });
    let folder = targets(
        "interval = 0.001\nwait = 0.05\nmode = \"echo\"",
        &[("a", reflector.address, "flows = 3, per_flow = true")],
    );
    let monitor = Monitor::start_with(&folder);
    let text = monitor.text();
    let counters: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter(|line| !line.ends_with(" gauge"))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    let is_counter = |series: &str| {
        let name = series.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        let listed = |name: &str| counters.iter().any(|counter| counter == name);
        listed(name) || family.is_some_and(listed)
    };
    let mut before = monitor.figures();
    let mut scrapes = 0;
    while scrapes < 200 || before.of("a", "requests_lost_total") < 100 {
        let seen = monitor.figures();
        seen.assert_accounted_for("a");
        for (flows, all) in [
            ("flow_requests_sent_total", "requests_sent_total"),
            ("flow_requests_lost_total", "requests_lost_total"),
        ] {
            assert_eq!(seen.of("a", flows), seen.of("a", all), "{flows}");
        }
        let received = seen.of("a", "replies_received_total");
        assert_eq!(seen.of("a", "rtt_seconds_count"), received);
        for (series, value) in before.0.iter().filter(|(series, _)| is_counter(series)) {
            assert!(seen.0[series] >= *value, "{series} fell from {value}");
        }
        before = seen;
        scrapes += 1;
    }
    assert!(before.of("a", "duplicates_total") > 0);
    assert_eq!(before.of("a", "corrupted_total"), 0);
}
