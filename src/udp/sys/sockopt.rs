//! Socket options that socket2 does not support.
#![expect(
    unsafe_code,
    reason = "setsockopt and getsockopt take pointers; socket2 does not support these options"
)]
#![expect(clippy::cast_possible_truncation, reason = "option sizes are small")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void, socklen_t};

/// Sets an option with an `int` value (socket(7), ip(7), ipv6(7), udp(7)).
pub(in crate::udp) fn set(
    socket: impl AsFd,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    let size = size_of::<c_int>() as socklen_t;
    // SAFETY: the descriptor is borrowed, so open; `value` outlives the call and has `size` bytes.
    let status = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<c_void>(),
            size,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads an option with an `int` value.
pub(in crate::udp) fn get(socket: impl AsFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut size = size_of::<c_int>() as socklen_t;
    // SAFETY: the descriptor is borrowed, so open; the kernel writes at most `size` bytes, which
    // is the size of `value`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast::<c_void>(),
            &raw mut size,
        )
    };
    if status == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The kernel's memory use and drop counter of a socket (`SO_MEMINFO`,
/// `include/uapi/linux/sock_diag.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::udp) struct MemInfo {
    /// The memory of the datagrams in the receive queue, in bytes.
    pub(in crate::udp) receive_queue: u32,
    /// The datagrams dropped since the socket was opened. The counter wraps.
    pub(in crate::udp) drops: u32,
}

/// Reads `SO_MEMINFO`.
pub(in crate::udp) fn meminfo(socket: impl AsFd) -> io::Result<MemInfo> {
    /// `SK_MEMINFO_VARS` since Linux 4.12, the first with the option.
    const VARS: usize = 9;
    const RMEM_ALLOC: usize = 0;
    const DROPS: usize = 8;
    let mut values = MaybeUninit::<[u32; VARS]>::zeroed();
    let mut size = size_of_val(&values) as socklen_t;
    // SAFETY: the descriptor is borrowed, so open; the kernel writes at most `size` bytes,
    // which is the size of `values`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast::<c_void>(),
            &raw mut size,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed above, and any bytes are a valid u32.
    let values = unsafe { values.assume_init() };
    Ok(MemInfo {
        receive_queue: values[RMEM_ALLOC],
        drops: values[DROPS],
    })
}
