//! Datagrams to one peer, several per system call.
#![expect(
    unsafe_code,
    reason = "sendmmsg works on arrays of structures that point into each other"
)]
#![expect(clippy::cast_possible_truncation, reason = "datagram counts are small")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_uint, iovec};

use crate::udp::sys::msghdr::{NO_BYTES, NO_MESSAGE};

/// The most datagrams per call.
const MAX_DATAGRAMS: usize = 64;

/// Sends up to [`MAX_DATAGRAMS`] datagrams of `size` bytes each from `bytes` over a connected
/// socket. Returns the number sent before the first failure, or the error of the first datagram.
pub(in crate::udp) fn each(socket: impl AsFd, bytes: &[u8], size: usize) -> io::Result<usize> {
    let mut iovecs = [NO_BYTES; MAX_DATAGRAMS];
    let mut messages = [NO_MESSAGE; MAX_DATAGRAMS];
    let mut count = 0;
    for datagram in bytes.chunks_exact(size).take(MAX_DATAGRAMS) {
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
    // SAFETY: each of the first `count` messages points to an iovec, and the iovec to bytes of its
    // length. All of them outlive the call; the kernel only reads the bytes.
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
