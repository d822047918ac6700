//! Statistics of times that can be negative: delays between two clocks, and their variation.

use hdrhistogram::Histogram;

/// A set of times in nanoseconds. Minimum, maximum and mean are exact. Quantiles have three digits of
/// their difference from the first time: that of two clocks is often far above the delays.
#[derive(Debug, Clone)]
pub struct Delays {
    first: Option<i64>,
    /// The differences from 0 on, and the negative ones without their sign.
    positive: Histogram<u64>,
    negative: Histogram<u64>,
    least: i64,
    greatest: i64,
    /// Mean, and sum of the squared differences from it (Welford's algorithm).
    mean: f64,
    squares: f64,
    /// Sum of the times without their sign.
    absolute: f64,
}

/// The figures of a set of times, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DelaySummary {
    /// Minimum.
    pub min: i64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the population.
    pub stddev: f64,
    /// Median.
    pub p50: i64,
    /// 90th percentile.
    pub p90: i64,
    /// 99th percentile.
    pub p99: i64,
    /// Maximum.
    pub max: i64,
}

impl Default for Delays {
    fn default() -> Self {
        // Three digits are always valid. The histograms grow to the largest time.
        let histogram = || Histogram::new(3).unwrap_or_else(|_| unreachable!("valid digits"));
        Self {
            first: None,
            positive: histogram(),
            negative: histogram(),
            least: i64::MAX,
            greatest: i64::MIN,
            mean: 0.0,
            squares: 0.0,
            absolute: 0.0,
        }
    }
}

impl Delays {
    /// Adds a time.
    #[expect(clippy::cast_precision_loss, reason = "a statistic")]
    pub fn add(&mut self, nanoseconds: i64) {
        let first = *self.first.get_or_insert(nanoseconds);
        let histogram = if nanoseconds < first {
            &mut self.negative
        } else {
            &mut self.positive
        };
        // The histogram grows, and has space for every number.
        let _ = histogram.record(nanoseconds.abs_diff(first));
        self.least = self.least.min(nanoseconds);
        self.greatest = self.greatest.max(nanoseconds);
        let time = nanoseconds as f64;
        let difference = time - self.mean;
        self.mean += difference / self.count() as f64;
        self.squares += difference * (time - self.mean);
        self.absolute += time.abs();
    }

    /// Returns the number of times.
    pub fn count(&self) -> u64 {
        self.positive.len() + self.negative.len()
    }

    /// Returns the mean of the times without their sign, or `None` without a time.
    #[expect(clippy::cast_precision_loss, reason = "a statistic")]
    pub fn mean_absolute(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.absolute / self.count() as f64)
    }

    /// Returns the figures, or `None` without a time.
    #[expect(clippy::cast_precision_loss, reason = "a statistic")]
    pub fn summary(&self) -> Option<DelaySummary> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        Some(DelaySummary {
            min: self.least,
            mean: self.mean,
            stddev: (self.squares / count as f64).max(0.0).sqrt(),
            p50: self.quantile(0.50),
            p90: self.quantile(0.90),
            p99: self.quantile(0.99),
            max: self.greatest,
        })
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is at most the number of times"
    )]
    fn quantile(&self, quantile: f64) -> i64 {
        let rank = (self.count() as f64 * quantile).ceil().max(1.0) as u64;
        let at = |histogram: &Histogram<u64>, rank: u64| {
            // The middle of the rank: the quotient may be rounded up.
            let value = histogram.value_at_quantile((rank as f64 - 0.5) / histogram.len() as f64);
            i64::try_from(value).unwrap_or(i64::MAX)
        };
        let negative = self.negative.len();
        let value = if rank <= negative {
            -at(&self.negative, negative - rank + 1)
        } else {
            at(&self.positive, rank - negative)
        };
        let first = self.first.unwrap_or_default();
        // The histogram returns the upper end of a bucket, which may lie outside.
        first.saturating_add(value).clamp(self.least, self.greatest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        #[expect(clippy::cast_precision_loss, reason = "a statistic")]
        fn delay_figures_match_those_of_the_sorted_times(
            times in prop::collection::vec(-20_000_000_000_i64..20_000_000_000, 1..200),
            apart in -1_000_000_000_000_000_000_i64..1_000_000_000_000_000_000,
        ) {
            let times: Vec<_> = times.into_iter().map(|time| time + apart).collect();
            let mut delays = Delays::default();
            for time in &times {
                delays.add(*time);
            }
            let summary = delays.summary().unwrap();
            let mut sorted = times.clone();
            sorted.sort_unstable();
            prop_assert_eq!((summary.min, summary.max), (sorted[0], sorted[sorted.len() - 1]));
            let count = sorted.len() as f64;
            let mean = sorted.iter().map(|time| *time as f64).sum::<f64>() / count;
            let rounding = mean.abs() * 1e-13 + 1.0;
            prop_assert!((summary.mean - mean).abs() <= rounding, "{} {mean}", summary.mean);
            let squares = sorted.iter().map(|time| (*time as f64 - mean).powi(2)).sum::<f64>();
            let stddev = (squares / count).sqrt();
            prop_assert!((summary.stddev - stddev).abs() <= stddev * 1e-6 + rounding);
            for (percent, seen) in [(50, summary.p50), (90, summary.p90), (99, summary.p99)] {
                let rank = (sorted.len() * percent).div_ceil(100).max(1);
                let exact = sorted[rank - 1];
                let most = exact.abs_diff(times[0]) as f64 * 2e-3 + 1.0;
                let off = exact.abs_diff(seen) as f64;
                prop_assert!(off <= most, "p{percent}: {seen}, not {exact}");
            }
        }
    }

    #[test]
    fn delays_have_no_figures_without_a_time() {
        assert_eq!(Delays::default().summary(), None);
    }

    #[test]
    fn delay_of_centuries_is_kept() {
        let mut delays = Delays::default();
        delays.add(i64::MIN);
        delays.add(i64::MAX);
        let summary = delays.summary().unwrap();
        assert_eq!((summary.min, summary.max), (i64::MIN, i64::MAX));
    }
}
