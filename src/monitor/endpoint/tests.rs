//! The endpoint on a real port, against reflectors on threads.

mod server;

use std::collections::{BTreeSet, HashSet};
use std::net::UdpSocket;

use super::*;
use crate::reflect::Mode;
use server::{ALL, DEADLINE, Server, echo, reflector, scrape_timeout};

#[test]
fn probe_returns_all_figures_of_an_echo() {
    let (server, target) = (Server::start(ALL), echo());
    let reply = server.probe(target, "&mode=echo&count=5&interval=10ms&flows=2&size=1KiB");
    assert_eq!(reply.counts(), "1 5 5 0", "{reply:?}");
    assert!(reply.value("probe_duration_seconds").unwrap() > 0.0);
    let rtt = ["min", "p50", "p99", "max"].map(|stat| {
        let series = format!("probe_udp_rtt_seconds{{stat=\"{stat}\"}}");
        reply.value(&series).unwrap()
    });
    assert!(rtt[0] > 0.0 && rtt.is_sorted(), "{reply:?}");
    let mean = reply.value("probe_udp_rtt_seconds{stat=\"mean\"}").unwrap();
    assert!(mean >= rtt[0] && mean <= rtt[3], "{reply:?}");
    let kind = "\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n";
    assert!(reply.head.contains(kind), "{reply:?}");

    // Each family has its help and its type, once.
    let mut families = BTreeSet::new();
    for line in reply.body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            assert!(families.insert(help.split(' ').next().unwrap().to_owned()));
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(families.contains(name) && kind == "gauge", "{line}");
        } else {
            assert!(
                families.contains(line.split(['{', ' ']).next().unwrap()),
                "{line}"
            );
        }
    }
    assert_eq!(families.len(), 6);
}

#[test]
fn probe_counts_every_exchange_by_default() {
    let server = Server::start(ALL);
    // Every second datagram of a client is its record.
    let target = reflector(|before, bytes| (before % 2 == 0).then(|| bytes.into()));
    let reply = server.probe(target, "&interval=10ms&flows=3");
    assert_eq!(reply.counts(), "1 10 10 0", "{reply:?}");
}

#[test]
fn probe_in_stamp_mode_works_without_a_key() {
    let server = Server::start(ALL);
    let target = reflector(|_, request| {
        let (sequence, time, error) = (&request[..4], &request[4..12], &request[12..14]);
        let parts = [
            sequence,
            time,
            error,
            &[0; 2],
            time,
            sequence,
            time,
            error,
            &[0, 0, 64, 0, 0, 0],
        ];
        Some(parts.concat())
    });
    let reply = server.probe(target, "&mode=stamp&count=3&interval=0.01");
    assert_eq!(reply.counts(), "1 3 3 0", "{reply:?}");
}

#[test]
fn lost_requests_are_counted() {
    let server = Server::start(ALL);
    let target = reflector(|before, bytes| (before % 5 == 0).then(|| bytes.into()));
    let reply = server.probe_until("1 10 2 0.8", target, "&mode=echo&count=10&interval=10ms");
    assert!(reply.has_rtt());
}

#[test]
fn targets_without_a_reply_are_no_success() {
    let server = Server::start(ALL);
    let silent = reflector(|_, _| None);
    for mode in Mode::ALL.map(Mode::name) {
        let reply = server.probe_until("0 1 0 1", silent, &format!("&mode={mode}&count=1"));
        assert!(!reply.has_rtt(), "{reply:?}");
    }
    // A connected socket keeps its port, and receives from its peer only.
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
    closed.connect(silent).unwrap();
    let reply = server.probe(closed.local_addr().unwrap(), "&count=2&interval=10ms");
    assert_eq!(reply.counts(), "0 2 0 1", "{reply:?}");
}

#[test]
fn unknown_name_is_no_success() {
    let server = Server::start(ALL);
    for target in [
        "name.invalid",
        "name.invalid:9",
        "a%00b",
        "x%0d%0ay",
        "%E2%98%83",
    ] {
        let reply = server.probe(target, "");
        assert_eq!(reply.counts(), "0 0 0 1", "{reply:?}");
        assert!(!reply.has_rtt(), "{reply:?}");
    }
}

#[test]
fn probe_ends_before_its_last_request_is_due() {
    let (server, target) = (Server::start(ALL), echo());
    let reply = server.probe_within("5", target, "&mode=echo&count=100&interval=1s");
    let [success, sent, received, loss] = ["success", "udp_sent", "udp_received", "udp_loss_ratio"]
        .map(|name| reply.value(&format!("probe_{name}")).unwrap());
    assert!(success > 0.0 && sent < 100.0 && received > 0.0, "{reply:?}");
    assert!((loss - (1.0 - received / sent)).abs() < 1e-9, "{reply:?}");
}

#[test]
fn wrong_parameters_are_refused_with_what_is_expected() {
    let server = Server::start(ALL);
    for (query, line) in [
        (
            "",
            "the target is missing: expected /probe?target=HOST:PORT",
        ),
        ("?", "the target is missing"),
        ("?count=1", "the target is missing"),
        ("?target=", "cannot use target=\"\": the port is missing"),
        (
            "?target=x:0",
            "cannot use target=\"x:0\": port 0 is reserved; expected 1 to 65535",
        ),
        (
            "?target=x:65536",
            "\"65536\" is not a port: expected 0 to 65535",
        ),
        ("?target=http://x", "expected HOST:PORT, such as x:9999"),
        ("?target=%5B::1", "\"[::1\""),
        (
            "?target=x&target=y",
            "target is there twice: expected it at most once",
        ),
        (
            "?target=x&module=icmp",
            "unknown parameter \"module\": expected target, mode",
        ),
        ("?target=x&Count=1", "unknown parameter \"Count\""),
        ("?target=x&a%0d%0ab=1", "unknown parameter \"a\\r\\nb\""),
        ("?target=%ff", "is not UTF-8"),
        (
            "?target=x&mode=tcp",
            "cannot use mode=\"tcp\": expected exchange, lockstep, echo or",
        ),
        (
            "?target=x&count=0",
            "cannot use count=\"0\": expected a whole number, 1 to 100",
        ),
        ("?target=x&count=101", "1 to 100"),
        ("?target=x&count=-1", "1 to 100"),
        ("?target=x&count=", "1 to 100"),
        ("?target=x&count", "1 to 100"),
        (
            "?target=x&interval=9ms",
            "cannot use interval=\"9ms\": expected 10 ms to 1 s",
        ),
        ("?target=x&interval=1.1", "10 ms to 1 s"),
        ("?target=x&interval=nan", "10 ms to 1 s"),
        ("?target=x&flows=33", "expected a whole number, 1 to 32"),
        ("?target=x&flows=0", "1 to 32"),
        ("?target=x&size=15", "expected 16 to 65507 bytes"),
        ("?target=x&size=65508", "expected 16 to 65507 bytes"),
        ("?target=x&size=13&mode=stamp", "expected 14 to 65507 bytes"),
        (
            "?target=x&size=46&mode=stamp",
            "expected 44 or at least 48 bytes in stamp mode",
        ),
        ("?target=0.0.0.0:9", "expected the address of one host"),
        ("?target=*:9", "expected the address of one host"),
        ("?target=:9", "expected the address of one host"),
        ("?target=%5B::%5D:9", "expected the address of one host"),
        ("?target=0:9", "expected the address of one host"),
        ("?target=224.0.0.1", "expected the address of one host"),
        (
            "?target=255.255.255.255",
            "expected the address of one host",
        ),
        (
            "?target=%5B::ffff:239.0.0.1%5D:9",
            "expected the address of one host",
        ),
        (
            "?target=%5Bff02::1%5D:9",
            "expected the address of one host",
        ),
    ] {
        let reply = server.request("GET", &format!("/probe{query}"), "");
        assert_eq!(reply.status, 400, "{query}: {reply:?}");
        assert!(reply.body.contains(line), "{query}: {reply:?}");
        assert_eq!(reply.body.matches('\n').count(), 1, "{query}: {reply:?}");
        assert!(
            reply.head.contains("x-content-type-options: nosniff"),
            "{reply:?}"
        );
    }
}

#[test]
fn scrape_timeout_is_one_number_of_seconds() {
    let (server, target) = (Server::start(ALL), echo());
    let path = format!("/probe?target={target}&mode=echo&count=1");
    for junk in ["", "x", "0", "-1", "nan", "inf", "1s", "1,2", "\u{e9}"] {
        let reply = server.request("GET", &path, &scrape_timeout(junk));
        assert_eq!(reply.status, 400, "{junk}: {reply:?}");
        assert!(
            reply.body.contains("expected one number of seconds"),
            "{reply:?}"
        );
    }
    let twice = scrape_timeout("1").repeat(2);
    assert_eq!(server.request("GET", &path, &twice).status, 400);
    for seconds in ["10", "9.5", "1e2", "1e300"] {
        let reply = server.request("GET", &path, &scrape_timeout(seconds));
        assert_eq!(reply.counts(), "1 1 1 0", "{seconds}: {reply:?}");
    }
}

#[test]
fn probe_time_is_below_the_scrape_timeout() {
    let of = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT_HEADER, text.parse().unwrap());
        budget(timeout(&headers).unwrap()).as_secs_f64()
    };
    assert_eq!(
        budget(timeout(&HeaderMap::new()).unwrap()),
        Duration::from_millis(9500)
    );
    for (text, seconds) in [
        ("10", 9.5),
        ("2", 1.5),
        ("1", 0.5),
        ("0.5", 0.25),
        ("1000", 119.5),
    ] {
        assert!((of(text) - seconds).abs() < 1e-9, "{text}: {}", of(text));
    }
}

#[test]
fn probe_answers_get_and_head_and_refuses_others() {
    let (server, target) = (Server::start(ALL), echo());
    let path = format!("/probe?target={target}&mode=echo&count=1");
    let head = server.request("HEAD", &path, "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("version=0.0.4"), "{head:?}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(server.request(method, &path, "").status, 405, "{method}");
    }
    assert_eq!(server.request("GET", "/probe/x", "").status, 404);
}

#[test]
fn targets_outside_the_permitted_networks_are_refused() {
    let target = echo();
    let server = Server::start(&[network("192.0.2.0/24"), network("::1/128")]);
    let reply = server.probe(target, "&mode=echo");
    let line = format!("cannot probe \"{target}\": --probe-allow does not permit it\n");
    assert_eq!((reply.status, reply.body), (403, line));
    let server = Server::start(&[network("192.0.2.0/24"), network("127.0.0.0/8")]);
    let reply = server.probe(target, "&mode=echo&count=1");
    assert_eq!(reply.counts(), "1 1 1 0", "{reply:?}");
}

#[test]
fn only_permitted_addresses_of_a_name_are_used() {
    let found = ["127.0.0.1:9", "[::1]:9", "224.0.0.1:9"].map(|text| text.parse().unwrap());
    let targets = |allow: &[&str]| {
        let allow: Vec<_> = allow.iter().map(|text| network(text)).collect();
        permitted(found.into(), &allow).map_err(|(status, _)| status)
    };
    assert_eq!(targets(&[]), Ok(found[..2].into()));
    assert_eq!(targets(&["::/0"]), Ok(found[1..2].into()));
    assert_eq!(
        targets(&["10.0.0.0/8", "127.0.0.0/8"]),
        Ok(found[..1].into())
    );
    assert_eq!(targets(&["10.0.0.0/8"]), Err(StatusCode::FORBIDDEN));
    assert_eq!(targets(&["224.0.0.0/4"]), Err(StatusCode::FORBIDDEN));
    let multicast = permitted(found[2..].into(), &[network("224.0.0.0/4")]);
    assert_eq!(multicast, Err((StatusCode::BAD_REQUEST, NOT_ONE_HOST)));
}

#[test]
fn networks_include_addresses_with_their_prefix() {
    for (allow, address, included) in [
        ("10.0.0.0/8", "10.255.255.255", true),
        ("10.0.0.0/8", "11.0.0.0", false),
        ("10.0.0.0/8", "::ffff:10.1.2.3", true),
        ("10.1.2.3/8", "10.9.9.9", true),
        ("10.1.2.3/32", "10.1.2.3", true),
        ("10.1.2.3/32", "10.1.2.2", false),
        ("0.0.0.0/0", "255.1.1.1", true),
        ("0.0.0.0/0", "::1", false),
        ("::/0", "2001:db8::1", true),
        ("::/0", "10.1.2.3", false),
        ("::/0", "::ffff:10.1.2.3", false),
        ("::ffff:10.0.0.0/104", "10.1.2.3", true),
        ("::ffff:10.0.0.0/104", "11.1.2.3", false),
        ("2001:db8::/32", "2001:db8:ffff::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("2001:db8::1/128", "2001:db8::1", true),
        ("2001:db8::1/128", "2001:db8::2", false),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(
            includes(network(allow), address),
            included,
            "{allow} {address}"
        );
    }
}

fn network(text: &str) -> (IpAddr, u8) {
    let (address, prefix) = text.split_once('/').unwrap();
    (address.parse().unwrap(), prefix.parse().unwrap())
}

#[test]
fn probe_beyond_the_limit_is_refused_until_a_client_goes() {
    let server = Server::start(ALL);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let target = silent.local_addr().unwrap();
    let path = format!("/probe?target={target}&mode=echo&count=1");
    let clients: Vec<_> = (0..MAX_RUNNING)
        .map(|_| server.send("GET", &path, &scrape_timeout("120")))
        .collect();
    // Each probe that runs has a port of its own.
    let mut ports = HashSet::new();
    while ports.len() < MAX_RUNNING {
        ports.insert(silent.recv_from(&mut [0; 64]).unwrap().1);
    }
    let reply = server.request("GET", &path, "");
    let line = "cannot probe now: 16 probes are running, the limit; try again later\n";
    assert_eq!((reply.status, reply.body.as_str()), (503, line));
    assert!(reply.head.contains("\r\nretry-after: 1\r\n"), "{reply:?}");

    drop(clients);
    let path = format!("/probe?target={}&mode=echo&count=1", echo());
    let start = now();
    while server.request("GET", &path, "").status == 503 {
        assert!(now() - start < DEADLINE, "probes without a client go on");
        thread::sleep(Duration::from_millis(10));
    }
}
