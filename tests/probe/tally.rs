//! The tally against a model that keeps everything and counts at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use udp_echo::probe::tally::{Overdue, ReplyKind, Tally};

/// An event. The time advances by one millisecond per event.
#[derive(Debug, Clone, Copy)]
enum Event {
    Send {
        flow: usize,
    },
    /// A reply to the request `back` before the last one.
    Reply {
        back: u64,
        corrupted: bool,
    },
    /// A reply to a request that was never sent: `ahead` after the last one, or number 0.
    UnknownReply {
        ahead: Option<u64>,
        corrupted: bool,
    },
    Reject {
        back: u64,
    },
    Damaged,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_usize..3).prop_map(|flow| Event::Send { flow }),
        4 => (0_u64..12, prop::bool::weighted(0.2))
            .prop_map(|(back, corrupted)| Event::Reply { back, corrupted }),
        1 => (prop::option::of(1_u64..12), any::<bool>())
            .prop_map(|(ahead, corrupted)| Event::UnknownReply { ahead, corrupted }),
        1 => (0_u64..12).prop_map(|back| Event::Reject { back }),
        1 => Just(Event::Damaged),
    ]
}

const CAPACITY: u64 = 8;

proptest! {
    #[test]
    fn tally_matches_the_model(events in prop::collection::vec(event(), 0..200)) {
        let mut tally = Tally::new(3, 8);
        // Flow and time of each request.
        let mut sent: Vec<(usize, u64)> = Vec::new();
        // Sequence numbers in order of arrival.
        let mut replies: Vec<u64> = Vec::new();
        let mut rejected: Vec<u64> = Vec::new();
        let (mut corrupted, mut damaged, mut too_late, mut reordered) = (0, 0, 0, 0);
        // Round-trip times in milliseconds, and their differences between requests of a flow.
        let mut rtts: BTreeMap<u64, u64> = BTreeMap::new();
        let mut differences: Vec<u128> = Vec::new();
        let mut seen: Vec<u128> = Vec::new();
        for (now, event) in (0_u64..).zip(&events) {
            let count = sent.len() as u64;
            let kept = |sequence: u64| sequence >= 1 && sequence + CAPACITY > count;
            match *event {
                Event::Send { flow } => {
                    prop_assert_eq!(tally.next_sequence(), count + 1);
                    tally.sent(flow, Duration::from_millis(now));
                    sent.push((flow, now));
                }
                Event::Reply { back, corrupted: is } => {
                    let Some(sequence) = count.checked_sub(back).filter(|number| *number > 0) else {
                        continue;
                    };
                    corrupted += u64::from(is);
                    let at = Duration::from_millis(now);
                    let kind = tally.reply(sequence, is, at, at);
                    if !kept(sequence) {
                        too_late += 1;
                        prop_assert_eq!(kind, ReplyKind::Unknown);
                        continue;
                    }
                    let (flow, at) = sent[usize::try_from(sequence - 1).unwrap()];
                    let rtt = Duration::from_millis(now - at);
                    let flow_of = |number: u64| sent[usize::try_from(number - 1).unwrap()].0;
                    let expected = if replies.contains(&sequence) {
                        ReplyKind::Duplicate { rtt, flow }
                    } else {
                        let overtaken = |other: &u64| *other > sequence && flow_of(*other) == flow;
                        let is_overtaken = replies.iter().any(overtaken);
                        reordered += u64::from(is_overtaken);
                        let variations = match kind {
                            ReplyKind::First { variations, .. } => variations,
                            _ => [None; 2],
                        };
                        seen.extend(variations.into_iter().flatten().map(|time| time.as_millis()));
                        ReplyKind::First { rtt, variations, flow, reordered: is_overtaken }
                    };
                    prop_assert_eq!(kind, expected);
                    let is_first = !replies.contains(&sequence);
                    replies.push(sequence);
                    let own = rtt.as_millis().try_into().unwrap();
                    if is_first {
                        rtts.insert(sequence, own);
                        let before = (1..sequence).rev().find(|other| flow_of(*other) == flow);
                        let after = (sequence + 1..=count).find(|other| flow_of(*other) == flow);
                        let neighbours = [before, after].into_iter().flatten();
                        let answered = neighbours.filter(|other| kept(*other));
                        let others = answered.filter_map(|other| rtts.get(&other));
                        differences.extend(others.map(|other| u128::from(other.abs_diff(own))));
                    }
                }
                Event::UnknownReply { ahead, corrupted: is } => {
                    let sequence = ahead.map_or(0, |ahead| count + ahead);
                    let at = Duration::from_millis(now);
                    prop_assert_eq!(tally.reply(sequence, is, at, at), ReplyKind::Unknown);
                    corrupted += 1;
                    damaged += 1;
                }
                Event::Reject { back } => {
                    let Some(sequence) = count.checked_sub(back) else { continue };
                    let waits = kept(sequence) && sequence > 0
                        && !replies.contains(&sequence) && !rejected.contains(&sequence);
                    let expected = waits.then(|| sent[usize::try_from(sequence - 1).unwrap()].0);
                    prop_assert_eq!(tally.rejected(sequence), expected);
                    rejected.extend(waits.then_some(sequence));
                }
                Event::Damaged => {
                    corrupted += 1;
                    damaged += 1;
                    tally.damaged();
                }
            }
        }
        let mut distinct = replies.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let totals = tally.totals();
        prop_assert_eq!(totals.sent, sent.len() as u64);
        prop_assert_eq!(totals.received, distinct.len() as u64);
        prop_assert_eq!(totals.lost(), (sent.len() - distinct.len()) as u64);
        prop_assert_eq!(totals.duplicates, (replies.len() - distinct.len()) as u64);
        prop_assert_eq!(totals.corrupted, corrupted);
        prop_assert_eq!(totals.damaged, damaged);
        prop_assert_eq!(totals.too_late, too_late);
        prop_assert_eq!(totals.reordered, reordered);
        rejected.retain(|sequence| !distinct.contains(sequence));
        prop_assert_eq!(totals.rejected, rejected.len() as u64);
        prop_assert_eq!(tally.outstanding(), totals.lost() - totals.rejected);
        prop_assert_eq!(seen, differences);
        prop_assert_eq!(tally.flows().len(), 3);
        for (flow, counts) in tally.flows().iter().enumerate() {
            let own = |sequence: &&u64| sent[usize::try_from(**sequence - 1).unwrap()].0 == flow;
            prop_assert_eq!(counts.received, distinct.iter().filter(own).count() as u64);
            prop_assert_eq!(counts.sent, sent.iter().filter(|sent| sent.0 == flow).count() as u64);
        }
    }

    #[test]
    fn overdue_returns_each_unanswered_request_once(
        replies in prop::collection::vec(any::<bool>(), 1..100), step in 1_usize..20
    ) {
        let mut tally = Tally::new(1, 128);
        let (mut overdue, mut runs) = (Vec::new(), Vec::new());
        let mut note = |found| match found {
            Overdue::Request { sequence, is_first, .. } => overdue.push((sequence, is_first)),
            Overdue::Run { first, last } => runs.push((first, last)),
        };
        for (index, replied) in replies.iter().enumerate() {
            let now = Duration::from_millis(index as u64);
            tally.sent(0, now);
            if *replied {
                tally.reply(index as u64 + 1, false, now, now);
            }
            if index % step == 0 {
                let before = now.saturating_sub(Duration::from_millis(5));
                while let Some(found) = tally.overdue(before) {
                    note(found);
                }
                let times = (0..=index).filter(|index| !replies[*index]);
                let mut times = times.map(|index| Duration::from_millis(index as u64));
                prop_assert_eq!(tally.next_overdue(), times.find(|time| *time >= before));
            }
        }
        while let Some(found) = tally.overdue(Duration::MAX) {
            note(found);
        }
        tally.end_losses().into_iter().for_each(note);
        let is_lost = |index: usize| replies.get(index) == Some(&false);
        let lost = (0..replies.len()).filter(|index| is_lost(*index));
        let expected: Vec<_> = lost
            .map(|index| (index as u64 + 1, index == 0 || !is_lost(index - 1)))
            .collect();
        prop_assert_eq!(&overdue, &expected);
        let firsts = expected.iter().filter(|(_, is_first)| *is_first);
        let all_runs = firsts.map(|(first, _)| {
            let length = (*first - 1..).take_while(|index| is_lost(usize::try_from(*index).unwrap()));
            (*first, first + length.count() as u64 - 1)
        });
        let long: Vec<_> = all_runs.filter(|(first, last)| first < last).collect();
        prop_assert_eq!(runs, long);
        prop_assert_eq!(tally.totals().overdue, overdue.len() as u64);
    }
}

#[test]
fn alternation_counts_single_replies_and_single_losses() {
    for (replied, expected) in [
        (&[1, 3, 5, 7][..], [5, 0]),
        (&[1, 2, 3, 4, 5, 6, 7], [0, 5]),
        (&[1, 2, 4], [2, 3]),
    ] {
        let mut tally = Tally::new(1, 8);
        (0..7).for_each(|_| tally.sent(0, Duration::ZERO));
        for sequence in replied {
            tally.reply(*sequence, false, Duration::ZERO, Duration::ZERO);
        }
        assert_eq!(tally.alternation(), expected, "{replied:?}");
    }
}

#[test]
fn requests_beyond_the_capacity_count_as_lost() {
    let mut tally = Tally::new(1, 4);
    (0..10).for_each(|now| tally.sent(0, Duration::from_secs(now)));
    let overdue: Vec<_> = std::iter::from_fn(|| tally.overdue(Duration::MAX)).collect();
    let expected: Vec<_> = (7..=10)
        .map(|sequence| Overdue::Request {
            sequence,
            flow: 0,
            is_first: sequence == 7,
        })
        .collect();
    assert_eq!(overdue, expected);
    assert_eq!(
        tally.end_losses(),
        Some(Overdue::Run { first: 7, last: 10 })
    );
    assert_eq!(tally.totals().lost(), 10);
}

#[test]
fn answered_request_ends_a_run_of_losses_at_once() {
    let seconds = Duration::from_secs;
    let mut tally = Tally::new(1, 16);
    (0..4).for_each(|now| tally.sent(0, seconds(now)));
    let firsts: Vec<_> = std::iter::from_fn(|| tally.overdue(seconds(2))).collect();
    assert_eq!(firsts.len(), 2);
    // The third request is not overdue yet.
    tally.reply(3, false, seconds(3), seconds(3));
    let run = Overdue::Run { first: 1, last: 2 };
    assert_eq!(tally.overdue(seconds(2)), Some(run));
    assert_eq!(tally.overdue(seconds(2)), None);
    // A late reply is received and no longer overdue.
    assert_eq!(tally.totals().overdue, 2);
    tally.reply(1, false, seconds(3), seconds(3));
    assert_eq!(tally.totals().overdue, 1);
    assert_eq!(tally.rejected(2), Some(0));
    assert_eq!((tally.totals().overdue, tally.totals().rejected), (0, 1));
}

#[test]
fn timestamps_before_the_request_give_way_to_the_clock() {
    let seconds = Duration::from_secs;
    let mut tally = Tally::new(1, 4);
    tally.sent(0, seconds(5));
    let kind = tally.reply(1, false, seconds(4), seconds(7));
    let expected = ReplyKind::First {
        rtt: seconds(2),
        variations: [None; 2],
        flow: 0,
        reordered: false,
    };
    assert_eq!(kind, expected);
}

#[test]
fn loss_threshold_is_exact_for_every_tenth_of_a_percent() {
    for sent in 1..=400_u32 {
        let mut tally = Tally::new(1, 1);
        (0..sent).for_each(|_| tally.sent(0, Duration::ZERO));
        for tenths in 1..=1000_u32 {
            let percent = f64::from(tenths) / 10.0;
            let mut totals = *tally.totals();
            for lost in [sent * tenths / 1000, (sent * tenths).div_ceil(1000)] {
                totals.received = u64::from(sent - lost);
                let exactly = lost * 1000 >= sent * tenths;
                assert_eq!(
                    totals.lost_at_least(percent),
                    exactly,
                    "{lost} of {sent}, {percent}"
                );
            }
        }
    }
}

#[test]
fn expired_requests_stay_lost_and_later_replies_are_too_late() {
    let seconds = Duration::from_secs;
    let mut tally = Tally::new(2, 8);
    for (flow, at) in [(0, 0), (1, 1), (0, 2), (1, 3)] {
        tally.sent(flow, seconds(at));
    }
    tally.reply(1, false, seconds(1), seconds(1));
    // An ICMP error does not end the wait.
    assert_eq!(tally.rejected(2), Some(1));
    assert_eq!(tally.oldest_waiting(), Some((seconds(1), 1)));
    assert_eq!(tally.settled(), 2);
    assert_eq!(tally.expire(seconds(1)), None);
    assert!(tally.is_waiting(2) && !tally.is_waiting(1));
    assert_eq!(tally.expire(seconds(3)), Some(1));
    assert_eq!(tally.expire(seconds(3)), Some(0));
    assert_eq!(tally.expire(seconds(3)), None);
    for (sequence, too_late) in [(2, 1), (3, 2)] {
        let kind = tally.reply(sequence, false, seconds(4), seconds(4));
        assert_eq!(kind, ReplyKind::Unknown);
        assert_eq!(tally.totals().too_late, too_late);
    }
    assert_eq!(tally.totals().received, 1);
    tally.reply(4, false, seconds(4), seconds(4));
    assert_eq!((tally.oldest_waiting(), tally.settled()), (None, 5));
}
