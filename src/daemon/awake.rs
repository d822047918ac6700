//! Whether the supervisor itself was there to see what workers do.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the supervisor looks at the clock, at least.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// Since when the supervisor has been running without a pause: while its process or its machine
/// was stopped, or there was no CPU for it, none of the workers may have had one either.
#[derive(Debug)]
pub(super) struct Awake(Mutex<Looks>);

#[derive(Debug)]
struct Looks {
    since: Instant,
    last: Instant,
}

impl Awake {
    /// Awake from `now` on.
    pub(super) fn new(now: Instant) -> Self {
        let looks = Looks {
            since: now,
            last: now,
        };
        Self(Mutex::new(looks))
    }

    /// Since when it has been awake at `now`.
    pub(super) fn look(&self, now: Instant) -> Instant {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(looks.last) > 2 * LOOK {
            looks.since = now;
        }
        looks.last = looks.last.max(now);
        looks.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn it_has_been_awake_since_the_last_pause() {
        let start = Instant::now();
        let pause = Duration::from_secs(9);
        let awake = Awake::new(start);
        for looks in 1..5 {
            assert_eq!(awake.look(start + looks * LOOK), start);
        }
        // One that comes late is no pause.
        assert_eq!(awake.look(start + 6 * LOOK), start);
        let after = start + 6 * LOOK + pause;
        assert_eq!(awake.look(after), after);
        assert_eq!(awake.look(after + LOOK), after);
    }
}
