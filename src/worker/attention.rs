//! The exchange's time.

use std::time::{Duration, Instant};

use super::TICK;

/// A clock that stands still while the worker does: when its machine or its process was stopped,
/// or it had no CPU for longer than it ever sleeps. What came meanwhile and waits in the socket
/// then came in time, as it did for the original recipe.
#[derive(Debug)]
pub(super) struct Attention {
    /// The time that was last read.
    real: Instant,
    /// What this clock showed then.
    shown: Instant,
}

impl Attention {
    /// A clock that shows the time `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            real: now,
            shown: now,
        }
    }

    /// What it shows, as of the last look.
    pub(super) fn now(&self) -> Instant {
        self.shown
    }

    /// The real time of the last look.
    pub(super) fn real_now(&self) -> Instant {
        self.real
    }

    /// The time to show now.
    pub(super) fn advance(&mut self, now: Instant) -> Instant {
        let passed = now.saturating_duration_since(self.real);
        self.real = now;
        self.shown += passed.min(2 * TICK);
        self.shown
    }

    /// How long before the last look `epoch` was, in real time.
    pub(super) fn since(&self, epoch: Instant) -> Duration {
        self.real.saturating_duration_since(epoch)
    }

    /// The real time of a time shown.
    pub(super) fn real(&self, shown: Instant) -> Instant {
        let ago = self.shown.saturating_duration_since(shown);
        self.real.checked_sub(ago).unwrap_or(self.real)
    }

    /// The time shown at a real time.
    pub(super) fn shown(&self, real: Instant) -> Instant {
        let ago = self.real.saturating_duration_since(real);
        self.shown.checked_sub(ago).unwrap_or(self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn it_goes_with_the_real_time_and_stands_still_in_a_pause() {
        let start = Instant::now();
        let pause = Duration::from_secs(9);
        let mut attention = Attention::new(start);
        assert_eq!(attention.advance(start + TICK), start + TICK);
        let shown = attention.advance(start + TICK + pause);
        assert_eq!(shown, start + 3 * TICK);
        assert_eq!(attention.now(), shown);
        assert_eq!(attention.real(shown), start + TICK + pause);
        assert_eq!(attention.shown(start + TICK + pause), shown);
        assert_eq!(attention.since(start), TICK + pause);
        let after = start + 2 * TICK + pause;
        assert_eq!(attention.advance(after), shown + TICK);
    }
}
