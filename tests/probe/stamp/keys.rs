//! Authenticated mode: keys, and packets that are changed on the path.

use std::net::SocketAddr;

use serde_json::Value;

use super::relay::Relay;
use super::{answered, directions, key_file, stamp, unusual, with_mode};
use crate::harness::Daemon;
use crate::harness::tidy::Folder;
use crate::reflectors::{measure, object, probe};

const COUNT: u64 = 4;

/// A daemon with a key, and the arguments of a client with the same.
struct Keyed {
    folder: Folder,
    daemon: Daemon,
    args: String,
}

impl Keyed {
    fn new() -> Self {
        let folder = Folder::new();
        let file = key_file(&folder, "keys", &format!("7 {}\n", "ab".repeat(16)), 0o600);
        Self {
            daemon: stamp(&[&format!("--stamp-key-file={file}"), "--stamp-allow-dscp=EF"]),
            args: format!("--count={COUNT} --ssid=7 --key-file={file}"),
            folder,
        }
    }

    /// Measures until the daemon has counted all requests in a metric.
    fn measured(&self, target: SocketAddr, args: &str, series: &str) -> Value {
        let before = self.daemon.metric(series);
        let args = with_mode(&format!("--json {args}"));
        let (_, seen) = object(measure(&mut probe(target, &args), || {
            self.daemon.metric(series) - before > 3.5
        }));
        seen
    }
}

#[test]
fn authenticated_requests_are_answered_with_the_right_key() {
    let keyed = Keyed::new();
    for (args, size) in [
        ("", 112),
        ("--size=300", 300),
        ("--size=300 --padding=random", 300),
        ("--size=300 --padding=plain", 300),
        ("--cos=EF", 140),
        ("--cos=EF --size=144", 144),
        ("--flows=2", 112),
    ] {
        let seen = answered(keyed.daemon.address(), &format!("{} {args}", keyed.args));
        assert_eq!(unusual(&seen), <[&str; 0]>::default(), "{args}: {seen}");
        assert_eq!(
            (&seen["size"], &seen["corrupted"]),
            (&size.into(), &0.into())
        );
        assert_eq!(seen["reflector"]["ssid"], 7, "{seen}");
        let back = if args.contains("EF") { 46 } else { 0 };
        assert_eq!(seen["path"]["dscp_returned"], back, "{args}: {seen}");
    }
}

#[test]
fn wrong_key_or_none_loses_all_requests() {
    let keyed = Keyed::new();
    let other = key_file(
        &keyed.folder,
        "other",
        &format!("* {}\n", "cd".repeat(16)),
        0o600,
    );
    let target = keyed.daemon.address();
    for (args, reason) in [
        (format!("--ssid=7 --key-file={other}"), "integrity"),
        (format!("--ssid=8 --key-file={other}"), "integrity"),
        ("--ssid=7".into(), "too_short"),
    ] {
        let series = format!("datagrams_refused_total{{reason=\"{reason}\"}}");
        let seen = keyed.measured(target, &format!("--count={COUNT} {args}"), &series);
        assert_eq!(
            (&seen["received"], &seen["lost"]),
            (&0.into(), &COUNT.into())
        );
        assert_eq!(directions(&seen), [0, 0, COUNT], "{seen}");
    }
}

#[test]
fn replies_with_a_wrong_hmac_count_as_lost() {
    let sentence = "replies with a wrong HMAC: 4; they count as lost; check the key, and \
                    whether the reflector has one";
    let keyed = Keyed::new();
    // A byte of T2, of the HMAC, of the padding and of the HMAC of the TLVs.
    for (args, byte) in [
        ("", 35),
        ("", 111),
        ("--size=300", 200),
        ("--size=300", 299),
    ] {
        let change = move |packet: &mut Vec<u8>| packet[byte] ^= 1;
        let relay = Relay::new(keyed.daemon.address(), |_| {}, change);
        let args = with_mode(&format!("{} {args} --json", keyed.args));
        let (_, seen) = object(measure(&mut probe(relay.address, &args), || {
            relay.forwarded_back() == COUNT
        }));
        assert_eq!(unusual(&seen), [sentence], "{byte}: {seen}");
        assert_eq!(
            (&seen["received"], &seen["lost"]),
            (&0.into(), &COUNT.into())
        );
    }
}

#[test]
fn tlvs_changed_on_the_way_there_are_reported() {
    let sentence = "replies whose TLVs the reflector could not verify: 4; check the key";
    let keyed = Keyed::new();
    let relay = Relay::new(keyed.daemon.address(), |packet| packet[200] ^= 1, |_| {});
    let seen = answered(relay.address, &format!("{} --size=300", keyed.args));
    assert_eq!(unusual(&seen), [sentence], "{seen}");
    assert_eq!(seen["corrupted"], COUNT, "{seen}");
}
