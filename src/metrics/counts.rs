//! What a worker counts.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::reflect::Refusal;

/// A number that one thread writes and any thread may read: no locked instruction is needed.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.set(self.get() + n);
    }

    /// Sets it to `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counts. Written by its thread alone; on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
#[expect(missing_docs, reason = "each is a metric, described in FAMILIES")]
pub struct Counts {
    pub received: Count,
    pub received_bytes: Count,
    pub echoed: Count,
    pub echoed_bytes: Count,
    pub decoded: Count,
    pub decode_errors: Count,
    pub empty: Count,
    pub truncated: Count,
    /// By [`Refusal`].
    pub refused: [Count; Refusal::ALL.len()],
    pub quiet_timeouts: Count,
    pub record_timeouts: Count,
    pub receive_errors: ErrorCounts,
    pub send_errors: ErrorCounts,
    pub peers: Count,
    pub evicted: Count,
    pub batches: Batches,
    /// In nanoseconds.
    pub residence: Residence,
    /// When the last datagram came.
    pub last_datagram: SharedMoment,
}

impl Counts {
    /// Refused, by whatever rule.
    pub(super) fn refused(&self) -> u64 {
        self.refused.iter().map(Count::get).sum()
    }
}

/// Errors by name.
#[derive(Debug, Default)]
pub struct ErrorCounts([Count; ErrorCounts::NAMES]);

/// The errors that receiving and sending UDP datagrams can meet (recv(2), send(2), udp(7)), and
/// their names. All others are counted as `other`.
const ERRNOS: [(i32, &str); 16] = [
    (libc::EACCES, "EACCES"),
    (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::ECONNREFUSED, "ECONNREFUSED"),
    (libc::EHOSTDOWN, "EHOSTDOWN"),
    (libc::EHOSTUNREACH, "EHOSTUNREACH"),
    (libc::EINVAL, "EINVAL"),
    (libc::EIO, "EIO"),
    (libc::EMSGSIZE, "EMSGSIZE"),
    (libc::ENETDOWN, "ENETDOWN"),
    (libc::ENETUNREACH, "ENETUNREACH"),
    (libc::ENOBUFS, "ENOBUFS"),
    (libc::ENODEV, "ENODEV"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::EPERM, "EPERM"),
    (libc::EPIPE, "EPIPE"),
];

impl ErrorCounts {
    /// How many names there are.
    pub const NAMES: usize = ERRNOS.len() + 1;

    /// Counts an error. Returns which of the names it has.
    pub fn count(&self, error: &io::Error) -> usize {
        let index = ERRNOS
            .iter()
            .position(|(errno, _)| error.raw_os_error() == Some(*errno))
            .unwrap_or(ERRNOS.len());
        self.0[index].add(1);
        index
    }

    /// The names, in the order of [`Self::get`].
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        ERRNOS.iter().map(|(_, name)| *name).chain(["other"])
    }

    pub(super) fn get(&self, index: usize) -> u64 {
        self.0[index].get()
    }

    /// All of them.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(Count::get).sum()
    }
}

/// A histogram of whole numbers, each counted in the least bucket that holds it. Its counts lie
/// in it, and so on the cache lines of their worker.
#[derive(Debug)]
pub struct Histogram<const BUCKETS: usize> {
    /// One less than there are buckets.
    bounds: &'static [u64],
    /// One for each bound, and one for what is above the last.
    buckets: [Count; BUCKETS],
    sum: Count,
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    fn new(bounds: &'static [u64]) -> Self {
        debug_assert_eq!(bounds.len() + 1, BUCKETS);
        Self {
            bounds,
            buckets: std::array::from_fn(|_| Count::default()),
            sum: Count::default(),
        }
    }

    /// Counts a value that came so many times.
    pub fn count(&self, value: u64, times: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].add(times);
        // A sum that wraps would go back, which is a restart to Prometheus.
        let sum = self.sum.get().saturating_add(value.saturating_mul(times));
        self.sum.set(sum);
    }

    /// The upper bounds of the buckets but the last, which has none.
    pub(super) fn bounds(&self) -> &'static [u64] {
        self.bounds
    }

    /// How many values a bucket has, not counting those of lower ones.
    pub(super) fn bucket(&self, index: usize) -> u64 {
        self.buckets[index].get()
    }

    /// How many values there are.
    #[cfg(test)]
    pub(crate) fn count_all(&self) -> u64 {
        self.buckets.iter().map(Count::get).sum()
    }

    /// The sum of all values.
    pub(crate) fn sum(&self) -> u64 {
        self.sum.get()
    }
}

/// Datagrams that one receive call gave.
const BATCH_BOUNDS: [u64; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Nanoseconds from 1 µs to 1 s.
const RESIDENCE_BOUNDS: [u64; 19] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
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
];

/// [`Counts::batches`].
#[derive(Debug)]
pub struct Batches(pub Histogram<{ BATCH_BOUNDS.len() + 1 }>);

impl Default for Batches {
    fn default() -> Self {
        Self(Histogram::new(&BATCH_BOUNDS))
    }
}

/// [`Counts::residence`].
#[derive(Debug)]
pub struct Residence(pub Histogram<{ RESIDENCE_BOUNDS.len() + 1 }>);

impl Default for Residence {
    fn default() -> Self {
        Self(Histogram::new(&RESIDENCE_BOUNDS))
    }
}

/// A time that another thread may read: nanoseconds since an instant that all know, plus 1; 0 is
/// never.
#[derive(Debug, Default)]
pub struct SharedMoment(Count);

impl SharedMoment {
    /// Sets it to `now`.
    pub fn set(&self, epoch: Instant, now: Instant) {
        let since = now.saturating_duration_since(epoch).as_nanos();
        self.0.set(u64::try_from(since).unwrap_or(u64::MAX - 1) + 1);
    }

    /// Reads it.
    pub fn get(&self, epoch: Instant) -> Option<Instant> {
        let nanoseconds = self.0.get().checked_sub(1)?;
        epoch.checked_add(Duration::from_nanos(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_the_least_bucket_that_holds_it() {
        let Batches(batches) = Batches::default();
        for datagrams in [1, 2, 3, 4, 5, 63, 64, 65] {
            batches.count(datagrams, 1);
        }
        let buckets = [0, 1, 2, 3, 4, 5, 6, 7].map(|index| batches.bucket(index));
        assert_eq!(buckets, [1, 1, 2, 1, 0, 0, 2, 1]);
        assert_eq!(batches.sum(), 207);
    }

    #[test]
    fn sum_of_a_histogram_stays_at_its_greatest_value() {
        let Residence(residence) = Residence::default();
        for _ in 0..12 {
            let before = residence.sum();
            residence.count(1_700_000_000_000_000_000, 1);
            assert!(residence.sum() > before || residence.sum() == u64::MAX);
        }
        residence.count(u64::MAX, 2);
        assert_eq!((residence.count_all(), residence.sum()), (13 + 1, u64::MAX));
    }

    #[test]
    fn an_error_is_counted_by_its_name_or_as_other() {
        let errors = ErrorCounts::default();
        for errno in [libc::EPERM, libc::EPERM, libc::EXDEV] {
            let index = errors.count(&io::Error::from_raw_os_error(errno));
            assert_eq!(index + 1 == ErrorCounts::NAMES, errno == libc::EXDEV);
        }
        let counted: Vec<_> = ErrorCounts::names()
            .enumerate()
            .map(|(index, name)| (name, errors.get(index)))
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(counted, [("EPERM", 2), ("other", 1)]);
    }
}
