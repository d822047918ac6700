//! Sentences about the clocks.

use std::time::Duration;

use super::*;
use crate::probe::stamp::{Padding, StampReception, StampRequests};
use crate::reflect::stamp::NtpTimestamp;

const MILLISECOND: Duration = Duration::from_millis(1);
/// T1 of the first request, since 1970.
const TODAY: Duration = Duration::from_hours(500_000);

/// An error of 1 ms.
fn clock(is_synchronized: bool) -> ErrorEstimate {
    ErrorEstimate::new(is_synchronized, MILLISECOND)
}

/// Two requests and their replies: T2 is 1 ms after T1, T3 after T2, and T4 after T3. The
/// reflector's clock is ahead by `ahead`, and this host's is stepped by `step` in between.
fn measured(remote: ErrorEstimate, ahead: Duration, residence: i64, step: Duration) -> Stamp {
    let settings = StampRequests {
        size: 44,
        ssid: 0,
        is_authenticated: false,
        key: None,
        class_of_service: None,
        padding: Padding::Zero,
    };
    let mut stamp = Stamp::new(settings, 1, 16, 7);
    for (number, step) in [(1, Duration::ZERO), (2, step)] {
        let at = MILLISECOND * 10 * number;
        let t1 = TODAY + at + step;
        let mut packet = [0; 44];
        stamp.write(0, number.into(), at, t1, clock(true), &mut packet);
        packet.copy_within(0..4, 24);
        packet.copy_within(4..12, 28);
        let t2 = NtpTimestamp::from_unix(t1 + MILLISECOND + ahead).to_bits();
        // 2^32 units are a second.
        let t3 = t2.wrapping_add_signed(residence * (1 << 32) / 1000);
        packet[4..12].copy_from_slice(&t3.to_be_bytes());
        packet[12..14].copy_from_slice(&remote.to_bits().to_be_bytes());
        packet[16..24].copy_from_slice(&t2.to_be_bytes());
        let reception = StampReception {
            at: at + MILLISECOND * 3,
            time_of_day: Some(t1 + MILLISECOND * 3),
            ttl: Some(64),
            traffic_class: Some(0),
        };
        stamp.receive(0, &packet, 44, reception, |_| Some(at));
    }
    stamp
}

#[test]
fn one_way_times_are_valid_without_a_doubt() {
    let neither = "not valid: neither clock is synchronized";
    let tai = "not valid: the clocks differ by 37 s, as TAI and UTC do";
    let none = Duration::ZERO;
    let [second, difference] = [1, 37].map(Duration::from_secs);
    for (local, remote, ahead, residence, step, said) in [
        (
            true,
            true,
            none,
            1,
            none,
            "right to 2.014 ms: both clocks are synchronized",
        ),
        (false, false, none, 1, none, neither),
        (
            false,
            true,
            none,
            1,
            none,
            "not valid: this host's clock is not synchronized",
        ),
        (
            true,
            false,
            none,
            1,
            none,
            "not valid: the reflector's clock is not synchronized",
        ),
        (
            true,
            true,
            none,
            1,
            second,
            "not valid: this host's clock was stepped during the run",
        ),
        (
            true,
            true,
            none,
            -1,
            none,
            "not valid: the reflector's times are impossible",
        ),
        (
            true,
            true,
            none,
            9,
            none,
            "not valid: the reflector's times are impossible",
        ),
        (true, true, difference, 1, none, tai),
        (
            true,
            true,
            second,
            1,
            none,
            "not valid: the clocks differ by more than they report",
        ),
        (
            false,
            false,
            difference,
            1,
            second,
            "not valid: neither clock is synchronized; this host's clock was stepped during the \
             run; the clocks differ by 37 s, as TAI and UTC do",
        ),
    ] {
        let (local, remote) = (clock(local), clock(remote));
        let stamp = measured(remote, ahead, residence, step);
        let directions = Directions {
            stamp: &stamp,
            local,
            dscp_sent: 0,
            lost: 0,
        };
        let sentence = format!("one-way times are {said}");
        let sentences = directions.sentences();
        assert!(sentences.contains(&sentence), "{said}: {sentences:#?}");
        assert_eq!(directions.is_valid(remote), said.starts_with("right"));
    }
}

#[test]
fn clock_without_an_error_is_a_doubt() {
    // A multiplier of 0, as some reflectors send.
    let remote = ErrorEstimate::from_bits(0x8000);
    let stamp = measured(remote, Duration::ZERO, 1, Duration::ZERO);
    let directions = Directions {
        stamp: &stamp,
        local: clock(true),
        dscp_sent: 0,
        lost: 0,
    };
    let doubts = directions.doubts(remote);
    assert_eq!(doubts, ["the reflector reports no error of its clock"]);
}
