//! The counts of one address over the last five minutes, for the status page.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::buckets::TIME_BUCKETS;
use super::figures::Figures;

/// The length of a period.
pub(crate) const PERIOD: Duration = Duration::from_secs(30);
/// The number of periods, with the one under way: five minutes.
pub const PERIODS: usize = 10;

/// The counts of one address up to one time, or between two times. 32 bits that wrap are enough for
/// five minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    /// Requests lost.
    pub lost: u32,
    /// Requests answered, by the bucket of their round-trip time.
    pub rtts: [u32; TIME_BUCKETS],
    /// Sum of the round-trip times in seconds.
    rtt_sum: f64,
    /// Number and sum of the differences between round-trip times.
    jitters: u32,
    jitter_sum: f64,
}

impl Counts {
    /// The counts up to now.
    pub fn of(figures: &Figures) -> Self {
        Self {
            lost: wrapped(figures.lost),
            rtts: figures.rtt.counts().map(wrapped),
            rtt_sum: figures.rtt.sum(),
            jitters: wrapped(figures.jitter.count()),
            jitter_sum: figures.jitter.sum(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            lost: self.lost.wrapping_sub(before.lost),
            rtts: std::array::from_fn(|at| self.rtts[at].wrapping_sub(before.rtts[at])),
            rtt_sum: self.rtt_sum - before.rtt_sum,
            jitters: self.jitters.wrapping_sub(before.jitters),
            jitter_sum: self.jitter_sum - before.jitter_sum,
        }
    }

    /// The counts of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            lost: self.lost.wrapping_add(other.lost),
            rtts: std::array::from_fn(|at| self.rtts[at].wrapping_add(other.rtts[at])),
            rtt_sum: self.rtt_sum + other.rtt_sum,
            jitters: self.jitters.wrapping_add(other.jitters),
            jitter_sum: self.jitter_sum + other.jitter_sum,
        }
    }

    /// Requests answered.
    pub fn received(&self) -> u64 {
        self.rtts.iter().map(|count| u64::from(*count)).sum()
    }

    /// Requests that are no longer in flight.
    pub fn finished(&self) -> u64 {
        self.received() + u64::from(self.lost)
    }

    /// The mean round-trip time in seconds.
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    pub fn mean_rtt(&self) -> Option<f64> {
        let received = self.received();
        (received > 0).then(|| self.rtt_sum / received as f64)
    }

    /// The mean difference in seconds between the round-trip times of consecutive requests.
    pub fn mean_jitter(&self) -> Option<f64> {
        (self.jitters > 0).then(|| self.jitter_sum / f64::from(self.jitters))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "only differences count")]
fn wrapped(count: u64) -> u32 {
    count as u32
}

/// The counts of the last periods: 968 bytes per address, so 10 MB for ten thousand addresses.
#[derive(Debug, Default)]
pub struct RecentCounts(Mutex<Periods>);

#[derive(Debug, Default)]
struct Periods {
    /// The periods that ended, oldest first.
    ended: [Counts; PERIODS - 1],
    /// The counts up to the end of the last one.
    last: Counts,
}

impl RecentCounts {
    /// Ends a period. Called once per `PERIOD`. `read` returns the counts up to now.
    pub fn end_period(&self, read: impl FnOnce() -> Counts) {
        let mut periods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = read();
        let counts = now.since(periods.last);
        periods.ended.rotate_left(1);
        periods.ended[PERIODS - 2] = counts;
        periods.last = now;
    }

    /// The counts of the last periods, oldest first. The last one is under way.
    pub fn periods(&self, read: impl FnOnce() -> Counts) -> [Counts; PERIODS] {
        let periods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: no period ends in between.
        let under_way = read().since(periods.last);
        let mut all = [under_way; PERIODS];
        all[..PERIODS - 1].copy_from_slice(&periods.ended);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflect::Mode;

    #[test]
    fn counts_are_kept_for_ten_periods_in_little_memory() {
        let (recent, mut figures) = (RecentCounts::default(), Figures::new(Mode::Echo));
        for number in 1..=30_u64 {
            // Period 1 has one lost request, period 2 has two, and so on.
            figures.lost += number;
            figures.rtt.add(2_000_000);
            figures.jitter.add(3_000_000);
            let periods = recent.periods(|| Counts::of(&figures));
            let lost = periods.map(|counts| u64::from(counts.lost));
            let expected: Vec<_> = (0..10).map(|at| (number + at).saturating_sub(9)).collect();
            assert_eq!(lost[..], expected);
            recent.end_period(|| Counts::of(&figures));
        }
        let periods = recent.periods(|| Counts::of(&figures));
        assert_eq!(periods[9].finished(), 0);
        let sum = periods.into_iter().fold(Counts::default(), Counts::and);
        assert_eq!(
            [sum.received(), sum.finished()],
            [9, 9 + (22..=30).sum::<u64>()]
        );
        for (mean, expected) in [(sum.mean_rtt(), 0.002), (sum.mean_jitter(), 0.003)] {
            assert!((mean.unwrap() - expected).abs() < 1e-9, "{mean:?}");
        }
        assert_eq!(size_of::<RecentCounts>(), 968);
    }

    #[test]
    fn counts_above_32_bits_have_the_right_differences() {
        let (recent, mut figures) = (RecentCounts::default(), Figures::new(Mode::Echo));
        figures.lost = u64::from(u32::MAX) - 3;
        recent.end_period(|| Counts::of(&figures));
        figures.lost += 10;
        assert_eq!(recent.periods(|| Counts::of(&figures))[9].lost, 10);
    }
}
