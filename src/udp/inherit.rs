//! Descriptors that another process left open for this one.
#![expect(unsafe_code, reason = "a number becomes an owned descriptor")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::PoisonError;

/// The first that can be handed over (`sd_listen_fds(3)`).
const FIRST: RawFd = 3;

/// Takes an open descriptor that the service manager left for this process. To be called before
/// this process opens any, so that the number can only mean that one.
///
/// # Errors
/// When it is not open, is one of the standard three, or was taken before.
pub fn inherited(descriptor: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if descriptor < FIRST || taken.contains(&descriptor) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // It is for no program that this one might start.
    // SAFETY: about a number; if no descriptor has it, the answer is an error.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    taken.push(descriptor);
    // SAFETY: it is open, and nobody else in this process owns it: it was there from the start,
    // and here it is given away once.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
