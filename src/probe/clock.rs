//! The loop's clocks: one that never steps, and that of the kernel's timestamps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Tells the time since the start of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunClock {
    start: Instant,
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Since the start of the run.
    pub at: Duration,
    /// Since 1970, as the system's clock has it.
    real: Duration,
}

/// How long reading both clocks may take: more means that something came between.
const APART: Duration = Duration::from_micros(2);

impl RunClock {
    /// The run starts now.
    #[expect(clippy::disallowed_methods, reason = "this is the loop's")]
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// How long ago that was.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The same by both clocks, read as near to each other as can be had.
    #[expect(clippy::disallowed_methods, reason = "this is the loop's")]
    pub(super) fn moment(&self) -> Moment {
        let mut before = self.now();
        for _ in 0..4 {
            let real = SystemTime::now();
            let at = self.now();
            let moment = Moment {
                at,
                real: real.duration_since(UNIX_EPOCH).unwrap_or_default(),
            };
            if at.saturating_sub(before) <= APART {
                return moment;
            }
            before = at;
        }
        // Without the other clock there are no timestamps to compare.
        Moment {
            at: before,
            real: Duration::ZERO,
        }
    }
}

impl Moment {
    /// When the kernel received something that it says it received at `stamp`, since 1970. Where
    /// that cannot be, as it would be before `sent` or is still to come, because the system's
    /// clock was set meanwhile, it is this moment.
    pub(super) fn of_receipt(&self, stamp: Option<Duration>) -> Duration {
        stamp
            .and_then(|stamp| self.real.checked_sub(stamp))
            .and_then(|ago| self.at.checked_sub(ago))
            .unwrap_or(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip;

    #[test]
    fn a_timestamp_is_the_time_between_it_and_now_ago_whatever_the_systems_clock_says() {
        let seconds = Duration::from_secs;
        let moment = |real| Moment {
            at: seconds(10),
            real: seconds(real),
        };
        assert_eq!(moment(1000).of_receipt(Some(seconds(997))), seconds(7));
        assert_eq!(moment(1000).of_receipt(None), seconds(10));
        assert_eq!(moment(1000).of_receipt(Some(seconds(1001))), seconds(10));
        assert_eq!(moment(1000).of_receipt(Some(seconds(500))), seconds(10));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "it is what is read")]
    fn moment_lies_between_the_readings_around_the_call() {
        let clock = RunClock::start();
        let mut last = clock.moment().at;
        let mut read = (0..1000).filter_map(|_| {
            let before = SystemTime::now();
            let Moment { at, real } = clock.moment();
            assert!(last <= at);
            last = at;
            let real = UNIX_EPOCH + real;
            (real > UNIX_EPOCH).then(|| before <= real && real <= SystemTime::now())
        });
        let Some(is_between) = read.next() else {
            skip!("both clocks cannot be read within {APART:?}");
        };
        // The system's clock may be set meanwhile.
        assert!(is_between || read.any(|is_between| is_between));
    }
}
