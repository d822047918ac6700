//! Figures of a part of a run.

use std::time::Duration;

use super::rtt::{RoundTrips, RttSummary};
use super::tally::{Tally, Totals};

/// The figures from one time of the run to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Figures {
    /// Start, since the start of the run.
    pub from: Duration,
    /// End, since the start of the run.
    pub to: Duration,
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub received: u64,
    /// Requests that count as lost: overdue, or answered by an error.
    pub lost: u64,
    /// Requests that may still get a reply in time.
    pub in_flight: u64,
    /// Further replies.
    pub duplicates: u64,
    /// Replies out of order.
    pub reordered: u64,
    /// Replies that differ from their request.
    pub corrupted: u64,
    /// Round-trip times.
    pub rtts: Option<RttSummary>,
    /// Mean variation of the round-trip times.
    pub jitter: Option<Duration>,
}

impl Figures {
    /// Returns the figures of the whole run until `now`.
    pub(super) fn of_run(tally: &Tally, round_trips: &RoundTrips, now: Duration) -> Self {
        Self::new(
            [Duration::ZERO, now],
            [&Totals::default(), tally.totals()],
            round_trips,
        )
    }

    fn new(
        [from, to]: [Duration; 2],
        [before, after]: [&Totals; 2],
        round_trips: &RoundTrips,
    ) -> Self {
        // A reply after the time to wait makes a lost request a received one.
        let lost = |totals: &Totals| totals.overdue + totals.rejected;
        Self {
            from,
            to,
            sent: after.sent - before.sent,
            received: after.received - before.received,
            lost: lost(after).saturating_sub(lost(before)),
            in_flight: after.lost() - lost(after),
            duplicates: after.duplicates - before.duplicates,
            reordered: after.reordered - before.reordered,
            corrupted: after.corrupted - before.corrupted,
            rtts: round_trips.rtts.summary(),
            jitter: round_trips.jitter.mean(),
        }
    }
}

/// The figures of each interval of a run.
#[derive(Debug)]
pub(super) struct Intervals {
    length: Duration,
    start: Duration,
    before: Totals,
    round_trips: RoundTrips,
}

impl Intervals {
    /// Creates intervals of this length.
    pub(super) fn new(length: Duration) -> Self {
        Self {
            length,
            start: Duration::ZERO,
            before: Totals::default(),
            round_trips: RoundTrips::default(),
        }
    }

    /// Adds the round-trip time of a first reply.
    pub(super) fn add(&mut self, rtt: Duration, variations: [Option<Duration>; 2]) {
        self.round_trips.add(rtt, variations);
    }

    /// Returns the end of the current interval.
    pub(super) fn end(&self) -> Duration {
        self.start.saturating_add(self.length)
    }

    /// Returns the figures of the current interval if it has ended. After a pause one interval
    /// covers all those that have passed.
    pub(super) fn next(&mut self, tally: &Tally, now: Duration) -> Option<Figures> {
        if now < self.end() {
            return None;
        }
        let passed = now.saturating_sub(self.start).as_nanos() / self.length.as_nanos().max(1);
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        let end = self
            .start
            .saturating_add(self.length.saturating_mul(passed));
        let figures = Figures::new(
            [self.start, end],
            [&self.before, tally.totals()],
            &self.round_trips,
        );
        self.start = end;
        self.before = *tally.totals();
        self.round_trips = RoundTrips::default();
        Some(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tally::ReplyKind;

    const SECOND: Duration = Duration::from_secs(1);
    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn intervals_have_the_figures_of_their_own_time() {
        let mut tally = Tally::new(1, 64);
        let mut intervals = Intervals::new(SECOND * 10);
        let answer = |tally: &mut Tally, intervals: &mut Intervals, rtt: Duration| {
            let sequence = tally.next_sequence();
            tally.sent(0, Duration::ZERO);
            if let ReplyKind::First {
                rtt, variations, ..
            } = tally.reply(sequence, false, rtt, rtt)
            {
                intervals.add(rtt, variations);
            }
        };
        answer(&mut tally, &mut intervals, MILLISECOND);
        answer(&mut tally, &mut intervals, MILLISECOND * 3);
        assert_eq!(intervals.next(&tally, SECOND * 9), None);
        let first = intervals.next(&tally, SECOND * 10).unwrap();
        assert_eq!((first.from, first.to), (Duration::ZERO, SECOND * 10));
        assert_eq!((first.sent, first.received, first.lost), (2, 2, 0));
        assert_eq!(first.rtts.unwrap().max, MILLISECOND * 3);
        assert_eq!(first.jitter, Some(MILLISECOND * 2));
        // One is answered, one is overdue, one was rejected, one is in flight.
        answer(&mut tally, &mut intervals, MILLISECOND * 4);
        (0..2).for_each(|_| tally.sent(0, SECOND));
        tally.sent(0, SECOND * 3);
        assert_eq!(tally.rejected(5), Some(0));
        while tally.overdue(SECOND * 2).is_some() {}
        // The process was stopped for a while.
        let second = intervals.next(&tally, SECOND * 35).unwrap();
        assert_eq!((second.from, second.to), (SECOND * 10, SECOND * 30));
        assert_eq!((second.sent, second.received, second.lost), (4, 1, 2));
        assert_eq!(second.in_flight, 1);
        assert_eq!(second.rtts.unwrap().min, MILLISECOND * 4);
        assert_eq!(second.jitter, Some(MILLISECOND));
        assert_eq!(intervals.end(), SECOND * 40);
        // A late reply is received and no longer lost.
        tally.reply(4, false, SECOND * 3, SECOND * 3);
        let third = intervals.next(&tally, SECOND * 40).unwrap();
        assert_eq!((third.sent, third.received, third.lost), (0, 1, 0));
        let all = Figures::of_run(&tally, &RoundTrips::default(), SECOND * 41);
        assert_eq!(
            (all.sent, all.received, all.lost, all.in_flight),
            (6, 4, 1, 1)
        );
    }
}
