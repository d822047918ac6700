//! Loss, reordering and duplicates on the way from sender to reflector, by sequence numbers.
//!
//! Numbers are compared modulo 2^32. The newest number of a session is the one that is ahead of all
//! others. Each number counts at most once as lost:
//!
//! - A number is missing if a newer one arrived before it.
//! - A missing number that arrives is **reordered**. So is any number older than the newest that
//!   was not received before, or is too old to know.
//! - A number that arrives again is a **duplicate**, if it is one of the 64 newest.
//! - A missing number is **lost** when it is no longer one of the 64 newest, when a request arrives
//!   a second or more after the last gap, or when the session ends. If it arrives later, it is also
//!   reordered.
//!
//! Numbers before the first one and after the last one of a session are unknown.

use std::time::{Duration, Instant};

/// How long a missing number can be late without being lost.
const LATE: Duration = Duration::from_secs(1);

/// The numbers that are remembered: the newest and those before it.
const WINDOW: u32 = u64::BITS;

/// The requests of ended and present sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UplinkTotals {
    /// Requests that were sent and did not arrive.
    pub lost: u64,
    /// Requests that arrived after a newer one.
    pub reordered: u64,
    /// Requests that arrived again.
    pub duplicates: u64,
}

/// The sequence numbers of one session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uplink {
    newest: u32,
    /// Bit `n` is the number `newest - n`: it arrived.
    received: u64,
    /// It is missing, and not lost yet.
    missing: u64,
    /// When a number was last skipped.
    gap_at: Instant,
}

impl Uplink {
    /// The first request of a session.
    pub(super) fn new(sequence: u32, now: Instant) -> Self {
        Self {
            newest: sequence,
            received: 1,
            missing: 0,
            gap_at: now,
        }
    }

    /// Whether a request with this number is the first of a sender that was restarted. A number 0
    /// that follows the greatest numbers is the next one.
    pub(super) fn is_restart(&self, sequence: u32) -> bool {
        sequence == 0 && self.newest < 0xffff_0000
    }

    /// Counts the next request.
    pub(super) fn receive(&mut self, sequence: u32, now: Instant, totals: &mut UplinkTotals) {
        if now.saturating_duration_since(self.gap_at) >= LATE {
            self.end(totals);
        }
        let ahead = sequence.wrapping_sub(self.newest);
        if ahead != 0 && ahead <= u32::MAX / 2 {
            return self.advance(ahead, now, totals);
        }
        let behind = ahead.wrapping_neg();
        let bit = 1_u64.checked_shl(behind).unwrap_or_default();
        if self.received & bit != 0 {
            totals.duplicates += 1;
        } else {
            totals.reordered += 1;
        }
        self.received |= bit;
        self.missing &= !bit;
    }

    /// Counts all missing numbers as lost.
    pub(super) fn end(&mut self, totals: &mut UplinkTotals) {
        totals.lost += u64::from(self.missing.count_ones());
        self.missing = 0;
    }

    /// Makes a number the newest that is `ahead` of the newest.
    fn advance(&mut self, ahead: u32, now: Instant, totals: &mut UplinkTotals) {
        // Of the skipped numbers, those that do not fit into the window are lost at once.
        let skipped = ahead - 1;
        let remembered = skipped.min(WINDOW - 1);
        totals.lost += u64::from(skipped - remembered);
        let leaving = self.missing & !(u64::MAX.checked_shr(ahead).unwrap_or_default());
        totals.lost += u64::from(leaving.count_ones());
        let shifted = |bits: u64| bits.checked_shl(ahead).unwrap_or_default();
        let gap = u64::MAX >> (WINDOW - 1 - remembered) & !1;
        self.received = shifted(self.received) | 1;
        self.missing = shifted(self.missing) | gap;
        self.newest = self.newest.wrapping_add(ahead);
        if skipped > 0 {
            self.gap_at = now;
        }
    }
}
