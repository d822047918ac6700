//! Rate limits.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use crate::harness::{DEADLINE, Daemon, receive, total, wait_until};
use crate::modes::{DROPS, ECHOED, RECEIVED, assert_counts};

const REFUSED: &str = r#"datagrams_refused_total{reason="rate_limit"}"#;

#[test]
fn rate_limit_refuses_only_the_source_above_the_limit() {
    let daemon = Daemon::start(&["--mode=echo", "--rate-limit=10", "--workers=2"]);
    let start = Instant::now();
    let peers: Vec<_> = (0..8).map(|_| at(1, &daemon)).collect();
    for window in 1..=10 {
        for turn in 0..40 {
            peers[turn % 8].send(b"many").unwrap();
        }
        // Waits, so that the receive buffer does not overflow.
        daemon.wait_for_metric(RECEIVED, f64::from(window) * 40.0);
    }
    let other = at(2, &daemon);
    for _ in 0..10 {
        other.send(b"few").unwrap();
        assert_eq!(receive(&other), b"few");
    }
    daemon.wait_for_metric(RECEIVED, 410.0);
    daemon.assert_accounted_for();
    let filled = start.elapsed().as_secs_f64() * 10.0;
    let echoed = daemon.metric(ECHOED);
    // Of 390 datagrams above the limit 6 pass on average, by chance.
    assert!(echoed > 19.5 && echoed < 20.5 + filled + 50.0, "{echoed}");
    assert!((daemon.metric(REFUSED) - (410.0 - echoed)).abs() < 0.5);
}

#[test]
fn rate_limit_total_holds_for_all_sources_together() {
    let daemon = Daemon::start(&["--rate-limit-total=10", "--workers=2"]);
    let start = Instant::now();
    for turn in 0..200 {
        at(1 + turn, &daemon).send(b"one of many").unwrap();
        if turn % 40 == 39 {
            daemon.wait_for_metric(RECEIVED, f64::from(turn + 1));
        }
    }
    daemon.assert_accounted_for();
    let filled = start.elapsed().as_secs_f64() * 10.0;
    let echoed = daemon.metric(ECHOED);
    assert!(echoed > 9.5 && echoed < 10.5 + filled, "{echoed}");
    assert!((daemon.metric(REFUSED) - (200.0 - echoed)).abs() < 0.5);
}

/// One in 64 datagrams above the limit passes, so that a spoofed source still gets some replies.
#[test]
fn flood_from_a_source_does_not_silence_the_source() {
    let daemon = Daemon::start(&["--mode=echo", "--rate-limit=1", "--timeout=none"]);
    let start = Instant::now();
    let flood = at(1, &daemon);
    let count = |name| total(&daemon.metrics(), name);
    for window in 1..=100 {
        for _ in 0..200 {
            flood.send(b"flood").unwrap();
        }
        wait_until("all are received or dropped", || {
            count(RECEIVED) + count(DROPS) > f64::from(window) * 200.0 - 0.5
        });
    }
    daemon.assert_accounted_for();
    let (received, echoed) = (count(RECEIVED), count(ECHOED));
    // One datagram is within the limit, and up to one more per second. About 312 pass by chance;
    // 110 is more than six standard deviations of that.
    let within = 1.0..=2.0 + start.elapsed().as_secs_f64();
    let by_chance = received / 64.0 - 110.0..=received / 64.0 + 110.0;
    assert!(
        echoed >= within.start() + by_chance.start(),
        "{echoed} of {received}"
    );
    assert!(
        echoed <= within.end() + by_chance.end(),
        "{echoed} of {received}"
    );
    assert_counts(&daemon, &[("peers", 0)]);
}

#[test]
fn no_datagram_is_refused_without_a_rate_limit() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let peer = at(1, &daemon);
    for _ in 0..500 {
        peer.send(b"many").unwrap();
        assert_eq!(receive(&peer), b"many");
    }
    assert_counts(&daemon, &[(ECHOED, 500), (REFUSED, 0)]);
}

/// A client on 127.0.0.`host`.
fn at(host: u8, daemon: &Daemon) -> UdpSocket {
    let bind = || UdpSocket::bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
    let mut socket = bind();
    // Echo mode refuses the listening port as a source port.
    while socket.local_addr().unwrap().port() == daemon.address().port() {
        socket = bind();
    }
    socket.connect(daemon.address()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}
