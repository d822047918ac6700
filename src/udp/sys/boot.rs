//! How long the host has been up. It is here because it needs `unsafe`: `/proc/uptime` is hidden
//! from sandboxed services, and rustix crashes under valgrind as it looks for the vDSO.
#![expect(unsafe_code, reason = "clock_gettime takes a pointer")]

use std::time::Duration;

/// Reads `CLOCK_BOOTTIME`, which goes on while the machine is suspended (`clock_gettime(2)`).
pub fn since_boot() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call. If the clock does not exist, it stays 0.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}
