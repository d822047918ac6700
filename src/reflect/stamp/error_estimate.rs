//! The error estimate of timestamps (RFC 4656, section 4.1.2; RFC 8186).

use std::time::Duration;

/// The error estimate of a clock: S (1 bit), Z (1), scale (6), multiplier (8). The error is
/// multiplier · 2^(scale − 32) seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorEstimate(u16);

/// S: an external source synchronizes the clock to UTC.
const SYNCHRONIZED: u16 = 1 << 15;

/// Z: timestamps in PTP format.
const PTP: u16 = 1 << 14;

/// The greatest scale.
const MAX_SCALE: u32 = 63;

impl ErrorEstimate {
    /// The clock is not synchronized, and its error is that of such a clock in Linux: 16 s
    /// (`NTP_PHASE_LIMIT`, include/linux/timex.h).
    pub const UNKNOWN: Self = Self(0x1d80);

    /// The estimate for timestamps in NTP format with an error of at most `error`, rounded up. The
    /// multiplier is never 0, which would mean a corrupt estimate.
    pub fn new(is_synchronized: bool, error: Duration) -> Self {
        let nanoseconds = u128::from(error.subsec_nanos());
        let fraction = (nanoseconds << 32).div_ceil(1_000_000_000);
        let units = ((u128::from(error.as_secs()) << 32) + fraction).max(1);
        // The smallest scale is the most precise.
        let scale = (0..=MAX_SCALE).find(|scale| units.div_ceil(1 << scale) <= 0xff);
        let scale = scale.unwrap_or(MAX_SCALE);
        let multiplier = u8::try_from(units.div_ceil(1 << scale)).unwrap_or(u8::MAX);
        let s = if is_synchronized { SYNCHRONIZED } else { 0 };
        #[expect(clippy::cast_possible_truncation, reason = "6 bits")]
        let scale = scale as u16;
        Self(s | scale << 8 | u16::from(multiplier))
    }

    /// The estimate with this bit pattern.
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The bit pattern.
    pub fn to_bits(self) -> u16 {
        self.0
    }

    /// The error in seconds.
    pub fn seconds(self) -> f64 {
        let scale = i32::from(self.0 >> 8 & 0x3f);
        f64::from(self.0 & 0xff) * 2_f64.powi(scale - 32)
    }

    /// The estimate of the two that claims less: not synchronized, or the larger error.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let claim = |error: Self| (!error.is_synchronized(), error.seconds());
        if claim(self) > claim(other) {
            self
        } else {
            other
        }
    }

    /// Z: whether the timestamps are truncated PTP timestamps (RFC 8186).
    pub fn is_ptp(self) -> bool {
        self.0 & PTP != 0
    }

    /// S: whether an external source synchronizes the clock to UTC.
    pub fn is_synchronized(self) -> bool {
        self.0 & SYNCHRONIZED != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn estimate_has_the_smallest_scale_that_holds_the_error() {
        for (error, bits) in [
            (Duration::ZERO, 0x0001),
            (Duration::from_nanos(1), 0x0005),
            (Duration::from_nanos(59), 0x00fe),
            (Duration::from_nanos(60), 0x0181),
            (Duration::from_secs(1), 0x1980),
            (Duration::from_secs(16), 0x1d80),
            (Duration::MAX, 0x3fff),
        ] {
            let estimate = ErrorEstimate::new(false, error).to_bits();
            assert_eq!(estimate, bits, "{error:?}: {estimate:#06x}");
        }
        assert_eq!(ErrorEstimate::new(true, Duration::ZERO).to_bits(), 0x8001);
        let unsynchronized = ErrorEstimate::new(false, Duration::from_secs(16));
        assert_eq!(unsynchronized, ErrorEstimate::UNKNOWN);
    }

    proptest! {
        #[test]
        fn estimate_is_never_below_the_error(
            seconds in prop_oneof![0..100_u64, 0..1_u64 << 38],
            nanoseconds in 0..1_000_000_000_u32,
            synchronized in any::<bool>(),
        ) {
            let error = Duration::new(seconds, nanoseconds);
            let estimate = ErrorEstimate::new(synchronized, error);
            let (said, real) = (estimate.seconds(), error.as_secs_f64());
            prop_assert!(said >= real && said <= real * (1.0 + 1.0 / 127.0) + 1e-9);
            prop_assert_eq!(estimate.is_synchronized(), synchronized);
            prop_assert_eq!(estimate.to_bits() & 0x4000, 0);
            prop_assert_ne!(estimate.to_bits() & 0xff, 0);
        }
    }
}
