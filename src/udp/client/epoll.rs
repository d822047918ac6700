//! Which of many sockets have something to receive.
#![expect(unsafe_code, reason = "epoll and ppoll take pointers")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of sockets and events are small"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, epoll_event, pollfd, timespec};

use crate::udp::Socket;

/// Tells which of some sockets have something to receive, be it an error.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll_event>,
}

/// How many are told at once: the others are next time.
const EVENTS: c_int = 64;

impl Poller {
    /// Of these sockets.
    ///
    /// # Errors
    /// What `epoll_create1` and `epoll_ctl` give.
    pub fn new<'a>(sockets: impl IntoIterator<Item = &'a Socket>) -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, and nobody else's.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        for (index, socket) in sockets.into_iter().enumerate() {
            let mut event = epoll_event {
                events: libc::EPOLLIN as u32,
                u64: index as u64,
            };
            let (epoll, socket) = (epoll.as_raw_fd(), socket.as_fd().as_raw_fd());
            // SAFETY: both descriptors are open, and the event outlives the call.
            let status =
                unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, socket, &raw mut event) };
            if status != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self {
            epoll,
            events: vec![epoll_event { events: 0, u64: 0 }; EVENTS as usize],
        })
    }

    /// Waits until there are some, at most for `timeout`, to the precision of the kernel's timers.
    /// Gives them by their place among all, in place of what was in `found`.
    ///
    /// # Errors
    /// What `ppoll` and `epoll_wait` give, a signal aside: that ends the wait.
    pub fn wait(&mut self, timeout: Duration, found: &mut Vec<usize>) -> io::Result<()> {
        found.clear();
        // epoll_wait knows milliseconds only.
        if !timeout.is_zero() && !readable(self.epoll.as_fd(), timeout)? {
            return Ok(());
        }
        // SAFETY: the kernel writes at most as many events as there is room for.
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
    /// Waits until there is something to receive, be it an error, at most for `timeout`, to the
    /// precision of the kernel's timers. Says whether there is.
    ///
    /// # Errors
    /// What `ppoll` gives, a signal aside: that ends the wait.
    pub fn wait_readable(&self, timeout: Duration) -> io::Result<bool> {
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
