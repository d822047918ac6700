//! The uptime of the host. `/proc/uptime` is hidden from sandboxed services, and rustix crashes
//! under valgrind because it looks for the vDSO.
#![expect(unsafe_code, reason = "clock_gettime takes a pointer")]

use std::time::Duration;

/// Reads `CLOCK_BOOTTIME`: the time since boot, suspended time included (`clock_gettime(2)`).
pub(crate) fn since_boot() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // If the clock does not exist, `time` stays 0.
    // SAFETY: `time` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}
