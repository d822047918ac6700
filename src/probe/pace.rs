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
    /// Requests that were due and are never sent.
    missed: u64,
}

/// How far the client catches up after a pause: with the requests of the last 10 ms, or up to 64
/// requests of the last 100 ms, and at least one. Earlier ones are missed, or a long pause would
/// flood the path.
const CATCH_UP: Duration = Duration::from_millis(10);
const CATCH_UP_FEW: Duration = Duration::from_millis(100);
const FEW: u128 = 64;

impl Pace {
    /// Creates a schedule whose first request is due at time 0.
    pub(crate) fn new(frequency: Frequency) -> Self {
        Self {
            frequency,
            start: Duration::ZERO,
            sent: 0,
            missed: 0,
        }
    }

    /// Returns the number of requests that were due and are never sent.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }

    /// Returns the number of requests to send at `now`.
    pub(crate) fn due(&mut self, now: Duration) -> u64 {
        let Frequency { count, time } = self.frequency;
        let since = now.saturating_sub(self.start);
        let interval = time.as_nanos().max(1);
        let scheduled = since.as_nanos() * u128::from(count) / interval + 1;
        let due = scheduled.saturating_sub(u128::from(self.sent));
        let number_in = |time: Duration| time.as_nanos() * u128::from(count) / interval;
        let few = number_in(CATCH_UP_FEW).clamp(1, FEW);
        let most = number_in(CATCH_UP).max(few);
        if due > most {
            self.missed += u64::try_from(due - most).unwrap_or(u64::MAX);
            // The newest scheduled request is due now.
            self.start = now.saturating_sub(self.after(u64::try_from(most - 1).unwrap_or(0)));
            self.sent = 0;
        }
        u64::try_from(due.min(most)).unwrap_or(u64::MAX)
    }

    /// Ends the schedule at `end`: of the requests due before, at most `left` are missed.
    pub(crate) fn end(&mut self, end: Duration, left: u64) {
        let Frequency { count, time } = self.frequency;
        let since = end.saturating_sub(self.start).as_nanos();
        let due = (since * u128::from(count)).div_ceil(time.as_nanos().max(1));
        let unsent = due.saturating_sub(u128::from(self.sent));
        self.missed += u64::try_from(unsent).unwrap_or(u64::MAX).min(left);
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
        let [ten, five] = [(1, 100), (10, 2000)].map(|(count, milliseconds)| Frequency {
            count,
            time: Duration::from_millis(milliseconds),
        });
        assert!(ten.is_at_least(five) && ten.is_at_least(ten) && !five.is_at_least(ten));
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
            prop_assert!((u128::from(sent + pace.missed())).abs_diff(all) <= pauses);
        }

        #[test]
        fn requests_due_before_the_end_are_missed(
            count in 1_u32..1_000_000, sent in 0_u64..1000, end in 0_u64..3_000, left in 0_u64..2000
        ) {
            let mut pace = pace(count, Duration::from_secs(1));
            (0..sent).for_each(|_| pace.sent());
            pace.end(Duration::from_millis(end), left);
            // The first request is due at 0, so a run without time has none.
            let due = (end * u64::from(count)).div_ceil(1000);
            prop_assert_eq!(pace.missed(), due.saturating_sub(sent).min(left));
        }
    }
}
