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
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_uint, c_void, iovec, mmsghdr, sockaddr_in, sockaddr_in6, socklen_t};

use super::Socket;
use super::array::Array;
use super::control::{CONTROL_BYTES, PacketInfo, REPLY_BYTES, Told};

/// Whether to wait for the first datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Wait, for as long as the socket's receive timeout.
    Block,
    /// Take what is there.
    Poll,
}

/// A datagram that was received.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Its source. An IPv4 address is one also on an IPv6 socket.
    pub peer: SocketAddr,
    /// Where it was sent to, if the socket tells.
    pub info: Option<PacketInfo>,
    /// When the kernel received it, since 1970, if the socket tells.
    pub received_at: Option<Duration>,
    /// Its own length in bytes.
    pub length: usize,
    /// As much of it as a slot holds.
    pub bytes: &'a [u8],
}

/// What became of one reply.
#[derive(Debug)]
pub struct Sent {
    /// The slot it came from.
    pub slot: usize,
    /// Its length in bytes.
    pub length: usize,
    /// Sent, or why not.
    pub result: io::Result<()>,
}

/// The slots of one batch.
#[derive(Debug)]
pub struct Batch {
    slots: usize,
    slot_bytes: usize,
    payload: Array<u8>,
    names: Array<sockaddr_in6>,
    control: Array<Control<CONTROL_BYTES>>,
    incoming: Array<mmsghdr>,
    reply_control: Array<Control<REPLY_BYTES>>,
    reply_iovecs: Array<iovec>,
    outgoing: Array<mmsghdr>,
    /// The slot of each reply in `outgoing`.
    reply_slots: Box<[usize]>,
    ipv6: bool,
    /// Whether a full send buffer is waited for.
    patient: bool,
    received: usize,
    queued: usize,
    /// What `recvmmsg` points into, never read here.
    _iovecs: Array<iovec>,
}

impl Batch {
    /// Room for `slots` datagrams, each kept up to `slot_bytes` bytes, of sockets like `socket`.
    pub fn new(slots: usize, slot_bytes: usize, socket: &Socket) -> Self {
        let payload = Array::new(0, slots * slot_bytes);
        let names = Array::new(NO_NAME, slots);
        let control = Array::new(Control([0; CONTROL_BYTES]), slots);
        let iovecs = Array::new(NO_BYTES, slots);
        let incoming = Array::new(NO_MESSAGE, slots);
        let outgoing = Array::new(NO_MESSAGE, slots);
        let reply_control = Array::new(Control([0; REPLY_BYTES]), slots);
        let reply_iovecs = Array::new(NO_BYTES, slots);
        for slot in 0..slots {
            iovecs.set(
                slot,
                iovec {
                    iov_base: payload.at(slot * slot_bytes).cast(),
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
            let mut message = NO_MESSAGE;
            message.msg_hdr.msg_iov = reply_iovecs.at(slot);
            message.msg_hdr.msg_iovlen = 1;
            outgoing.set(slot, message);
        }
        Self {
            slots,
            slot_bytes,
            payload,
            names,
            control,
            incoming,
            reply_control,
            reply_iovecs,
            outgoing,
            reply_slots: vec![0; slots].into_boxed_slice(),
            ipv6: socket.address().is_ipv6(),
            patient: true,
            received: 0,
            queued: 0,
            _iovecs: iovecs,
        }
    }

    /// How many datagrams a batch can have.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Receives up to a batch of datagrams, in place of those before. Returns how many.
    ///
    /// # Errors
    /// What `recvmmsg` gives: `WouldBlock` when none came in time, `Interrupted` on a signal.
    pub fn receive(&mut self, socket: &Socket, wait: Wait) -> io::Result<usize> {
        for slot in 0..self.received {
            // The kernel wrote what it used of each.
            let mut message = self.incoming.get(slot);
            message.msg_hdr.msg_namelen = NAME_BYTES;
            message.msg_hdr.msg_controllen = CONTROL_BYTES;
            message.msg_hdr.msg_flags = 0;
            self.incoming.set(slot, message);
        }
        self.received = 0;
        self.queued = 0;
        let wait = match wait {
            Wait::Block => libc::MSG_WAITFORONE,
            Wait::Poll => libc::MSG_DONTWAIT,
        };
        // SAFETY: every message points to a name, an iovec and control memory of the sizes it
        // says, in arrays that live as long as `self` and that nothing else refers to now.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.incoming.at(0),
                self.slots as c_uint,
                // As a flag given, MSG_TRUNC asks for a datagram's own length (recv(2)).
                wait | libc::MSG_TRUNC,
                ptr::null_mut(),
            )
        };
        self.received = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// The datagram in a slot, of those last received.
    ///
    /// # Panics
    /// When there is none.
    pub fn received(&self, slot: usize) -> Received<'_> {
        assert!(slot < self.received, "no datagram in slot {slot}");
        let message = self.incoming.get(slot);
        let length = message.msg_len as usize;
        let kept = length.min(self.slot_bytes);
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
            bytes: self.payload.slice(slot * self.slot_bytes, kept),
        }
    }

    /// Queues the first `length` bytes of the datagram in a slot as a reply to its source, from
    /// the address it was sent to as `info` says. At most one reply a slot.
    ///
    /// # Panics
    /// When there is no such datagram, or a slot does not hold as many bytes.
    pub fn reply(&mut self, slot: usize, length: usize, info: Option<PacketInfo>) {
        assert!(slot < self.received, "no datagram in slot {slot}");
        assert!(length <= self.slot_bytes, "more than a slot holds");
        let reply = self.queued;
        let mut message = self.outgoing.get(reply);
        message.msg_hdr.msg_name = self.names.at(slot).cast();
        message.msg_hdr.msg_namelen = self.incoming.get(slot).msg_hdr.msg_namelen;
        (message.msg_hdr.msg_control, message.msg_hdr.msg_controllen) = match info {
            None => (ptr::null_mut(), 0),
            Some(info) => {
                let mut control = [0; REPLY_BYTES];
                let length = info.write_reply(self.ipv6, &mut control);
                self.reply_control.set(reply, Control(control));
                (self.reply_control.at(reply).cast::<c_void>(), length)
            }
        };
        self.outgoing.set(reply, message);
        self.reply_iovecs.set(
            reply,
            iovec {
                iov_base: self.payload.at(slot * self.slot_bytes).cast(),
                iov_len: length,
            },
        );
        self.reply_slots[reply] = slot;
        self.queued += 1;
    }

    /// Whether replies wait to be sent.
    pub fn has_replies(&self) -> bool {
        self.queued > 0
    }

    /// Sends the queued replies, in order, and tells what became of each. One that fails does
    /// not hold up the others. A full send buffer is waited for as long as the socket's send
    /// timeout says, once: after that, replies that would have to wait fail, until all of a call
    /// can be sent again.
    pub fn send(&mut self, socket: &Socket, mut each: impl FnMut(&Self, Sent)) {
        let mut congested = false;
        let mut next = 0;
        while next < self.queued {
            let wait = if self.patient { 0 } else { libc::MSG_DONTWAIT };
            // SAFETY: the messages up to `queued` point to a name, an iovec and control memory
            // of the sizes they say, in arrays that live as long as `self`.
            let count = unsafe {
                libc::sendmmsg(
                    socket.as_fd().as_raw_fd(),
                    self.outgoing.at(next),
                    (self.queued - next) as c_uint,
                    wait,
                )
            };
            if let Ok(count) = usize::try_from(count) {
                for reply in next..next + count {
                    each(self, self.outcome(reply, Ok(())));
                }
                next += count;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => {
                    congested = true;
                    self.patient = false;
                }
                _ => {}
            }
            // An error is about the first message; what follows it has not been tried.
            each(self, self.outcome(next, Err(error)));
            next += 1;
        }
        self.patient = !congested;
        self.queued = 0;
    }

    fn outcome(&self, reply: usize, result: io::Result<()>) -> Sent {
        Sent {
            slot: self.reply_slots[reply],
            length: self.reply_iovecs.get(reply).iov_len,
            result,
        }
    }
}

/// Control memory, aligned as its headers must be.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Control<const BYTES: usize>([u8; BYTES]);

const NAME_BYTES: socklen_t = size_of::<sockaddr_in6>() as socklen_t;
const NO_NAME: sockaddr_in6 = sockaddr_in6 {
    sin6_family: 0,
    sin6_port: 0,
    sin6_flowinfo: 0,
    sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
    sin6_scope_id: 0,
};
const NO_BYTES: iovec = iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};
// SAFETY: null pointers and zeros are a valid message header.
const NO_MESSAGE: mmsghdr = unsafe { std::mem::zeroed() };

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

    use super::*;

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
