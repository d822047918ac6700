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
use std::ptr;
use std::time::Duration;

#[cfg(not(all(test, miri)))]
use libc::sendmmsg;
use libc::{c_int, c_uint, c_void, iovec, mmsghdr, sockaddr_in6, socklen_t};

use super::Socket;
use super::array::Array;
use super::batch::{Control, NO_BYTES, NO_MESSAGE};
use super::control::{PacketInfo, REPLY_BYTES, SEGMENT_BYTES, write_segment};
#[cfg(all(test, miri))]
use super::simulated::sendmmsg;

/// Bytes of a slot that go back: from `start` on, of every `step` the first `length`, each as a
/// datagram of its own, up to `end`, so that the last may be shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces {
    /// Where the first begins.
    pub start: usize,
    /// Where the last is cut off.
    pub end: usize,
    /// From the start of one to that of the next, in bytes; at least 1.
    pub step: usize,
    /// The length of each in bytes, the last aside.
    pub length: usize,
    /// Whether none is to be sent where they cannot be sent as one burst. Else they then go one
    /// by one.
    pub all_or_none: bool,
}

/// What became of a reply.
#[derive(Debug)]
pub struct Sent {
    /// The slot it came from.
    pub slot: usize,
    /// The bytes of it.
    pub pieces: Pieces,
    /// Sent, all of them, or why none was.
    pub result: io::Result<()>,
}

impl Pieces {
    /// How many datagrams can be sent as one burst (`UDP_MAX_SEGMENTS` before Linux 6.9,
    /// include/linux/udp.h).
    pub const MOST: usize = 64;

    /// One datagram, which may be empty.
    pub fn one(start: usize, length: usize) -> Self {
        Self {
            start,
            end: start + length,
            step: length.max(1),
            length,
            all_or_none: false,
        }
    }

    /// How many datagrams they are.
    pub fn count(&self) -> usize {
        (self.end - self.start).div_ceil(self.step).max(1)
    }

    /// How many bytes they have in all.
    pub fn bytes(&self) -> usize {
        let last = self.piece(self.count() - 1);
        (self.count() - 1) * self.length + last.len()
    }

    /// Where a datagram lies in the slot.
    pub fn piece(&self, index: usize) -> Range<usize> {
        let start = self.start + index * self.step;
        start..self.end.min(start + self.length)
    }
}

/// Replies that wait to be sent, and room for them.
#[derive(Debug)]
pub(super) struct Replies {
    control: Array<Control<REPLY_BYTES>>,
    iovecs: Array<iovec>,
    messages: Array<mmsghdr>,
    /// The slot of each reply, and which bytes of it.
    sources: Vec<(usize, Pieces)>,
    /// How many there can be.
    room: usize,
    iovecs_used: usize,
    ipv6: bool,
    /// Whether bursts are sent as one.
    bursts: bool,
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

impl Replies {
    /// Room for `room` replies through sockets like `socket`.
    pub(super) fn new(room: usize, socket: &Socket) -> Self {
        let bursts = socket.sends_bursts();
        let pieces = if bursts { Pieces::MOST } else { 1 };
        Self {
            control: Array::new(Control([0; REPLY_BYTES]), room),
            iovecs: Array::new(NO_BYTES, room * pieces + 1),
            messages: Array::new(NO_MESSAGE, room),
            sources: Vec::with_capacity(room),
            room,
            iovecs_used: 0,
            ipv6: socket.address().is_ipv6(),
            bursts,
            send_buffer: SendBuffer::Room,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.sources.len() == self.room
    }

    pub(super) fn has_any(&self) -> bool {
        !self.sources.is_empty()
    }

    pub(super) fn sends_bursts(&self) -> bool {
        self.bursts
    }

    /// Forgets what was queued.
    pub(super) fn clear(&mut self) {
        self.sources.clear();
        self.iovecs_used = 0;
    }

    /// All that were queued have been tried.
    pub(super) fn finish(&mut self) {
        self.clear();
        self.send_buffer = match self.send_buffer {
            SendBuffer::Full => SendBuffer::WasFull,
            SendBuffer::Room | SendBuffer::WasFull => SendBuffer::Room,
        };
    }

    /// Queues a reply to `name`. `at` tells where an offset in the slot is in memory.
    pub(super) fn queue(
        &mut self,
        slot: usize,
        pieces: Pieces,
        name: (*mut sockaddr_in6, socklen_t),
        info: Option<PacketInfo>,
        at: impl Fn(usize) -> *mut u8,
    ) {
        assert!(!self.is_full(), "no room for a reply");
        let reply = self.sources.len();
        let count = pieces.count();
        let mut control = [0; REPLY_BYTES];
        let mut control_bytes = info.map_or(0, |info| info.write_reply(self.ipv6, &mut control));
        if count > 1 {
            control_bytes = write_segment(pieces.length as u16, control_bytes, &mut control);
        }
        let first = self.iovecs_used;
        if pieces.length == pieces.step {
            self.put(&at, pieces.start..pieces.end);
        } else {
            for index in 0..count {
                self.put(&at, pieces.piece(index));
            }
        }
        let mut message = NO_MESSAGE;
        (message.msg_hdr.msg_name, message.msg_hdr.msg_namelen) = (name.0.cast(), name.1);
        message.msg_hdr.msg_iov = self.iovecs.at(first);
        message.msg_hdr.msg_iovlen = self.iovecs_used - first;
        if control_bytes > 0 {
            self.control.set(reply, Control(control));
            message.msg_hdr.msg_control = self.control.at(reply).cast::<c_void>();
            message.msg_hdr.msg_controllen = control_bytes;
        }
        self.messages.set(reply, message);
        self.sources.push((slot, pieces));
    }

    fn put(&mut self, at: impl Fn(usize) -> *mut u8, bytes: Range<usize>) {
        let iov_base = if bytes.is_empty() {
            ptr::null_mut()
        } else {
            at(bytes.start).cast()
        };
        let iov_len = bytes.len();
        self.iovecs
            .set(self.iovecs_used, iovec { iov_base, iov_len });
        self.iovecs_used += 1;
    }

    /// How many are queued.
    pub(super) fn count(&self) -> usize {
        self.sources.len()
    }

    /// Makes a reply one datagram of those it is. `at` tells where an offset in the slot is in
    /// memory.
    pub(super) fn narrow(&mut self, reply: usize, piece: Pieces, at: impl Fn(usize) -> *mut u8) {
        let (_, pieces) = &mut self.sources[reply];
        let was_burst = pieces.count() > 1;
        *pieces = piece;
        // One more than can be queued.
        self.iovecs_used = self.iovecs.len() - 1;
        let mut message = self.messages.get(reply);
        message.msg_hdr.msg_iov = self.iovecs.at(self.iovecs_used);
        message.msg_hdr.msg_iovlen = 1;
        if was_burst {
            message.msg_hdr.msg_controllen -= SEGMENT_BYTES;
        }
        self.messages.set(reply, message);
        self.put(at, piece.start..piece.end);
    }

    /// Sends some of the replies, which were queued. Returns how many were sent, up to the first
    /// that failed, or why that one did if it was the first of all. A full send buffer is waited
    /// for as long as there is `time`.
    ///
    /// # Safety
    /// What the queued replies point to must still be there.
    pub(super) unsafe fn send(
        &mut self,
        socket: &Socket,
        Range { start, end }: Range<usize>,
        time: impl FnOnce() -> Duration,
    ) -> io::Result<usize> {
        assert!(start < end && end <= self.count());
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
            // The way to this peer takes no bursts (udp_send_skb, net/ipv4/udp.c). There may be
            // others like it, and a burst that fails costs more than it saves.
            _ if error.raw_os_error() == Some(libc::EIO) => {
                self.bursts &= self.sources[start].1.count() == 1;
            }
            _ => {}
        }
        Err(error)
    }

    pub(super) fn outcome(&self, reply: usize, result: io::Result<()>) -> Sent {
        let (slot, pieces) = self.sources[reply];
        Sent {
            slot,
            pieces,
            result,
        }
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
    fn pieces_are_counted_and_cut_at_the_end() {
        let all = |pieces: Pieces| -> Vec<_> {
            let all = (0..pieces.count()).map(|index| pieces.piece(index));
            let all: Vec<_> = all.map(|range| (range.start, range.end)).collect();
            let bytes: usize = all.iter().map(|(start, end)| end - start).sum();
            assert_eq!(pieces.bytes(), bytes);
            all
        };
        let pieces = |end, step, length| Pieces {
            start: 100,
            end,
            step,
            length,
            all_or_none: false,
        };
        assert_eq!(all(Pieces::one(100, 7)), [(100, 107)]);
        assert_eq!(all(Pieces::one(100, 0)), [(100, 100)]);
        assert_eq!(
            all(pieces(125, 10, 10)),
            [(100, 110), (110, 120), (120, 125)]
        );
        assert_eq!(
            all(pieces(125, 10, 4)),
            [(100, 104), (110, 114), (120, 124)]
        );
        assert_eq!(
            all(pieces(122, 10, 4)),
            [(100, 104), (110, 114), (120, 122)]
        );
        assert_eq!(all(pieces(120, 20, 10)), [(100, 110)]);
        assert_eq!(all(pieces(125, 20, 10)), [(100, 110), (120, 125)]);
    }
}
