//! The number of datagrams that the kernel dropped at a socket.

use std::sync::{Mutex, PoisonError};

/// Extends the kernel's wrapping 32-bit drop counter to 64 bits.
#[derive(Debug)]
pub(super) struct Drops(Mutex<(u32, u64)>);

impl Drops {
    /// Counts from `baseline`, the present value of the kernel's counter.
    pub(super) fn from_baseline(baseline: u32) -> Self {
        Self(Mutex::new((baseline, 0)))
    }

    /// The drops since the baseline, given the present value of the kernel's counter.
    pub(super) fn total(&self, counter: u32) -> u64 {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, total) = *seen;
        *seen = (counter, total + u64::from(counter.wrapping_sub(last)));
        seen.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_keep_counting_when_the_kernels_counter_wraps() {
        let drops = Drops::from_baseline(u32::MAX - 1);
        assert_eq!(drops.total(u32::MAX - 1), 0);
        assert_eq!(drops.total(u32::MAX), 1);
        assert_eq!(drops.total(1), 3);
        assert_eq!(drops.total(1), 3);
    }
}
