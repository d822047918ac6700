//! The limit on open files, which sockets count as.
#![expect(unsafe_code, reason = "getrlimit and setrlimit take pointers")]

use std::io;

use libc::{RLIMIT_NOFILE, rlimit};

/// Raises the soft limit on open files to the hard limit (getrlimit(2)). The soft limit is low by
/// default for programs that use select(2); this one does not. Returns the limit.
///
/// # Errors
/// The errors of getrlimit(2) and setrlimit(2).
pub(crate) fn raise_open_file_limit() -> io::Result<u64> {
    let mut limit = rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes a structure of this type, which outlives the call.
    check(unsafe { libc::getrlimit(RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads a structure of this type, which outlives the call.
    check(unsafe { libc::setrlimit(RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_max)
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
