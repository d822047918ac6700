//! The system's limits on socket buffers.

use std::io;

use socket2::{Domain, Socket, Type};

/// Asks the kernel for the limits that `net.core.rmem_max` and `net.core.wmem_max` set.
///
/// In a sandbox the two are hidden (systemd.exec(5): `ProcSubset=pid`, `PrivateNetwork=`), but
/// they hold for sockets of every family: a socket of the local family is asked for the most,
/// and what it got is read back. Its descriptor is kept, so that asking cannot fail for want of
/// one.
#[derive(Debug)]
pub struct BufferLimits(Socket);

impl BufferLimits {
    /// Opens the socket that is asked.
    ///
    /// # Errors
    /// When no socket can be made.
    pub fn new() -> io::Result<Self> {
        Socket::new(Domain::UNIX, Type::DGRAM, None).map(Self)
    }

    /// The most that `SO_RCVBUF` can ask for, in bytes: `net.core.rmem_max`.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn receive(&self) -> io::Result<usize> {
        self.0.set_recv_buffer_size(MOST)?;
        Ok(self.0.recv_buffer_size()? / 2)
    }

    /// The most that `SO_SNDBUF` can ask for, in bytes: `net.core.wmem_max`.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn send(&self) -> io::Result<usize> {
        self.0.set_send_buffer_size(MOST)?;
        Ok(self.0.send_buffer_size()? / 2)
    }
}

/// The kernel doubles what it is asked for, in an `int` (`sock_setsockopt`, net/core/sock.c).
const MOST: usize = i32::MAX as usize / 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip;

    #[test]
    fn the_limits_are_those_that_proc_shows() {
        let limits = BufferLimits::new().unwrap();
        for (asked, name) in [(limits.receive(), "rmem_max"), (limits.send(), "wmem_max")] {
            let Ok(shown) = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")) else {
                skip!("/proc/sys/net/core/{name} cannot be read");
            };
            assert_eq!(
                asked.unwrap(),
                shown.trim().parse::<usize>().unwrap(),
                "{name}"
            );
        }
    }
}
