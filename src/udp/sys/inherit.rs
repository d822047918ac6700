//! File descriptors that the service manager passed to this process.
#![expect(unsafe_code, reason = "a number becomes an owned descriptor")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::PoisonError;

/// The first descriptor that can be passed in (`SD_LISTEN_FDS_START`, `sd_listen_fds(3)`).
const FIRST: RawFd = 3;

const NOT_INHERITED: &str = "it belongs to this process and was not passed in";

/// Takes ownership of a descriptor that the service manager passed in, and sets `FD_CLOEXEC`.
///
/// # Errors
/// If it is closed, is standard input, output or error, or belongs to this process already.
pub(crate) fn inherited(descriptor: RawFd) -> io::Result<OwnedFd> {
    // Without the lock, two threads could both pass the check before one sets FD_CLOEXEC.
    static TAKING: Mutex<()> = Mutex::new(());
    let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if descriptor < FIRST {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: takes a number, and fails if no descriptor has it.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // An inherited descriptor cannot have FD_CLOEXEC: exec would have closed it.
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::other(NOT_INHERITED));
    }
    // SAFETY: takes the number of an open descriptor.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nothing in this process owns it: every descriptor that this process
    // opens or takes has FD_CLOEXEC, and this one did not.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn descriptor_of_this_process_is_not_taken() {
        let own = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let error = inherited(own.as_raw_fd()).unwrap_err();
        assert_eq!(error.to_string(), NOT_INHERITED);
        own.local_addr().unwrap();
    }

    #[test]
    fn closed_and_standard_descriptors_are_not_taken() {
        for descriptor in [-1, 0, 2, i32::MAX] {
            let error = inherited(descriptor).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{descriptor}");
        }
    }

    #[test]
    fn inherited_descriptor_is_taken_once() {
        let own = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        // Like an inherited descriptor, the copy has no owner and no FD_CLOEXEC.
        // SAFETY: takes the number of an open descriptor.
        let left = unsafe { libc::dup(own.as_raw_fd()) };
        let taken = UdpSocket::from(inherited(left).unwrap());
        assert_eq!(taken.local_addr().unwrap(), own.local_addr().unwrap());
        assert!(inherited(left).is_err());
    }
}
