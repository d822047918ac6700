//! Datagrams in batches: one `recvmmsg` receives them, one `sendmmsg` answers them. Buffers are
//! allocated once, and a reply is sent from the memory that its request was received into.
#![expect(
    unsafe_code,
    reason = "recvmmsg and sendmmsg work on arrays of structures that point into each other"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "slot counts and structure sizes are small"
)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

#[cfg(not(all(test, miri)))]
use libc::recvmmsg;
use libc::{c_uint, iovec, mmsghdr, sockaddr_in6, socklen_t};

use super::Socket;
use super::outgoing::{Outgoing, Sent, Transmit};
use super::sys::cmsg::{CONTROL_BYTES, Control, ControlMessages, PacketInfo};
use super::sys::memory::Array;
use super::sys::msghdr::{NO_BYTES, NO_MESSAGE, NO_NAME, address};
#[cfg(all(test, miri))]
use super::sys::simulated::recvmmsg;

/// Whether a receive waits for the first datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Wait up to the socket's receive timeout.
    Block,
    /// Return at once.
    Poll,
}

/// The kernel's data about the content of a slot: one datagram, or a GRO batch (udp(7)) of
/// datagrams from one peer to one destination. Optional fields are `None` unless the socket asks the
/// kernel for the control message.
#[derive(Debug, Clone, Copy)]
pub struct RecvMeta {
    /// The source address. An IPv4 source on an IPv6 socket is an IPv4 address.
    pub peer: SocketAddr,
    /// The destination address and the incoming interface.
    pub info: Option<PacketInfo>,
    /// The kernel's receive timestamp, since 1970 (`SO_TIMESTAMPNS`).
    pub received_at: Option<Duration>,
    /// The TTL (IPv4) or hop limit (IPv6).
    pub ttl: Option<u8>,
    /// The TOS byte (IPv4) or traffic class (IPv6): DSCP and ECN (RFC 2474).
    pub traffic_class: Option<u8>,
    /// The length in bytes of the datagram or of the whole batch.
    pub length: usize,
    /// The length in bytes of each datagram of a batch except the last, which may be shorter. Equals
    /// `length` for a single datagram.
    pub segment: usize,
}

/// The slots of one batch.
#[derive(Debug)]
pub struct Batch {
    slots: usize,
    slot_bytes: usize,
    /// The distance between the starts of two slots, in bytes.
    stride: usize,
    payload: Array<u8>,
    names: Array<sockaddr_in6>,
    control: Array<Control<CONTROL_BYTES>>,
    incoming: Array<mmsghdr>,
    received: usize,
    outgoing: Outgoing,
    /// `incoming` points into these.
    _iovecs: Array<iovec>,
}

/// The most bytes of a GRO batch: the largest IP packet.
const GRO_BATCH_BYTES: usize = 1 << 16;

/// The fewest replies that fit in one `sendmmsg` call. Segments of GRO batches that are answered
/// one by one need more replies than there are slots.
const REPLIES: usize = 64;

/// An odd number of cache lines between slots. Without it, slots are a power of two apart, and the
/// first bytes of all slots compete for a few sets of the CPU caches.
const SPREAD_BYTES: usize = 17 * 64;

impl Batch {
    /// Allocates `slots` slots of `slot_bytes` bytes each for sockets with the options of `socket`.
    /// If the socket receives GRO batches, each slot holds a whole batch.
    pub fn new(slots: usize, slot_bytes: usize, socket: &Socket) -> Self {
        let (slot_bytes, stride) = if socket.receives_batches() {
            (GRO_BATCH_BYTES, GRO_BATCH_BYTES + SPREAD_BYTES)
        } else {
            (slot_bytes, slot_bytes)
        };
        let payload = Array::new(0, slots * stride);
        let names = Array::new(NO_NAME, slots);
        let control = Array::new(Control([0; CONTROL_BYTES]), slots);
        let iovecs = Array::new(NO_BYTES, slots);
        let incoming = Array::new(NO_MESSAGE, slots);
        for slot in 0..slots {
            iovecs.set(
                slot,
                iovec {
                    iov_base: payload.at(slot * stride).cast(),
                    iov_len: slot_bytes,
                },
            );
            let mut message = NO_MESSAGE;
            message.msg_hdr.msg_name = names.at(slot).cast();
            message.msg_hdr.msg_iov = iovecs.at(slot);
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = control.at(slot).cast();
            message.msg_hdr.msg_namelen = NAME_BYTES;
            message.msg_hdr.msg_controllen = CONTROL_BYTES;
            incoming.set(slot, message);
        }
        Self {
            slots,
            slot_bytes,
            stride,
            payload,
            names,
            control,
            incoming,
            received: 0,
            outgoing: Outgoing::new(slots.max(REPLIES), socket),
            _iovecs: iovecs,
        }
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Receives into up to `limit` slots, replacing their content. Returns the number of slots
    /// filled. A limit of one is faster if only one datagram waits.
    ///
    /// # Errors
    /// The errors of recvmmsg(2): `WouldBlock` if no datagram came in time, `Interrupted` on a signal.
    pub fn receive(&mut self, socket: &Socket, wait: Wait, limit: usize) -> io::Result<usize> {
        for slot in 0..self.received {
            // recvmmsg overwrote the lengths.
            let mut message = self.incoming.get(slot);
            message.msg_hdr.msg_namelen = NAME_BYTES;
            message.msg_hdr.msg_controllen = CONTROL_BYTES;
            message.msg_hdr.msg_flags = 0;
            self.incoming.set(slot, message);
        }
        self.received = 0;
        self.outgoing.clear();
        let wait = match wait {
            Wait::Block => libc::MSG_WAITFORONE,
            Wait::Poll => libc::MSG_DONTWAIT,
        };
        // SAFETY: every message points to a name, an iovec and control memory of the sizes it
        // says, in arrays that live as long as `self` and that nothing else refers to now.
        let count = unsafe {
            recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.incoming.at(0),
                limit.min(self.slots) as c_uint,
                // With MSG_TRUNC the kernel returns the real length of a truncated datagram
                // (recv(2)).
                wait | libc::MSG_TRUNC,
                ptr::null_mut(),
            )
        };
        self.received = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// The kernel's data about the content of a slot.
    ///
    /// # Panics
    /// If the last receive did not fill the slot.
    pub fn meta(&self, slot: usize) -> RecvMeta {
        let message = self.message(slot);
        let length = message.msg_len as usize;
        let parsed = match message.msg_hdr.msg_controllen {
            0 => ControlMessages::default(),
            length => {
                let Control(control) = self.control.get(slot);
                ControlMessages::parse(&control[..length.min(CONTROL_BYTES)])
            }
        };
        RecvMeta {
            peer: address(&self.names.get(slot)),
            info: parsed.info,
            received_at: parsed.received_at,
            ttl: parsed.ttl,
            traffic_class: parsed.traffic_class,
            length,
            segment: parsed.segment.map_or(length, |segment| segment.min(length)),
        }
    }

    /// The memory of a slot from `start` to its end: the received bytes, then unused ones.
    ///
    /// # Panics
    /// If the last receive did not fill the slot.
    pub fn memory(&mut self, slot: usize, start: usize) -> &mut [u8] {
        assert!(slot < self.received, "slot {slot} is empty");
        // A truncated datagram is longer than the slot.
        let start = start.min(self.slot_bytes);
        let length = self.slot_bytes - start;
        self.payload.slice_mut(slot * self.stride + start, length)
    }

    /// The received bytes of a slot, up to the size of the slot.
    ///
    /// # Panics
    /// If the last receive did not fill the slot.
    pub fn bytes(&self, slot: usize) -> &[u8] {
        let kept = self.slot_bytes.min(self.message(slot).msg_len as usize);
        self.payload.slice(slot * self.stride, kept)
    }

    /// Whether the reply queue is full.
    pub fn is_full(&self) -> bool {
        self.outgoing.is_full()
    }

    /// Whether GSO batches are sent (`UDP_SEGMENT`, udp(7)). A failed send can disable them.
    pub fn sends_batches(&self) -> bool {
        self.outgoing.sends_batches()
    }

    /// Queues bytes of a slot as a reply to its source. The reply leaves from the destination
    /// address in `info`.
    ///
    /// # Panics
    /// If the bytes are outside the slot, or if the reply queue is full.
    pub fn queue(&mut self, transmit: Transmit, info: Option<PacketInfo>) {
        let Transmit {
            slot,
            start,
            length,
            ..
        } = transmit;
        let message = self.message(slot);
        assert!(start + length <= self.slot_bytes, "reply exceeds its slot");
        let name = (self.names.at(slot), message.msg_hdr.msg_namelen);
        let base = if length == 0 {
            ptr::null_mut()
        } else {
            self.payload.at(slot * self.stride + start)
        };
        // A mapped IPv4 address is sent to by IPv4.
        let ipv6_peer = transmit.traffic_class.is_some() && self.meta(slot).peer.is_ipv6();
        self.outgoing.queue(transmit, name, ipv6_peer, info, base);
    }

    /// Whether replies are queued.
    pub fn has_replies(&self) -> bool {
        self.outgoing.has_any()
    }

    /// Sends queued replies in order and returns the result of the next one; `None` after the
    /// last. A failed reply does not stop the others. If a GSO batch fails, its datagrams are sent
    /// one by one, each with its own result.
    ///
    /// If the send buffer is full, the call waits for up to `time()`. Then replies fail without a
    /// wait, until all replies of a batch are sent without one.
    pub fn send_next(&mut self, socket: &Socket, time: impl FnMut() -> Duration) -> Option<Sent> {
        // SAFETY: replies point into names and payload, which live as long as `self` and are not
        // received into before the replies are cleared.
        unsafe { self.outgoing.send_next(socket, time) }
    }

    fn message(&self, slot: usize) -> mmsghdr {
        assert!(slot < self.received, "slot {slot} is empty");
        self.incoming.get(slot)
    }
}

const NAME_BYTES: socklen_t = size_of::<sockaddr_in6>() as socklen_t;
