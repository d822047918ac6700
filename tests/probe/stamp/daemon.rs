//! The client and the daemon.

use serde_json::{Value, json as expected};

use super::{answered, at, directions, stamp, text, unusual};
use crate::harness::calm::undisturbed;
use crate::harness::has_ipv6;
use crate::json::{RTTS, names};
use crate::reflectors::{LONG, ended, joined, probe};
use crate::skip;

#[test]
fn stamp_object_has_exactly_the_promised_members() {
    let daemon = stamp(&[]);
    let seen = answered(daemon.address(), "--count=4");
    let all = "address clocks corrupted duplicates duration_seconds errors flows interval_seconds \
               ipdv_seconds jitter_seconds loss_ratio lost lost_by_direction mode not_sent notes \
               one_way_seconds path received records_sent reflector reflector_seconds reordered \
               rtt_seconds sent size started target version";
    assert_eq!(names(&seen), all);
    for (path, members) in [
        ("/one_way_seconds", "backward forward"),
        ("/ipdv_seconds", "backward forward round_trip"),
        ("/lost_by_direction", "backward forward unknown"),
        (
            "/clocks",
            "local_error_seconds local_synchronized one_way_valid remote_error_seconds \
             remote_synchronized stepped",
        ),
        (
            "/path",
            "backward_ttl dscp_received_there dscp_returned dscp_sent forward_ttl",
        ),
        ("/reflector", "ssid stateful timestamp_format"),
    ] {
        assert_eq!(names(seen.pointer(path).unwrap()), members);
    }
    for path in [
        "/rtt_seconds",
        "/reflector_seconds",
        "/one_way_seconds/forward",
        "/one_way_seconds/backward",
        "/ipdv_seconds/forward",
        "/ipdv_seconds/backward",
        "/ipdv_seconds/round_trip",
    ] {
        let figures = seen.pointer(path).unwrap();
        assert_eq!(names(figures), RTTS.join(" "));
        assert!(RTTS.iter().all(|name| figures[name].is_f64()), "{seen}");
    }
    let path = expected!({
        "forward_ttl": 64, "backward_ttl": 255,
        "dscp_sent": 0, "dscp_received_there": null, "dscp_returned": 0,
    });
    let reflector = expected!({"stateful": null, "ssid": 0, "timestamp_format": "ntp"});
    for (name, value) in [
        ("mode", expected!("stamp")),
        ("size", 44.into()),
        ("corrupted", 0.into()),
        ("path", path),
        ("reflector", reflector),
    ] {
        assert_eq!(seen[name], value, "{name}: {seen}");
    }
    assert_eq!(directions(&seen), [0; 3]);
}

#[test]
fn one_way_delays_add_up_to_the_round_trip() {
    let daemon = stamp(&[]);
    let run = || answered(daemon.address(), "--count=10");
    // Without a moment at which both clocks can be read, the round trip has another end.
    let difference = |seen: &Value| {
        let ways = ["forward", "backward"];
        let mean = |way| at(seen, &format!("/one_way_seconds/{way}/mean"));
        ways.map(mean).iter().sum::<f64>() - at(seen, "/rtt_seconds/mean")
    };
    let is_right = |seen: &Value| difference(seen).abs() < 20e-6;
    let seen = undisturbed(run, is_right);
    assert!(is_right(&seen), "{seen}");
    assert!(at(&seen, "/reflector_seconds/min") > 0.0, "{seen}");
}

#[test]
fn daemon_is_measured_with_requests_of_each_size() {
    let daemon = stamp(&[]);
    for (args, size) in [
        ("--size=14", 14),
        ("--size=43", 43),
        ("", 44),
        ("--size=45 --padding=plain", 45),
        ("--size=48", 48),
        ("--size=1472", 1472),
        ("--size=1472 --padding=random", 1472),
        ("--size=1472 --padding=plain", 1472),
        ("--size=65507 --padding=random", 65507),
    ] {
        let seen = answered(daemon.address(), &format!("--count=3 {args}"));
        assert_eq!(unusual(&seen), <[&str; 0]>::default(), "{args}: {seen}");
        assert_eq!(
            (&seen["size"], &seen["corrupted"]),
            (&size.into(), &0.into())
        );
        let ssid = if size < 44 { Value::Null } else { 0.into() };
        assert_eq!(seen["reflector"]["ssid"], ssid, "{args}: {seen}");
        assert_eq!(seen["path"]["forward_ttl"], 64, "{args}: {seen}");
    }
    daemon.assert_accounted_for();
    daemon.wait_for_metric("datagrams_refused_total", 0.0);
}

#[test]
fn ssid_and_flow_make_a_session_of_the_daemon() {
    let daemon = stamp(&[]);
    let args = "--count=8 --flows=4";
    let seen = answered(daemon.address(), &format!("{args} --ssid=0x1234"));
    assert_eq!(seen["reflector"]["ssid"], 0x1234, "{seen}");
    let flows = seen["per_flow"].as_array().unwrap();
    let of_each = flows.iter().map(|flow| (&flow["sent"], &flow["received"]));
    assert!(of_each.eq([(&2.into(), &2.into()); 4]), "{seen}");
    assert_eq!(directions(&seen), [0; 3], "{seen}");
    assert_eq!(unusual(&seen), <[&str; 0]>::default(), "{seen}");
    daemon.wait_for_metric("stamp_sessions", 4.0);
    // Each flow counts its requests from 0.
    daemon.wait_for_metric("stamp_uplink_lost_total", 0.0);
    assert!(text(daemon.address(), args).contains(" flow=4 ttl=255 time="));
}

#[test]
fn class_of_service_needs_the_daemons_permission() {
    let strict = stamp(&[]);
    let open = stamp(&["--stamp-allow-dscp=EF"]);
    let refused = "replies without the DSCP of --cos: 3; the policy of the reflector does not \
                   permit it";
    let refused = [refused.to_owned()];
    for (daemon, cos, back, sentences) in [
        (&strict, "EF", 10, &refused[..]),
        (&open, "EF", 46, &[]),
        (&open, "CS6", 10, &refused),
        // The DSCP of the request is always permitted.
        (&strict, "10", 10, &[]),
    ] {
        let args = format!("--count=3 --dscp=AF11 --ttl=77 --cos={cos}");
        let seen = answered(daemon.address(), &args);
        assert_eq!(seen["size"], 52, "{seen}");
        let path = expected!({
            "forward_ttl": 77, "backward_ttl": 255,
            "dscp_sent": 10, "dscp_received_there": 10, "dscp_returned": back,
        });
        assert_eq!((&seen["path"], unusual(&seen)), (&path, sentences.to_vec()));
        let said = format!("TTL 77 there, 255 back; DSCP 10 sent, 10 there, {back} back");
        let out = joined(&text(daemon.address(), &args));
        assert!(out.contains(&said), "{out}");
    }
}

#[test]
fn path_of_ipv6_is_shown() {
    if !has_ipv6() {
        skip!("no IPv6");
    }
    let daemon = stamp(&["--listen=[::1]:0"]);
    let args = "--count=3 --ttl=77 --dscp=EF --cos=EF";
    let seen = answered(daemon.address(), args);
    let path = expected!({
        "forward_ttl": 77, "backward_ttl": 255,
        "dscp_sent": 46, "dscp_received_there": 46, "dscp_returned": 46,
    });
    assert_eq!(seen["path"], path, "{seen}");
}

#[test]
fn clocks_are_those_of_both_hosts() {
    for (option, synchronized, error) in [
        ("--stamp-clock=none", false, 16.0),
        ("--stamp-clock=1s", true, 1.0),
    ] {
        let daemon = stamp(&[option]);
        let seen = answered(daemon.address(), "--count=3");
        let clocks = &seen["clocks"];
        assert_eq!(clocks["remote_synchronized"], synchronized, "{seen}");
        assert_eq!(clocks["remote_error_seconds"], error, "{seen}");
        let is_valid = synchronized && clocks["local_synchronized"] == true;
        assert_eq!(clocks["one_way_valid"], is_valid, "{seen}");
        let said = match (is_valid, synchronized) {
            (true, _) => "one-way times are right to 1",
            (false, true) => "one-way times are not valid: this host's clock is not synchronized",
            (false, false) => "one-way times are not valid: ",
        };
        let out = joined(&text(daemon.address(), "--count=3"));
        assert!(out.contains(said), "{said}: {out}");
    }
}

#[test]
fn summary_has_the_times_of_each_way() {
    let daemon = stamp(&[]);
    // A histogram, too.
    let out = text(daemon.address(), "--count=12 --flows=2");
    for start in [
        "probing ",
        "44 bytes from ",
        "12 sent, 12 received, 0 lost (0%)",
        "round trip in ms: min ",
        "forward in ms:    min ",
        "backward in ms:   min ",
        "one-way times are ",
        "the reflector's clock is ",
        "TTL 64 there, 255 back; DSCP 0 sent, 0 back",
    ] {
        assert!(
            out.lines().any(|line| line.starts_with(start)),
            "{start}: {out}"
        );
    }
    let quantiles = out
        .lines()
        .filter(|line| line.starts_with("                  p50 "));
    assert!(
        quantiles.clone().all(|line| line.contains(", jitter ")),
        "{out}"
    );
    assert_eq!(quantiles.count(), 3, "{out}");
    // Each event is a line of its own for programs, too.
    let args = format!("--mode=stamp --count=2 --interval=0.01 --json-lines {LONG}");
    let (_, out, _) = ended(&mut probe(daemon.address(), &args));
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["event"], directions(&last)),
        (&"summary".into(), [0; 3])
    );
}
