//! The kernel's state of the system clock.
#![expect(
    unsafe_code,
    reason = "adjtimex takes a pointer; no crate in use wraps it"
)]

use std::io;
use std::mem;
use std::time::Duration;

/// Whether an external source synchronizes the system clock, and its greatest error (adjtimex(2)).
/// Reads only, so it needs no privileges.
///
/// # Errors
/// `EPERM` in a sandbox that blocks the call, as `ProtectClock=` of systemd does.
pub fn clock_state() -> io::Result<(bool, Duration)> {
    // SAFETY: `timex` has only integers, for which zero is valid.
    let mut state: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: `state` outlives the call. Its `modes` are 0: the kernel only writes to it.
    let status = unsafe { libc::adjtimex(&raw mut state) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_synchronized = state.status & libc::STA_UNSYNC == 0;
    let microseconds = u64::try_from(state.maxerror).unwrap_or_default();
    Ok((is_synchronized, Duration::from_micros(microseconds)))
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn clock_state_has_an_error_below_the_kernels_limit() {
        let (_, error) = clock_state().unwrap();
        // `NTP_PHASE_LIMIT` (include/linux/timex.h), and what it grows by in a second.
        assert!(error <= Duration::from_millis(16_001), "{error:?}");
    }
}
