//! The supervisor's own time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the supervisor looks at the workers, at least.
pub(super) const BEAT: Duration = Duration::from_secs(2);

/// How much time passes at most from one look to the next.
const STEP: Duration = Duration::from_secs(1);

/// A clock that stands still while the supervisor does: while its process or its machine was
/// stopped, or there was no CPU for it, none of the workers may have had one either.
#[derive(Debug)]
pub(super) struct AwakeClock(Mutex<Look>);

#[derive(Debug)]
struct Look {
    at: Instant,
    awake: Duration,
}

impl AwakeClock {
    /// A clock that counts from `now` on.
    pub(super) fn new(now: Instant) -> Self {
        let awake = Duration::ZERO;
        Self(Mutex::new(Look { at: now, awake }))
    }

    /// For how long the supervisor has been running at `now`.
    pub(super) fn look(&self, now: Instant) -> Duration {
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
    fn awake_time_stands_still_in_a_pause() {
        let start = Instant::now();
        let clock = AwakeClock::new(start);
        let half = STEP / 2;
        for looks in 1..5 {
            assert_eq!(clock.look(start + looks * half), looks * half);
        }
        let after = start + 4 * half + Duration::from_secs(9);
        assert_eq!(clock.look(after), 4 * half + STEP);
        assert_eq!(clock.look(start), 4 * half + STEP);
        assert_eq!(clock.look(after + half), 5 * half + STEP);
    }
}
