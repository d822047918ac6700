//! The HTTP port: what it shows, and that nobody who connects can disturb the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::Resource;

use crate::harness::confined::limited;
use crate::harness::service::{assert_has, count};
use crate::harness::{
    DEADLINE, Daemon, answer_to, client, has_ipv6, program, receive, samples, wait_until,
};
use crate::skipped;

/// The metrics of the contract: name, type, label and its values. Not here: `build_info`, and
/// those that an option has to ask for.
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
fn every_metric_of_the_contract_is_there_from_the_start_at_0_and_no_other() {
    // Without a timeout: a slow machine would see one counted.
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
    series.retain(|name, _| name.starts_with("udp_echo_") && !name.contains("build_info"));

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
    // The system sets the sizes of buffers; all else is still to be counted.
    series.retain(|name, value| name.contains("_buffer_") != (*value > 0.0));
    assert!(series.is_empty(), "{series:#?}");
}

#[test]
fn the_standard_metrics_of_a_process_and_of_its_build_are_there() {
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
fn each_path_has_its_answer_to_each_method() {
    let daemon = Daemon::start(&[]);
    let metrics = "text/plain; version=0.0.4; charset=utf-8";
    for (path, kind, part) in [
        ("/", "text/html; charset=utf-8", "href=\"/metrics\""),
        ("/metrics", metrics, "\nudp_echo_peers 0\n"),
        ("/metrics?a=b", metrics, "\nudp_echo_peers 0\n"),
        ("/-/healthy", "text/plain; charset=utf-8", "healthy\n"),
        ("/-/ready", "text/plain; charset=utf-8", "ready\n"),
    ] {
        let full = daemon.get(path);
        assert_eq!(full.status, 200, "{path}");
        let kind = format!("\r\ncontent-type: {kind}\r\n");
        assert_has(&full.head, &kind);
        assert_has(&full.body, part);

        let head = daemon.request(&request("HEAD", path));
        assert_eq!((head.status, head.body.as_str()), (200, ""), "HEAD {path}");
        assert_has(&head.head, &kind);

        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
            let refused = daemon.request(&request(method, path));
            assert_eq!(refused.status, 405, "{method} {path}");
            assert_has(&refused.head, "\r\nallow: get,head\r\n");
        }
    }
    for path in "/nope //metrics /metrics/ /Metrics /-/ /../etc/passwd /%00".split(' ') {
        assert_eq!(daemon.get(path).status, 404, "{path}");
    }
}

#[test]
fn the_status_page_shows_addresses_counts_and_buffers_without_a_script() {
    let listen = "--listen=127.0.0.1:0,127.0.0.2:0";
    let daemon = Daemon::start(&["--mode=echo", listen, "--recv-buffer=64KiB"]);
    let peer = client(daemon.address());
    for _ in 0..3 {
        peer.send(b"x").unwrap();
        receive(&peer);
    }
    daemon.wait_for_metric("datagrams_echoed_total", 3.0);
    let page = daemon.get("/").body;
    for path in ["/metrics", "/-/healthy", "/-/ready"] {
        assert_has(&page, &format!("<a href=\"{path}\">"));
    }
    let address = daemon.address();
    assert_has(&page, &format!("<title>udp-echo {address}</title>"));
    assert_has(&page, "<noscript><meta http-equiv=\"refresh\"");
    assert_has(&page, "echo mode on");
    assert_has(&page, ">healthy</span>");
    for address in &daemon.listen {
        assert_has(
            &page,
            &format!(
                "<th scope=\"row\">{address}<td>0<td>131\u{202f}072 (asked for 65\u{202f}536)"
            ),
        );
    }
    for (id, count) in [("received", 3), ("echoed", 3), ("decoded", 0), ("drops", 0)] {
        assert_has(&page, &format!("<td id=\"{id}\">{count}<td>"));
    }
    assert_has(&page, "<svg ");
    // What the script asks for is the same part again.
    let main = daemon.get("/?main").body;
    assert!(
        main.starts_with("<h1 data-revision=\"") && !page.contains("src="),
        "{main}"
    );
}

#[test]
fn the_status_page_allows_nothing_but_itself() {
    let daemon = Daemon::start(&[]);
    let nonces = [(); 2].map(|()| {
        let page = daemon.get("/");
        let policy = page.head.split("content-security-policy: ").nth(1).unwrap();
        let policy = policy.lines().next().unwrap().to_owned();
        let nonce = policy
            .split('\'')
            .find_map(|part| part.strip_prefix("nonce-"));
        let nonce = nonce.unwrap().to_owned();
        assert_eq!(
            policy,
            format!(
                "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
                 connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                 frame-ancestors 'none'"
            )
        );
        assert_eq!(page.body.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
        for header in [
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert_has(&page.head, header);
        }
        nonce
    });
    assert_ne!(nonces[0], nonces[1]);
}

#[test]
fn bad_requests_are_refused_or_cut_off_and_the_next_one_is_answered() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let http = daemon.http.unwrap();
    let start = "GET / HTTP/1.1\r\nHost: x\r\n";
    let huge = format!("{start}X: {}\r\n\r\n", "a".repeat(64 << 10));
    let many = start.to_owned() + &"X: y\r\n".repeat(2000) + "\r\n";
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(64 << 10));
    for request in [
        b"GARBAGE\r\n\r\n".as_slice(),
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xff\xff\r\n\r\n",
        &[0; 100],
        &[0xff; 10_000],
        huge.as_bytes(),
        many.as_bytes(),
        long.as_bytes(),
    ] {
        let shown = request[..request.len().min(40)].escape_ascii();
        let answer = answer_to(http, request);
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{shown}: {answer}");
        assert_serves(&daemon);
    }
    for hosts in ["", "Host: x\r\nHost: x\r\n"] {
        let request = format!("GET /-/ready HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        let answer = answer_to(http, request.as_bytes());
        assert_has(&answer, "HTTP/1.1 400 Bad Request\r\n");
    }
    let connect = b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\nConnection: close\r\n\r\n";
    assert_has(&answer_to(http, connect), "HTTP/1.1 405 ");
    let answer = answer_to(http, b"GET /-/ready HTTP/1.0\r\n\r\n");
    assert_has(&answer, "HTTP/1.0 200 OK\r\n");
    for _ in 0..20 {
        drop(send(&daemon, b""));
        drop(send(&daemon, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
    }
    assert_serves(&daemon);
}

#[test]
fn a_connection_takes_one_request() {
    let daemon = Daemon::start(&[]);
    let http = daemon.http.unwrap();
    let asked = "GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = answer_to(http, asked.as_bytes());
    assert_has(&answer, "HTTP/1.1 200 OK\r\n");
    assert!(answer.ends_with("\r\n\r\nready\n"), "{answer}");
    // The rest is not read, and the answer may be lost by that.
    let answer = answer_to(http, asked.repeat(1000).as_bytes());
    assert!(answer.matches("HTTP/1.1").count() <= 1, "{answer}");
}

#[test]
fn a_client_that_is_silent_or_slow_is_cut_off() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let open_at_first = daemon.metrics()["process_open_fds"];
    let silent = send(&daemon, b"");
    let half = send(&daemon, b"GET /metrics HTTP/1.1\r\nHo");
    // Asks and reads nothing.
    let deaf = send(&daemon, request("GET", "/metrics").as_bytes());
    assert_serves(&daemon);
    // Each ends, which without the daemon's deadlines would fail at the test's.
    assert_eq!(rest_of(silent), "");
    let answer = rest_of(half);
    assert!(
        ["", "HTTP/1.1 408"].contains(&&answer[..answer.len().min(12)]),
        "{answer}"
    );
    wait_until("the connections are closed", || {
        daemon.metrics()["process_open_fds"] <= open_at_first
    });
    drop(deaf);
}

#[test]
fn behind_300_silent_connections_a_scrape_gets_through_and_echo_is_answered() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let silent: Vec<_> = (0..300).map(|_| send(&daemon, b"")).collect();
    for _ in 0..10 {
        assert_serves(&daemon);
        // The daemon has not kept them all.
        assert!(daemon.metrics()["process_open_fds"] < 150.0);
    }
    drop(silent);
    assert_serves(&daemon);
}

#[test]
fn without_descriptors_for_connections_echo_is_answered_and_http_comes_back() {
    let start = Instant::now();
    let daemon = Daemon::start_as(limited(Resource::RLIMIT_NOFILE, 32), &["--mode=echo"]);
    let silent: Vec<_> = (0..60).map(|_| send(&daemon, b"")).collect();
    daemon.wait_for_log("cannot accept an HTTP connection");
    assert_echoes(&daemon);
    drop(silent);
    wait_until("HTTP is back", || {
        let answer = answer_to(daemon.http.unwrap(), request("GET", "/-/ready").as_bytes());
        answer.starts_with("HTTP/1.1 200")
    });
    let warnings = count(&daemon.log(), "cannot accept");
    let seconds = start.elapsed().as_secs();
    assert!(warnings as u64 <= seconds + 1, "{warnings} in {seconds} s");
}

#[test]
fn without_metrics_no_tcp_port_is_open() {
    let with = Daemon::start(&[]);
    assert_eq!(tcp_listeners(&with), 1);
    let without = Daemon::start(&["--metrics-listen=none", "--mode=echo"]);
    assert_eq!(tcp_listeners(&without), 0);
    assert!(without.http.is_none());
    assert_echoes(&without);
}

#[test]
fn the_time_of_the_last_datagram_is_the_time_it_came() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let slack = 0.01;
    let mut fitting = 0;
    // Between two looks at its two clocks the daemon may be stopped, and a clock may be set.
    wait_until("it fits three times", || {
        let before = now();
        assert_echoes(&daemon);
        let after = now();
        let last = daemon.metric("last_datagram_timestamp_seconds");
        if last >= before - slack && last <= after + slack {
            fitting += 1;
        } else {
            eprintln!("not {before} <= {last} <= {after}");
        }
        // It stands still when nothing comes: `changes()` in a query counts each move.
        daemon.wait_for_metric("last_datagram_timestamp_seconds", last);
        fitting == 3
    });
}

#[test]
fn with_timestamps_residence_is_counted_from_the_kernels_receipt_on() {
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
        wait_until("it is late", || sent.elapsed() > Duration::from_millis(250));
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
fn the_batches_add_up_to_the_datagrams() {
    for (offload, half, full) in [("auto", "8", "16"), ("off", "32", "64")] {
        let daemon = Daemon::start(&["--mode=echo", &format!("--offload={offload}")]);
        // In one batch or more: while it is stopped, they gather.
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
fn buffer_gauges_say_what_was_asked_for_and_what_the_kernel_made_of_it() {
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
        // Hidden in some containers, and then there is nothing to compare with.
        if let Ok(limit) = fs::read_to_string(format!("/proc/sys/net/core/{sysctl}")) {
            let limit: f64 = limit.trim().parse().unwrap();
            let seen = metrics[&format!("udp_echo_{name}_buffer_limit_bytes")];
            assert!((seen - limit).abs() < 0.5, "{seen}, {limit}");
        }
    }
}

/// The labels of each series, from a line's label and values.
fn labels(text: &str, daemon: &Daemon) -> Vec<String> {
    if text == "SOCKET" {
        // Both workers of an address are in the list, one after the other.
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

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
}

/// Connects and sends. The daemon may close before it has read all.
fn send(daemon: &Daemon, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(daemon.http.unwrap()).expect("the port is open");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = stream.write_all(bytes);
    stream
}

/// What comes until the daemon closes.
fn rest_of(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "not closed"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn assert_serves(daemon: &Daemon) {
    assert_eq!(daemon.get("/metrics").status, 200);
    assert_echoes(daemon);
}

/// In echo mode: in another, a new client on the port of an old one might owe a record.
fn assert_echoes(daemon: &Daemon) {
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
}

/// How many TCP sockets a daemon listens on.
fn tcp_listeners(daemon: &Daemon) -> usize {
    let table = |name| fs::read_to_string(format!("/proc/{}/net/{name}", daemon.pid()));
    let tables = table("tcp").unwrap() + &table("tcp6").unwrap_or_default();
    let listening: BTreeSet<_> = tables
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("0A"))
        .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(9)?)))
        .collect();
    let files = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    links
        .filter(|link| listening.contains(link.to_str().unwrap()))
        .count()
}
