//! The metrics: names, values and times.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use crate::harness::service::assert_has;
use crate::harness::{Daemon, client, has_ipv6, program, receive, samples, wait_until};
use crate::http::assert_echoes;
use crate::skipped;

/// The metrics that exist without options, except `build_info` and `config_info`: name, type, label, values.
const METRICS: &str = "
    datagrams_received_total counter LISTEN
    received_bytes_total counter LISTEN
    datagrams_echoed_total counter LISTEN
    echoed_bytes_total counter LISTEN
    records_decoded_total counter LISTEN
    decode_errors_total counter LISTEN
    datagrams_empty_total counter LISTEN
    datagrams_truncated_total counter LISTEN
    datagrams_refused_total counter LISTEN reason source_port own_address destination rate_limit
    timeouts_total counter LISTEN waiting_for echo record
    receive_errors_total counter LISTEN error ERRNO
    send_errors_total counter LISTEN error ERRNO
    peers gauge
    peers_evicted_total counter
    socket_receive_buffer_bytes gauge SOCKET
    socket_send_buffer_bytes gauge SOCKET
    receive_buffer_limit_bytes gauge
    send_buffer_limit_bytes gauge
    socket_receive_queue_bytes gauge SOCKET
    socket_drops_total counter SOCKET
    batch_datagrams histogram le 1 2 4 8 16 32 64 +Inf
    last_datagram_timestamp_seconds gauge
    log_lines_dropped_total counter";
const ERRNOS: &str = "EACCES EADDRNOTAVAIL EAGAIN ECONNREFUSED EHOSTDOWN EHOSTUNREACH EINVAL EIO \
                      EMSGSIZE ENETDOWN ENETUNREACH ENOBUFS ENODEV ENOMEM EPERM EPIPE other";

#[test]
fn metrics_are_those_of_the_contract_and_start_at_0() {
    // Without a timeout: on a slow machine one might be counted.
    let args = [
        "--timeout=none",
        "--workers=2",
        "--listen=127.0.0.1:0,127.0.0.2:0",
    ];
    let daemon = Daemon::start(&args);
    let body = daemon.get("/metrics").body;
    let mut series = samples(&body);
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.count(), series.len(), "a series twice");
    series.retain(|name, _| name.starts_with("udp_echo_") && !name.contains("_info"));

    let mut expected = BTreeSet::new();
    for line in METRICS.trim().lines() {
        let mut words = line.split_whitespace();
        let name = format!("udp_echo_{}", words.next().unwrap());
        let kind = words.next().unwrap();
        assert_described(&body, &name, kind);
        let labels = labels(&words.collect::<Vec<_>>().join(" "), &daemon);
        if kind == "histogram" {
            expected.extend([format!("{name}_sum"), format!("{name}_count")]);
            expected.extend(labels.iter().map(|labels| format!("{name}_bucket{labels}")));
        } else {
            expected.extend(labels.iter().map(|labels| format!("{name}{labels}")));
        }
    }
    assert_eq!(series.keys().cloned().collect::<BTreeSet<_>>(), expected);
    // The sizes of buffers are above 0 from the start.
    series.retain(|name, value| name.contains("_buffer_") != (*value > 0.0));
    assert!(series.is_empty(), "{series:#?}");
}

#[test]
fn process_and_build_metrics_are_served() {
    let daemon = Daemon::start(&[]);
    let body = daemon.get("/metrics").body;
    let series = samples(&body);
    for (name, kind, least) in [
        ("process_cpu_seconds_total", "counter", 0.0),
        ("process_open_fds", "gauge", 4.0),
        ("process_max_fds", "gauge", 16.0),
        ("process_virtual_memory_bytes", "gauge", 1e6),
        ("process_resident_memory_bytes", "gauge", 1e6),
        ("process_start_time_seconds", "gauge", 1.7e9),
        ("process_threads", "gauge", 2.0),
    ] {
        assert_described(&body, name, kind);
        assert!(series[name] >= least, "{name} {}", series[name]);
    }
    assert_described(&body, "udp_echo_build_info", "gauge");
    let version = env!("CARGO_PKG_VERSION");
    let info = format!("udp_echo_build_info{{version=\"{version}\",revision=\"");
    let line = body.lines().find_map(|line| line.strip_prefix(&info));
    let (revision, rustc) = line.unwrap().split_once("\",rustc=\"1.").expect("rustc");
    assert!(!revision.is_empty() && rustc.ends_with("\"} 1"), "{line:?}");
}

#[test]
fn last_datagram_timestamp_is_the_arrival_time() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let slack = 0.01;
    let mut fitting = 0;
    // The daemon may be paused between reading two clocks, and a clock may be set.
    wait_until("the time is right three times", || {
        let before = now();
        assert_echoes(&daemon);
        let after = now();
        let last = daemon.metric("last_datagram_timestamp_seconds");
        if last >= before - slack && last <= after + slack {
            fitting += 1;
        } else {
            eprintln!("not {before} <= {last} <= {after}");
        }
        // The value must not change while no datagram comes: PromQL's changes() counts each.
        daemon.wait_for_metric("last_datagram_timestamp_seconds", last);
        fitting == 3
    });
}

#[test]
fn residence_counts_from_the_kernel_timestamp() {
    let mut command = program();
    command.env("UDP_ECHO_TIMESTAMPS", "yes");
    let any = if has_ipv6() {
        "--listen=[::]:0"
    } else {
        skipped!("there is no IPv6");
        "--listen=0.0.0.0:0"
    };
    let daemons = [
        Daemon::start(&["--mode=echo", "--timestamps"]),
        Daemon::start_as(command, &["--mode=echo", any]),
    ];
    for daemon in &daemons {
        assert_has(&daemon.get("/metrics").body, "residence_seconds_count 0\n");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, daemon.address().port()));
        let peer = client(address);
        daemon.pause();
        peer.send(b"x").unwrap();
        let sent = Instant::now();
        wait_until("250 ms have passed", || {
            sent.elapsed() > Duration::from_millis(250)
        });
        daemon.resume();
        assert_eq!(receive(&peer), b"x");
        daemon.wait_for_metric("residence_seconds_count", 1.0);
        daemon.wait_for_metric("residence_seconds_bucket{le=\"0.2\"}", 0.0);
        assert!(daemon.metric("residence_seconds_sum") >= 0.25);
        for round in 2..=20 {
            peer.send(b"x").unwrap();
            assert_eq!(receive(&peer), b"x");
            daemon.wait_for_metric("residence_seconds_count", f64::from(round));
        }
        let body = daemon.get("/metrics").body;
        let bounds = body.matches("residence_seconds_bucket{le=").count();
        assert_eq!(bounds, 20, "{body}");
        for bound in ["0.000001", "0.00005", "1", "+Inf"] {
            assert_has(
                &body,
                &format!("residence_seconds_bucket{{le=\"{bound}\"}}"),
            );
        }
    }
}

#[test]
fn batch_histogram_sums_to_the_datagrams() {
    for (offload, half, full) in [("auto", "8", "16"), ("off", "32", "64")] {
        let daemon = Daemon::start(&["--mode=echo", &format!("--offload={offload}")]);
        // The datagrams queue up during the pause.
        daemon.pause();
        let peer = client(daemon.address());
        for _ in 0..100 {
            peer.send(b"x").unwrap();
        }
        daemon.resume();
        for _ in 0..100 {
            receive(&peer);
        }
        daemon.wait_for_metric("batch_datagrams_sum", 100.0);
        let metrics = daemon.metrics();
        let count = metrics["udp_echo_batch_datagrams_count"];
        assert!((2.0..=50.0).contains(&count), "{count} calls");
        let bucket =
            |bound: &str| metrics[&format!("udp_echo_batch_datagrams_bucket{{le=\"{bound}\"}}")];
        let bounds = ["1", "2", "4", "8", "16", "32", "64", "+Inf"];
        assert!(bounds.map(bucket).is_sorted(), "{metrics:#?}");
        assert!((bucket("+Inf") - count).abs() < 0.5);
        assert!(bucket(half) < bucket(full), "no full batch: {metrics:#?}");
    }
}

#[test]
fn buffer_gauges_show_requested_and_granted_sizes() {
    let daemon = Daemon::start(&["--recv-buffer=64KiB", "--send-buffer=32KiB", "--workers=2"]);
    let metrics = daemon.metrics();
    let address = daemon.address();
    for worker in 0..2 {
        let expected = BTreeMap::from([
            ("receive_buffer_bytes", 131_072.0),
            ("send_buffer_bytes", 65536.0),
            ("receive_buffer_requested_bytes", 65536.0),
            ("send_buffer_requested_bytes", 32768.0),
        ]);
        let labels = format!("{{listen=\"{address}\",worker=\"{worker}\"}}");
        let seen = expected
            .keys()
            .map(|name| (*name, metrics[&format!("udp_echo_socket_{name}{labels}")]));
        assert_eq!(seen.collect::<BTreeMap<_, _>>(), expected);
    }
    for (name, sysctl) in [("receive", "rmem_max"), ("send", "wmem_max")] {
        // Some containers hide the sysctl.
        if let Ok(limit) = fs::read_to_string(format!("/proc/sys/net/core/{sysctl}")) {
            let limit: f64 = limit.trim().parse().unwrap();
            let seen = metrics[&format!("udp_echo_{name}_buffer_limit_bytes")];
            assert!((seen - limit).abs() < 0.5, "{seen}, {limit}");
        }
    }
}

/// The labels of each series, from the label and values of a line of [`METRICS`].
fn labels(text: &str, daemon: &Daemon) -> Vec<String> {
    if text == "SOCKET" {
        // The two workers of an address are neighbours in the list.
        let sockets = daemon.listen.iter().enumerate();
        let labels = |(index, listen)| format!("{{listen=\"{listen}\",worker=\"{}\"}}", index % 2);
        return sockets.map(labels).collect();
    }
    if let Some(text) = text.strip_prefix("LISTEN") {
        let mut listens: Vec<_> = daemon.listen.iter().collect();
        listens.dedup();
        let own = labels(text.trim_start(), daemon);
        let with = |listen| {
            let all = |own: &String| match own.trim_matches(['{', '}']) {
                "" => format!("{{listen=\"{listen}\"}}"),
                own => format!("{{listen=\"{listen}\",{own}}}"),
            };
            own.iter().map(all).collect::<Vec<_>>()
        };
        return listens.into_iter().flat_map(with).collect();
    }
    let text = text.replace("ERRNO", ERRNOS);
    let Some((label, values)) = text.split_once(' ') else {
        return vec![String::new()];
    };
    values
        .split(' ')
        .map(|value| format!("{{{label}=\"{value}\"}}"))
        .collect()
}

fn assert_described(body: &str, name: &str, kind: &str) {
    let types = body.matches(&format!("# TYPE {name} {kind}\n")).count();
    assert_eq!(types, 1, "the type of {name}");
    let help = format!("# HELP {name} ");
    let mut helps = body.lines().filter_map(|line| line.strip_prefix(&help));
    assert!(
        helps.next().is_some_and(|help| !help.is_empty()),
        "the help of {name}"
    );
    assert_eq!(helps.next(), None);
}
