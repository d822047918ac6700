//! Loss by direction, with reflectors that number their replies and others that do not.

use serde_json::Value;

use super::peer::{Stateful, number, reply};
use super::{both, directions, unusual};
use crate::json::{RTTS, names};
use crate::reflectors::{Reflector, json};

const COUNT: u64 = 12;

/// A stateful reflector that some requests do not reach, and whose replies to others are lost.
fn lossy(there: &'static [u32], back: &'static [u32]) -> Reflector {
    let mut peer = Stateful::default();
    Reflector::new(move |request| {
        if there.contains(&number(request)) {
            return vec![];
        }
        let reply = peer.reply(request);
        let is_lost = back.contains(&number(request));
        if is_lost { vec![] } else { vec![reply] }
    })
}

#[test]
fn loss_is_counted_for_each_direction() {
    let seen = both(&lossy(&[2, 3, 5], &[7, 9]), COUNT, "");
    assert_eq!(directions(&seen), [3, 2, 0], "{seen}");
    assert_eq!((&seen["received"], &seen["lost"]), (&7.into(), &5.into()));
    assert_eq!(seen["reflector"]["stateful"], true, "{seen}");
    let sentence = "lost on the way there: 3, on the way back: 2";
    assert_eq!(unusual(&seen), [sentence], "{seen}");
}

#[test]
fn loss_before_the_first_reply_has_a_direction() {
    // The reflector numbers its replies from the first request that it receives.
    let mut peer = Stateful::default();
    let reflector = Reflector::new(move |request| match number(request) {
        0 => {
            peer = Stateful::default();
            vec![]
        }
        1 => vec![],
        2 => {
            let _lost = peer.reply(request);
            vec![]
        }
        _ => vec![peer.reply(request)],
    });
    let seen = both(&reflector, COUNT, "");
    assert_eq!(directions(&seen), [2, 1, 0], "{seen}");
}

#[test]
fn loss_after_the_last_reply_has_no_known_direction() {
    let seen = both(&lossy(&[2, 11], &[10]), COUNT, "");
    assert_eq!(directions(&seen), [1, 0, 2], "{seen}");
    let sentence = "lost on the way there: 1, on the way back: 0, in an unknown direction: 2";
    assert_eq!(unusual(&seen), [sentence], "{seen}");
}

#[test]
fn copied_numbers_leave_the_direction_of_loss_unknown() {
    let sentence = "direction of loss unknown: all replies have the numbers of their requests, so \
                    the reflector copies them, or no request was lost on the way there";
    let copying = Reflector::new(|request| match number(request) {
        3 | 8 => vec![],
        number => vec![reply(request, number)],
    });
    // A stateful reflector without loss on the way there has the same numbers.
    for reflector in [copying, lossy(&[], &[3, 8])] {
        let seen = both(&reflector, COUNT, "");
        assert_eq!(directions(&seen), [0, 0, 2], "{seen}");
        assert_eq!(seen["reflector"]["stateful"], Value::Null, "{seen}");
        assert_eq!(unusual(&seen), [sentence], "{seen}");
    }
}

#[test]
fn stamp_figures_are_null_without_a_reply() {
    let silent = Reflector::new(|_| vec![]);
    let (status, seen) = json(
        silent.address,
        "--mode=stamp --count=2 --interval=0.01 --wait=0.1",
    );
    assert_eq!((status, directions(&seen)), (1, [0, 0, 2]), "{seen}");
    assert_eq!(unusual(&seen), <[&str; 0]>::default());
    for distribution in [
        "/one_way_seconds/forward",
        "/one_way_seconds/backward",
        "/ipdv_seconds/forward",
        "/ipdv_seconds/backward",
        "/ipdv_seconds/round_trip",
        "/reflector_seconds",
        "/rtt_seconds",
    ] {
        let figures = seen.pointer(distribution).unwrap();
        assert_eq!(names(figures), RTTS.join(" "));
        assert!(RTTS.iter().all(|name| figures[name].is_null()), "{seen}");
    }
    for unknown in [
        "/clocks/remote_synchronized",
        "/clocks/remote_error_seconds",
        "/clocks/one_way_valid",
        "/path/forward_ttl",
        "/path/backward_ttl",
        "/path/dscp_received_there",
        "/path/dscp_returned",
        "/reflector/stateful",
        "/reflector/ssid",
        "/reflector/timestamp_format",
    ] {
        assert_eq!(seen.pointer(unknown), Some(&Value::Null), "{unknown}");
    }
}
