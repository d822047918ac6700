//! The clock of the worker loop.
#![expect(clippy::disallowed_methods, reason = "the loop's one clock")]

use std::time::{Duration, Instant};

use super::TICK;

/// Real time and the protocol's time. The protocol's time stops while the worker is paused: its
/// machine or process was stopped, or it had no CPU. Datagrams that arrive during a pause are then
/// in time, as they are for the reference server.
#[derive(Debug)]
pub(super) struct LoopClock {
    /// The last reading.
    real: Instant,
    /// The protocol's time at the last reading.
    now: Instant,
    /// The real time of a pause after which the socket was not empty yet.
    catching_up: Option<Instant>,
}

/// How long after a pause queued datagrams count as in time. A flood may never empty the socket.
const CATCH_UP: Duration = Duration::from_millis(300);

/// The end of a receive call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slept {
    /// The receive timeout.
    pub(super) asked: Duration,
    /// Whether a signal ended it, as SIGCONT does (signal(7)).
    pub(super) interrupted: bool,
    /// Whether it left the socket empty.
    pub(super) emptied: bool,
}

/// Measures the time since the last reading of a clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch(Instant);

impl LoopClock {
    /// A clock that starts at `start` in both times.
    pub(super) fn new(start: Instant) -> Self {
        Self {
            real: start,
            now: start,
            catching_up: None,
        }
    }

    /// The protocol's time at the last reading.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// The real time of the last reading.
    pub(super) fn real(&self) -> Instant {
        self.real
    }

    /// Reads the clock after a receive call. After a pause, the protocol's time stays before `due`,
    /// the next expiry, until the socket is empty.
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

    /// The real time from `epoch` to the last reading.
    pub(super) fn since(&self, epoch: Instant) -> Duration {
        self.real.saturating_duration_since(epoch)
    }

    /// Converts the protocol's time to real time.
    pub(super) fn to_real(&self, now: Instant) -> Instant {
        let ago = self.now.saturating_duration_since(now);
        self.real.checked_sub(ago).unwrap_or(self.real)
    }

    /// Converts real time to the protocol's time.
    pub(super) fn to_protocol(&self, real: Instant) -> Instant {
        let ago = self.real.saturating_duration_since(real);
        self.now.checked_sub(ago).unwrap_or(self.now)
    }

    /// Measures from the last reading.
    pub(super) fn stopwatch(&self) -> Stopwatch {
        Stopwatch(self.real)
    }
}

impl Stopwatch {
    /// The time passed until now.
    pub(super) fn passed(self) -> Duration {
        Instant::now().saturating_duration_since(self.0)
    }

    /// The present time.
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
    fn protocol_time_follows_real_time() {
        let start = Instant::now();
        let mut clock = LoopClock::new(start);
        for step in 1..5 {
            clock.advance(start + step * WAIT, slept(false), Some(start + WAIT));
            assert_eq!(clock.now(), start + step * WAIT);
            assert_eq!(clock.since(start), step * WAIT);
        }
        // The longest time that is no pause.
        let end = start + 5 * WAIT + 2 * TICK;
        clock.advance(end, slept(false), Some(end));
        assert_eq!(clock.now(), end);
    }

    #[test]
    fn protocol_time_stays_before_an_expiry_after_a_pause() {
        let start = Instant::now();
        let due = start + WAIT;
        for (passed, interrupted) in [(PAUSE, false), (PAUSE, true), (WAIT, true)] {
            let mut clock = LoopClock::new(start);
            clock.advance(start + passed, slept(interrupted), Some(due));
            let now = clock.now();
            assert_eq!(now + Duration::from_nanos(1), due);
            assert_eq!(clock.to_real(now), start + passed);
            assert_eq!(clock.to_protocol(start + passed), now);
            // An interrupted receive did not empty the socket: queued datagrams are in time.
            let soon = start + passed + Duration::from_millis(1);
            clock.advance(soon, slept(false), Some(due));
            assert_eq!(clock.now() < due, interrupted);
            // Then it follows real time again.
            let now = clock.now();
            clock.advance(soon + WAIT, slept(false), Some(due));
            assert_eq!(clock.now(), now + WAIT);
        }
    }

    #[test]
    fn readings_are_those_of_the_system_clock() {
        let start = Instant::now();
        let mut clock = LoopClock::new(start);
        let stopwatch = clock.stopwatch();
        let later = std::iter::repeat_with(Instant::now)
            .find(|now| *now > start)
            .unwrap();
        assert!(stopwatch.passed() >= later - start && stopwatch.now() >= later);
        clock.read(slept(false), None);
        assert!(clock.real() >= later);
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
