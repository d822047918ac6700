//! Sessions: their numbers, bounds and ends.

use super::*;

fn with_ssid(sequence: u32, ssid: u16) -> Vec<u8> {
    let mut request = open(sequence);
    request[14..16].copy_from_slice(&ssid.to_be_bytes());
    request
}

/// The uplink counts: lost, reordered, duplicates.
fn uplink(side: &Side) -> [u64; 3] {
    let uplink = side.totals().sessions.uplink;
    [uplink.lost, uplink.reordered, uplink.duplicates]
}

#[test]
fn stateless_replies_have_the_number_of_their_request() {
    let mut side = Side::new(stateless());
    for number in [7, 9, u32::MAX, 0] {
        assert_eq!(side.number(ALICE, &open(number)), number);
    }
    assert_eq!(side.totals(), StampTotals::default());
}

#[test]
fn stateful_replies_are_numbered_per_session() {
    let mut side = Side::new(stateful());
    for number in [5, 6, 9] {
        assert_eq!(side.number(ALICE, &open(number)), number.min(7) - 5);
    }
    for other in [BOB, CAROL, DAVE] {
        assert_eq!(side.number(other, &open(1)), 0);
    }
    assert_eq!(side.number(ALICE, &with_ssid(1, 7)), 0);
    let elsewhere = Destination::Here {
        address: Some("10.0.0.2".parse().unwrap()),
        over_loopback: false,
    };
    let other = side.answers_from(address(ALICE), elsewhere, &open(10));
    assert_eq!(other.unwrap().bytes[..4], [0; 4]);
    assert_eq!(side.number(ALICE, &open(10)), 3);
    assert_eq!(side.totals().sessions.sessions, 6);
}

#[test]
fn session_starts_again_with_its_sender() {
    let mut side = Side::new(stateful());
    for (number, reply) in [(0, 0), (1, 1), (0, 0), (1, 1), (2, 2), (0, 0), (0, 0)] {
        assert_eq!(side.number(ALICE, &open(number)), reply);
    }
    assert_eq!(side.totals().sessions.reset, 3);
    assert_eq!(side.totals().sessions.sessions, 1);
}

#[test]
fn sequence_number_wraps_without_a_restart() {
    for (first, is_restart) in [(u32::MAX, false), (0xffff_0000, false), (0xfffe_ffff, true)] {
        let mut side = Side::new(stateful());
        side.number(ALICE, &open(first));
        let reply = side.number(ALICE, &open(0));
        assert_eq!(reply, u32::from(!is_restart), "{first:x}");
        assert_eq!(side.totals().sessions.reset, u64::from(is_restart));
    }
    let mut side = Side::new(stateful());
    for number in [u32::MAX - 1, u32::MAX, 0, 1] {
        side.number(ALICE, &open(number));
    }
    assert_eq!(uplink(&side), [0; 3]);
}

#[test]
fn random_padding_makes_no_session_of_each_request() {
    let mut side = Side::new(stateful());
    for number in 0..200_u32 {
        let mut request = open(number);
        let start = usize::try_from(number).unwrap();
        request[14..44].copy_from_slice(&BYTES[64 + start..][..30]);
        assert_eq!(side.number(ALICE, &request), number);
        assert_eq!(side.number(BOB, &request[..14 + start % 30]), number);
    }
    assert_eq!(side.totals().sessions.sessions, 2);
}

#[test]
fn idle_session_ends_at_the_timeout_and_not_before() {
    let mut settings = stateful();
    settings.timeout = None;
    settings.stamp.session_timeout = Timeout::new(TIMEOUT).unwrap();
    let mut side = Side::new(settings);
    side.number(ALICE, &open(0));
    side.now += ALMOST;
    assert_eq!(side.number(ALICE, &open(1)), 1);
    side.now += ALMOST;
    assert_eq!(side.core.next_expiry(), Some(side.now + A_MOMENT));
    side.core.expire(side.now, None);
    assert_eq!(side.totals().sessions.sessions, 1);
    side.now += A_MOMENT;
    side.core.expire(side.now, None);
    assert_eq!(side.totals().sessions.sessions, 0);
    assert_eq!(side.core.next_expiry(), None);
    assert_eq!(side.number(ALICE, &open(2)), 0);
    side.now += TIMEOUT;
    assert_eq!(side.number(ALICE, &open(3)), 0);
}

#[test]
fn full_table_keeps_live_sessions_and_answers_others() {
    const LIVE: u32 = 1000;
    let mut settings = stateful();
    settings.max_peers = NonZeroU32::new(LIVE).unwrap();
    let mut side = Side::new(settings);
    let sender = |number: u32| SocketAddr::from(((number | 10 << 24).to_be_bytes(), 5000));
    let number = |side: &mut Side, from: u32, sequence| {
        let answer = side.answers_from(sender(from), HERE, &open(sequence));
        u32::from_be_bytes(answer.unwrap().bytes[..4].try_into().unwrap())
    };
    for live in 0..LIVE {
        assert_eq!(number(&mut side, live, 7), 0);
    }
    for other in LIVE..100_000 {
        side.now += A_MOMENT;
        assert_eq!(number(&mut side, other, 7), 7);
        let live = other % LIVE;
        assert_eq!(number(&mut side, live, 7 + other / LIVE), other / LIVE);
    }
    let totals = side.totals().sessions;
    assert_eq!(
        (totals.sessions, totals.unkept, totals.reset),
        (1000, 99_000, 0)
    );
    assert_eq!(uplink(&side), [0; 3]);
    // The space of an idle session is free again.
    side.now += Duration::from_nanos(899_999_999_999);
    assert_eq!(number(&mut side, LIVE, 9), 0);
}

#[test]
fn uplink_counts_lost_reordered_and_duplicate_requests() {
    let second = Duration::from_secs(1);
    let none = Duration::ZERO;
    for (requests, counts) in [
        (vec![(0, none), (1, none), (2, none)], [0, 0, 0]),
        // A missing number is not lost at once.
        (vec![(0, none), (3, none)], [0, 0, 0]),
        (vec![(0, none), (3, none), (4, second)], [2, 0, 0]),
        (vec![(0, none), (3, none), (4, ALMOST_A_SECOND)], [0, 0, 0]),
        (
            vec![(0, none), (2, none), (1, none), (3, second)],
            [0, 1, 0],
        ),
        // It arrives after it was lost.
        (
            vec![(0, none), (2, none), (3, second), (1, none)],
            [1, 1, 0],
        ),
        (vec![(1, none), (1, none), (2, none), (1, none)], [0, 0, 2]),
        // Before the first number.
        (vec![(5, none), (4, none), (4, none)], [0, 1, 1]),
        // The window has 64 numbers.
        (vec![(1, none), (3, none), (65, none)], [0, 0, 0]),
        (vec![(1, none), (3, none), (66, none)], [1, 0, 0]),
        (vec![(1, none), (66, none)], [1, 0, 0]),
        // 64 numbers back is too old to know.
        (vec![(1, none), (65, none), (1, none)], [0, 1, 0]),
        (vec![(1, none), (64, none), (1, none)], [0, 0, 1]),
        (vec![(1, none), (1001, none)], [936, 0, 0]),
        // A restart is the end of the session.
        (vec![(1, none), (3, none), (0, none)], [1, 0, 0]),
    ] {
        let mut side = Side::new(stateful());
        for (number, wait) in &requests {
            side.now += *wait;
            side.number(ALICE, &open(*number));
        }
        assert_eq!(uplink(&side), counts, "{requests:?}");
    }
}

#[test]
fn missing_requests_are_lost_when_the_session_ends() {
    let mut side = Side::new(stateful());
    side.number(ALICE, &open(0));
    side.number(ALICE, &open(3));
    side.now += Duration::from_mins(15);
    side.core.expire(side.now, None);
    assert_eq!(uplink(&side), [2, 0, 0]);
}
