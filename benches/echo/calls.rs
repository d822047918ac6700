//! `recvmmsg` and `sendmmsg` like in a C program: memory is set up once, and each call does little.
//! The load generator and the plain loops use it.
#![expect(
    unsafe_code,
    reason = "system calls that work on structures that point into each other"
)]

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

use libc::{c_int, c_uint, cmsghdr, iovec, mmsghdr, sockaddr_in};

/// The most messages per call.
pub const SLOTS: usize = 64;

/// Enables GRO (udp(7)).
pub fn set_gro(socket: &UdpSocket) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Sets the receive buffer, above the system's limit if this process may.
pub fn set_receive_buffer(socket: &UdpSocket, bytes: c_int) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes))
}

fn set_option(socket: &UdpSocket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    let value = ptr::from_ref(&value).cast();
    // SAFETY: the value is an int that lives through the call, and the length is an int's.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, length) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The control message of a message to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// No control message.
    Nothing,
    /// Segment size in bytes (`UDP_SEGMENT`, udp(7)).
    Segments(u16),
    /// Source address (`IP_PKTINFO`, ip(7)).
    From(Ipv4Addr),
}

/// Memory for [`SLOTS`] messages. It is never freed: a program allocates only a few.
///
/// All memory that the kernel writes is in cells, because this program and the kernel both have
/// pointers to it.
pub struct Messages {
    slot_bytes: usize,
    bytes: &'static [Cell<u8>],
    names: &'static [Cell<sockaddr_in>],
    controls: &'static [Cell<Control>],
    iovecs: &'static [Cell<iovec>],
    received: &'static [Cell<mmsghdr>],
    queued: &'static [Cell<mmsghdr>],
    receives: usize,
    queues: usize,
}

/// A control message, large enough for `in_pktinfo`, the longest in use.
#[derive(Clone, Copy)]
#[repr(C)]
struct Control {
    header: cmsghdr,
    data: [u32; 4],
}

/// `CMSG_LEN(0)` (cmsg(3)).
const CONTROL_HEADER: usize = size_of::<cmsghdr>();
/// `sizeof(struct in_pktinfo)`.
const PKTINFO: usize = size_of::<libc::in_pktinfo>();

fn memory<T: Copy>(value: T, length: usize) -> &'static [Cell<T>] {
    Cell::from_mut(Box::leak(vec![value; length].into_boxed_slice())).as_slice_of_cells()
}

impl Messages {
    /// Allocates memory for messages of up to `slot_bytes` bytes each.
    pub fn new(slot_bytes: usize) -> Self {
        // SAFETY: plain data, for which zeros and null pointers are valid.
        let (header, name, control) = unsafe { std::mem::zeroed() };
        let nowhere = iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        let messages = Self {
            slot_bytes,
            bytes: memory(0, SLOTS * slot_bytes),
            names: memory(name, SLOTS),
            controls: memory(control, SLOTS),
            iovecs: memory(nowhere, SLOTS),
            received: memory(header, SLOTS),
            queued: memory(header, SLOTS),
            // The first receive sets up all slots.
            receives: SLOTS,
            queues: 0,
        };
        for slot in 0..SLOTS {
            messages.iovecs[slot].set(iovec {
                iov_base: messages.bytes[slot * slot_bytes..]
                    .as_ptr()
                    .cast_mut()
                    .cast(),
                iov_len: slot_bytes,
            });
            let mut message = messages.received[slot].get();
            message.msg_hdr.msg_name = messages.names[slot].as_ptr().cast();
            message.msg_hdr.msg_iov = messages.iovecs[slot].as_ptr();
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = messages.controls[slot].as_ptr().cast();
            messages.received[slot].set(message);
        }
        messages
    }

    /// Receives up to [`SLOTS`] messages, replacing the previous ones. Returns their number.
    pub fn receive(&mut self, socket: &UdpSocket, flags: c_int) -> io::Result<usize> {
        for slot in 0..self.receives {
            // recvmmsg overwrote the lengths, and `queue` the length of the bytes.
            let mut message = self.received[slot].get();
            message.msg_hdr.msg_namelen = size_of::<sockaddr_in>() as _;
            message.msg_hdr.msg_controllen = size_of::<Control>();
            self.received[slot].set(message);
            self.set_length(slot, self.slot_bytes);
        }
        (self.receives, self.queues) = (0, 0);
        // SAFETY: the headers point to names, control memory and iovecs of the sizes they say,
        // and the iovecs to bytes, all in cells that are never freed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.received.as_ptr().cast::<mmsghdr>().cast_mut(),
                SLOTS as c_uint,
                flags,
                ptr::null_mut(),
            )
        };
        self.receives = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.receives)
    }

    /// The length of the message received in a slot, in bytes.
    pub fn length(&self, slot: usize) -> usize {
        self.received[slot].get().msg_len as usize
    }

    /// The segment size of the GRO batch in a slot, in bytes.
    pub fn segment(&self, slot: usize) -> Option<u16> {
        if self.received[slot].get().msg_hdr.msg_controllen == 0 {
            return None;
        }
        let Control { header, data } = self.controls[slot].get();
        let is_gro = (header.cmsg_level, header.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO);
        is_gro.then_some(data[0] as u16)
    }

    /// Reads `COUNT` bytes of a slot.
    pub fn bytes<const COUNT: usize>(&self, slot: usize, at: usize) -> [u8; COUNT] {
        let bytes = &self.bytes[slot * self.slot_bytes + at..][..COUNT];
        std::array::from_fn(|index| bytes[index].get())
    }

    /// Writes bytes into a slot.
    pub fn write(&self, slot: usize, at: usize, bytes: &[u8]) {
        let to = &self.bytes[slot * self.slot_bytes + at..][..bytes.len()];
        for (to, byte) in to.iter().zip(bytes) {
            to.set(*byte);
        }
    }

    /// Sets the destination of the message in a slot.
    pub fn address_to(&self, slot: usize, to: SocketAddrV4) {
        let mut name = self.names[slot].get();
        name.sin_family = libc::AF_INET as libc::sa_family_t;
        name.sin_port = to.port().to_be();
        name.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
        self.names[slot].set(name);
    }

    /// Queues the first `length` bytes of a slot. The destination is the peer of a connected
    /// socket, else the address in the slot: the source of the message that was received into it,
    /// or that of [`Self::address_to`].
    pub fn queue(&mut self, slot: usize, length: usize, connected: bool, extra: Extra) {
        let mut message = self.received[slot].get();
        let named = if connected {
            0
        } else {
            size_of::<sockaddr_in>()
        };
        message.msg_hdr.msg_namelen = named as _;
        message.msg_hdr.msg_controllen = self.set_extra(slot, extra);
        self.set_length(slot, length);
        self.queued[self.queues].set(message);
        self.queues += 1;
    }

    /// Sends the queued messages. Returns their number.
    pub fn send(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut sent = 0;
        while sent < self.queues {
            let first = self.queued[sent..].as_ptr().cast::<mmsghdr>().cast_mut();
            let count = (self.queues - sent) as c_uint;
            // SAFETY: as in `receive`, for the headers that were queued.
            let count = unsafe { libc::sendmmsg(socket.as_raw_fd(), first, count, 0) };
            sent += usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        }
        self.queues = 0;
        Ok(sent)
    }

    fn set_length(&self, slot: usize, length: usize) {
        let mut bytes = self.iovecs[slot].get();
        bytes.iov_len = length;
        self.iovecs[slot].set(bytes);
    }

    /// Writes the control message. Returns its size with padding.
    fn set_extra(&self, slot: usize, extra: Extra) -> usize {
        let mut control = self.controls[slot].get();
        let (kind, length) = match extra {
            Extra::Nothing => return 0,
            Extra::Segments(bytes) => {
                let [low, high] = bytes.to_ne_bytes();
                control.data[0] = u32::from_ne_bytes([low, high, 0, 0]);
                ((libc::SOL_UDP, libc::UDP_SEGMENT), size_of::<u16>())
            }
            Extra::From(address) => {
                // Interface, source address, and an address that only a receiver gets.
                let from = u32::from_ne_bytes(address.octets());
                control.data = [0, from, 0, 0];
                ((libc::IPPROTO_IP, libc::IP_PKTINFO), PKTINFO)
            }
        };
        (control.header.cmsg_level, control.header.cmsg_type) = kind;
        control.header.cmsg_len = CONTROL_HEADER + length;
        self.controls[slot].set(control);
        CONTROL_HEADER + length.next_multiple_of(size_of::<usize>())
    }
}
