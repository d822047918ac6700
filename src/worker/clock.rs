//! The loop's time.
#![expect(clippy::disallowed_methods, reason = "the loop's one clock")]

use std::time::{Duration, Instant};

use super::TICK;

/// The loop's clock, and the protocol's beside it, which stands still while the worker does: when
/// its machine or its process was stopped, or it had no CPU for longer than it was to sleep. What
/// came meanwhile and waits in the socket then came in time, as it did for the original recipe.
#[derive(Debug)]
pub(super) struct LoopClock {
    /// The time that was last read.
    real: Instant,
    /// The protocol's time then.
    now: Instant,
    /// Since when the worker has not seen its socket empty after it stood still, in real time.
    catching_up: Option<Instant>,
}

/// How long what waits in the socket after a pause is in time, at most: a flood may never end.
const CATCH_UP: Duration = Duration::from_millis(300);

/// How a receive call ended, as far as time goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slept {
    /// How long it was to wait at most.
    pub(super) asked: Duration,
    /// Whether a signal ended it, which it does when the process goes on after a stop (signal(7)).
    pub(super) interrupted: bool,
    /// Whether it took all that waited in the socket.
    pub(super) emptied: bool,
}

/// Measures from the last reading of a clock on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch(Instant);

impl LoopClock {
    /// A clock whose two times are one at `start`.
    pub(super) fn new(start: Instant) -> Self {
        Self {
            real: start,
            now: start,
            catching_up: None,
        }
    }

    /// The protocol's time, as of the last reading.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// The real time of the last reading.
    pub(super) fn real(&self) -> Instant {
        self.real
    }

    /// Reads the clock after a receive call. If the worker stood still, the protocol's time stays
    /// before `due`, when something is to expire, until all that waited was taken.
    pub(super) fn read(&mut self, slept: Slept, due: Option<Instant>) {
        self.advance(Instant::now(), slept, due);
    }

    fn advance(&mut self, real: Instant, slept: Slept, due: Option<Instant>) {
        let passed = real.saturating_duration_since(self.real);
        self.real = real;
        let most = slept.asked.saturating_add(2 * TICK);
        if slept.interrupted || passed > most {
            self.catching_up = Some(real);
        }
        let is_catching_up = self
            .catching_up
            .is_some_and(|since| real.saturating_duration_since(since) <= CATCH_UP);
        let mut now = self.now + passed.min(most);
        if let Some(due) = due.filter(|due| is_catching_up && *due <= now) {
            now = due.checked_sub(Duration::from_nanos(1)).unwrap_or(due);
        }
        self.now = self.now.max(now);
        if slept.emptied || !is_catching_up {
            self.catching_up = None;
        }
    }

    /// How long before the last reading `epoch` was, in real time.
    pub(super) fn since(&self, epoch: Instant) -> Duration {
        self.real.saturating_duration_since(epoch)
    }

    /// The real time of one of the protocol.
    pub(super) fn to_real(&self, now: Instant) -> Instant {
        let ago = self.now.saturating_duration_since(now);
        self.real.checked_sub(ago).unwrap_or(self.real)
    }

    /// The protocol's time at a real one.
    pub(super) fn to_protocol(&self, real: Instant) -> Instant {
        let ago = self.real.saturating_duration_since(real);
        self.now.checked_sub(ago).unwrap_or(self.now)
    }

    /// Measures from the last reading on.
    pub(super) fn stopwatch(&self) -> Stopwatch {
        Stopwatch(self.real)
    }
}

impl Stopwatch {
    /// How long it was until now.
    pub(super) fn passed(self) -> Duration {
        Instant::now().saturating_duration_since(self.0)
    }

    /// When that is.
    pub(super) fn now(self) -> Instant {
        self.0 + self.passed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(9);
    const WAIT: Duration = Duration::from_secs(1);

    fn slept(interrupted: bool) -> Slept {
        Slept {
            asked: WAIT,
            interrupted,
            emptied: !interrupted,
        }
    }

    #[test]
    fn protocol_time_goes_with_the_real_time() {
        let start = Instant::now();
        let mut clock = LoopClock::new(start);
        for step in 1..5 {
            clock.advance(start + step * WAIT, slept(false), Some(start + WAIT));
            assert_eq!(clock.now(), start + step * WAIT);
            assert_eq!(clock.since(start), step * WAIT);
        }
    }

    #[test]
    fn protocol_time_stays_before_what_is_due_after_a_pause() {
        let start = Instant::now();
        let due = start + WAIT;
        for (passed, interrupted) in [(PAUSE, false), (PAUSE, true), (WAIT, true)] {
            let mut clock = LoopClock::new(start);
            clock.advance(start + passed, slept(interrupted), Some(due));
            let now = clock.now();
            assert_eq!(now + Duration::from_nanos(1), due);
            assert_eq!(clock.to_real(now), start + passed);
            assert_eq!(clock.to_protocol(start + passed), now);
            // What was interrupted has not seen what waits: that came in time, too.
            let soon = start + passed + Duration::from_millis(1);
            clock.advance(soon, slept(false), Some(due));
            assert_eq!(clock.now() < due, interrupted);
            // From there on it goes with the real time.
            let now = clock.now();
            clock.advance(soon + WAIT, slept(false), Some(due));
            assert_eq!(clock.now(), now + WAIT);
        }
    }

    #[test]
    fn protocol_time_never_goes_back() {
        let start = Instant::now();
        let mut clock = LoopClock::new(start);
        clock.advance(start + PAUSE, slept(true), Some(start));
        assert_eq!(clock.now(), start);
        clock.advance(start, slept(false), None);
        assert_eq!(clock.now(), start);
    }
}
