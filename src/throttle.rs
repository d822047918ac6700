//! Warnings that repeat.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Lets one warning of a kind through a second, from whatever thread, and counts those between.
/// Waits for nobody, and looks at no clock.
///
/// The last ones of a burst are told with the next warning of the kind, whenever that comes.
#[derive(Debug, Default)]
pub struct Throttle {
    /// When the next may pass, in nanoseconds.
    next: AtomicU64,
    held_back: AtomicU64,
}

/// How many warnings of the kind were held back since the last one. Shown at the end of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBack(u64);

impl Throttle {
    /// From one warning of a kind to the next.
    const PERIOD: Duration = Duration::from_secs(1);

    /// Whether a warning may be logged `now`, a time that counts from the same instant in every
    /// call; and if so how many were not.
    pub fn pass(&self, now: Duration) -> Option<HeldBack> {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let due = self.next.load(Relaxed);
        let next = nanoseconds(now.saturating_add(Self::PERIOD));
        let passes = nanoseconds(now) >= due
            // Of those who come together, one.
            && self.next.compare_exchange(due, next, Relaxed, Relaxed).is_ok();
        if passes {
            return Some(HeldBack(self.held_back.swap(0, Relaxed)));
        }
        self.held_back.fetch_add(1, Relaxed);
        None
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            more => write!(f, " (and {more} more since the last such line)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn one_a_second_passes_and_says_how_many_did_not() {
        let throttle = Throttle::default();
        let at = |milliseconds| throttle.pass(Duration::from_millis(milliseconds));
        assert_eq!(at(0), Some(HeldBack(0)));
        assert_eq!([at(0), at(1), at(999)], [None; 3]);
        assert_eq!(at(1000), Some(HeldBack(3)));
        assert_eq!(at(1999), None);
        // A burst that ended is told with the next, however late.
        assert_eq!(at(3_600_000), Some(HeldBack(1)));
        assert_eq!(at(3_601_000), Some(HeldBack(0)));
        assert_eq!(HeldBack(0).to_string(), "");
        let shown = HeldBack(41).to_string();
        assert_eq!(shown, " (and 41 more since the last such line)");
    }

    #[test]
    fn threads_that_come_together_pass_one_and_lose_no_count() {
        const EACH: u64 = 50_000;
        let throttle = Throttle::default();
        let start = AtomicBool::new(false);
        let work = || {
            while !start.load(Relaxed) {
                std::hint::spin_loop();
            }
            let calls = (0..EACH).map(|call| throttle.pass(Duration::from_micros(call * 100)));
            calls.flatten().map(|held| held.0 + 1).collect::<Vec<_>>()
        };
        let told = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(work));
            start.store(true, Relaxed);
            threads.map(|thread| thread.join().unwrap()).concat()
        });
        // Five seconds have passed.
        assert_eq!(told.len(), 5);
        let last = throttle.held_back.into_inner();
        assert_eq!(told.iter().sum::<u64>() + last, 4 * EACH);
    }
}
