//! A histogram with the fixed bounds of the monitor's metrics.

/// Times of one kind, counted by bucket. Plain numbers, to share under a lock.
#[derive(Debug, Clone)]
pub struct Buckets {
    bounds: &'static [i64],
    /// One per bound, and one for the times above all of them.
    counts: Box<[u64]>,
    /// Sum in nanoseconds.
    sum: i128,
}

/// 50 µs to 10 s in steps of 1, 2, 5, in nanoseconds.
const TIMES: &[i64] = times().split_at(3).1;
/// Times that can be negative, such as one-way delays between two clocks: also −1 s, −10 ms and 0.
const SIGNED_TIMES: &[i64] = times();

/// The number of buckets for times from 0 on. The last is for those above all bounds.
pub const TIME_BUCKETS: usize = TIMES.len() + 1;

const fn times() -> &'static [i64] {
    &[
        -1_000_000_000,
        -10_000_000,
        0,
        50_000,
        100_000,
        200_000,
        500_000,
        1_000_000,
        2_000_000,
        5_000_000,
        10_000_000,
        20_000_000,
        50_000_000,
        100_000_000,
        200_000_000,
        500_000_000,
        1_000_000_000,
        2_000_000_000,
        5_000_000_000,
        10_000_000_000,
    ]
}

impl Buckets {
    /// For times from 0 on.
    pub fn of_times() -> Self {
        Self::new(TIMES)
    }

    /// For times that can be negative.
    pub fn of_signed_times() -> Self {
        Self::new(SIGNED_TIMES)
    }

    fn new(bounds: &'static [i64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1].into(),
            sum: 0,
        }
    }

    /// Counts a time in nanoseconds.
    pub fn add(&mut self, nanoseconds: i64) {
        let bucket = self.bounds.partition_point(|bound| *bound < nanoseconds);
        self.counts[bucket] += 1;
        self.sum += i128::from(nanoseconds);
    }

    /// Each inclusive upper bound in seconds, with the number of times up to it.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus has only floats")]
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut sum = 0;
        self.bounds
            .iter()
            .zip(&self.counts)
            .map(move |(bound, count)| {
                sum += count;
                (*bound as f64 / 1e9, sum)
            })
    }

    /// The number of times in each bucket, for times from 0 on.
    pub(super) fn counts(&self) -> [u64; TIME_BUCKETS] {
        std::array::from_fn(|bucket| self.counts[bucket])
    }

    /// The number of times.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum in seconds.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus has only floats")]
    pub fn sum(&self) -> f64 {
        self.sum as f64 / 1e9
    }
}

/// A quantile of times from 0 on, known by their counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantile {
    /// The bucket that it is in.
    pub bucket: usize,
    /// The estimate in seconds: infinite above all bounds, where Prometheus has the highest bound.
    pub seconds: f64,
}

impl Quantile {
    /// The highest bound in seconds.
    #[expect(clippy::cast_precision_loss, reason = "exact")]
    pub const MOST: f64 = TIMES[TIMES.len() - 1] as f64 / 1e9;

    /// Estimates the quantile `part`, above 0 and at most 1, as Prometheus's `histogram_quantile`
    /// does: the times of a bucket are taken to be spread evenly from bound to bound.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn of(part: f64, counts: &[u32; TIME_BUCKETS]) -> Option<Self> {
        let all: f64 = counts.iter().map(|count| f64::from(*count)).sum();
        let rank = part * all;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bucket, (bound, count)) in TIMES.iter().zip(counts).enumerate() {
            let (upper, count) = (*bound as f64 / 1e9, f64::from(*count));
            if count > 0.0 && below + count >= rank {
                let seconds = lower + (upper - lower) * ((rank - below) / count);
                return Some(Self { bucket, seconds });
            }
            (lower, below) = (upper, below + count);
        }
        (all > 0.0).then_some(Self {
            bucket: TIMES.len(),
            seconds: f64::INFINITY,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_counted_up_to_each_bound() {
        let mut times = Buckets::of_times();
        for nanoseconds in [0, 50_000, 50_001, 10_000_000_000, 10_000_000_001] {
            times.add(nanoseconds);
        }
        let cumulative: Vec<_> = times.cumulative().collect();
        assert_eq!(cumulative.len(), 17);
        assert_eq!(cumulative[..2], [(50e-6, 2), (100e-6, 3)]);
        assert_eq!(cumulative[16], (10.0, 4));
        assert_eq!(times.count(), 5);
        let mut delays = Buckets::of_signed_times();
        for nanoseconds in [-2_000_000_000, -1, 0, 1] {
            delays.add(nanoseconds);
        }
        let cumulative: Vec<_> = delays.cumulative().take(4).collect();
        assert_eq!(cumulative, [(-1.0, 1), (-0.01, 1), (0.0, 3), (50e-6, 4)]);
        assert!((delays.sum() + 2.0).abs() < 1e-9);
    }

    fn counted(counts: &[(usize, u32)]) -> [u32; TIME_BUCKETS] {
        let mut all = [0; TIME_BUCKETS];
        for (bucket, count) in counts {
            all[*bucket] = *count;
        }
        all
    }

    #[test]
    fn quantiles_are_those_of_histogram_quantile() {
        // Calculated by Prometheus 2.42.
        let above = f64::INFINITY;
        for (counts, [p50, p99]) in [
            (&[(0, 3)][..], [2.5e-5, 4.95e-5]),
            (&[(0, 1), (17, 1)], [5e-5, above]),
            (&[(5, 10)], [1.5e-3, 1.99e-3]),
            (&[(5, 4), (6, 96)], [3.437_5e-3, 4.968_75e-3]),
            (&[(0, 1), (9, 98), (16, 1)], [0.035, 0.05]),
            (&[(2, 1), (3, 1), (4, 1)], [3.5e-4, 9.85e-4]),
            (&[(17, 5)], [above, above]),
            (&[(16, 99), (17, 1)], [7.525_252_525_252_526, 10.0]),
            (&[(8, 1)], [0.015, 0.0199]),
            (&[(0, 1000), (8, 10), (12, 1)], [2.527_5e-5, 1.089e-2]),
        ] {
            for (part, expected) in [(0.5, p50), (0.99, p99)] {
                let quantile = Quantile::of(part, &counted(counts)).unwrap().seconds;
                let is_equal = (quantile - expected).abs() < 1e-12
                    || quantile.is_infinite() && expected.is_infinite();
                assert!(is_equal, "{counts:?} {part} {quantile}");
            }
        }
        assert_eq!(Quantile::of(0.5, &[0; TIME_BUCKETS]), None);
    }

    proptest! {
        #[test]
        fn quantile_is_in_the_bucket_of_the_exact_one(
            mut times in prop::collection::vec((0..8_u32).prop_flat_map(|digits| {
                0..2 * 10_i64.pow(digits + 4)
            }), 1..300),
            // Exact as a float.
            eighths in 1..=8_u8,
        ) {
            let mut buckets = Buckets::of_times();
            for time in &times {
                buckets.add(*time);
            }
            let counts = buckets.counts().map(|count| u32::try_from(count).unwrap());
            let estimate = Quantile::of(f64::from(eighths) / 8.0, &counts).unwrap();
            times.sort_unstable();
            let exact = times[(usize::from(eighths) * times.len()).div_ceil(8) - 1];
            let bucket = TIMES.iter().filter(|bound| **bound < exact).count();
            prop_assert_eq!(estimate.bucket, bucket);
            let [lower, upper] = [bucket.checked_sub(1), Some(bucket)]
                .map(|at| at.map_or(Some(&0), |at| TIMES.get(at)));
            match upper {
                None => prop_assert!(estimate.seconds.is_infinite()),
                Some(upper) => {
                    let nanoseconds = estimate.seconds * 1e9;
                    #[expect(clippy::cast_precision_loss, reason = "exact")]
                    let bounds = *lower.unwrap() as f64 - 0.1..=*upper as f64 + 0.1;
                    prop_assert!(bounds.contains(&nanoseconds), "{} {:?}", nanoseconds, bounds);
                }
            }
        }
    }
}
