//! The counters of a worker.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::reflect::Refusal;
use crate::reflect::stamp::{StampTotals, TlvFault, TlvKind};

/// A number that one thread writes and any thread may read, without a locked instruction.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the writing thread may call this.
    pub fn add(&self, n: u64) {
        self.set(self.get() + n);
    }

    /// Sets the number to `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters of one worker. Only its thread writes them; no other data shares their cache lines.
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
    pub idle_timeouts: Count,
    pub record_timeouts: Count,
    pub receive_errors: ErrorCounts,
    pub send_errors: ErrorCounts,
    pub peers: Count,
    pub evicted: Count,
    pub stamp: StampCounts,
    pub batches: Batches,
    /// In nanoseconds.
    pub residence: Residence,
    /// The arrival of the last datagram.
    pub last_datagram: SharedMoment,
}

/// The counters of STAMP mode.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "each is a metric, described in FAMILIES")]
pub struct StampCounts {
    pub sessions: Count,
    pub unkept: Count,
    pub reset: Count,
    pub lost: Count,
    pub reordered: Count,
    pub duplicates: Count,
    /// By [`TlvKind`].
    pub tlvs: [Count; TlvKind::ALL.len()],
    /// By [`TlvFault`].
    pub tlv_faults: [Count; TlvFault::ALL.len()],
}

impl StampCounts {
    /// Sets all counters.
    pub fn set(&self, totals: &StampTotals) {
        let StampTotals { sessions, tlvs } = totals;
        self.sessions.set(sessions.sessions);
        self.unkept.set(sessions.unkept);
        self.reset.set(sessions.reset);
        self.lost.set(sessions.uplink.lost);
        self.reordered.set(sessions.uplink.reordered);
        self.duplicates.set(sessions.uplink.duplicates);
        let counts = self.tlvs.iter().chain(&self.tlv_faults);
        for (count, total) in counts.zip(tlvs.kinds.iter().chain(&tlvs.faults)) {
            count.set(*total);
        }
    }
}

/// The number of errors by errno name.
#[derive(Debug, Default)]
pub struct ErrorCounts([Count; ErrorCounts::NAMES]);

/// The errors of sending and receiving UDP datagrams (recv(2), send(2), udp(7)). All others count
/// as `other`.
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

/// Returns the name of an errno that sending or receiving UDP datagrams can have, else `other`.
pub(crate) fn errno_name(errno: i32) -> &'static str {
    let known = ERRNOS.iter().find(|(known, _)| *known == errno);
    known.map_or("other", |(_, name)| name)
}

impl ErrorCounts {
    /// The number of names.
    pub const NAMES: usize = ERRNOS.len() + 1;

    /// Counts an error. Returns the index of its name.
    pub fn count(&self, error: &io::Error) -> usize {
        let index = ERRNOS
            .iter()
            .position(|(errno, _)| error.raw_os_error() == Some(*errno))
            .unwrap_or(ERRNOS.len());
        self.0[index].add(1);
        index
    }

    /// The names, in the order of their indices.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ERRNOS.iter().map(|(_, name)| *name).chain(["other"])
    }

    pub(super) fn get(&self, index: usize) -> u64 {
        self.0[index].get()
    }

    /// The number of all errors.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(Count::get).sum()
    }
}

/// A histogram of whole numbers. The counters are inline, on the cache lines of their worker.
#[derive(Debug)]
pub struct Histogram<const BUCKETS: usize> {
    /// The inclusive upper bounds of all buckets but the last.
    bounds: &'static [u64],
    /// The last bucket counts the values above all bounds.
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

    /// Counts a value that occurred `times` times.
    pub fn count(&self, value: u64, times: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket].add(times);
        // Saturates: Prometheus takes a sum that falls for a restart.
        let sum = self.sum.get().saturating_add(value.saturating_mul(times));
        self.sum.set(sum);
    }

    /// The inclusive upper bounds of all buckets but the last.
    pub(super) fn bounds(&self) -> &'static [u64] {
        self.bounds
    }

    /// The number of values in a bucket, not cumulative.
    pub(super) fn bucket(&self, index: usize) -> u64 {
        self.buckets[index].get()
    }

    /// The number of values.
    #[cfg(test)]
    pub(crate) fn count_all(&self) -> u64 {
        self.buckets.iter().map(Count::get).sum()
    }

    /// The sum of all values.
    pub(crate) fn sum(&self) -> u64 {
        self.sum.get()
    }
}

/// Datagrams per receive call.
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

/// The histogram of datagrams per receive call.
#[derive(Debug)]
pub struct Batches(pub Histogram<{ BATCH_BOUNDS.len() + 1 }>);

impl Default for Batches {
    fn default() -> Self {
        Self(Histogram::new(&BATCH_BOUNDS))
    }
}

/// The histogram of residence times in nanoseconds.
#[derive(Debug)]
pub struct Residence(pub Histogram<{ RESIDENCE_BOUNDS.len() + 1 }>);

impl Default for Residence {
    fn default() -> Self {
        Self(Histogram::new(&RESIDENCE_BOUNDS))
    }
}

/// An instant that one thread writes and any thread may read, in nanoseconds since a common epoch,
/// plus 1; 0 stands for never.
#[derive(Debug, Default)]
pub struct SharedMoment(Count);

impl SharedMoment {
    /// Sets the instant to `now`.
    pub fn set(&self, epoch: Instant, now: Instant) {
        let since = now.saturating_duration_since(epoch).as_nanos();
        self.0.set(u64::try_from(since).unwrap_or(u64::MAX - 1) + 1);
    }

    /// The instant; `None` for never.
    pub fn get(&self, epoch: Instant) -> Option<Instant> {
        let nanoseconds = self.0.get().checked_sub(1)?;
        epoch.checked_add(Duration::from_nanos(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_counts_a_value_in_the_smallest_bucket() {
        let Batches(batches) = Batches::default();
        for datagrams in [1, 2, 3, 4, 5, 63, 64, 65] {
            batches.count(datagrams, 1);
        }
        let buckets = [0, 1, 2, 3, 4, 5, 6, 7].map(|index| batches.bucket(index));
        assert_eq!(buckets, [1, 1, 2, 1, 0, 0, 2, 1]);
        assert_eq!(batches.sum(), 207);
    }

    #[test]
    fn histogram_sum_saturates() {
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
    fn moment_beyond_the_range_is_the_last_of_the_range() {
        #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
        let epoch = Instant::now();
        let moment = SharedMoment::default();
        assert_eq!(moment.get(epoch), None);
        // 634 years.
        moment.set(epoch, epoch + Duration::from_secs(20_000_000_000));
        let last = epoch + Duration::from_nanos(u64::MAX - 1);
        assert_eq!(moment.get(epoch), Some(last));
    }

    #[test]
    fn errors_are_counted_by_name_or_as_other() {
        let errors = ErrorCounts::default();
        for errno in [libc::EPERM, libc::EPERM, libc::EXDEV] {
            let index = errors.count(&io::Error::from_raw_os_error(errno));
            assert_eq!(index + 1 == ErrorCounts::NAMES, errno == libc::EXDEV);
        }
        assert_eq!(
            [libc::EPERM, libc::EXDEV].map(errno_name),
            ["EPERM", "other"]
        );
        let counted: Vec<_> = ErrorCounts::names()
            .enumerate()
            .map(|(index, name)| (name, errors.get(index)))
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(counted, [("EPERM", 2), ("other", 1)]);
    }
}
