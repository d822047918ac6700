//! Reflectors that are not what the client expects: figures and sentences.

use serde_json::Value;

use super::peer::{ERROR, NUMBER, SSID, T1, T2, T3, now, number, ptp, reply, set_timestamp};
use super::peer::{Stateful, timestamp};
use super::{at, both, directions, unusual};
use crate::reflectors::Reflector;

const COUNT: u64 = 6;

/// A reflector whose replies differ from right ones.
fn faulty(change: fn(&mut Vec<u8>)) -> Reflector {
    Reflector::new(move |request| {
        let mut reply = reply(request, number(request));
        change(&mut reply);
        vec![reply]
    })
}

/// Measures a reflector whose replies are all accepted. Asserts its sentences.
fn accepted(change: fn(&mut Vec<u8>), args: &str, sentences: &[&str]) -> Value {
    let seen = both(&faulty(change), COUNT, args);
    assert_eq!(unusual(&seen), sentences, "{seen}");
    for (name, count) in [("received", COUNT), ("lost", 0), ("duplicates", 0)] {
        assert_eq!(seen[name], count, "{name}: {seen}");
    }
    assert_eq!(directions(&seen), [0; 3], "{seen}");
    seen
}

/// Asserts that both one-way delays lie between 0 and the time of the whole run.
fn assert_plausible(seen: &Value) {
    let time = at(seen, "/duration_seconds");
    for figure in [
        "/one_way_seconds/forward/min",
        "/one_way_seconds/forward/max",
        "/one_way_seconds/backward/min",
        "/one_way_seconds/backward/max",
        "/reflector_seconds/min",
    ] {
        assert!((0.0..time).contains(&at(seen, figure)), "{figure}: {seen}");
    }
}

#[test]
fn right_reflector_has_no_sentence_about_faults() {
    for args in ["", "--size=14", "--size=43", "--size=1472 --padding=plain"] {
        let seen = accepted(|_| {}, args, &[]);
        assert_plausible(&seen);
        let clocks = &seen["clocks"];
        assert_eq!(clocks["remote_synchronized"], true, "{seen}");
        assert_eq!(clocks["remote_error_seconds"], 2_f64.powi(-20), "{seen}");
        assert_eq!(seen["path"]["forward_ttl"], 63, "{seen}");
        assert_eq!(seen["reflector"]["timestamp_format"], "ntp", "{seen}");
    }
    let padded = "--size=1472 --padding=random --ssid=65535";
    let seen = accepted(|_| {}, padded, &[]);
    assert_eq!(seen["reflector"]["ssid"], 65535, "{seen}");
}

#[test]
fn zeroed_ssid_is_reported() {
    let sentence = "replies with another SSID: 6; the reflector does not return it (RFC 8972)";
    let zeroed = |reply: &mut Vec<u8>| reply[SSID].fill(0);
    let seen = accepted(zeroed, "--ssid=0x1234", &[sentence]);
    assert_eq!(seen["reflector"]["ssid"], 0, "{seen}");
    assert_plausible(&seen);
    accepted(zeroed, "", &[]);
}

#[test]
fn changed_t1_is_reported_and_not_used() {
    let sentence = "replies with another T1: 6; the reflector changes it; the client uses its own";
    assert_plausible(&accepted(|reply| reply[T1].fill(0), "", &[sentence]));
    // domos twamp-light returns T1 where T3 should be, and the other way round.
    let swap = |reply: &mut Vec<u8>| {
        let [t1, t3] = [T1, T3].map(|field| timestamp(reply, field));
        set_timestamp(reply, T1, t3);
        set_timestamp(reply, T3, t1);
    };
    let impossible =
        "replies with impossible times in the reflector: 6; their round trip includes it";
    let seen = accepted(swap, "", &[sentence, impossible]);
    assert!(at(&seen, "/reflector_seconds/max") < 0.0, "{seen}");
    assert!(at(&seen, "/one_way_seconds/forward/min") >= 0.0, "{seen}");
    assert_eq!(seen["clocks"]["one_way_valid"], false, "{seen}");
}

#[test]
fn equal_t2_and_t3_are_reported() {
    let sentence = "replies whose T2 and T3 are equal: 6; the reflector reads its clock once, so \
                    its own time counts as network";
    let seen = accepted(|reply| reply.copy_within(T2, T3.start), "", &[sentence]);
    for figure in ["min", "mean", "max"] {
        assert_eq!(seen["reflector_seconds"][figure], 0.0, "{seen}");
    }
}

#[test]
fn cut_replies_are_reported_and_counted_as_received() {
    let sentence = "replies shorter than their request: 6; the reflector cuts padding or TLVs";
    for args in ["--size=100", "--size=100 --padding=plain"] {
        let seen = accepted(|reply| reply.truncate(44), args, &[sentence]);
        assert_plausible(&seen);
        assert_eq!(seen["corrupted"], 0, "{seen}");
    }
    // As twampy's responder, which leaves out the TTL.
    let seen = accepted(|reply| reply.truncate(38), "", &[sentence]);
    assert_eq!(seen["path"]["forward_ttl"], Value::Null, "{seen}");
}

#[test]
fn shortest_reply_of_twamp_light_is_whole() {
    // RFC 5357, section 4.2.1.
    let seen = accepted(|reply| reply.truncate(41), "--size=14", &[]);
    assert_eq!(seen["path"]["forward_ttl"], 63, "{seen}");
    assert_eq!(seen["reflector"]["ssid"], Value::Null, "{seen}");
}

#[test]
fn flags_of_tlvs_are_reported() {
    let sentence = "replies with a TLV that the reflector does not know: 6; it supports fewer TLVs";
    let seen = accepted(|reply| reply[44] = 0x80, "--size=100", &[sentence]);
    assert_eq!(seen["corrupted"], 0, "{seen}");
    let sentence = "replies with a TLV that the reflector calls malformed: 6; a device on the path \
                    may change packets";
    accepted(|reply| reply[44] = 0x40, "--size=100", &[sentence]);
}

#[test]
fn changed_padding_is_corruption() {
    for args in ["--padding=zero", "--padding=plain", "--padding=random"] {
        let args = format!("--size=100 {args}");
        let seen = accepted(|reply| reply[99] ^= 1, &args, &[]);
        assert_eq!(seen["corrupted"], COUNT, "{args}: {seen}");
    }
}

#[test]
fn ptp_timestamps_are_converted() {
    let to_ptp = |reply: &mut Vec<u8>| {
        reply[ERROR.start] |= 0x40;
        for field in [T2, T3] {
            let time = ptp(timestamp(reply, field.clone()));
            set_timestamp(reply, field, time);
        }
    };
    let seen = accepted(to_ptp, "", &[]);
    assert_eq!(seen["reflector"]["timestamp_format"], "ptp", "{seen}");
    // The conversion is exact to a nanosecond.
    for way in ["forward", "backward"] {
        let delay = at(&seen, &format!("/one_way_seconds/{way}/min"));
        assert!((-1e-6..60.0).contains(&delay), "{seen}");
    }
}

/// Moves T2 and T3 by seconds.
fn moved(reply: &mut [u8], seconds: u64) {
    for field in [T2, T3] {
        let time = timestamp(reply, field.clone());
        set_timestamp(reply, field, time.wrapping_add(seconds << 32));
    }
}

#[test]
fn clock_in_tai_is_named() {
    let sentence = "the clocks differ by 37 s, as TAI and UTC do";
    let seen = both(&faulty(|reply| moved(reply, 37)), COUNT, "");
    let notes = seen["notes"].to_string();
    assert!(notes.contains(sentence), "{seen}");
    assert_eq!(seen["clocks"]["one_way_valid"], false, "{seen}");
    let forward = at(&seen, "/one_way_seconds/forward/min");
    assert!((37.0..97.0).contains(&forward), "{seen}");
    assert!(at(&seen, "/rtt_seconds/max") < 30.0, "{seen}");
}

#[test]
fn clock_without_the_date_shows_negative_delays() {
    // As a board without a clock has after its start.
    let unset = |reply: &mut Vec<u8>| {
        let since_1970 = (now() >> 32) - 2_208_988_800;
        moved(reply, since_1970.wrapping_neg());
    };
    let seen = accepted(unset, "", &[]);
    assert!(at(&seen, "/one_way_seconds/forward/max") < -1e9, "{seen}");
    assert!(at(&seen, "/one_way_seconds/backward/min") > 1e9, "{seen}");
    assert!(at(&seen, "/rtt_seconds/max") < 60.0, "{seen}");
}

#[test]
fn second_reply_is_a_duplicate_and_no_loss() {
    // Duplicated on the way back, and on the way there.
    let back = Reflector::new(|request| vec![reply(request, number(request)); 2]);
    let mut peer = Stateful::default();
    let there = Reflector::new(move |request| vec![peer.reply(request), peer.reply(request)]);
    for reflector in [back, there] {
        let seen = both(&reflector, COUNT, "");
        for (name, count) in [
            ("received", COUNT),
            ("duplicates", COUNT),
            ("lost", 0),
            ("corrupted", 0),
        ] {
            assert_eq!(seen[name], count, "{name}: {seen}");
        }
        assert_eq!(directions(&seen), [0; 3], "{seen}");
        assert_eq!(unusual(&seen), <[&str; 0]>::default(), "{seen}");
    }
}

#[test]
fn echo_server_is_named() {
    let echo = Reflector::new(|request| vec![request.to_vec()]);
    let sentence = "requests that came back unchanged: 6; the target echoes and is no STAMP \
                    reflector: use --mode echo";
    for args in ["", "--size=1472", "--size=100 --padding=random --ssid=7"] {
        let seen = both(&echo, COUNT, args);
        assert_eq!(unusual(&seen), [sentence], "{args}: {seen}");
        assert_eq!(
            (&seen["received"], &seen["lost"]),
            (&0.into(), &COUNT.into())
        );
        assert_eq!(directions(&seen), [0, 0, COUNT], "{seen}");
    }
}

#[test]
fn datagrams_that_are_no_replies_are_counted_alone() {
    let garbage = Reflector::new(|request| {
        let mut stranger = reply(request, 0);
        // The number of a request that was never sent.
        stranger[24..28].fill(0xff);
        vec![vec![], b"hello".to_vec(), vec![0xa5; 200], stranger]
    });
    let seen = both(&garbage, COUNT, "");
    let sentence = "datagrams that are not replies: 24; check that the target is a STAMP reflector";
    assert_eq!(unusual(&seen), [sentence], "{seen}");
    assert_eq!(
        (&seen["received"], &seen["corrupted"]),
        (&0.into(), &0.into())
    );
    // Replies in between are found.
    let mixed = Reflector::new(|request| {
        let reply = reply(request, number(request));
        vec![vec![0xa5; 200], reply, request[NUMBER].to_vec()]
    });
    let seen = both(&mixed, COUNT, "");
    assert_eq!(
        unusual(&seen),
        ["datagrams that are not replies: 12"],
        "{seen}"
    );
    assert_eq!(
        (&seen["received"], &seen["duplicates"]),
        (&COUNT.into(), &0.into())
    );
}
