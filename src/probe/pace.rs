//! When requests are due.

use std::time::Duration;

/// So many requests in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frequency {
    /// How many.
    pub count: u32,
    /// In how long.
    pub time: Duration,
}

impl Frequency {
    /// Whether it is not lower than another.
    pub fn is_at_least(self, other: Self) -> bool {
        let [own, others] = [(self, other), (other, self)]
            .map(|(one, other)| u128::from(one.count) * other.time.as_nanos());
        own >= others
    }
}

/// A schedule. Times are since the start of the run.
#[derive(Debug)]
pub(crate) struct Pace {
    frequency: Frequency,
    /// When the first was due that `sent` counts.
    start: Duration,
    /// How many were sent since.
    sent: u64,
    missed: u64,
}

/// How far behind a schedule is caught up with, at least by one request: what is above was missed
/// for good, so that no burst follows a pause. Of a few requests that is longer.
const BEHIND: Duration = Duration::from_millis(10);
const BEHIND_BY_FEW: Duration = Duration::from_millis(100);
const FEW: u128 = 64;

impl Pace {
    /// The first is due at once.
    pub(crate) fn new(frequency: Frequency) -> Self {
        Self {
            frequency,
            start: Duration::ZERO,
            sent: 0,
            missed: 0,
        }
    }

    /// How many were due and will not be caught up with.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }

    /// How many are due, of those that can be had at all.
    pub(crate) fn due(&mut self, now: Duration) -> u64 {
        let Frequency { count, time } = self.frequency;
        let since = now.saturating_sub(self.start);
        let interval = time.as_nanos().max(1);
        let scheduled = since.as_nanos() * u128::from(count) / interval + 1;
        let due = scheduled.saturating_sub(u128::from(self.sent));
        let number_in = |time: Duration| time.as_nanos() * u128::from(count) / interval;
        let few = number_in(BEHIND_BY_FEW).clamp(1, FEW);
        let most = number_in(BEHIND).max(few);
        if due > most {
            self.missed += u64::try_from(due - most).unwrap_or(u64::MAX);
            // What is due now is the newest of what is scheduled.
            self.start = now.saturating_sub(self.after(u64::try_from(most - 1).unwrap_or(0)));
            self.sent = 0;
        }
        u64::try_from(due.min(most)).unwrap_or(u64::MAX)
    }

    /// One of those due was sent.
    pub(crate) fn sent(&mut self) {
        self.sent += 1;
    }

    /// When the next is due.
    pub(crate) fn next(&self) -> Duration {
        self.start + self.after(self.sent)
    }

    /// How long after the first one is due. Rounded up, so that it is due then.
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
    fn frequencies_are_compared_whatever_their_times() {
        let [ten, five] = [(1, 100), (10, 2000)].map(|(count, milliseconds)| Frequency {
            count,
            time: Duration::from_millis(milliseconds),
        });
        assert!(ten.is_at_least(five) && ten.is_at_least(ten) && !five.is_at_least(ten));
    }

    proptest! {
        #[test]
        fn one_that_is_waited_for_is_due_when_it_was_said_to_be(
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
        fn no_pause_is_followed_by_more_than_what_is_caught_up(
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
            // What was due by now was sent or missed, to one for each pause that began anew.
            let all = now.as_nanos() * u128::from(count) / 1_000_000_000 + 1;
            prop_assert!(u128::from(sent) <= all);
            prop_assert!((u128::from(sent + pace.missed())).abs_diff(all) <= pauses);
        }
    }
}
