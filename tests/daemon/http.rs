//! The HTTP server: its content, and clients that misbehave.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use nix::sys::resource::Resource;

use crate::harness::confined::limited;
use crate::harness::service::{assert_has, count};
use crate::harness::{DEADLINE, Daemon, answer_to, client, has_ipv6, receive, wait_until};
use crate::skip;

#[test]
fn http_paths_answer_get_and_head_and_refuse_others() {
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
fn status_page_works_without_a_script() {
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
            &format!("<th scope=\"row\">{address}<td>0<td>0<td>0 B<td>64 KiB (requested 64 KiB)"),
        );
    }
    for (id, count) in [("received", 3), ("echoed", 3), ("decoded", 0), ("drops", 0)] {
        assert_has(&page, &format!("<td id=\"{id}\">{count}<td>"));
    }
    assert_has(&page, "<svg ");
    // The script fetches the same content.
    let main = daemon.get("/?main").body;
    assert!(
        main.starts_with("<h1 data-revision=\"") && !page.contains("src="),
        "{main}"
    );
}

#[test]
fn status_page_policy_allows_only_its_own_content() {
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
            "cache-control: no-store",
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
fn bad_requests_are_refused_and_the_next_is_answered() {
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
fn http_connection_takes_one_request() {
    let daemon = Daemon::start(&[]);
    let http = daemon.http.unwrap();
    let asked = "GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = answer_to(http, asked.as_bytes());
    assert_has(&answer, "HTTP/1.1 200 OK\r\n");
    assert!(answer.ends_with("\r\n\r\nready\n"), "{answer}");
    // The daemon closes with the rest unread; the reset may destroy the answer.
    let answer = answer_to(http, asked.repeat(1000).as_bytes());
    assert!(answer.matches("HTTP/1.1").count() <= 1, "{answer}");
}

#[test]
fn http_wildcard_address_includes_ipv4() {
    if !has_ipv6() {
        skip!("there is no IPv6");
    }
    let daemon = Daemon::start(&["--metrics-listen=[::]:0"]);
    let port = daemon.http.unwrap().port();
    let asked = request("GET", "/-/ready");
    let answer = answer_to(([127, 0, 0, 1], port).into(), asked.as_bytes());
    assert_has(&answer, "HTTP/1.1 200 OK\r\n");
}

#[test]
fn silent_and_slow_http_clients_are_cut_off() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let open_before = daemon.metrics()["process_open_fds"];
    let silent = send(&daemon, b"");
    let half = send(&daemon, b"GET /metrics HTTP/1.1\r\nHo");
    // Sends a request and does not read the response.
    let unread = send(&daemon, request("GET", "/metrics").as_bytes());
    assert_serves(&daemon);
    // Without the daemon's deadlines these reads would run into that of the test.
    assert_eq!(rest_of(silent), "");
    let answer = rest_of(half);
    assert!(
        ["", "HTTP/1.1 408"].contains(&&answer[..answer.len().min(12)]),
        "{answer}"
    );
    wait_until("the connections are closed", || {
        daemon.metrics()["process_open_fds"] <= open_before
    });
    drop(unread);
}

#[test]
fn scrape_and_echo_work_beside_300_silent_connections() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let silent: Vec<_> = (0..300).map(|_| send(&daemon, b"")).collect();
    for _ in 0..10 {
        assert_serves(&daemon);
        // The daemon has closed the oldest.
        assert!(daemon.metrics()["process_open_fds"] < 150.0);
    }
    drop(silent);
    assert_serves(&daemon);
}

#[test]
fn http_recovers_after_descriptors_ran_out() {
    let start = Instant::now();
    let daemon = Daemon::start_as(limited(Resource::RLIMIT_NOFILE, 32), &["--mode=echo"]);
    let silent: Vec<_> = (0..60).map(|_| send(&daemon, b"")).collect();
    daemon.wait_for_log("cannot accept an HTTP connection");
    let log = daemon.log();
    let first = log.iter().find(|line| line.contains("cannot accept"));
    assert!(!first.unwrap().contains("closing 0 older"), "{log:#?}");
    assert_echoes(&daemon);
    drop(silent);
    wait_until("HTTP works again", || {
        let answer = answer_to(daemon.http.unwrap(), request("GET", "/-/ready").as_bytes());
        answer.starts_with("HTTP/1.1 200")
    });
    let warnings = count(&daemon.log(), "cannot accept");
    let seconds = start.elapsed().as_secs();
    assert!(warnings as u64 <= seconds + 1, "{warnings} in {seconds} s");
}

#[test]
fn no_tcp_port_is_open_without_metrics() {
    let with = Daemon::start(&[]);
    assert_eq!(tcp_listeners(&with), 1);
    let without = Daemon::start(&["--metrics-listen=none", "--mode=echo"]);
    assert_eq!(tcp_listeners(&without), 0);
    assert!(without.http.is_none());
    assert_echoes(&without);
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
}

/// Connects and sends `bytes`. The daemon may close before it has read all of them.
fn send(daemon: &Daemon, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(daemon.http.unwrap()).expect("the port is open");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = stream.write_all(bytes);
    stream
}

/// Reads until the daemon closes the connection.
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

/// Needs echo mode: in other modes a new client may get the port of a client that owes a record.
pub(crate) fn assert_echoes(daemon: &Daemon) {
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
}

/// The number of TCP sockets that a daemon listens on.
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
