//! The outgoing half of a batch: replies, sent from where their requests lie.
#![expect(
    unsafe_code,
    reason = "sendmmsg works on arrays of structures that point into each other"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers of replies are small"
)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

#[cfg(not(all(test, miri)))]
use libc::sendmmsg;
use libc::{c_int, c_uint, c_void, iovec, mmsghdr, sockaddr_in6, socklen_t};

use super::Socket;
use super::sys::cmsg::{Control, PacketInfo, REPLY_BYTES, SEGMENT_BYTES, write_segment};
use super::sys::memory::Array;
use super::sys::msghdr::{NO_BYTES, NO_MESSAGE};
#[cfg(all(test, miri))]
use super::sys::simulated::sendmmsg;

/// Bytes of a slot that go back: one datagram, or several that the kernel cuts them into (UDP GSO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// The slot of the request.
    pub slot: usize,
    /// Where in its memory they begin.
    pub start: usize,
    /// How many they are.
    pub length: usize,
    /// The length of each datagram but the last, which may be shorter; at least `length` for one.
    pub segment: usize,
}

/// What became of a reply.
#[derive(Debug)]
pub struct Sent {
    /// The reply, or the datagram of it.
    pub transmit: Transmit,
    /// Sent, all of it, or why none was.
    pub result: io::Result<()>,
}

impl Transmit {
    /// How many datagrams can be sent as one (`UDP_MAX_SEGMENTS` before Linux 6.9,
    /// include/linux/udp.h).
    pub const MOST: usize = 64;

    /// How many datagrams it is.
    pub fn count(&self) -> usize {
        if self.length > self.segment {
            self.length.div_ceil(self.segment)
        } else {
            1
        }
    }

    /// The datagram that begins `offset` bytes after the first one.
    fn datagram(&self, offset: usize) -> Self {
        let length = self.segment.min(self.length - offset);
        Self {
            slot: self.slot,
            start: self.start + offset,
            length,
            segment: length,
        }
    }
}

/// Replies that wait to be sent, and room for them.
#[derive(Debug)]
pub(super) struct Outgoing {
    control: Array<Control<REPLY_BYTES>>,
    /// One for each reply, and one for a datagram of a reply that is sent by itself.
    iovecs: Array<iovec>,
    messages: Array<mmsghdr>,
    transmits: Vec<Transmit>,
    /// How many there can be.
    room: usize,
    /// The first whose outcome was not told.
    next: usize,
    /// The first that was not sent.
    unsent: usize,
    /// Where in the next one its next datagram begins, if they are sent one by one.
    offset: Option<usize>,
    ipv6: bool,
    /// Whether several datagrams are sent as one.
    sends_batches: bool,
    send_buffer: SendBuffer,
}

/// What was last seen of a socket's send buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendBuffer {
    /// It had room, if after a while: should it not, it is waited for.
    Room,
    /// It was full just now, for longer than was to be waited.
    Full,
    /// It was so the last time.
    WasFull,
}

impl Outgoing {
    /// Room for `room` replies through sockets like `socket`.
    pub(super) fn new(room: usize, socket: &Socket) -> Self {
        Self {
            control: Array::new(Control([0; REPLY_BYTES]), room),
            iovecs: Array::new(NO_BYTES, room + 1),
            messages: Array::new(NO_MESSAGE, room),
            transmits: Vec::with_capacity(room),
            room,
            next: 0,
            unsent: 0,
            offset: None,
            ipv6: socket.address().is_ipv6(),
            sends_batches: socket.sends_batches(),
            send_buffer: SendBuffer::Room,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.transmits.len() == self.room
    }

    pub(super) fn has_any(&self) -> bool {
        !self.transmits.is_empty()
    }

    pub(super) fn sends_batches(&self) -> bool {
        self.sends_batches
    }

    /// Drops what was queued.
    pub(super) fn clear(&mut self) {
        self.transmits.clear();
        (self.next, self.unsent, self.offset) = (0, 0, None);
    }

    /// Queues a reply to `name`, whose first byte is at `base`.
    pub(super) fn queue(
        &mut self,
        transmit: Transmit,
        name: (*mut sockaddr_in6, socklen_t),
        info: Option<PacketInfo>,
        base: *mut u8,
    ) {
        assert!(!self.is_full(), "no room for a reply");
        let reply = self.transmits.len();
        let mut control = [0; REPLY_BYTES];
        let mut control_bytes = info.map_or(0, |info| info.write_reply(self.ipv6, &mut control));
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

    /// Sends what has to be sent for it, and tells the next outcome.
    ///
    /// # Safety
    /// What the queued replies point to must still be there.
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
            // SAFETY: as the caller says.
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

    /// Makes the next reply the datagram of it that begins at an offset.
    fn narrow(&mut self, offset: usize) {
        let datagram = self.transmits[self.next].datagram(offset);
        let mut bytes = self.iovecs.get(self.next);
        bytes.iov_base = bytes.iov_base.wrapping_byte_add(offset);
        bytes.iov_len = datagram.length;
        self.iovecs.set(self.room, bytes);
        let mut message = self.messages.get(self.next);
        message.msg_hdr.msg_iov = self.iovecs.at(self.room);
        if self.offset.is_none() {
            message.msg_hdr.msg_controllen -= SEGMENT_BYTES;
        }
        self.messages.set(self.next, message);
        self.offset = Some(offset);
    }

    /// All that were queued have been tried.
    fn finish(&mut self) {
        self.clear();
        self.send_buffer = match self.send_buffer {
            SendBuffer::Full => SendBuffer::WasFull,
            SendBuffer::Room | SendBuffer::WasFull => SendBuffer::Room,
        };
    }

    /// Sends some of the replies. Returns how many were sent, up to the first that failed, or why
    /// that one did if it was the first of all. A full send buffer is waited for as long as there
    /// is `time`.
    ///
    /// # Safety
    /// What the queued replies point to must still be there.
    unsafe fn send(
        &mut self,
        socket: &Socket,
        Range { start, end }: Range<usize>,
        time: impl FnOnce() -> Duration,
    ) -> io::Result<usize> {
        assert!(start < end && end <= self.transmits.len());
        // SAFETY: the messages up to the last that is queued point to an iovec and control memory
        // of the sizes they say, in arrays that live as long as `self`, and to a name and bytes
        // that the caller vouches for.
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
                let patient = self.send_buffer == SendBuffer::Room;
                let time = if patient { time() } else { Duration::ZERO };
                if !time.is_zero() {
                    wait_for_room(socket, time);
                    return Ok(0);
                }
                self.send_buffer = SendBuffer::Full;
            }
            // The way to this peer takes no GSO batch (udp_send_skb, net/ipv4/udp.c). There may be
            // others like it, and one that fails costs more than it saves.
            _ if error.raw_os_error() == Some(libc::EIO) => {
                self.sends_batches &= self.transmits[start].count() == 1;
            }
            _ => {}
        }
        Err(error)
    }
}

/// Waits until the send buffer has room, for some time at most, or for a signal.
fn wait_for_room(socket: &Socket, time: Duration) {
    let mut descriptor = libc::pollfd {
        fd: socket.as_fd().as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let milliseconds = c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the one descriptor is open and outlives the call. Whatever it says, a send says more.
    unsafe { libc::poll(&raw mut descriptor, 1, milliseconds.max(1)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_into_its_datagrams() {
        let batch = |length, segment| Transmit {
            slot: 3,
            start: 100,
            length,
            segment,
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
}
