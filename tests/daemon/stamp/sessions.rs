//! Sessions: their numbers, and more of them than the table holds.

use std::fs;
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use udp_echo::reflect::stamp::BYTES_PER_SESSION;

use super::stamp;
use crate::harness::stamp::{OPEN, number, open};
use crate::harness::{Daemon, client, has_ipv6, receive, wait_until};
use crate::modes::{ECHOED, ask, assert_counts};
use crate::skip;

#[test]
fn session_starts_again_at_0_when_its_sender_does() {
    let daemon = stamp(&[]);
    let peer = client(daemon.address());
    for (sequence, expected) in [(10, 0), (11, 1), (13, 2), (0, 0), (1, 1), (0, 0)] {
        let reply = ask(&peer, &open(sequence, 0));
        assert_eq!(number(&reply, 0), expected);
        assert_eq!(number(&reply, OPEN.request_sequence), sequence);
    }
    assert_counts(
        &daemon,
        &[
            ("stamp_sessions", 1),
            ("stamp_sessions_reset_total", 2),
            ("stamp_uplink_lost_total", 1),
            ("peers", 0),
        ],
    );
    let daemon = stamp(&["--stamp-sequence=stateless"]);
    let peer = client(daemon.address());
    for sequence in [10, 11, 0, u32::MAX] {
        assert_eq!(number(&ask(&peer, &open(sequence, 0)), 0), sequence);
    }
    assert_counts(&daemon, &[("stamp_sessions", 0), (ECHOED, 4)]);
}

#[test]
fn idle_session_ends_after_the_session_timeout() {
    let daemon = stamp(&["--stamp-session-timeout=50ms"]);
    let peer = client(daemon.address());
    ask(&peer, &open(5, 0));
    wait_until("the session has ended", || {
        thread::sleep(Duration::from_millis(60));
        number(&ask(&peer, &open(6, 0)), 0) == 0
    });
    assert_counts(&daemon, &[("stamp_sessions_reset_total", 0)]);
}

#[test]
fn sessions_differ_by_ports_ssids_and_destinations() {
    if !has_ipv6() {
        skip!("there is no IPv6");
    }
    let daemon = stamp(&["--listen=[::]:0"]);
    let port = daemon.address().port();
    let peers = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let six = UdpSocket::bind("[::1]:0").unwrap();
    let ask = |peer: &UdpSocket, host: &str, ssid| {
        peer.set_read_timeout(Some(crate::harness::DEADLINE))
            .unwrap();
        peer.send_to(&open(9, ssid), (host, port)).unwrap();
        number(&receive(peer), 0)
    };
    for round in 0..3 {
        for (peer, host, ssid) in [
            (&peers[0], "127.0.0.1", 0),
            (&peers[0], "127.0.0.1", 1),
            (&peers[0], "127.0.0.2", 0),
            (&peers[1], "127.0.0.1", 0),
            (&six, "::1", 0),
        ] {
            assert_eq!(ask(peer, host, ssid), round, "{host} {ssid}");
        }
    }
    assert_counts(&daemon, &[("stamp_sessions", 5)]);
}

/// The sequence number of all requests without a session.
const OTHER: u32 = 0x0bad_cafe;

#[test]
fn full_table_keeps_its_sessions_among_100_000_others() {
    const TABLE: u16 = 1000;
    const PORTS: u16 = 10;
    const SSIDS: u16 = 10_000;
    let daemon = stamp(&[&format!("--max-peers={TABLE}")]);
    let live = client(daemon.address());
    let mut replies = 0;
    let mut ask_live = || {
        ask_together(&live, 1..=TABLE, 1, replies);
        replies += 1;
    };
    ask_live();
    let before = memory(&daemon, "VmRSS:");
    for _ in 0..PORTS {
        ask_together(&client(daemon.address()), 1..=SSIDS, OTHER, OTHER);
        ask_live();
    }
    let others = u32::from(PORTS) * u32::from(SSIDS);
    assert_counts(
        &daemon,
        &[
            ("stamp_sessions", TABLE.into()),
            ("stamp_sessions_unkept_total", others),
            ("stamp_sessions_reset_total", 0),
            (ECHOED, others + u32::from(TABLE) * u32::from(PORTS + 1)),
        ],
    );
    // Beside the table, a scrape takes memory.
    let most = u64::from(TABLE) * BYTES_PER_SESSION as u64 + (2 << 20);
    let more = memory(&daemon, "VmHWM:").saturating_sub(before);
    assert!(most * 4 < u64::from(others) * BYTES_PER_SESSION as u64);
    assert!(more <= most, "{more} bytes more, not {most}");
}

/// Sends a request for each SSID, and asserts the sequence number of the replies. A receive buffer
/// holds the replies to twice as many requests as are sent at once.
fn ask_together(
    peer: &UdpSocket,
    ssids: std::ops::RangeInclusive<u16>,
    sequence: u32,
    expected: u32,
) {
    let ssids: Vec<_> = ssids.collect();
    for ssids in ssids.chunks(128) {
        for ssid in ssids {
            peer.send(&open(sequence, *ssid)).unwrap();
        }
        for _ in ssids {
            let reply = receive(peer);
            assert_eq!(number(&reply, 0), expected);
        }
    }
}

/// A memory figure of /proc/PID/status, in bytes.
fn memory(daemon: &Daemon, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes: u64 = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kibibytes << 10
}
