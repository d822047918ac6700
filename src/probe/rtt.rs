//! Statistics of round-trip times.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The round-trip times of a run and their variation.
#[derive(Debug, Default)]
pub struct RoundTrips {
    /// Of all first replies.
    pub rtts: Rtts,
    /// From one request of a flow to the next one.
    pub jitter: Jitter,
}

impl RoundTrips {
    /// Adds the round-trip time of a first reply, and the differences from those of its neighbours.
    pub fn add(&mut self, rtt: Duration, variations: [Option<Duration>; 2]) {
        self.rtts.add(rtt);
        for variation in variations.into_iter().flatten() {
            self.jitter.add(variation);
        }
    }
}

/// The round-trip times of a run. Minimum, maximum and mean are exact, quantiles have three digits.
#[derive(Debug, Clone)]
pub struct Rtts {
    histogram: Histogram<u64>,
    least: Duration,
    greatest: Duration,
    /// Mean in seconds, and sum of the squared differences from it (Welford's algorithm).
    mean: f64,
    squares: f64,
}

/// The figures of a set of round-trip times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RttSummary {
    /// Minimum.
    pub min: Duration,
    /// Arithmetic mean.
    pub mean: Duration,
    /// Standard deviation of the population.
    pub stddev: Duration,
    /// Median.
    pub p50: Duration,
    /// 90th percentile.
    pub p90: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Maximum.
    pub max: Duration,
}

/// The packet delay variation (IPDV, RFC 3393) of a run: differences of the round-trip times of
/// consecutive requests of a flow, without their sign.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Jitter {
    pairs: u64,
    sum: Duration,
}

impl Jitter {
    /// Adds a difference.
    pub fn add(&mut self, difference: Duration) {
        self.pairs += 1;
        self.sum = self.sum.saturating_add(difference);
    }

    /// Returns the mean, or `None` without two consecutive replies.
    pub fn mean(&self) -> Option<Duration> {
        let mean = self.sum.as_nanos().checked_div(self.pairs.into())?;
        Some(Duration::from_nanos(
            u64::try_from(mean).unwrap_or(u64::MAX),
        ))
    }
}

/// One bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Lower bound, included.
    pub from: Duration,
    /// Upper bound, excluded except in the last bar.
    pub to: Duration,
    /// Number of round-trip times within the bounds.
    pub count: u64,
}

/// Longest time that the histogram resolves.
const MOST: Duration = Duration::from_hours(1);

impl Default for Rtts {
    fn default() -> Self {
        // These bounds and digits are always valid.
        let histogram = Histogram::new_with_max(nanoseconds(MOST), 3);
        Self {
            histogram: histogram.unwrap_or_else(|_| unreachable!("valid bounds")),
            least: Duration::MAX,
            greatest: Duration::ZERO,
            mean: 0.0,
            squares: 0.0,
        }
    }
}

impl Rtts {
    /// Adds a round-trip time.
    pub fn add(&mut self, rtt: Duration) {
        self.histogram.saturating_record(nanoseconds(rtt).max(1));
        self.least = self.least.min(rtt);
        self.greatest = self.greatest.max(rtt);
        let seconds = rtt.as_secs_f64();
        let difference = seconds - self.mean;
        self.mean += difference / count(self.histogram.len());
        self.squares += difference * (seconds - self.mean);
    }

    /// Returns the number of round-trip times.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Returns the figures, or `None` without a round-trip time.
    pub fn summary(&self) -> Option<RttSummary> {
        if self.histogram.is_empty() {
            return None;
        }
        let quantile = |quantile| {
            let value = self.histogram.value_at_quantile(quantile);
            // The histogram returns the upper end of a bucket, which may lie outside.
            Duration::from_nanos(value).clamp(self.least, self.greatest)
        };
        let variance = self.squares / count(self.histogram.len());
        Some(RttSummary {
            min: self.least,
            mean: Duration::from_secs_f64(self.mean.max(0.0)),
            stddev: Duration::from_secs_f64(variance.max(0.0).sqrt()),
            p50: quantile(0.50),
            p90: quantile(0.90),
            p99: quantile(0.99),
            max: self.greatest,
        })
    }

    /// Returns a histogram of at most `most` bars from minimum to maximum. The bounds grow by a
    /// constant factor.
    pub fn bars(&self, most: u32) -> Vec<Bar> {
        if self.histogram.is_empty() {
            return Vec::new();
        }
        let first = self.least.as_secs_f64().max(1e-9);
        let end = self.greatest.as_secs_f64();
        let factor = (end / first).max(1.0).powf(1.0 / f64::from(most));
        let bound = |index: u32| {
            let power = factor.powi(i32::try_from(index).unwrap_or(i32::MAX));
            Duration::from_secs_f64(first * power)
        };
        let mut bars: Vec<Bar> = (0..most)
            .map(|index| Bar {
                from: bound(index),
                to: bound(index + 1),
                count: 0,
            })
            .collect();
        bars.dedup_by_key(|bar| bar.from);
        let last = bars.len() - 1;
        for recorded in self.histogram.iter_recorded() {
            let time = Duration::from_nanos(recorded.value_iterated_to());
            let at = bars.partition_point(|bar| bar.to <= time).min(last);
            bars[at].count += recorded.count_at_value();
        }
        bars
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "no run has 2^53 replies")]
fn count(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rtt_figures_match_those_of_the_sorted_times(
            times in prop::collection::vec(1_u64..10_000_000_000, 1..200)
        ) {
            let mut rtts = Rtts::default();
            for time in &times {
                rtts.add(Duration::from_nanos(*time));
            }
            let summary = rtts.summary().unwrap();
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let exact = |time: u64| Duration::from_nanos(time);
            prop_assert_eq!(summary.min, exact(sorted[0]));
            prop_assert_eq!(summary.max, exact(sorted[sorted.len() - 1]));
            let mean = count(sorted.iter().sum()) / count(rtts.count());
            prop_assert!((summary.mean.as_secs_f64() * 1e9 - mean).abs() <= mean * 1e-6 + 1.0);
            let squares = sorted.iter().map(|time| (count(*time) - mean).powi(2));
            let stddev = (squares.sum::<f64>() / count(rtts.count())).sqrt();
            prop_assert!((summary.stddev.as_secs_f64() * 1e9 - stddev).abs() <= mean * 1e-6 + 1.0);
            for (percent, seen) in [(50, summary.p50), (90, summary.p90), (99, summary.p99)] {
                let rank = (sorted.len() * percent).div_ceil(100).max(1);
                let expected = exact(sorted[rank - 1]).as_secs_f64();
                let off = (seen.as_secs_f64() - expected).abs();
                prop_assert!(off <= expected * 2e-3 + 1e-9, "p{}: {:?}", percent, seen);
            }
            let bars = rtts.bars(8);
            prop_assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), rtts.count());
            prop_assert!(bars.len() <= 8 && bars.is_sorted_by_key(|bar| bar.from));
            // Each bound is that of a geometric sequence, unless bars of no width were left out.
            let factor = count(sorted[sorted.len() - 1]) / count(sorted[0]);
            prop_assert!(bars.len() == 8 || factor < 2.0 || sorted[0] < 1000);
            for (index, bar) in (0_u32..).zip(&bars).filter(|_| bars.len() == 8) {
                for (bound, power) in [(bar.from, index), (bar.to, index + 1)] {
                    let exact = count(sorted[0]) * factor.powf(f64::from(power) / 8.0);
                    let off = (count(nanoseconds(bound)) - exact).abs();
                    prop_assert!(off <= exact * 1e-9 + 1.0, "{:?}", bars);
                }
            }
            let mut below = 0;
            for bar in &bars[..bars.len() - 1] {
                below += bar.count;
                let most = sorted.partition_point(|time| *time < nanoseconds(bar.to)) as u64;
                // The histogram rounds up in the third digit.
                let least = sorted.partition_point(|time| time + time / 500 < nanoseconds(bar.to));
                prop_assert!((least as u64..=most).contains(&below), "{:?}", bars);
            }
        }
    }

    #[test]
    fn rtt_has_no_figures_without_a_reply() {
        assert_eq!(Rtts::default().summary(), None);
        assert_eq!(Rtts::default().bars(8), []);
    }

    #[test]
    fn rtt_keeps_the_maximum_beyond_the_histogram() {
        let mut rtts = Rtts::default();
        rtts.add(Duration::MAX / 2);
        assert_eq!(rtts.summary().unwrap().max, Duration::MAX / 2);
    }
}
