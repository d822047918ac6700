//! Rate limit for warnings.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Passes one warning of a kind per period and counts the suppressed ones. Lock-free, for any
/// number of threads. The next warning that passes reports the number suppressed before it.
#[derive(Debug)]
pub struct Throttle {
    period: Duration,
    /// When the next warning may pass, in nanoseconds.
    next: AtomicU64,
    suppressed: AtomicU64,
}

/// The number of warnings suppressed since the last one that passed, to be shown after a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suppressed(u64);

/// One warning per second.
impl Default for Throttle {
    fn default() -> Self {
        Self::new(Duration::from_secs(1))
    }
}

impl Throttle {
    /// One warning per `period`.
    pub fn new(period: Duration) -> Self {
        Self {
            period,
            next: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Returns the number of suppressed warnings if one may be logged now, else `None`. `now` is
    /// the time since an instant that is the same in every call.
    pub fn pass(&self, now: Duration) -> Option<Suppressed> {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let due = self.next.load(Relaxed);
        let next = nanoseconds(now.saturating_add(self.period));
        let passes = nanoseconds(now) >= due
            // One of several threads passes.
            && self.next.compare_exchange(due, next, Relaxed, Relaxed).is_ok();
        if passes {
            return Some(Suppressed(self.suppressed.swap(0, Relaxed)));
        }
        self.suppressed.fetch_add(1, Relaxed);
        None
    }
}

impl fmt::Display for Suppressed {
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
    fn throttle_passes_one_per_second_with_the_number_suppressed() {
        let throttle = Throttle::default();
        let at = |milliseconds| throttle.pass(Duration::from_millis(milliseconds));
        assert_eq!(at(0), Some(Suppressed(0)));
        assert_eq!([at(0), at(1), at(999)], [None; 3]);
        assert_eq!(at(1000), Some(Suppressed(3)));
        assert_eq!(at(1999), None);
        // The next one reports them, however late.
        assert_eq!(at(3_600_000), Some(Suppressed(1)));
        assert_eq!(at(3_601_000), Some(Suppressed(0)));
        assert_eq!(Suppressed(0).to_string(), "");
        let shown = Suppressed(41).to_string();
        assert_eq!(shown, " (and 41 more since the last such line)");
    }

    #[test]
    fn throttle_passes_one_of_many_threads_and_counts_the_others() {
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
        let passed = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(work));
            start.store(true, Relaxed);
            threads.map(|thread| thread.join().unwrap()).concat()
        });
        // The calls span five seconds.
        assert_eq!(passed.len(), 5);
        let last = throttle.suppressed.into_inner();
        assert_eq!(passed.iter().sum::<u64>() + last, 4 * EACH);
    }
}
