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
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

#[cfg(not(all(test, miri)))]
use libc::recvmmsg;
use libc::{c_int, c_uint, iovec, mmsghdr, sockaddr_in, sockaddr_in6, socklen_t};

use super::Socket;
use super::array::Array;
use super::control::{CONTROL_BYTES, PacketInfo, Told};
use super::replies::{Pieces, Replies, Sent};
#[cfg(all(test, miri))]
use super::simulated::recvmmsg;

/// Whether to wait for the first datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Wait, for as long as the socket's receive timeout.
    Block,
    /// Take what is there.
    Poll,
}

/// What a slot holds: a datagram that was received, or a burst of them from one peer to one
/// destination, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Its source. An IPv4 address is one also on an IPv6 socket.
    pub peer: SocketAddr,
    /// Where it was sent to, if the socket tells.
    pub info: Option<PacketInfo>,
    /// When the kernel received it, since 1970, if the socket tells.
    pub received_at: Option<Duration>,
    /// Its own length in bytes, or that of the whole burst.
    pub length: usize,
    /// The length of each datagram of a burst but the last, which may be shorter; else `length`.
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
    replies: Replies,
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
        let (slot_bytes, stride) = if socket.gets_bursts() {
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
            replies: Replies::new(slots.max(REPLIES), socket),
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
        self.replies.clear();
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

    /// What is in a slot, of those last received.
    ///
    /// # Panics
    /// When there is nothing.
    pub fn received(&self, slot: usize) -> Received {
        let message = self.message(slot);
        let length = message.msg_len as usize;
        let told = match message.msg_hdr.msg_controllen {
            0 => Told::default(),
            length => {
                let Control(control) = self.control.get(slot);
                Told::parse(&control[..length.min(CONTROL_BYTES)])
            }
        };
        Received {
            peer: address(&self.names.get(slot)),
            info: told.info,
            received_at: told.received_at,
            length,
            segment: told.segment.map_or(length, |segment| segment.min(length)),
        }
    }

    /// Of some bytes of what is in a slot, those that were kept.
    ///
    /// # Panics
    /// When there is nothing in the slot.
    pub fn bytes(&self, slot: usize, Range { start, end }: Range<usize>) -> &[u8] {
        let kept = self.slot_bytes.min(self.message(slot).msg_len as usize);
        let (start, end) = (start.min(kept), end.min(kept));
        let length = end.saturating_sub(start);
        self.payload.slice(slot * self.stride + start, length)
    }

    /// Whether replies have to be sent before one can be queued.
    pub fn is_full(&self) -> bool {
        self.replies.is_full()
    }

    /// Whether a burst can be sent as one. The kernel may show that it cannot at any send.
    pub fn sends_bursts(&self) -> bool {
        self.replies.sends_bursts()
    }

    /// Queues bytes of what is in a slot as replies to its source, from the address it was sent
    /// to as `info` says. More than one of them are sent as a burst, all or none.
    ///
    /// # Panics
    /// When the slot does not hold them all, and when the batch is full.
    pub fn reply(&mut self, slot: usize, pieces: Pieces, info: Option<PacketInfo>) {
        let message = self.message(slot);
        let kept = self.slot_bytes.min(message.msg_len as usize);
        assert!(pieces.end <= kept, "more than a slot holds");
        let name = (self.names.at(slot), message.msg_hdr.msg_namelen);
        let start = slot * self.stride;
        let at = |offset| self.payload.at(start + offset);
        self.replies.queue(slot, pieces, name, info, at);
    }

    /// Whether replies wait to be sent.
    pub fn has_replies(&self) -> bool {
        self.replies.has_any()
    }

    /// Sends the queued replies, in order, and tells what became of each. One that fails does
    /// not hold up the others. A full send buffer is waited for as long as there is `time`, which
    /// is asked for again each time: after that, replies that would have to wait fail, until all
    /// of a call can be sent again.
    pub fn send(
        &mut self,
        socket: &Socket,
        mut time: impl FnMut() -> Duration,
        mut each: impl FnMut(&Self, Sent),
    ) {
        let mut next = 0;
        while next < self.replies.count() {
            match self.send_some(socket, next..self.replies.count(), &mut time) {
                Ok(count) => {
                    for reply in next..next + count {
                        each(self, self.replies.outcome(reply, Ok(())));
                    }
                    next += count;
                }
                Err(error) => {
                    let pieces = self.replies.outcome(next, Ok(())).pieces;
                    if pieces.count() > 1 && !pieces.all_or_none {
                        self.send_one_by_one(socket, next, &mut time, &mut each);
                    } else {
                        each(self, self.replies.outcome(next, Err(error)));
                    }
                    next += 1;
                }
            }
        }
        self.replies.finish();
    }

    /// Sends the datagrams of a reply that are not sent as a burst.
    fn send_one_by_one(
        &mut self,
        socket: &Socket,
        reply: usize,
        time: &mut impl FnMut() -> Duration,
        each: &mut impl FnMut(&Self, Sent),
    ) {
        let Sent { slot, pieces, .. } = self.replies.outcome(reply, Ok(()));
        for index in 0..pieces.count() {
            let piece = pieces.piece(index);
            let one = Pieces::one(piece.start, piece.len());
            let start = slot * self.stride;
            let at = |offset| self.payload.at(start + offset);
            self.replies.narrow(reply, one, at);
            let result = loop {
                match self.send_some(socket, reply..reply + 1, &mut *time) {
                    Ok(0) => {}
                    done => break done.map(drop),
                }
            };
            each(self, self.replies.outcome(reply, result));
        }
    }

    fn send_some(
        &mut self,
        socket: &Socket,
        replies: Range<usize>,
        time: impl FnOnce() -> Duration,
    ) -> io::Result<usize> {
        // SAFETY: replies point into names and payload, which live as long as `self` and are not
        // received into before the replies are cleared.
        unsafe { self.replies.send(socket, replies, time) }
    }

    fn message(&self, slot: usize) -> mmsghdr {
        assert!(slot < self.received, "nothing in slot {slot}");
        self.incoming.get(slot)
    }
}

/// Control memory, aligned as its headers must be.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control<const BYTES: usize>(pub(super) [u8; BYTES]);

const NAME_BYTES: socklen_t = size_of::<sockaddr_in6>() as socklen_t;
const NO_NAME: sockaddr_in6 = sockaddr_in6 {
    sin6_family: 0,
    sin6_port: 0,
    sin6_flowinfo: 0,
    sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
    sin6_scope_id: 0,
};
pub(super) const NO_BYTES: iovec = iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};
// SAFETY: null pointers and zeros are a valid message header.
pub(super) const NO_MESSAGE: mmsghdr = unsafe { std::mem::zeroed() };

// Both kinds of socket address begin with the family and the port, and where the one has the
// IPv4 address the other has the flow label: so the larger can hold and show either.
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(sockaddr_in, sin_port) == offset_of!(sockaddr_in6, sin6_port));
    assert!(offset_of!(sockaddr_in, sin_addr) == offset_of!(sockaddr_in6, sin6_flowinfo));
};

/// The address that the kernel wrote, with an IPv4 one as itself.
fn address(name: &sockaddr_in6) -> SocketAddr {
    let port = u16::from_be(name.sin6_port);
    if c_int::from(name.sin6_family) == libc::AF_INET {
        return (Ipv4Addr::from(name.sin6_flowinfo.to_ne_bytes()), port).into();
    }
    let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
    match address.to_ipv4_mapped() {
        Some(v4) => (v4, port).into(),
        None => SocketAddrV6::new(address, port, 0, name.sin6_scope_id).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reading_an_address_is_total_and_shows_no_ipv4_as_ipv6(
            family in prop_oneof![
                Just(libc::AF_INET as libc::sa_family_t),
                Just(libc::AF_INET6 as libc::sa_family_t),
                any::<libc::sa_family_t>()
            ],
            mapped in any::<bool>(), port: u16, flow: u32, scope: u32, mut bytes: [u8; 16],
        ) {
            if mapped {
                bytes[..12].copy_from_slice(b"\0\0\0\0\0\0\0\0\0\0\xff\xff");
            }
            let name = sockaddr_in6 {
                sin6_family: family,
                sin6_port: port.to_be(),
                sin6_flowinfo: flow,
                sin6_addr: libc::in6_addr { s6_addr: bytes },
                sin6_scope_id: scope,
            };
            let address = address(&name);
            prop_assert_eq!(address.port(), port);
            prop_assert_eq!(address.ip(), address.ip().to_canonical());
            prop_assert_eq!(address.is_ipv4(), mapped || c_int::from(family) == libc::AF_INET);
        }
    }

    #[test]
    fn addresses_of_both_families_are_read_from_one_structure() {
        let mut name = NO_NAME;
        name.sin6_port = 9999_u16.to_be();
        name.sin6_family = libc::AF_INET as libc::sa_family_t;
        name.sin6_flowinfo = u32::from_ne_bytes([127, 0, 0, 2]);
        assert_eq!(address(&name), "127.0.0.2:9999".parse().unwrap());
        name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        name.sin6_flowinfo = 12345;
        name.sin6_addr.s6_addr = "fe80::1".parse::<Ipv6Addr>().unwrap().octets();
        name.sin6_scope_id = 3;
        assert_eq!(address(&name), "[fe80::1%3]:9999".parse().unwrap());
        name.sin6_addr.s6_addr = "::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(address(&name), "10.0.0.1:9999".parse().unwrap());
        assert_eq!(offset_of!(sockaddr_in, sin_family), 0);
    }
}
