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

#[cfg(test)]
mod tests {
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
}
