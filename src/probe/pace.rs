//! The schedule of the requests.

use std::time::Duration;

/// A rate: `count` requests per `time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frequency {
    /// Number of requests.
    pub count: u32,
    /// Period in which they are sent.
    pub time: Duration,
}

impl Frequency {
    /// Whether this rate is equal to `other` or higher.
    pub fn is_at_least(self, other: Self) -> bool {
        let [own, others] = [(self, other), (other, self)]
            .map(|(one, other)| u128::from(one.count) * other.time.as_nanos());
        own >= others
    }
}

/// A schedule of requests. Times are measured from the start of the run.
#[derive(Debug)]
pub(crate) struct Pace {
    frequency: Frequency,
    /// Due time of the first request that `sent` counts.
    start: Duration,
    /// Requests sent since `start`.
    sent: u64,
    missed: Missed,
    /// When [`Self::ran`] was called last.
    last_run: Duration,
    /// Whether a flow could send then.
    could_send: bool,
    /// Requests that were due then and not sent.
    backlog: u64,
}

/// Requests that were due and are never sent, by the reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    /// No flow could send: each waited for a reply.
    pub waiting: u64,
    /// The process did not run.
    pub stalled: u64,
    /// The process ran, but too slowly.
    pub slow: u64,
    /// Longest time in which the process did not run and requests were due.
    pub longest_stall: Duration,
}

impl Missed {
    /// Returns the number of requests.
    pub(crate) fn total(&self) -> u64 {
        self.waiting + self.stalled + self.slow
    }
}

/// How far the client catches up after a pause: with the requests of the last 10 ms, or up to 64
/// requests of the last 100 ms, and at least one. Earlier ones are missed, or a long pause would
/// flood the path.
const CATCH_UP: Duration = Duration::from_millis(10);
const CATCH_UP_FEW: Duration = Duration::from_millis(100);
const FEW: u128 = 64;

/// Time between two calls of [`Pace::ran`] from which on the process did not run. The loop sleeps
/// for at most half of it.
const STALL: Duration = Duration::from_millis(200);

impl Pace {
    /// Creates a schedule whose first request is due at time 0.
    pub(crate) fn new(frequency: Frequency) -> Self {
        Self {
            frequency,
            start: Duration::ZERO,
            sent: 0,
            missed: Missed::default(),
            last_run: Duration::ZERO,
            could_send: true,
            backlog: 0,
        }
    }

    /// Returns the requests that were due and are never sent.
    pub(crate) fn missed(&self) -> Missed {
        self.missed
    }

    /// Notes that due requests were sent at `now`, as far as a flow could send.
    pub(crate) fn ran(&mut self, now: Duration, can_send: bool) {
        self.last_run = now;
        self.could_send = can_send;
        self.backlog = self.unsent(now);
    }

    /// Whether the process did not run for a while until `now`.
    pub(crate) fn is_stalled(&self, now: Duration) -> bool {
        now.saturating_sub(self.last_run) > STALL
    }

    /// Returns the number of requests to send at `now`.
    pub(crate) fn due(&mut self, now: Duration) -> u64 {
        let Frequency { count, time } = self.frequency;
        let interval = time.as_nanos().max(1);
        let due = self.unsent(now);
        let number_in = |time: Duration| time.as_nanos() * u128::from(count) / interval;
        let few = number_in(CATCH_UP_FEW).clamp(1, FEW);
        let most = u64::try_from(number_in(CATCH_UP).max(few)).unwrap_or(u64::MAX);
        if due > most {
            self.miss(now, due - most);
            // The newest scheduled request is due now.
            self.start = now.saturating_sub(self.after(most - 1));
            self.sent = 0;
        }
        due.min(most)
    }

    /// Ends the schedule. Of the requests that were due before `end`, or before the process stalled
    /// or ended if there is none, at most `left` are missed.
    pub(crate) fn end(&mut self, now: Duration, end: Option<Duration>, left: u64) {
        let end = match end.filter(|end| *end <= now) {
            Some(end) => end,
            None if self.is_stalled(now) => now,
            None => self.last_run,
        };
        let Frequency { count, time } = self.frequency;
        let since = end.saturating_sub(self.start).as_nanos();
        let due = (since * u128::from(count)).div_ceil(time.as_nanos().max(1));
        let unsent = due.saturating_sub(u128::from(self.sent));
        self.miss(now, u64::try_from(unsent).unwrap_or(u64::MAX).min(left));
    }

    /// Returns the number of requests that are due at `now` and not sent.
    fn unsent(&self, now: Duration) -> u64 {
        let Frequency { count, time } = self.frequency;
        let since = now.saturating_sub(self.start).as_nanos();
        let scheduled = since * u128::from(count) / time.as_nanos().max(1) + 1;
        u64::try_from(scheduled.saturating_sub(self.sent.into())).unwrap_or(u64::MAX)
    }

    /// Counts requests as missed, the oldest of those that are due at `now`.
    fn miss(&mut self, now: Duration, number: u64) {
        let stalled = if self.is_stalled(now) {
            number.saturating_sub(self.backlog)
        } else {
            0
        };
        if stalled > 0 {
            let stall = now.saturating_sub(self.last_run);
            self.missed.stalled += stalled;
            self.missed.longest_stall = self.missed.longest_stall.max(stall);
        }
        let before = if self.could_send {
            &mut self.missed.slow
        } else {
            &mut self.missed.waiting
        };
        *before += number - stalled;
    }

    /// Counts a due request as sent.
    pub(crate) fn sent(&mut self) {
        self.sent += 1;
    }

    /// Returns the due time of the next request.
    pub(crate) fn next(&self) -> Duration {
        self.start + self.after(self.sent)
    }

    /// Time from the first request to request `number`, rounded up so that it is due then.
    fn after(&self, number: u64) -> Duration {
        let Frequency { count, time } = self.frequency;
        let nanoseconds = (time.as_nanos() * u128::from(number)).div_ceil(u128::from(count.max(1)));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(count: u32, time: Duration) -> Pace {
        Pace::new(Frequency { count, time })
    }

    #[test]
    fn frequencies_compare_across_different_periods() {
        let frequencies = [(1, 100), (10, 2000), (10, 1000)];
        let [ten, five, equal] = frequencies.map(|(count, milliseconds)| Frequency {
            count,
            time: Duration::from_millis(milliseconds),
        });
        assert!(ten.is_at_least(five) && ten.is_at_least(ten) && !five.is_at_least(ten));
        assert!(ten.is_at_least(equal) && equal.is_at_least(ten));
    }

    #[test]
    fn long_pause_is_followed_by_the_requests_of_its_end() {
        for (count, milliseconds, due) in [(1, 1000, 1), (50, 500, 10), (1, 1, 64), (20, 2, 100)] {
            let mut pace = pace(count, Duration::from_millis(milliseconds));
            assert_eq!(pace.due(Duration::from_secs(10)), due, "{count}");
        }
    }

    #[test]
    fn late_request_does_not_move_the_next_one() {
        let mut pace = pace(10, Duration::from_secs(1));
        for now in [0, 150] {
            assert_eq!(pace.due(Duration::from_millis(now)), 1);
            pace.sent();
        }
        assert_eq!(pace.next(), Duration::from_millis(200));
    }

    #[test]
    fn missed_requests_have_the_reason_of_their_due_time() {
        let milliseconds = Duration::from_millis;
        let missed = |could_send: bool, now: u64| {
            let mut pace = pace(1000, Duration::from_secs(1));
            // The first 10 requests are sent, 5 more are due.
            (0..10).for_each(|_| pace.sent());
            pace.ran(milliseconds(14), could_send);
            pace.due(milliseconds(now));
            let missed = pace.missed();
            (missed.waiting, missed.stalled, missed.slow)
        };
        // Of those that are due, the last 64 are sent.
        assert_eq!(missed(false, 50), (0, 0, 0));
        assert_eq!(missed(false, 173), (100, 0, 0));
        assert_eq!(missed(true, 173), (0, 0, 100));
        assert_eq!(missed(false, 373), (5, 295, 0));
        assert_eq!(missed(true, 373), (0, 295, 5));
    }

    #[test]
    fn longest_stall_is_measured_from_the_last_run() {
        let milliseconds = Duration::from_millis;
        for (now, longest) in [(173, 0), (214, 0), (215, 201), (373, 359)] {
            let mut pace = pace(1000, Duration::from_secs(1));
            pace.ran(milliseconds(14), true);
            pace.due(milliseconds(now));
            assert!(pace.missed().total() > 0, "{now}");
            assert_eq!(pace.missed().longest_stall, milliseconds(longest), "{now}");
        }
    }

    #[test]
    fn end_without_a_time_misses_only_what_was_due_at_the_last_run() {
        let milliseconds = Duration::from_millis;
        for (now, expected) in [(20, (5, 0)), (200, (5, 0)), (300, (6, 284))] {
            let mut pace = pace(1000, Duration::from_secs(1));
            (0..10).for_each(|_| pace.sent());
            pace.ran(milliseconds(15), false);
            pace.end(milliseconds(now), None, u64::MAX);
            let missed = pace.missed();
            assert_eq!((missed.waiting, missed.stalled), expected, "{now}");
        }
    }

    proptest! {
        #[test]
        fn each_request_is_due_at_its_announced_time(
            count in 1_u32..10_000_000, number in 1_u64..1000
        ) {
            let mut pace = pace(count, Duration::from_secs(1));
            for index in 0..number {
                let at = pace.next();
                let exact = Duration::from_nanos(index * 1_000_000_000 / u64::from(count));
                prop_assert!(at >= exact && at <= exact + Duration::from_nanos(1));
                prop_assert_eq!(pace.due(at), 1);
                pace.sent();
            }
        }

        #[test]
        fn pauses_are_followed_by_a_bounded_number_of_requests(
            count in 1_u32..1_000_000, milliseconds in prop::collection::vec(0_u64..3000, 1..50)
        ) {
            let mut pace = pace(count, Duration::from_secs(1));
            let mut now = Duration::ZERO;
            let mut sent = 0;
            let pauses = milliseconds.len() as u128;
            for pause in milliseconds {
                now += Duration::from_millis(pause);
                let due = pace.due(now);
                let most = u64::from((count / 100).max((count / 10).clamp(1, 64)));
                prop_assert!(due <= most);
                sent += due;
                (0..due).for_each(|_| pace.sent());
                prop_assert_eq!(pace.due(now), 0);
                prop_assert!(pace.next() > now);
            }
            // Each due request was sent or missed, up to one per pause.
            let all = now.as_nanos() * u128::from(count) / 1_000_000_000 + 1;
            prop_assert!(u128::from(sent) <= all);
            prop_assert!((u128::from(sent + pace.missed().total())).abs_diff(all) <= pauses);
        }

        #[test]
        fn requests_due_before_the_end_are_missed(
            count in 1_u32..1_000_000, sent in 0_u64..1000, end in 0_u64..3_000, left in 0_u64..2000
        ) {
            let mut pace = pace(count, Duration::from_secs(1));
            (0..sent).for_each(|_| pace.sent());
            let end_at = Duration::from_millis(end);
            pace.end(end_at, Some(end_at), left);
            // The first request is due at 0, so a run without time has none.
            let due = (end * u64::from(count)).div_ceil(1000);
            prop_assert_eq!(pace.missed().total(), due.saturating_sub(sent).min(left));
        }
    }
}
