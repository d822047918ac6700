//! When the requests of one address are due.

use std::time::Duration;

/// How far the monitor catches up after a pause: with the requests of the last 10 ms, or up to 64
/// requests of the last 100 ms, and at least one. Earlier ones are skipped, or a long pause would
/// flood the path.
const CATCH_UP: Duration = Duration::from_millis(10);
const CATCH_UP_FEW: Duration = Duration::from_millis(100);
const FEW: u128 = 64;

/// A schedule with one request per interval. Times are those of the engine's clock.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    /// When the next request is due.
    next: Duration,
}

impl Schedule {
    /// The first request is due at `first`.
    pub(super) fn new(interval: Duration, first: Duration) -> Self {
        Self {
            interval,
            next: first,
        }
    }

    /// When the next request is due.
    pub(super) fn next(&self) -> Duration {
        self.next
    }

    /// Skips the requests that are due at `now` and too old to be sent. Returns their number, and
    /// that of the requests to send.
    pub(super) fn due(&mut self, now: Duration) -> (u64, u64) {
        let Some(late) = now.checked_sub(self.next) else {
            return (0, 0);
        };
        let interval = self.interval.as_nanos().max(1);
        let number_in = |time: Duration| time.as_nanos() / interval;
        let due = number_in(late) + 1;
        let few = number_in(CATCH_UP_FEW).clamp(1, FEW);
        let most = number_in(CATCH_UP).max(few);
        let skipped = due.saturating_sub(most);
        self.next += nanoseconds(skipped * interval);
        let number = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        (number(skipped), number(due - skipped))
    }

    /// Notes a request that is sent at `now`. Returns how late it is.
    pub(super) fn sent(&mut self, now: Duration) -> Duration {
        let late = now.saturating_sub(self.next);
        self.next += self.interval;
        late
    }
}

fn nanoseconds(number: u128) -> Duration {
    Duration::from_nanos(u64::try_from(number).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_due_request_is_sent_or_skipped_once(
            interval in 10_000_u64..5_000_000_000,
            pauses in prop::collection::vec(0_u64..3_000_000_000, 1..50),
        ) {
            let start = Duration::from_secs(7);
            let mut schedule = Schedule::new(Duration::from_nanos(interval), start);
            let (mut now, mut sent, mut skipped) = (start, 0, 0);
            for pause in pauses {
                now += Duration::from_nanos(pause);
                let (missed, due) = schedule.due(now);
                prop_assert!(due <= (10_000_000 / interval).max(64));
                for _ in 0..due {
                    prop_assert!(schedule.sent(now) <= CATCH_UP_FEW.max(Duration::from_nanos(interval)));
                }
                sent += due;
                skipped += missed;
                prop_assert!(schedule.next() > now);
                prop_assert_eq!(schedule.due(now), (0, 0));
            }
            let passed = u64::try_from(now.saturating_sub(start).as_nanos()).unwrap();
            prop_assert_eq!(sent + skipped, passed / interval + 1);
        }
    }

    #[test]
    fn late_request_does_not_move_the_next_one() {
        let milliseconds = Duration::from_millis;
        let mut schedule = Schedule::new(milliseconds(1000), milliseconds(300));
        assert_eq!(schedule.due(milliseconds(299)), (0, 0));
        assert_eq!(schedule.due(milliseconds(450)), (0, 1));
        assert_eq!(schedule.sent(milliseconds(450)), milliseconds(150));
        assert_eq!(schedule.next(), milliseconds(1300));
        // After a pause only the newest is sent, with its own delay.
        assert_eq!(schedule.due(milliseconds(4400)), (3, 1));
        assert_eq!(schedule.sent(milliseconds(4400)), milliseconds(100));
    }
}
