//! The clocks of the loop: the monotonic clock and the system clock of the kernel's timestamps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Measures the time since the start of the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunClock {
    start: Instant,
    started: SystemTime,
}

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Time since the start of the run.
    pub at: Duration,
    /// System time since 1970, or 0 if it could not be read at the same moment.
    real: Duration,
}

/// Longest time to read both clocks. A longer one means that the process was interrupted.
const APART: Duration = Duration::from_micros(2);

impl RunClock {
    /// Starts the run.
    #[expect(clippy::disallowed_methods, reason = "the clock of the loop")]
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            started: SystemTime::now(),
        }
    }

    /// Returns the system time of the start.
    pub(crate) fn started(&self) -> SystemTime {
        self.started
    }

    /// Returns the system time since 1970 of a time of the run.
    #[expect(clippy::disallowed_methods, reason = "the clock of the loop")]
    pub(crate) fn since_1970(&self, at: Duration) -> Duration {
        let real = SystemTime::now().duration_since(UNIX_EPOCH);
        let ago = self.now().saturating_sub(at);
        real.unwrap_or_default().saturating_sub(ago)
    }

    /// Returns the time since the start of the run.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Reads both clocks at the same moment, to 2 µs.
    #[expect(clippy::disallowed_methods, reason = "the clock of the loop")]
    pub(crate) fn moment(&self) -> Moment {
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
        // With the system time unknown, kernel timestamps are not used.
        Moment {
            at: before,
            real: Duration::ZERO,
        }
    }
}

impl Moment {
    /// Returns the system time since 1970, if it could be read.
    pub(crate) fn time_of_day(&self) -> Option<Duration> {
        Some(self.real).filter(|real| !real.is_zero())
    }

    /// Converts a kernel receive timestamp (since 1970) to the time since the start of the run.
    /// Returns this moment if there is no timestamp, or if it lies in the future or before the
    /// start because the system clock was set.
    pub(crate) fn of_receipt(&self, stamp: Option<Duration>) -> Duration {
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
    fn timestamps_give_way_to_the_clock_when_impossible() {
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
    #[expect(clippy::disallowed_methods, reason = "the test reads the system clock")]
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
        // The system clock may be set during the test.
        assert!(is_between || read.any(|is_between| is_between));
    }
}
