//! Waiting for many sockets at once.
#![expect(unsafe_code, reason = "epoll and ppoll take pointers")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "socket and event counts are small"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, epoll_event, pollfd, timespec};

use crate::udp::Socket;

/// Finds the readable sockets of a set (epoll(7)). A pending error makes a socket readable.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll_event>,
}

/// The most sockets that one call reports. The next call reports the others.
const EVENTS: c_int = 64;

impl Poller {
    /// Opens an epoll instance for these sockets.
    ///
    /// # Errors
    /// The errors of `epoll_create1(2)` and `epoll_ctl(2)`.
    pub(crate) fn new<'a>(sockets: impl IntoIterator<Item = &'a Socket>) -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nothing else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let poller = Self {
            epoll,
            events: vec![epoll_event { events: 0, u64: 0 }; EVENTS as usize],
        };
        for (index, socket) in sockets.into_iter().enumerate() {
            poller.add(index, socket)?;
        }
        Ok(poller)
    }

    /// Adds a socket, which is found as `index`. A closed socket is removed by the kernel.
    ///
    /// # Errors
    /// The errors of `epoll_ctl(2)`.
    pub(crate) fn add(&self, index: usize, socket: &Socket) -> io::Result<()> {
        let mut event = epoll_event {
            events: libc::EPOLLIN as u32,
            u64: index as u64,
        };
        let (epoll, socket) = (self.epoll.as_raw_fd(), socket.as_fd().as_raw_fd());
        // SAFETY: both descriptors are open, and the event outlives the call.
        let status = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, socket, &raw mut event) };
        if status == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Waits up to `timeout` until sockets are readable, and replaces `found` by their indexes.
    /// The timeout has the precision of the kernel's timers. A signal ends the wait.
    ///
    /// # Errors
    /// The errors of ppoll(2) and `epoll_wait(2)`, except `EINTR`.
    pub(crate) fn wait(&mut self, timeout: Duration, found: &mut Vec<usize>) -> io::Result<()> {
        found.clear();
        // The timeout of epoll_wait is in whole milliseconds.
        if !timeout.is_zero() && !readable(self.epoll.as_fd(), timeout)? {
            return Ok(());
        }
        // SAFETY: the kernel writes at most `EVENTS` events, which is the length of the array.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), EVENTS, 0)
        };
        let count = match usize::try_from(count) {
            Ok(count) => count,
            Err(_) => interrupted(io::Error::last_os_error()).map(|()| 0)?,
        };
        let events = self.events[..count].iter();
        found.extend(events.map(|event| event.u64 as usize));
        Ok(())
    }
}

impl Socket {
    /// Waits up to `timeout` until the socket is readable, and returns whether it is. A pending
    /// error makes it readable. A signal ends the wait.
    ///
    /// # Errors
    /// The errors of ppoll(2), except `EINTR`.
    pub(crate) fn wait_readable(&self, timeout: Duration) -> io::Result<bool> {
        readable(self.as_fd(), timeout)
    }
}

fn readable(descriptor: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut poll = pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: one descriptor, which is open, and a timeout, both of which outlive the call; no
    // signal mask.
    let count = unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, ptr::null()) };
    if count < 0 {
        interrupted(io::Error::last_os_error())?;
    }
    Ok(count > 0)
}

fn interrupted(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}
