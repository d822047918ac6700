//! The metrics of a running monitor: names, types and labels.

use std::collections::BTreeSet;

use crate::harness::{Daemon, samples};
use crate::process::{Monitor, targets};

/// The metrics of the contract: name, type, labels of the target, further label and values.
const METRICS: &str = "
    requests_sent_total counter TARGET
    replies_received_total counter TARGET
    requests_lost_total counter TARGET
    requests_in_flight gauge TARGET
    duplicates_total counter TARGET
    reordered_total counter TARGET
    corrupted_total counter TARGET
    send_errors_total counter TARGET error ERRNO
    icmp_errors_total counter TARGET kind KIND
    rtt_seconds histogram TARGET le TIME
    jitter_seconds histogram TARGET le TIME
    reply_ttl gauge TARGET
    last_reply_timestamp_seconds gauge TARGET
    flow_requests_sent_total counter TARGET flow 0 1
    flow_requests_lost_total counter TARGET flow 0 1
    one_way_delay_seconds histogram TARGET direction WAY
    delay_variation_seconds histogram TARGET direction WAY
    lost_by_direction_total counter TARGET direction forward backward unknown
    target_info gauge TARGET mode stamp
    target_resolved gauge NAME
    socket_drops_total counter
    requests_not_sent_total counter
    schedule_delay_seconds histogram - le TIME
    config_reload_success gauge
    log_lines_dropped_total counter";
const ERRNOS: &str = "EACCES EADDRNOTAVAIL EAGAIN ECONNREFUSED EHOSTDOWN EHOSTUNREACH EINVAL EIO \
                      EMSGSIZE ENETDOWN ENETUNREACH ENOBUFS ENODEV ENOMEM EPERM EPIPE other";
const KINDS: &str = "icmp_port_unreachable icmp_host_unreachable icmp_net_unreachable \
                     icmp_prohibited icmp_too_big icmp_ttl_exceeded icmp_other";
const TIMES: &str = "0.00005 0.0001 0.0002 0.0005 0.001 0.002 0.005 0.01 0.02 0.05 0.1 0.2 0.5 1 \
                     2 5 10 +Inf";

#[test]
fn metrics_are_those_of_the_contract() {
    let daemon = Daemon::start(&["--mode=stamp"]);
    let address = daemon.address();
    let lines = "mode = \"stamp\", flows = 2, per_flow = true";
    let folder = targets("interval = 0.02", &[("a \\\"b", address, lines)]);
    let monitor = Monitor::start_with(&folder);
    monitor.wait_for("there is a reply", |seen| {
        seen.0.keys().any(|series| series.contains("_reply_ttl{"))
    });
    let text = monitor.text();
    let mut series = samples(&text);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.count(), series.len(), "a series twice");
    series.retain(|name, _| !name.contains("_build_info{"));
    let (own, process): (Vec<_>, Vec<_>) = series
        .into_keys()
        .partition(|name| name.starts_with("udp_echo_monitor_"));

    let name = "target=\"a \\\"b\"";
    let target = format!("{name},address=\"{address}\"");
    let mut expected = BTreeSet::new();
    for line in METRICS.trim().lines() {
        let mut words = line.split_whitespace();
        let metric = format!("udp_echo_monitor_{}", words.next().unwrap());
        let kind = words.next().unwrap();
        assert_described(&text, &metric, kind);
        let labels = match words.next() {
            Some("TARGET") => &target,
            Some("NAME") => name,
            _ => "",
        };
        let values = words.collect::<Vec<_>>().join(" ");
        let values = values.replace("ERRNO", ERRNOS).replace("KIND", KINDS);
        expected.extend(series_of(&metric, kind, labels, &values));
    }
    assert_eq!(own.into_iter().collect::<BTreeSet<_>>(), expected);
    for name in ["cpu_seconds_total", "open_fds", "start_time_seconds"] {
        assert!(process.contains(&format!("process_{name}")), "{name}");
    }
    let build = "udp_echo_monitor_build_info";
    assert_described(&text, build, "gauge");
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains(&format!("\n{build}{{version=\"{version}\",revision=\"")));
}

/// All series of a metric. `values` starts with the name of the last label.
fn series_of(metric: &str, kind: &str, labels: &str, values: &str) -> Vec<String> {
    let with = |suffix: &str, more: &str| {
        let comma = if labels.is_empty() || more.is_empty() {
            ""
        } else {
            ","
        };
        match format!("{labels}{comma}{more}").as_str() {
            "" => format!("{metric}{suffix}"),
            all => format!("{metric}{suffix}{{{all}}}"),
        }
    };
    let histogram = |more: &str, times: &str| {
        let comma = if more.is_empty() { "" } else { "," };
        let bucket = |time| with("_bucket", &format!("{more}{comma}le=\"{time}\""));
        let mut all: Vec<_> = times.split(' ').map(bucket).collect();
        all.extend(["_sum", "_count"].map(|suffix| with(suffix, more)));
        all
    };
    match (kind, values) {
        ("histogram", "direction WAY") => {
            let times = format!("-1 -0.01 0 {TIMES}");
            ["forward", "backward"]
                .iter()
                .flat_map(|way| histogram(&format!("direction=\"{way}\""), &times))
                .collect()
        }
        ("histogram", _) => histogram("", TIMES),
        (_, "") => vec![with("", "")],
        (_, values) => {
            let (label, values) = values.split_once(' ').unwrap();
            let one = |value| with("", &format!("{label}=\"{value}\""));
            values.split(' ').map(one).collect()
        }
    }
}

fn assert_described(text: &str, name: &str, kind: &str) {
    let types = text.matches(&format!("# TYPE {name} {kind}\n")).count();
    assert_eq!(types, 1, "the type of {name}");
    let help = format!("# HELP {name} ");
    let helps = text.lines().filter_map(|line| line.strip_prefix(&help));
    assert_eq!(helps.filter(|help| !help.is_empty()).count(), 1, "{name}");
}
