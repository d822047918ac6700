//! The modes: which datagrams are echoed, decoded or consumed, and the counts.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    DEADLINE, Daemon, Random, client, has_ipv6, has_nothing, receive, total, wait_until,
};
use crate::{skip, skipped};

pub(crate) const RECORD: [u8; 22] = [7; 22];

pub(crate) const RECEIVED: &str = "datagrams_received_total";
pub(crate) const RECEIVED_BYTES: &str = "received_bytes_total";
pub(crate) const ECHOED: &str = "datagrams_echoed_total";
pub(crate) const ECHOED_BYTES: &str = "echoed_bytes_total";
pub(crate) const DECODED: &str = "records_decoded_total";
pub(crate) const WRONG: &str = "decode_errors_total";
pub(crate) const EMPTY: &str = "datagrams_empty_total";
pub(crate) const TRUNCATED: &str = "datagrams_truncated_total";
pub(crate) const REFUSED: &str = "datagrams_refused_total";
pub(crate) const TIMEOUTS: &str = "timeouts_total";
pub(crate) const PEERS: &str = "peers";
pub(crate) const EVICTED: &str = "peers_evicted_total";
pub(crate) const SEND_ERRORS: &str = "send_errors_total";
pub(crate) const RECEIVE_ERRORS: &str = "receive_errors_total";
pub(crate) const DROPS: &str = "socket_drops_total";

#[test]
fn exchange_echoes_a_datagram_and_decodes_the_next() {
    let daemon = patient(&[]);
    let peer = client(daemon.address());
    for round in 1..=3 {
        assert_eq!(ask(&peer, b"hello"), b"hello");
        peer.send(&RECORD).unwrap();
        assert_counts(&daemon, &[(DECODED, round), (ECHOED, round)]);
    }
    assert!(has_nothing(&peer));
}

#[test]
fn echo_mode_returns_every_size_whole() {
    let mut random = Random::new(862);
    let near = |size: usize| size.saturating_sub(1)..=(size + 1).min(65507);
    let mut sizes: Vec<_> = (0..=16).flat_map(|bits| near(1 << bits)).collect();
    sizes.extend([0, 1472, 1473, 8972, 8973, 65506, 65507]);
    sizes.extend((0..50).map(|_| random.below(65508)));
    let mut listens = vec!["--listen=127.0.0.1:0"];
    if has_ipv6() {
        listens.push("--listen=[::1]:0");
    } else {
        skipped!("there is no IPv6");
    }
    for listen in listens {
        let daemon = Daemon::start(&["--mode=echo", "--max-datagram=65507", listen]);
        let peer = client(daemon.address());
        for size in &sizes {
            let bytes = random.bytes(*size);
            assert!(ask(&peer, &bytes) == bytes, "{size} bytes, {listen}");
        }
        let bytes: usize = sizes.iter().sum();
        let [count, bytes] = [sizes.len(), bytes].map(|n| u32::try_from(n).unwrap());
        assert_counts(&daemon, &[(ECHOED, count), (ECHOED_BYTES, bytes)]);
        assert_counts(&daemon, &[(RECEIVED_BYTES, bytes), (TRUNCATED, 0)]);
    }
}

#[test]
fn reply_leaves_from_the_requested_address() {
    let mut cases = vec![("--listen=0.0.0.0:0", ["127.0.0.2", "127.0.0.1"])];
    if has_ipv6() {
        cases.push(("--listen=[::1]:0", ["::1", "::1"]));
        cases.push(("--listen=[::]:0", ["127.0.0.2", "127.0.0.1"]));
        cases.push(("--listen=[::]:0", ["::1", "127.0.0.3"]));
    } else {
        skipped!("there is no IPv6");
    }
    for (listen, asked) in cases {
        let daemon = Daemon::start(&[listen, "--mode=echo"]);
        for ip in asked {
            let ip: IpAddr = ip.parse().unwrap();
            let peer = client((ip, daemon.address().port()).into());
            assert_eq!(ask(&peer, b"from there"), b"from there", "{listen} {ip}");
        }
    }
}

#[test]
fn peers_have_one_exchange_per_listener() {
    let mut args = vec![
        "--listen=127.0.0.1:0",
        "--listen=localhost:0",
        "--listen=*:0,:0",
    ];
    let mut expected = vec!["127.0.0.1", "127.0.0.1", "0.0.0.0", "0.0.0.0"];
    if has_ipv6() {
        args.push("--listen=[::]:0,[::1]:0");
        expected.extend(["::", "::1"]);
    } else {
        skipped!("there is no IPv6");
    }
    let daemon = patient(&args);
    let ips: Vec<_> = daemon.listen.iter().map(|at| at.ip().to_string()).collect();
    assert_eq!(ips, expected);
    let peer = bound_to(([127, 0, 0, 1], 0));
    let reached = daemon
        .listen
        .iter()
        .filter(|at| at.ip().to_string() != "::1");
    let ports: Vec<_> = reached.map(SocketAddr::port).collect();
    let count = u32::try_from(ports.len()).unwrap();
    let send = |bytes: &[u8], port| peer.send_to(bytes, ("127.0.0.1", port)).unwrap();
    for round in 1..=2 {
        for port in &ports {
            send(&port.to_be_bytes(), *port);
            assert_eq!(receive(&peer), port.to_be_bytes());
        }
        assert_counts(&daemon, &[(PEERS, count)]);
        for port in &ports {
            send(&RECORD, *port);
        }
        assert_counts(&daemon, &[(DECODED, round * count), (PEERS, 0)]);
    }
    assert!(has_nothing(&peer));
}

#[test]
fn long_records_are_cut_and_short_or_empty_ones_consumed() {
    let daemon = patient(&[]);
    let peer = client(daemon.address());
    peer.send(b"").unwrap();
    for (record, decoded, wrong, empty) in [
        (&[7; 23][..], 1, 0, 1),
        (&[7; 2000], 2, 0, 1),
        (&[7; 21], 2, 1, 1),
        (b"x", 2, 2, 1),
        (b"", 2, 2, 2),
        (&RECORD, 3, 2, 2),
    ] {
        assert_eq!(ask(&peer, &[1; 1025]), [1; 1024]);
        peer.send(record).unwrap();
        let cut = decoded + wrong + empty - 1;
        assert_counts(&daemon, &[(DECODED, decoded), (WRONG, wrong), (PEERS, 0)]);
        assert_counts(&daemon, &[(EMPTY, empty), (TRUNCATED, cut)]);
    }
    assert!(has_nothing(&peer));
}

#[test]
fn truncated_datagrams_count_with_their_whole_length() {
    for offload in ["--offload=auto", "--offload=off"] {
        let daemon = Daemon::start(&["--mode=echo", offload]);
        let peer = client(daemon.address());
        assert_eq!(ask(&peer, &[7; 2000]), [7; 1024]);
        assert_counts(&daemon, &[(TRUNCATED, 1), (RECEIVED_BYTES, 2000)]);
        assert_counts(&daemon, &[(ECHOED_BYTES, 1024)]);
    }
}

#[test]
fn lockstep_takes_the_record_from_any_peer() {
    let daemon = patient(&["--mode=lockstep"]);
    let [one, other] = [client(daemon.address()), client(daemon.address())];
    for _ in 0..3 {
        assert_eq!(ask(&one, b"one"), b"one");
        other.send(&RECORD).unwrap();
        assert_eq!(ask(&other, b"other"), b"other");
        one.send(b"").unwrap();
        other.send(b"").unwrap();
    }
    assert_counts(&daemon, &[(ECHOED, 6), (EMPTY, 6)]);
    assert_counts(&daemon, &[(DECODED, 3), (WRONG, 0)]);
    assert!(has_nothing(&one) && has_nothing(&other));
}

#[test]
fn longest_owing_peer_is_evicted_for_a_new_one() {
    let daemon = patient(&["--max-peers=2"]);
    let [first, second, third] = [(); 3].map(|()| client(daemon.address()));
    for peer in [&first, &second, &third] {
        assert_eq!(ask(peer, b"hello"), b"hello");
    }
    assert_counts(&daemon, &[(PEERS, 2), (EVICTED, 1)]);
    assert_eq!(ask(&first, b"not the second"), b"not the second");
    assert_counts(&daemon, &[(PEERS, 2), (EVICTED, 2)]);
    third.send(&RECORD).unwrap();
    assert_counts(&daemon, &[(PEERS, 1), (DECODED, 1)]);
    assert_eq!(ask(&second, b"in a free place"), b"in a free place");
    first.send(&RECORD).unwrap();
    assert_counts(&daemon, &[(PEERS, 1), (DECODED, 2)]);
    assert_counts(&daemon, &[(EVICTED, 2), (WRONG, 0)]);
}

#[test]
fn no_record_is_owed_after_a_failed_reply() {
    if !has_ipv6() {
        skip!("there is no IPv6");
    }
    let large = vec![1; 65507];
    for mode in ["--mode=exchange", "--mode=lockstep", "--mode=echo"] {
        // The second fragment of the reply does not fit in the smallest send buffer.
        let args = ["--max-datagram=65507", "--listen=[::1]:0"];
        let daemon = patient(&[&[mode, "--send-buffer=1"], &args[..]].concat());
        let peer = client(daemon.address());
        peer.send(&large).unwrap();
        let no_buffers = r#"send_errors_total{error="ENOBUFS"}"#;
        assert_counts(&daemon, &[(no_buffers, 1), (PEERS, 0)]);
        daemon.pause();
        peer.send(&large).unwrap();
        peer.send(b"in the same batch").unwrap();
        daemon.resume();
        assert_eq!(receive(&peer), b"in the same batch");
        assert_counts(&daemon, &[(no_buffers, 2), (ECHOED, 1)]);
        assert!(has_nothing(&peer), "{mode}");
    }
}

#[test]
fn vanishing_clients_disturb_no_other_client() {
    let daemon = patient(&[]);
    let good = client(daemon.address());
    // A client may get the port of an earlier one, which owes a record.
    let mut ports = BTreeSet::new();
    for vanishing in 1..=200_u32 {
        let gone = client(daemon.address());
        let port = gone.local_addr().unwrap().port();
        gone.send(b"?").unwrap();
        drop(gone);
        if !ports.remove(&port) {
            ports.insert(port);
        }
        if vanishing % 2 == 0 {
            let bytes = vanishing.to_be_bytes();
            assert_eq!(ask(&good, &bytes), bytes);
            good.send(&RECORD).unwrap();
        }
    }
    let owing = u32::try_from(ports.len()).unwrap();
    let wrong = (200 - owing) / 2;
    assert_counts(&daemon, &[(RECEIVED, 400), (ECHOED, 300 - wrong)]);
    assert_counts(&daemon, &[(DECODED, 100), (WRONG, wrong), (PEERS, owing)]);
    assert_counts(&daemon, &[(SEND_ERRORS, 0), (RECEIVE_ERRORS, 0)]);
    assert!(has_nothing(&good));
}

#[test]
fn peer_stays_with_one_worker() {
    let daemon = patient(&["--workers=4"]);
    let peers: Vec<_> = (0..100).map(|_| client(daemon.address())).collect();
    for round in 1..=3 {
        for (peer, index) in peers.iter().zip(0_u32..) {
            peer.send(&index.to_be_bytes()).unwrap();
        }
        for (peer, index) in peers.iter().zip(0_u32..) {
            assert_eq!(receive(peer), index.to_be_bytes());
            peer.send(&RECORD).unwrap();
        }
        assert_counts(&daemon, &[(DECODED, round * 100), (PEERS, 0)]);
    }
    assert!(peers.iter().all(has_nothing));
    for worker in 0..4 {
        let labels = format!(r#"{{listen="{}",worker="{worker}"}}"#, daemon.address());
        assert_counts(&daemon, &[(&format!("socket_drops_total{labels}"), 0)]);
    }
}

#[test]
fn kernel_drops_are_counted_exactly() {
    let daemon = Daemon::start(&["--mode=echo", "--recv-buffer=64KiB"]);
    let peers: Vec<_> = (0..10).map(|_| client(daemon.address())).collect();
    daemon.pause();
    for turn in 0..3000 {
        peers[turn % 10].send(&[0; 100]).unwrap();
    }
    daemon.resume();
    let count = |name| total(&daemon.metrics(), name);
    let both = || count(RECEIVED) + count(DROPS);
    wait_until("all are counted", || both() > 2999.5);
    assert!(both() < 3000.5, "{}", both());
    assert!(count(RECEIVED) > 0.5 && count(DROPS) > 0.5);
    assert_counts(&daemon, &[(SEND_ERRORS, 0)]);
}

/// Sends a datagram and returns the next reply.
pub(crate) fn ask(peer: &UdpSocket, bytes: &[u8]) -> Vec<u8> {
    peer.send(bytes).unwrap();
    receive(peer)
}

/// A client socket that is not connected.
pub(crate) fn bound_to(address: ([u8; 4], u16)) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::from(address)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Waits until the metrics, summed over the labels left out, have these values and every datagram
/// is accounted for.
pub(crate) fn assert_counts(daemon: &Daemon, expected: &[(&str, u32)]) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let metrics = daemon.metrics();
        let is = |name: &str, value: f64| (total(&metrics, name) - value).abs() < 0.5;
        let parts = [ECHOED, SEND_ERRORS, DECODED, WRONG, EMPTY, REFUSED];
        let parts = parts.iter().map(|name| total(&metrics, name)).sum();
        let mut expected = expected.iter();
        if expected.all(|(name, count)| is(name, (*count).into())) && is(RECEIVED, parts) {
            return;
        }
        assert!(Instant::now() < deadline, "not {expected:?}: {metrics:#?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A daemon in which no record expires, however slow the machine.
pub(crate) fn patient(args: &[&str]) -> Daemon {
    Daemon::start(&[&["--timeout=none"], args].concat())
}
