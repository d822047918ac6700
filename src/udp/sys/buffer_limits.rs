//! The system limits on socket buffers.

use std::io;

use socket2::{Domain, Socket, Type};

/// Reads the limits that `net.core.rmem_max` and `net.core.wmem_max` set.
///
/// A sandbox can hide both files (systemd.exec(5): `ProcSubset=pid`, `PrivateNetwork=`). The limits
/// apply to sockets of every family, so this requests the largest buffers for a UNIX socket and
/// reads back the granted sizes. The socket stays open, so that later reads need no descriptor.
#[derive(Debug)]
pub(crate) struct BufferLimits(Socket);

impl BufferLimits {
    /// The limits on receive and on send buffers, in the order of every pair of buffers.
    pub(crate) const BOTH: [fn(&Self) -> io::Result<usize>; 2] = [Self::receive, Self::send];

    /// Opens the UNIX socket.
    ///
    /// # Errors
    /// The errors of socket(2).
    pub(crate) fn new() -> io::Result<Self> {
        Socket::new(Domain::UNIX, Type::DGRAM, None).map(Self)
    }

    /// The largest size that `SO_RCVBUF` can request, in bytes: `net.core.rmem_max`.
    ///
    /// # Errors
    /// The errors of setsockopt(2) and getsockopt(2).
    fn receive(&self) -> io::Result<usize> {
        self.0.set_recv_buffer_size(MAX_REQUEST)?;
        Ok(self.0.recv_buffer_size()? / 2)
    }

    /// The largest size that `SO_SNDBUF` can request, in bytes: `net.core.wmem_max`.
    ///
    /// # Errors
    /// The errors of setsockopt(2) and getsockopt(2).
    fn send(&self) -> io::Result<usize> {
        self.0.set_send_buffer_size(MAX_REQUEST)?;
        Ok(self.0.send_buffer_size()? / 2)
    }
}

/// The kernel doubles the requested size in an `int` (`sock_setsockopt`, net/core/sock.c).
const MAX_REQUEST: usize = i32::MAX as usize / 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip;

    #[test]
    fn buffer_limits_match_proc() {
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

    /// Where the two limits are equal, only the other buffer shows which one was read.
    #[test]
    fn each_limit_is_read_from_its_own_buffer() {
        let limits = BufferLimits::new().unwrap();
        let sizes = || {
            let socket = &limits.0;
            [socket.recv_buffer_size(), socket.send_buffer_size()].map(Result::unwrap)
        };
        let shrink = || {
            limits.0.set_recv_buffer_size(1).unwrap();
            limits.0.set_send_buffer_size(1).unwrap();
            sizes()
        };
        for (buffer, limit) in BufferLimits::BOTH.into_iter().enumerate() {
            let mut expected = shrink();
            expected[buffer] = 2 * limit(&limits).unwrap();
            assert_eq!(sizes(), expected);
        }
    }
}
