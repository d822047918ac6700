//! NTP timestamps (RFC 5905, section 6).

use std::time::Duration;

/// A time in seconds since 1900, modulo 2^32, as a fixed-point number with 32 bits of fraction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NtpTimestamp(u64);

/// Seconds from 1900 to 1970.
const UNIX_EPOCH: u64 = 2_208_988_800;

const NANOSECONDS: u64 = 1_000_000_000;

impl NtpTimestamp {
    /// A time of day, given as the time since 1970. Never all zero, because a reply with a zero
    /// receive time is taken for a request: the start of an era is 2^-32 s late.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "seconds of NTP are modulo 2^32"
    )]
    pub fn from_unix(since_1970: Duration) -> Self {
        let seconds = since_1970.as_secs().wrapping_add(UNIX_EPOCH) as u32;
        // To the nearest unit, so that nanoseconds survive.
        let nanoseconds = u64::from(since_1970.subsec_nanos());
        let fraction = ((nanoseconds << 32) + NANOSECONDS / 2) / NANOSECONDS;
        Self(((u64::from(seconds) << 32) | fraction).max(1))
    }

    /// The timestamp with this bit pattern.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bit pattern.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// This timestamp of a truncated PTP clock (IEEE 1588: seconds and nanoseconds since 1970) in
    /// NTP format. PTP counts in TAI, which is 37 s ahead of UTC in 2026: that remains.
    #[must_use]
    pub fn from_ptp(self) -> Self {
        let (seconds, nanoseconds) = (self.0 >> 32, self.0 & 0xffff_ffff);
        let fraction = (nanoseconds.min(NANOSECONDS - 1) << 32) / NANOSECONDS;
        let seconds = seconds.wrapping_add(UNIX_EPOCH) << 32;
        Self(seconds | fraction)
    }

    /// Nanoseconds from `earlier` to this time. Negative if this is before it; right across the
    /// start of an era if they are less than 68 years apart.
    pub fn nanoseconds_since(self, earlier: Self) -> i64 {
        let units = i128::from(self.0.wrapping_sub(earlier.0).cast_signed());
        let nanoseconds = (units * i128::from(NANOSECONDS) + (1 << 31)) >> 32;
        i64::try_from(nanoseconds).unwrap_or(i64::MAX)
    }

    /// The seconds, which are also those of a truncated PTP timestamp.
    pub(super) fn seconds(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_equals_that_of_another_implementation() {
        // Sent by twampy at 1795670735.519639968.
        let time = Duration::new(1_795_670_735, 519_639_968);
        let seconds = NtpTimestamp::from_unix(time).to_bits() >> 32;
        assert_eq!(seconds, 0xeeb2_414f);
        let bits = NtpTimestamp::from_unix(time).to_bits();
        assert!(bits.abs_diff(0xeeb2_414f_8507_1fff) < 5, "{bits:x}");
    }

    #[test]
    fn fraction_keeps_every_nanosecond() {
        for nanoseconds in (0..1_000_000_000).step_by(999_983).chain([999_999_999]) {
            let bits = NtpTimestamp::from_unix(Duration::new(0, nanoseconds)).to_bits();
            let fraction = u128::from(bits & 0xffff_ffff);
            let back = (fraction * 1_000_000_000 + (1 << 31)) >> 32;
            assert_eq!(back, nanoseconds.into());
        }
    }

    #[test]
    fn era_1_starts_in_2036_with_a_timestamp_that_is_not_zero() {
        let seconds = (1 << 32) - UNIX_EPOCH;
        let start = Duration::from_secs(seconds);
        let at = |time| NtpTimestamp::from_unix(time).to_bits();
        assert_eq!(at(start), 1);
        assert_eq!(at(start + Duration::from_millis(500)), 1 << 31);
        assert_eq!(at(Duration::from_secs(seconds - 1)), 0xffff_ffff << 32);
        assert_ne!(at(Duration::MAX), 0);
    }
}
