//! How many files, and so sockets, this process may have open.
#![expect(unsafe_code, reason = "getrlimit and setrlimit take pointers")]

use std::io;

use libc::{RLIMIT_NOFILE, rlimit};

/// Lets this process open as many as it may at all: what most programs are given at first is few
/// for the sake of those that call select(2) (getrlimit(2)).
///
/// # Errors
/// What `getrlimit` and `setrlimit` give.
pub fn open_as_many_as_allowed() -> io::Result<()> {
    let mut limit = rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes a structure of this type, which outlives the call.
    check(unsafe { libc::getrlimit(RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads a structure of this type, which outlives the call.
    check(unsafe { libc::setrlimit(RLIMIT_NOFILE, &raw const limit) })
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
