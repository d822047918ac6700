//! The supervisor's clocks.

use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use crate::metrics::Clocks;

#[expect(clippy::disallowed_methods, reason = "this is the supervisor")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// All of them.
#[expect(clippy::disallowed_methods, reason = "this is the supervisor")]
pub(super) fn clocks() -> Clocks {
    let since_boot = Duration::try_from(clock_gettime(ClockId::Boottime));
    Clocks {
        monotonic: now(),
        since_boot: since_boot.unwrap_or_default(),
        today: SystemTime::now(),
    }
}

/// The time of day, since 1970.
#[expect(clippy::disallowed_methods, reason = "this is the supervisor")]
pub(super) fn today() -> Duration {
    let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    today.unwrap_or_default()
}
