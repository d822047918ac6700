//! Datagrams to one peer, many a call.
#![expect(
    unsafe_code,
    reason = "sendmmsg works on arrays of structures that point into each other"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of datagrams are small"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_uint, iovec};

use crate::udp::sys::msghdr::{NO_BYTES, NO_MESSAGE};

/// The most datagrams of one call.
const MOST: usize = 64;

/// Sends datagrams of `size` bytes each, up to [`MOST`] of those in `bytes`, over a connected
/// socket. Returns how many were sent, up to the first that failed, or why that one did if it was
/// the first of all.
pub(in crate::udp) fn each(socket: impl AsFd, bytes: &[u8], size: usize) -> io::Result<usize> {
    let mut iovecs = [NO_BYTES; MOST];
    let mut messages = [NO_MESSAGE; MOST];
    let mut count = 0;
    for datagram in bytes.chunks_exact(size).take(MOST) {
        iovecs[count] = iovec {
            iov_base: datagram.as_ptr().cast_mut().cast(),
            iov_len: size,
        };
        count += 1;
    }
    for (message, iovec) in messages[..count].iter_mut().zip(&mut iovecs) {
        message.msg_hdr.msg_iov = iovec;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: each of the first `count` messages points to an iovec, and that to bytes of the
    // length it says, all of which outlive the call; the kernel only reads what is to be sent.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_fd().as_raw_fd(),
            messages.as_mut_ptr(),
            count as c_uint,
            0,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
