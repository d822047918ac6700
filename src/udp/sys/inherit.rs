//! Descriptors that another process left open for this one.
#![expect(unsafe_code, reason = "a number becomes an owned descriptor")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::PoisonError;

/// The first that can be handed over (`sd_listen_fds(3)`).
const FIRST: RawFd = 3;

/// Takes an open descriptor that the service manager left for this process.
///
/// # Errors
/// When it is not open, is one of the standard three, or is this process's own: opened by it, or
/// taken before.
pub fn inherited(descriptor: RawFd) -> io::Result<OwnedFd> {
    // One at a time: nobody takes it between the look at it and the mark on it.
    static TAKING: Mutex<()> = Mutex::new(());
    let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if descriptor < FIRST {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: about a number; if no descriptor has it, the answer is an error.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // What was open at the start has it not, or it would have been closed then.
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::other("was not handed over: this process has it"));
    }
    // It is for no program that this one might start, and not to be taken again.
    // SAFETY: about a number that is open.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else in this process owns it: all that this process opens or
    // takes has FD_CLOEXEC, and this had not.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_this_process_opened_is_not_given_away() {
        let own = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let error = inherited(own.as_raw_fd()).unwrap_err();
        let problem = "was not handed over: this process has it";
        assert_eq!(error.to_string(), problem);
        own.local_addr().unwrap();
    }

    #[test]
    fn what_is_not_open_or_standard_is_not_given_away() {
        for descriptor in [-1, 0, 2, i32::MAX] {
            let error = inherited(descriptor).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{descriptor}");
        }
    }

    /// As if it had been there from the start: a copy that nobody owns.
    #[test]
    fn what_was_left_open_is_given_away_once() {
        let own = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        // SAFETY: about a number, which is open.
        let left = unsafe { libc::dup(own.as_raw_fd()) };
        let taken = UdpSocket::from(inherited(left).unwrap());
        assert_eq!(taken.local_addr().unwrap(), own.local_addr().unwrap());
        assert!(inherited(left).is_err());
    }
}
