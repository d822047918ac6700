//! Rate limits: datagrams per second from one source, and in total.
//!
//! Each limit is a token bucket that holds the datagrams of one second (the generic cell rate
//! algorithm, ITU-T I.371). A keyed hash assigns sources to a fixed number of buckets, so memory
//! use does not depend on the number of sources.
//!
//! A flood with a forged source can empty the bucket of that source. So that the real source still
//! gets some replies, one datagram in [`LEAK`] above the limit of a source passes at random.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// One datagram in this number above the limit of a source passes.
pub const LEAK: u64 = 64;

/// The number of buckets for sources.
pub const BUCKETS: usize = 1 << 16;

const SECOND: u64 = 1_000_000_000;

/// A limit in datagrams per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time per datagram in nanoseconds, rounded up so that the rate is never above the limit.
    interval: u64,
    /// The time in nanoseconds to fill an empty bucket.
    full: u64,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.full / self.interval).fmt(f)
    }
}

impl Rate {
    /// The greatest limit. Above it, an interval in whole nanoseconds is too imprecise.
    pub const MOST: u32 = 10_000_000;

    /// A limit of `datagrams` per second; `None` above [`Self::MOST`].
    pub fn new(datagrams: NonZeroU32) -> Option<Self> {
        let number = datagrams.get();
        let interval = SECOND.div_ceil(number.into());
        (number <= Self::MOST).then(|| Self {
            interval,
            full: interval * u64::from(number),
        })
    }
}

/// The limits of a daemon, shared by its workers.
#[derive(Debug)]
pub struct Limits {
    /// The zero of all times.
    epoch: Instant,
    leak: u64,
    sources: Option<(Rate, Sources)>,
    total: Option<(Rate, Bucket)>,
}

impl Limits {
    /// Limits for each source and in total. No time may be before `epoch`. One datagram in `leak`
    /// above the limit of its source passes, none if `leak` is 0: see [`LEAK`].
    pub fn new(epoch: Instant, leak: u64, each: Option<Rate>, total: Option<Rate>) -> Self {
        Self {
            epoch,
            leak,
            sources: each.map(|rate| (rate, Sources::new())),
            total: total.map(|rate| (rate, Bucket::default())),
        }
    }

    /// Charges a datagram to the limits at `now`, and returns whether it passes. If it is above the
    /// limit of its source, `random` decides.
    #[inline(never)]
    pub(super) fn allow(&self, source: IpAddr, now: Instant, random: impl FnOnce() -> u64) -> bool {
        let leaks = || random().checked_rem(self.leak) == Some(0);
        self.take(source, 1, now, leaks)
    }

    /// Charges several datagrams to the limits at `now` if all are within them, and returns whether
    /// they are.
    pub(super) fn allow_all(&self, source: IpAddr, datagrams: u64, now: Instant) -> bool {
        self.take(source, datagrams, now, || false)
    }

    fn take(
        &self,
        source: IpAddr,
        datagrams: u64,
        now: Instant,
        leaks: impl FnOnce() -> bool,
    ) -> bool {
        let now = self.since_epoch(now);
        let own = self.sources.as_ref();
        let own = own.map(|(rate, sources)| (*rate, sources.bucket(source)));
        let took = own.is_some_and(|(rate, bucket)| bucket.take(rate, datagrams, now));
        if own.is_some() && !took && !leaks() {
            return false;
        }
        let all = self.total.as_ref();
        let within = all.is_none_or(|(rate, bucket)| bucket.take(*rate, datagrams, now));
        if let Some((rate, bucket)) = own.filter(|_| took && !within) {
            bucket.refund(rate, datagrams);
        }
        within
    }

    /// Whether no two of these sources share a bucket.
    pub fn have_own_buckets(&self, sources: &[IpAddr]) -> bool {
        let Some((_, buckets)) = &self.sources else {
            return true;
        };
        let mut at: Vec<_> = sources
            .iter()
            .map(|source| buckets.index(*source))
            .collect();
        at.sort_unstable();
        at.windows(2).all(|pair| pair[0] != pair[1])
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        let since: Duration = now.saturating_duration_since(self.epoch);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A bucket: the time at which it is full, in nanoseconds since the epoch.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Bucket {
    fn take(&self, rate: Rate, datagrams: u64, now: u64) -> bool {
        let took = self.0.fetch_update(Relaxed, Relaxed, |full_at| {
            let full_at = full_at.max(now).saturating_add(datagrams * rate.interval);
            (full_at - now <= rate.full).then_some(full_at)
        });
        took.is_ok()
    }

    fn refund(&self, rate: Rate, datagrams: u64) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |full_at| {
            Some(full_at.saturating_sub(datagrams * rate.interval))
        });
    }
}

/// The buckets of the sources.
struct Sources {
    buckets: Box<[Bucket]>,
    hasher: RandomState,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// The bucket of a source: an IPv4 address or an IPv6 /64 network, because a host usually has
    /// all addresses of its network.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "masked to the number of buckets"
    )]
    fn index(&self, source: IpAddr) -> usize {
        let network = match source {
            // An IPv6 network with the same number shares the bucket.
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        let mut hasher = self.hasher.build_hasher();
        hasher.write(&network.to_ne_bytes());
        hasher.finish() as usize & (BUCKETS - 1)
    }

    fn bucket(&self, source: IpAddr) -> &Bucket {
        &self.buckets[self.index(source)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn source_may_send_one_second_at_once_then_its_rate() {
        let (limits, start) = limits(Some(10), None);
        let allowed = |millisecond| {
            let now = start + Duration::from_millis(millisecond);
            (0..100).filter(|_| limits.allow_all(ALICE, 1, now)).count()
        };
        assert_eq!(allowed(0), 10);
        assert_eq!(allowed(99), 0);
        assert_eq!(allowed(100), 1);
        assert_eq!(allowed(350), 2);
        assert_eq!(allowed(400), 1);
        assert_eq!(allowed(10_000), 10);
    }

    #[test]
    fn limit_is_per_ipv4_address_and_ipv6_64_network() {
        let (limits, now) = limits(Some(1), None);
        let allow = |source: &str| limits.allow_all(source.parse().unwrap(), 1, now);
        assert!(allow("192.0.2.1") && !allow("192.0.2.1"));
        assert!(allow("192.0.2.2"));
        assert!(allow("2001:db8::1") && !allow("2001:db8::2"));
        assert!(allow("2001:db8:0:1::1"));
    }

    #[test]
    fn total_limit_excludes_datagrams_above_their_sources_limit() {
        let (limits, now) = limits(Some(2), Some(3));
        let allowed = |source| {
            (0..100)
                .filter(|_| limits.allow_all(source, 1, now))
                .count()
        };
        assert_eq!([ALICE, BOB].map(allowed), [2, 1]);
    }

    #[test]
    fn datagrams_above_the_total_cost_their_source_nothing() {
        let sources =
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(|last| IpAddr::from([192, 0, 2, last]));
        let mut any = std::iter::repeat_with(|| limits(Some(3), Some(30)));
        let own_buckets = |(limits, _): &(Limits, _)| limits.have_own_buckets(&sources);
        let (limits, now) = any.find(own_buckets).unwrap();
        let [source, others @ ..] = sources;
        assert!(others.iter().all(|other| limits.allow_all(*other, 3, now)));
        assert!(!limits.allow_all(source, 3, now));
        // The total limit allows three again, the limit of the source not yet one.
        let later = now + Duration::from_millis(101);
        assert!(limits.allow_all(source, 3, later));
        assert!(!limits.have_own_buckets(&[source, source]));
    }

    #[test]
    fn leak_passes_the_limit_of_a_source_but_not_the_total() {
        let mut numbers = 0..;
        let mut next = || numbers.next().unwrap();
        let (limits, now) = limits(Some(10), None);
        let passed = (0..1000)
            .filter(|_| limits.allow(ALICE, now, &mut next))
            .count();
        assert_eq!(passed, 10 + 990_usize.div_ceil(64));
        let (limits, now) = self::limits(Some(1), Some(3));
        let passed = (0..1000)
            .filter(|_| limits.allow(ALICE, now, &mut next))
            .count();
        assert_eq!(passed, 3);
    }

    #[test]
    fn rate_is_none_above_the_maximum() {
        let rate = |n| Rate::new(NonZeroU32::new(n).unwrap());
        assert_eq!(rate(Rate::MOST).map(|rate| rate.interval), Some(100));
        assert_eq!(rate(Rate::MOST + 1), None);
        assert_eq!(rate(7).map(|rate| rate.interval), Some(142_857_143));
    }

    #[test]
    fn rate_is_shown_as_its_number_of_datagrams() {
        for number in [1, 3, 7, 1000, Rate::MOST] {
            let rate = Rate::new(NonZeroU32::new(number).unwrap()).unwrap();
            assert_eq!(rate.to_string(), number.to_string());
        }
    }

    proptest! {
        #[test]
        fn bucket_matches_a_token_bucket(
            rate in 1..2000_u32,
            steps in prop::collection::vec((0..2_000_000_000_u64, 1..70_u64), 1..80),
        ) {
            let (limits, start) = limits(Some(rate), None);
            let each = 1_000_000_000_u64.div_ceil(rate.into());
            let full = each * u64::from(rate);
            let (mut tokens, mut now) = (full, start);
            for (wait, datagrams) in steps {
                // Long waits and short ones.
                let wait = if datagrams % 3 == 0 { wait } else { wait / 10_000 };
                now += Duration::from_nanos(wait);
                tokens = (tokens + wait).min(full);
                let expected = tokens.checked_sub(datagrams * each);
                prop_assert_eq!(limits.allow_all(ALICE, datagrams, now), expected.is_some());
                tokens = expected.unwrap_or(tokens);
            }
        }
    }

    const ALICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const BOB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn limits(each: Option<u32>, total: Option<u32>) -> (Limits, Instant) {
        #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
        let now = Instant::now();
        let rate = |n: u32| Rate::new(NonZeroU32::new(n).unwrap()).unwrap();
        (Limits::new(now, LEAK, each.map(rate), total.map(rate)), now)
    }
}
