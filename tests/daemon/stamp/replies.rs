//! Replies: fields, IP header, refusals and keys.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use udp_echo::reflect::stamp::{ErrorEstimate, HmacKey};

use super::{refused, stamp};
use crate::harness::service::assert_has;
use crate::harness::stamp::{OPEN, SIGNED, Sender, T1, number, open, short, signed, tlv};
use crate::harness::tidy::Folder;
use crate::harness::{Daemon, client, has_ipv6, has_nothing, receive, wait_until};
use crate::modes::{ECHOED, ECHOED_BYTES, RECEIVED, REFUSED, ask, assert_counts, bound_to};
use crate::{skip, skipped};

/// The metrics that only stamp mode has: names, and the values of their label.
const METRICS: &str = "
    stamp_sessions
    stamp_sessions_unkept_total
    stamp_sessions_reset_total
    stamp_uplink_lost_total
    stamp_uplink_reordered_total
    stamp_uplink_duplicates_total
    stamp_tlvs_total type extra_padding timestamp_information class_of_service \
        direct_measurement hmac other
    stamp_tlv_faults_total fault unrecognized malformed integrity
    datagrams_refused_total reason too_short reply integrity";

#[test]
fn stamp_metrics_start_at_0_and_only_in_stamp_mode() {
    let daemon = stamp(&["--stamp-clock=none"]);
    let listen = format!("listen=\"{}\",", daemon.address());
    let mut series = daemon.metrics();
    let body = daemon.get("/metrics").body.replace(&listen, "");
    for line in METRICS.trim().lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let labels = match &words[1..] {
            [] => vec![String::new()],
            [label, values @ ..] => {
                let labels = values.iter();
                let labels = labels.map(|value| format!("{{{label}=\"{value}\"}}"));
                labels.collect()
            }
        };
        for label in labels {
            let name = format!("udp_echo_{}{label}", words[0]);
            assert_has(&body, &format!("\n{name} 0\n"));
            series.remove(&name);
        }
    }
    for (name, value) in [("synchronized", 0.0), ("error_seconds", 16.0)] {
        let name = format!("udp_echo_clock_{name}");
        assert_eq!(series.remove(&name), Some(value), "{name}");
    }
    let is_of_stamp = |name: &String| {
        let own = ["udp_echo_stamp_", "udp_echo_clock_"];
        own.iter().any(|own| name.starts_with(own))
    };
    assert!(!series.keys().any(is_of_stamp), "{series:#?}");
    let others = Daemon::start(&["--mode=echo"]).metrics();
    let of_stamp = ["too_short", "reply", "integrity"].map(|reason| format!("\"{reason}\""));
    let is_of_stamp =
        |name: &String| is_of_stamp(name) || of_stamp.iter().any(|reason| name.contains(reason));
    assert!(!others.keys().any(is_of_stamp), "{others:#?}");
}

#[test]
fn reply_has_every_field_of_its_request() {
    let daemon = stamp(&["--stamp-clock=none"]);
    let mut sender = Sender::new(daemon.address(), 77, 0);
    for (sequence, length) in [(5, 44), (9, 45), (7, 300), (8, 1472)] {
        let mut request = open(sequence, 0x1234);
        request.resize(length, 0x55);
        let (reply, meta) = sender.ask(&request);
        assert_eq!(reply.len(), length);
        assert_eq!(number(&reply, OPEN.request_sequence), sequence);
        assert_eq!(reply[OPEN.t1..OPEN.request_error], T1.to_be_bytes());
        assert_eq!(reply[OPEN.request_error..38], request[12..14]);
        assert_eq!(short(&reply, OPEN.ssid), 0x1234);
        assert_eq!(reply[OPEN.ttl], 77);
        assert_eq!(short(&reply, OPEN.error), ErrorEstimate::UNKNOWN.to_bits());
        assert_eq!([&reply[38..40], &reply[41..44]].concat(), [0; 5]);
        assert_eq!(reply[44..], request[44..]);
        assert_eq!(meta.ttl, Some(255));
        // The kernel stamped the request and then the reply, by the same clock as T3.
        let [t2, t3] = [OPEN.t2, OPEN.t3].map(|at| number(&reply, at));
        let arrived = meta.received_at.expect("a timestamp").as_secs() + 2_208_988_800;
        for seconds in [t2, t3] {
            assert!(u64::from(seconds).abs_diff(arrived & 0xffff_ffff) < 3600);
        }
    }
}

#[test]
fn replies_have_ttl_255_and_the_dscp_of_their_requests() {
    let mut cases = vec![("--listen=127.0.0.1:0", "127.0.0.1")];
    if has_ipv6() {
        cases.extend([
            ("--listen=[::1]:0", "::1"),
            ("--listen=[::]:0", "::1"),
            ("--listen=[::]:0", "127.0.0.1"),
        ]);
    } else {
        skipped!("there is no IPv6");
    }
    for (listen, host) in cases {
        let daemon = stamp(&[listen]);
        let host: IpAddr = host.parse().unwrap();
        let to = SocketAddr::new(host, daemon.address().port());
        // The two lowest bits are ECN, which is 0 in replies.
        for (ttl, sent, returned) in [(64, 0xb8, 0xb8), (1, 0x2b, 0x28), (255, 0x03, 0), (7, 0, 0)]
        {
            let (reply, meta) = Sender::new(to, ttl, sent).ask(&open(0, 0));
            assert_eq!(reply[OPEN.ttl], ttl, "{listen} {host}");
            let header = (meta.ttl, meta.traffic_class);
            assert_eq!(header, (Some(255), Some(returned)), "{listen} {host}");
        }
    }
}

#[test]
fn stamp_dscp_is_that_of_all_replies() {
    let daemon = stamp(&["--stamp-dscp=AF41"]);
    for sent in [0, 0xb9] {
        let (_, meta) = Sender::new(daemon.address(), 64, sent).ask(&open(0, 0));
        assert_eq!(meta.traffic_class, Some(34 << 2));
    }
}

#[test]
fn class_of_service_tlv_chooses_only_allowed_dscps() {
    let daemon = stamp(&["--stamp-allow-dscp=EF,10-12"]);
    // DSCP 8 and ECN 1.
    let mut sender = Sender::new(daemon.address(), 64, 0x21);
    for (asked, used, rp) in [(46, 46, 0), (11, 11, 0), (8, 8, 0), (13, 8, 1), (0, 8, 1)] {
        let request = [open(0, 0), tlv(4, &[asked << 2, 0, 0, 0])].concat();
        let (reply, meta) = sender.ask(&request);
        assert_eq!(meta.traffic_class, Some(used << 2), "{asked}");
        let value = u16::from(asked) << 10 | 8 << 4 | 1 << 2 | rp;
        let expected = [&[0, 4, 0, 4], &value.to_be_bytes()[..], &[0, 0]].concat();
        assert_eq!(reply[OPEN.size..], expected, "{asked}");
    }
    let series = "stamp_tlvs_total{type=\"class_of_service\"}";
    assert_counts(&daemon, &[(series, 5), ("stamp_tlv_faults_total", 0)]);
}

#[test]
fn minimum_of_44_bytes_ends_replies_longer_than_requests() {
    let daemon = stamp(&[]);
    let peer = client(daemon.address());
    assert_eq!(ask(&peer, &[0; 14]).len(), 44);
    let daemon = stamp(&["--stamp-min-request=44"]);
    let peer = client(daemon.address());
    for length in [14, 43] {
        peer.send(&vec![0; length]).unwrap();
    }
    assert_eq!(ask(&peer, &open(0, 0)).len(), 44);
    assert_counts(&daemon, &[(&refused("too_short"), 2), (ECHOED_BYTES, 44)]);
    assert!(has_nothing(&peer));
}

#[test]
fn every_request_of_a_mixture_is_accounted_for() {
    let daemon = stamp(&["--log=debug"]);
    let peer = client(daemon.address());
    let reply = ask(&peer, &open(0, 0));
    for request in [&[][..], &[0; 13], &reply, &[&reply, &[0; 56][..]].concat()] {
        peer.send(request).unwrap();
    }
    for length in [14, 43, 44, 9000] {
        assert_eq!(ask(&peer, &vec![0; length]).len(), length.max(44));
    }
    assert_counts(
        &daemon,
        &[
            (RECEIVED, 9),
            (ECHOED, 5),
            (&refused("too_short"), 2),
            (&refused("reply"), 2),
            (REFUSED, 4),
        ],
    );
    for (line, count) in [
        (" recv: b", 5),
        (" sent: b", 5),
        ("refused: reply, ", 2),
        ("refused: too_short, ", 2),
    ] {
        let logged = || {
            let log = daemon.log();
            log.iter().filter(|logged| logged.contains(line)).count()
        };
        wait_until(line, || logged() == count);
    }
    assert!(has_nothing(&peer));
}

#[test]
fn source_ports_862_and_863_are_accepted() {
    let daemon = stamp(&[]);
    let bound = |port| UdpSocket::bind((IpAddr::from([127, 0, 8, 62]), port));
    for port in [861, 862, 863, 864] {
        let peer = match bound(port) {
            Ok(peer) => peer,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                skip!("low ports need root");
            }
            Err(error) => panic!("{error}"),
        };
        peer.connect(daemon.address()).unwrap();
        peer.set_read_timeout(Some(crate::harness::DEADLINE))
            .unwrap();
        peer.send(&open(0, 0)).unwrap();
        if matches!(port, 862 | 863) {
            assert_eq!(receive(&peer).len(), 44, "{port}");
        }
    }
    assert_counts(&daemon, &[(&refused("source_port"), 2), (ECHOED, 2)]);
}

#[test]
fn keys_are_those_of_the_ssid() {
    let folder = Folder::new();
    let path = folder.join("keys");
    let keys = ["07".repeat(16), "0c".repeat(64)];
    let text = format!("7 {}\n* {} # the rest\n", keys[0], keys[1]);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let daemon = stamp(&[&format!("--stamp-key-file={}", path.display())]);
    let peer = client(daemon.address());
    let [seven, rest] = [HmacKey::new(&[7; 16]), HmacKey::new(&[12; 64])].map(Option::unwrap);
    for (key, ssid) in [(&seven, 7), (&rest, 0), (&rest, 65535)] {
        for sequence in [0, 1] {
            let reply = ask(&peer, &signed(key, sequence, ssid));
            assert_eq!(reply.len(), SIGNED.size);
            assert_eq!(number(&reply, 0), sequence);
            assert_eq!(short(&reply, SIGNED.ssid), ssid);
            assert_eq!(reply[96..], key.sign(&[&reply[..96]]));
        }
    }
    let mut wrong = signed(&seven, 2, 7);
    wrong[111] ^= 1;
    for request in [&wrong, &signed(&rest, 2, 7), &signed(&seven, 2, 8)] {
        peer.send(request).unwrap();
    }
    let reply = ask(&peer, &signed(&seven, 2, 7));
    for request in [&[][..], &open(0, 0), &wrong[..111], &reply] {
        peer.send(request).unwrap();
    }
    assert_counts(
        &daemon,
        &[
            (RECEIVED, 14),
            (ECHOED, 7),
            (&refused("integrity"), 3),
            (&refused("too_short"), 3),
            (&refused("reply"), 1),
        ],
    );
    assert!(has_nothing(&peer));
}

#[test]
fn clock_error_is_in_replies_metrics_and_log() {
    for (clock, estimate, synchronized, said) in [
        (
            "1ms",
            ErrorEstimate::new(true, Duration::from_millis(1)),
            1,
            "clock synchronized, error at most 1.0",
        ),
        (
            "none",
            ErrorEstimate::UNKNOWN,
            0,
            "clock not synchronized, error at most 16000.000 ms",
        ),
    ] {
        let daemon = stamp(&[&format!("--stamp-clock={clock}")]);
        let peer = client(daemon.address());
        let reply = ask(&peer, &[open(0, 0), tlv(3, &[0; 4])].concat());
        assert_eq!(short(&reply, OPEN.error), estimate.to_bits());
        // Synchronized by NTP or by nothing; timestamps by software.
        let source = if synchronized == 1 { 1 } else { 5 };
        assert_eq!(reply[OPEN.size..], [0, 3, 0, 4, source, 2, source, 2]);
        assert_counts(&daemon, &[("clock_synchronized", synchronized)]);
        let shown = daemon.metric("clock_error_seconds");
        assert!((shown - estimate.seconds()).abs() < 1e-9, "{shown}");
        daemon.wait_for_log(&format!(" INFO STAMP replies report: {said}"));
    }
    // The kernel's state of the clock, or that it cannot be read.
    let log = stamp(&[]).whole_log();
    let said = [
        "STAMP replies report: clock ",
        "cannot read the kernel's state of the clock: ",
    ];
    let lines = log.iter();
    let lines = lines.filter(|line| said.iter().any(|said| line.contains(said)));
    assert_eq!(lines.count(), 1, "{log:#?}");
}

#[test]
fn listening_port_as_source_is_answered_in_stamp_mode() {
    let daemon = stamp(&[]);
    let peer = bound_to(([127, 0, 0, 3], daemon.address().port()));
    peer.send_to(&open(3, 0), daemon.address()).unwrap();
    let reply = receive(&peer);
    assert_eq!(number(&reply, OPEN.request_sequence), 3);
    peer.send_to(&reply, daemon.address()).unwrap();
    assert_counts(&daemon, &[(&refused("reply"), 1), (ECHOED, 1)]);
    assert!(has_nothing(&peer));
}
