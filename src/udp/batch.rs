//! Datagrams in batches: received by one `recvmmsg`, answered by one `sendmmsg`, out of buffers
//! that are allocated once. A reply is sent from the very memory its request was received into.
#![expect(
    unsafe_code,
    reason = "recvmmsg and sendmmsg work on arrays of structures that point into each other"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of slots and sizes of structures are small"
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

/// Whether to wait for the first datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Wait, for as long as the socket's receive timeout.
    Block,
    /// Take what is there.
    Poll,
}

/// What the kernel says of a slot's content: a datagram, or a GRO batch of them from one peer to one
/// destination, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct RecvMeta {
    /// Its source. An IPv4 address is one also on an IPv6 socket.
    pub peer: SocketAddr,
    /// Where it was sent to, if the socket tells.
    pub info: Option<PacketInfo>,
    /// When the kernel received it, since 1970, if the socket tells.
    pub received_at: Option<Duration>,
    /// The TTL or hop limit it came with, if the socket tells.
    pub ttl: Option<u8>,
    /// The TOS byte or traffic class it came with (DSCP and ECN, RFC 2474), if the socket tells.
    pub traffic_class: Option<u8>,
    /// Its own length in bytes, or that of the whole batch.
    pub length: usize,
    /// The length of each datagram of a batch but the last, which may be shorter; else `length`.
    pub segment: usize,
}

/// The slots of one batch.
#[derive(Debug)]
pub struct Batch {
    slots: usize,
    slot_bytes: usize,
    /// From the start of one slot to that of the next, in bytes.
    stride: usize,
    payload: Array<u8>,
    names: Array<sockaddr_in6>,
    control: Array<Control<CONTROL_BYTES>>,
    incoming: Array<mmsghdr>,
    received: usize,
    outgoing: Outgoing,
    /// What `recvmmsg` points into, never read here.
    _iovecs: Array<iovec>,
}

/// What a burst has at most, in bytes: what is above makes no IP packet.
const BURST_BYTES: usize = 1 << 16;

/// How many replies one call sends: of bursts that are answered one by one there are more than
/// slots.
const REPLIES: usize = 64;

/// With slots a power of two apart the first bytes of all of them, which is all that most
/// datagrams have, would share a few sets of the processor's caches: an odd number of cache lines
/// more spreads them.
const SPREAD_BYTES: usize = 17 * 64;

impl Batch {
    /// Room for `slots` datagrams, each kept up to `slot_bytes` bytes, of sockets like `socket`.
    /// For a socket that gets bursts, a slot has room for a whole one.
    pub fn new(slots: usize, slot_bytes: usize, socket: &Socket) -> Self {
        let (slot_bytes, stride) = if socket.receives_batches() {
            (BURST_BYTES, BURST_BYTES + SPREAD_BYTES)
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

    /// How many datagrams or bursts a batch can have.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Receives up to `most` datagrams, in place of those before. Returns how many slots they
    /// take. To ask for one alone is faster where no second waits.
    ///
    /// # Errors
    /// What `recvmmsg` gives: `WouldBlock` when none came in time, `Interrupted` on a signal.
    pub fn receive(&mut self, socket: &Socket, wait: Wait, most: usize) -> io::Result<usize> {
        for slot in 0..self.received {
            // The kernel wrote what it used of each.
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
                most.min(self.slots) as c_uint,
                // As a flag given, MSG_TRUNC asks for a datagram's own length (recv(2)).
                wait | libc::MSG_TRUNC,
                ptr::null_mut(),
            )
        };
        self.received = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// What is known of a slot's content, of those last received.
    ///
    /// # Panics
    /// When there is nothing.
    pub fn meta(&self, slot: usize) -> RecvMeta {
        let message = self.message(slot);
        let length = message.msg_len as usize;
        let said = match message.msg_hdr.msg_controllen {
            0 => ControlMessages::default(),
            length => {
                let Control(control) = self.control.get(slot);
                ControlMessages::parse(&control[..length.min(CONTROL_BYTES)])
            }
        };
        RecvMeta {
            peer: address(&self.names.get(slot)),
            info: said.info,
            received_at: said.received_at,
            ttl: said.ttl,
            traffic_class: said.traffic_class,
            length,
            segment: said.segment.map_or(length, |segment| segment.min(length)),
        }
    }

    /// The memory of a slot from an offset on: what was kept of its content, then what is free.
    ///
    /// # Panics
    /// When there is nothing in the slot, and when it ends before the offset.
    pub fn memory(&mut self, slot: usize, start: usize) -> &mut [u8] {
        assert!(slot < self.received, "nothing in slot {slot}");
        // What was cut off has no place in it.
        let start = start.min(self.slot_bytes);
        let length = self.slot_bytes - start;
        self.payload.slice_mut(slot * self.stride + start, length)
    }

    /// What was kept of a slot's content.
    ///
    /// # Panics
    /// When there is nothing in the slot.
    pub fn bytes(&self, slot: usize) -> &[u8] {
        let kept = self.slot_bytes.min(self.message(slot).msg_len as usize);
        self.payload.slice(slot * self.stride, kept)
    }

    /// Whether replies have to be sent before one can be queued.
    pub fn is_full(&self) -> bool {
        self.outgoing.is_full()
    }

    /// Whether several datagrams can be sent as one (UDP GSO). The kernel may show that it cannot
    /// at any send.
    pub fn sends_batches(&self) -> bool {
        self.outgoing.sends_batches()
    }

    /// Queues bytes of a slot's memory as a reply to its source, from the address it was sent to
    /// as `info` says.
    ///
    /// # Panics
    /// When the slot does not hold them all, and when the batch is full.
    pub fn queue(&mut self, transmit: Transmit, info: Option<PacketInfo>) {
        let Transmit {
            slot,
            start,
            length,
            ..
        } = transmit;
        let message = self.message(slot);
        assert!(start + length <= self.slot_bytes, "more than a slot holds");
        let name = (self.names.at(slot), message.msg_hdr.msg_namelen);
        let base = if length == 0 {
            ptr::null_mut()
        } else {
            self.payload.at(slot * self.stride + start)
        };
        self.outgoing.queue(transmit, name, info, base);
    }

    /// Whether replies wait to be sent.
    pub fn has_replies(&self) -> bool {
        self.outgoing.has_any()
    }

    /// Sends queued replies, in order, and says what became of the next one; `None` when all have
    /// been tried. One that fails does not hold up the others. A GSO batch that the kernel does
    /// not send as one is sent datagram by datagram, and each is told of.
    ///
    /// A full send buffer is waited for as long as there is `time`, which is asked for again each
    /// time: after that, replies that would have to wait fail, until all of a call can be sent
    /// again.
    pub fn send_next(&mut self, socket: &Socket, time: impl FnMut() -> Duration) -> Option<Sent> {
        // SAFETY: replies point into names and payload, which live as long as `self` and are not
        // received into before the replies are cleared.
        unsafe { self.outgoing.send_next(socket, time) }
    }

    fn message(&self, slot: usize) -> mmsghdr {
        assert!(slot < self.received, "nothing in slot {slot}");
        self.incoming.get(slot)
    }
}

const NAME_BYTES: socklen_t = size_of::<sockaddr_in6>() as socklen_t;
