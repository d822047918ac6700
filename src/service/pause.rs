//! A clock that pauses with the supervisor.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest time between two checks of the workers.
pub(crate) const BEAT: Duration = Duration::from_secs(2);

/// The most time that the clock counts from one reading to the next.
const STEP: Duration = Duration::from_secs(1);

/// A clock that stands still while the supervisor does not run: if its process or its machine is
/// stopped, or gets no CPU, the workers may not run either.
#[derive(Debug)]
pub(crate) struct AwakeClock(Mutex<Reading>);

#[derive(Debug)]
struct Reading {
    at: Instant,
    awake: Duration,
}

impl AwakeClock {
    /// Counts from `now` on.
    pub(crate) fn new(now: Instant) -> Self {
        let awake = Duration::ZERO;
        Self(Mutex::new(Reading { at: now, awake }))
    }

    /// How long the supervisor has been running at `now`.
    pub(crate) fn read(&self, now: Instant) -> Duration {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(last.at);
        last.awake += passed.min(STEP);
        last.at = last.at.max(now);
        last.awake
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn awake_clock_stands_still_during_a_pause() {
        let start = Instant::now();
        let clock = AwakeClock::new(start);
        let half = STEP / 2;
        for readings in 1..5 {
            assert_eq!(clock.read(start + readings * half), readings * half);
        }
        let after = start + 4 * half + Duration::from_secs(9);
        assert_eq!(clock.read(after), 4 * half + STEP);
        assert_eq!(clock.read(start), 4 * half + STEP);
        assert_eq!(clock.read(after + half), 5 * half + STEP);
    }
}
