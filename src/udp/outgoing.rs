//! Outgoing half of a batch: replies from the requests' memory. Over 400 lines with its tests.
#![expect(
    unsafe_code,
    reason = "sendmmsg works on arrays of structures that point into each other"
)]
#![expect(clippy::cast_possible_truncation, reason = "reply counts are small")]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

#[cfg(not(all(test, miri)))]
use libc::sendmmsg;
use libc::{c_int, c_uint, c_void, iovec, mmsghdr, sockaddr_in6, socklen_t};

use super::Socket;
use super::sys::cmsg::{
    Control, PacketInfo, REPLY_BYTES, SEGMENT_BYTES, write_segment, write_traffic_class,
};
use super::sys::memory::Array;
use super::sys::msghdr::{NO_BYTES, NO_MESSAGE};
#[cfg(all(test, miri))]
use super::sys::simulated::sendmmsg;

/// A reply out of the memory of a slot: one datagram, or a GSO batch (`UDP_SEGMENT`, udp(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// The slot of the request.
    pub slot: usize,
    /// The offset of the first byte in the slot.
    pub start: usize,
    /// The number of bytes.
    pub length: usize,
    /// The size of each segment of a GSO batch except the last, which may be shorter. At least
    /// `length` for a single datagram.
    pub segment: usize,
    /// The TOS byte (IPv4) or traffic class (IPv6); `None` is that of the socket.
    pub traffic_class: Option<u8>,
}

/// The result of sending a reply.
#[derive(Debug)]
pub struct Sent {
    /// The reply, or one segment of a GSO batch that was sent segment by segment.
    pub transmit: Transmit,
    /// Whether the kernel took all of it. An error means that it took nothing.
    pub result: io::Result<()>,
}

impl Transmit {
    /// The most segments of a GSO batch (`UDP_MAX_SEGMENTS` before Linux 6.9,
    /// include/linux/udp.h).
    pub const MAX_SEGMENTS: usize = 64;

    /// The number of datagrams that reach the peer.
    pub fn count(&self) -> usize {
        if self.length > self.segment {
            self.length.div_ceil(self.segment)
        } else {
            1
        }
    }

    /// The segment that begins `offset` bytes after the start.
    fn datagram(&self, offset: usize) -> Self {
        let length = self.segment.min(self.length - offset);
        Self {
            slot: self.slot,
            start: self.start + offset,
            length,
            segment: length,
            traffic_class: self.traffic_class,
        }
    }
}

/// The reply queue.
#[derive(Debug)]
pub(super) struct Outgoing {
    control: Array<Control<REPLY_BYTES>>,
    /// One for each reply, and one for a segment that is sent by itself.
    iovecs: Array<iovec>,
    messages: Array<mmsghdr>,
    transmits: Vec<Transmit>,
    capacity: usize,
    /// The first reply whose result was not returned yet.
    next: usize,
    /// The first reply that was not sent yet.
    unsent: usize,
    /// If reply `next` is sent segment by segment, the offset of its next segment.
    offset: Option<usize>,
    ipv6: bool,
    sends_batches: bool,
    send_buffer: SendBuffer,
}

/// Whether a full send buffer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendBuffer {
    /// Space was free, at least after a wait: wait for it.
    Free,
    /// The wait ran out during this batch of replies: do not wait.
    Full,
    /// The wait ran out during the previous batch: do not wait.
    WasFull,
}

impl Outgoing {
    /// Allocates a queue of `capacity` replies for sockets with the options of `socket`.
    pub(super) fn new(capacity: usize, socket: &Socket) -> Self {
        Self {
            control: Array::new(Control([0; REPLY_BYTES]), capacity),
            iovecs: Array::new(NO_BYTES, capacity + 1),
            messages: Array::new(NO_MESSAGE, capacity),
            transmits: Vec::with_capacity(capacity),
            capacity,
            next: 0,
            unsent: 0,
            offset: None,
            ipv6: socket.address().is_ipv6(),
            sends_batches: socket.sends_batches(),
            send_buffer: SendBuffer::Free,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.transmits.len() == self.capacity
    }

    pub(super) fn has_any(&self) -> bool {
        !self.transmits.is_empty()
    }

    pub(super) fn sends_batches(&self) -> bool {
        self.sends_batches
    }

    pub(super) fn clear(&mut self) {
        self.transmits.clear();
        (self.next, self.unsent, self.offset) = (0, 0, None);
    }

    /// Queues a reply to `name`, an IPv6 address if `ipv6_peer`, whose first byte is at `base`.
    pub(super) fn queue(
        &mut self,
        transmit: Transmit,
        name: (*mut sockaddr_in6, socklen_t),
        ipv6_peer: bool,
        info: Option<PacketInfo>,
        base: *mut u8,
    ) {
        assert!(!self.is_full(), "the reply queue is full");
        let reply = self.transmits.len();
        let mut control = [0; REPLY_BYTES];
        let mut control_bytes = info.map_or(0, |info| info.write_reply(self.ipv6, &mut control));
        if let Some(class) = transmit.traffic_class {
            control_bytes = write_traffic_class(class, ipv6_peer, control_bytes, &mut control);
        }
        if transmit.count() > 1 {
            control_bytes = write_segment(transmit.segment as u16, control_bytes, &mut control);
        }
        let bytes = iovec {
            iov_base: base.cast(),
            iov_len: transmit.length,
        };
        self.iovecs.set(reply, bytes);
        let mut message = NO_MESSAGE;
        (message.msg_hdr.msg_name, message.msg_hdr.msg_namelen) = (name.0.cast(), name.1);
        message.msg_hdr.msg_iov = self.iovecs.at(reply);
        message.msg_hdr.msg_iovlen = 1;
        if control_bytes > 0 {
            self.control.set(reply, Control(control));
            message.msg_hdr.msg_control = self.control.at(reply).cast::<c_void>();
            message.msg_hdr.msg_controllen = control_bytes;
        }
        self.messages.set(reply, message);
        self.transmits.push(transmit);
    }

    /// Returns the next result; sends replies if the result of the next one is not known yet.
    ///
    /// # Safety
    /// The names and bytes that queued replies point to must be valid.
    pub(super) unsafe fn send_next(
        &mut self,
        socket: &Socket,
        mut time: impl FnMut() -> Duration,
    ) -> Option<Sent> {
        loop {
            let next = self.next;
            if next < self.unsent {
                self.next += 1;
                let transmit = self.transmits[next];
                let result = Ok(());
                return Some(Sent { transmit, result });
            }
            if next == self.transmits.len() {
                self.finish();
                return None;
            }
            let rest = match self.offset {
                None => next..self.transmits.len(),
                Some(_) => next..next + 1,
            };
            // SAFETY: the caller guarantees it.
            let sent = unsafe { self.send(socket, rest, &mut time) };
            let transmit = self.transmits[next];
            match (sent, self.offset) {
                (Ok(0), _) => {}
                (Ok(count), None) => self.unsent = next + count,
                (Err(_), None) if transmit.count() > 1 => self.narrow(0),
                (Err(error), None) => {
                    (self.next, self.unsent) = (next + 1, next + 1);
                    let result = Err(error);
                    return Some(Sent { transmit, result });
                }
                (done, Some(offset)) => {
                    let datagram = transmit.datagram(offset);
                    let offset = offset + datagram.length;
                    if offset == transmit.length {
                        (self.next, self.unsent, self.offset) = (next + 1, next + 1, None);
                    } else {
                        self.narrow(offset);
                    }
                    return Some(Sent {
                        transmit: datagram,
                        result: done.map(drop),
                    });
                }
            }
        }
    }

    /// Reduces the next reply to its segment at `offset`.
    fn narrow(&mut self, offset: usize) {
        let datagram = self.transmits[self.next].datagram(offset);
        let mut bytes = self.iovecs.get(self.next);
        bytes.iov_base = bytes.iov_base.wrapping_byte_add(offset);
        bytes.iov_len = datagram.length;
        self.iovecs.set(self.capacity, bytes);
        let mut message = self.messages.get(self.next);
        message.msg_hdr.msg_iov = self.iovecs.at(self.capacity);
        if self.offset.is_none() {
            message.msg_hdr.msg_controllen -= SEGMENT_BYTES;
        }
        self.messages.set(self.next, message);
        self.offset = Some(offset);
    }

    fn finish(&mut self) {
        self.clear();
        self.send_buffer = match self.send_buffer {
            SendBuffer::Full => SendBuffer::WasFull,
            SendBuffer::Free | SendBuffer::WasFull => SendBuffer::Free,
        };
    }

    /// Sends a range of the replies. Returns the number sent before the first failure, or the
    /// error of the first reply. Returns 0 to try again: after a signal, or after a wait of up to
    /// `time()` for a full send buffer.
    ///
    /// # Safety
    /// The names and bytes that queued replies point to must be valid.
    unsafe fn send(
        &mut self,
        socket: &Socket,
        Range { start, end }: Range<usize>,
        time: impl FnOnce() -> Duration,
    ) -> io::Result<usize> {
        assert!(start < end && end <= self.transmits.len());
        // SAFETY: each queued message points to an iovec and control memory of the sizes it says,
        // in arrays that live as long as `self`, and to a name and bytes that the caller
        // guarantees.
        let count = unsafe {
            sendmmsg(
                socket.as_fd().as_raw_fd(),
                self.messages.at(start),
                (end - start) as c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        if let Ok(count) = usize::try_from(count) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => return Ok(0),
            io::ErrorKind::WouldBlock => {
                let waits = self.send_buffer == SendBuffer::Free;
                let time = if waits { time() } else { Duration::ZERO };
                if !time.is_zero() {
                    wait_writable(socket, time);
                    return Ok(0);
                }
                self.send_buffer = SendBuffer::Full;
            }
            // The route to this peer takes no GSO batch (udp_send_skb, net/ipv4/udp.c). Others may
            // be alike, and a failed batch costs more than a good one saves.
            _ if error.raw_os_error() == Some(libc::EIO) => {
                self.sends_batches &= self.transmits[start].count() == 1;
            }
            _ => {}
        }
        Err(error)
    }
}

/// Waits until the send buffer has free space, `time` has passed or a signal arrives.
fn wait_writable(socket: &Socket, time: Duration) {
    let mut descriptor = libc::pollfd {
        fd: socket.as_fd().as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let milliseconds = c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
    // The result is ignored: the next send shows whether there is space.
    // SAFETY: the one descriptor is open and outlives the call.
    unsafe { libc::poll(&raw mut descriptor, 1, milliseconds.max(1)) };
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc;
    use std::thread;

    use socket2::{Domain, Type};

    use super::*;
    use crate::udp::socket::BatchSupport;
    use crate::udp::sys::guard::Guard;
    use crate::udp::{Batch, Drops, Wait};

    #[test]
    fn transmit_is_split_into_its_segments() {
        let batch = |length, segment| Transmit {
            slot: 3,
            start: 100,
            length,
            segment,
            traffic_class: None,
        };
        for (transmit, lengths) in [
            (batch(25, 10), &[10, 10, 5][..]),
            (batch(20, 10), &[10, 10]),
            (batch(10, 10), &[10]),
            (batch(7, 10), &[7]),
            (batch(0, 0), &[0]),
        ] {
            assert_eq!(transmit.count(), lengths.len());
            let mut offset = 0;
            for length in lengths {
                let datagram = transmit.datagram(offset);
                assert_eq!((datagram.slot, datagram.start), (3, 100 + offset));
                assert_eq!((datagram.length, datagram.count()), (*length, 1));
                offset += length;
            }
            assert_eq!(offset, transmit.length);
        }
    }

    const REPLIES: usize = 64;

    /// A socket with a small send buffer, its peer, and a batch with a request. UNIX sockets,
    /// because on loopback a datagram leaves the send buffer at once.
    #[cfg(not(miri))]
    fn pair() -> (Socket, socket2::Socket, Batch) {
        let (ours, theirs) = socket2::Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
        ours.set_send_buffer_size(1).unwrap();
        let socket = Socket {
            inner: ours,
            address: ([0, 0, 0, 0], 9999).into(),
            drops: Drops::from_baseline(0),
            batches: BatchSupport::default(),
            guard: Guard::default(),
        };
        let mut batch = Batch::new(1, 100, &socket);
        theirs.send(&[7; 100]).unwrap();
        assert_eq!(batch.receive(&socket, Wait::Poll, 1).unwrap(), 1);
        (socket, theirs, batch)
    }

    #[cfg(not(miri))]
    fn queue(batch: &mut Batch, replies: usize) {
        let transmit = Transmit {
            slot: 0,
            start: 0,
            length: 100,
            segment: 100,
            traffic_class: None,
        };
        for _ in 0..replies {
            batch.queue(transmit, None);
        }
    }

    #[cfg(not(miri))]
    #[test]
    fn full_send_buffer_is_waited_for() {
        let (socket, theirs, mut batch) = pair();
        queue(&mut batch, REPLIES);
        let (full, is_full) = mpsc::channel();
        let reader = thread::spawn(move || {
            is_full.recv().unwrap();
            // Time for a wait that does not block to be counted.
            thread::sleep(Duration::from_millis(10));
            let mut theirs = theirs;
            for _ in 0..REPLIES {
                theirs.read_exact(&mut [0; 100]).unwrap();
            }
        });
        let (mut sent, mut waits) = (0, 0);
        let mut time = || {
            waits += 1;
            let _ = full.send(());
            Duration::from_mins(1)
        };
        while let Some(Sent { result, .. }) = batch.send_next(&socket, &mut time) {
            result.unwrap();
            sent += 1;
        }
        assert_eq!(sent, REPLIES);
        // Each wait ends with space for one reply at least.
        assert!((1..=REPLIES).contains(&waits), "{waits}");
        reader.join().unwrap();
    }

    #[cfg(not(miri))]
    #[test]
    fn send_buffer_that_stays_full_is_not_waited_for_again() {
        let (socket, mut theirs, mut batch) = pair();
        // The number of replies sent, and how often there was time to wait.
        let mut round = |replies| {
            queue(&mut batch, replies);
            let (mut sent, mut waits) = (0, 0);
            let mut time = || {
                waits += 1;
                Duration::ZERO
            };
            while let Some(Sent { result, .. }) = batch.send_next(&socket, &mut time) {
                sent += usize::from(result.is_ok());
            }
            (sent, waits)
        };
        let (sent, waits) = round(REPLIES);
        assert!(sent < REPLIES && waits == 1, "{sent} sent, {waits} waits");
        assert_eq!(round(REPLIES), (0, 0));
        for _ in 0..sent {
            theirs.read_exact(&mut [0; 100]).unwrap();
        }
        assert_eq!(round(1), (1, 0));
        assert_eq!(round(REPLIES).1, 1);
    }
}
