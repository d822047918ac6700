//! A simulated kernel for Miri, which has no `recvmmsg` and `sendmmsg`. It accesses the structures
//! only through the pointers and sizes in them, like the real kernel, so that Miri checks every
//! access to the shared memory. valgrind checks the real calls.
#![expect(unsafe_code, reason = "it accesses raw pointers like a kernel")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_uint, iovec, mmsghdr, timespec};

use crate::udp::{Batch, Sent, Socket, Transmit, Wait};

/// A message received or sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    name: Vec<u8>,
    payload: Vec<u8>,
    control: Vec<u8>,
}

thread_local! {
    static INCOMING: RefCell<VecDeque<Message>> = const { RefCell::new(VecDeque::new()) };
    static SENT: RefCell<Vec<Message>> = const { RefCell::new(Vec::new()) };
    /// The number of messages that the next `sendmmsg` calls send, or the errors they return.
    static SEND_RESULTS: RefCell<VecDeque<Result<usize, c_int>>> = const { RefCell::new(VecDeque::new()) };
}

/// # Safety
/// As for `libc::recvmmsg`.
pub(in crate::udp) unsafe fn recvmmsg(
    _socket: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    _flags: c_int,
    _timeout: *mut timespec,
) -> c_int {
    let mut received = 0;
    while received < count as usize {
        let Some(coming) = INCOMING.with_borrow_mut(VecDeque::pop_front) else {
            break;
        };
        // SAFETY: the caller has `count` messages.
        let message = unsafe { messages.add(received) };
        // SAFETY: `message` points to a valid message.
        let mut header = unsafe { message.read() };
        let name = coming.name.len().min(header.msg_hdr.msg_namelen as usize);
        // SAFETY: there are `msg_namelen` bytes.
        unsafe {
            ptr::copy_nonoverlapping(coming.name.as_ptr(), header.msg_hdr.msg_name.cast(), name)
        };
        header.msg_hdr.msg_namelen = coming.name.len() as u32;
        assert_eq!(header.msg_hdr.msg_iovlen, 1);
        // SAFETY: `msg_iovlen` is 1.
        let iovec { iov_base, iov_len } = unsafe { header.msg_hdr.msg_iov.read() };
        let kept = coming.payload.len().min(iov_len);
        // SAFETY: there are `iov_len` bytes.
        unsafe { ptr::copy_nonoverlapping(coming.payload.as_ptr(), iov_base.cast(), kept) };
        header.msg_len = coming.payload.len() as c_uint;
        let control = coming.control.len();
        assert!(control <= header.msg_hdr.msg_controllen);
        // SAFETY: there are `msg_controllen` bytes.
        unsafe {
            ptr::copy_nonoverlapping(
                coming.control.as_ptr(),
                header.msg_hdr.msg_control.cast(),
                control,
            );
        };
        header.msg_hdr.msg_controllen = control;
        // SAFETY: as above.
        unsafe { message.write(header) };
        received += 1;
    }
    received as c_int
}

/// # Safety
/// As for `libc::sendmmsg`.
pub(in crate::udp) unsafe fn sendmmsg(
    _socket: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    _flags: c_int,
) -> c_int {
    let takes = SEND_RESULTS.with_borrow_mut(VecDeque::pop_front);
    let takes = match takes.unwrap_or(Ok(count as usize)) {
        Ok(takes) => takes.min(count as usize),
        Err(error) => {
            // SAFETY: this thread's own.
            unsafe { *libc::__errno_location() = error };
            return -1;
        }
    };
    for index in 0..takes {
        // SAFETY: the caller has `count` messages.
        let message = unsafe { messages.add(index) };
        // SAFETY: `message` points to a valid message.
        let header = unsafe { message.read() }.msg_hdr;
        let mut payload = vec![];
        for part in 0..header.msg_iovlen {
            // SAFETY: there are `msg_iovlen` parts.
            let part = unsafe { header.msg_iov.add(part) };
            // SAFETY: `message` points to a valid message.
            let iovec { iov_base, iov_len } = unsafe { part.read() };
            // SAFETY: there are `iov_len` bytes.
            payload.extend(unsafe { read(iov_base.cast(), iov_len) });
        }
        // SAFETY: there are `msg_namelen` bytes.
        let name = unsafe { read(header.msg_name.cast(), header.msg_namelen as usize) };
        // SAFETY: there are `msg_controllen` bytes.
        let control = unsafe { read(header.msg_control.cast(), header.msg_controllen) };
        SENT.with_borrow_mut(|sent| {
            sent.push(Message {
                name,
                payload,
                control,
            })
        });
    }
    takes as c_int
}

/// # Safety
/// `first` must point to `length` bytes.
unsafe fn read(first: *const u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    if length > 0 {
        // SAFETY: the caller guarantees `length` bytes, and `bytes` has as many.
        unsafe { ptr::copy_nonoverlapping(first, bytes.as_mut_ptr(), length) };
    }
    bytes
}

/// Encodes a control message.
fn control(level: c_int, kind: c_int, data: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + data.len()).to_ne_bytes().to_vec();
    bytes.extend(level.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn v4(port: u8) -> Vec<u8> {
    let mut name = vec![0; 16];
    name[..8].copy_from_slice(&[2, 0, 0x27, port, 192, 0, 2, 1]);
    name
}

fn v6(port: u8) -> Vec<u8> {
    let mut name = vec![0; 28];
    name[..4].copy_from_slice(&[10, 0, 0x27, port]);
    name[8..24].copy_from_slice(
        &"2001:db8::1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    name
}

/// Adds a GRO batch of three datagrams, a single datagram, an empty one and a long one.
fn add_incoming() {
    let info = control(
        libc::IPPROTO_IP,
        libc::IP_PKTINFO,
        &[2, 0, 0, 0, 10, 0, 0, 1, 10, 0, 0, 1],
    );
    let gro = control(libc::SOL_UDP, libc::UDP_GRO, &10_i32.to_ne_bytes());
    let message = |name, payload: &[u8], control: &[u8]| Message {
        name,
        payload: payload.to_vec(),
        control: control.to_vec(),
    };
    let batched: Vec<_> = (0..27).collect();
    INCOMING.with_borrow_mut(|coming| {
        coming.extend([
            message(v4(1), &batched, &[info.clone(), gro].concat()),
            message(v4(2), b"hello", &info),
            message(v6(3), b"", b""),
            message(v6(4), &[7; 100], b""),
        ]);
    });
}

fn sent() -> Vec<(Vec<u8>, usize)> {
    let sent = SENT.with_borrow_mut(std::mem::take);
    sent.into_iter()
        .map(|sent| (sent.payload, sent.control.len()))
        .collect()
}

fn transmit(slot: usize, start: usize, length: usize, segment: usize) -> Transmit {
    Transmit {
        traffic_class: None,
        slot,
        start,
        length,
        segment,
    }
}

/// Sends the queued replies and returns their results.
fn send(batch: &mut Batch, socket: &Socket) -> Vec<Sent> {
    std::iter::from_fn(|| batch.send_next(socket, || Duration::ZERO)).collect()
}

#[test]
fn gso_batch_is_sent_segment_by_segment_after_an_error() {
    let socket = Socket::simulated(true);
    let mut batch = Batch::new(4, 64, &socket);
    let batched: Vec<u8> = (0..27).collect();
    for errors in [false, true, false] {
        add_incoming();
        assert_eq!(batch.receive(&socket, Wait::Block, 4).unwrap(), 4);
        let meta = batch.meta(0);
        assert_eq!((meta.length, meta.segment), (27, 10));
        assert_eq!(batch.memory(0, 5)[..22], batched[5..]);
        assert_eq!(batch.bytes(0), batched);
        assert_eq!(batch.meta(2).length, 0);
        batch.queue(transmit(0, 0, 27, 10), meta.info);
        batch.queue(transmit(0, 10, 17, 10), meta.info);
        batch.queue(transmit(1, 0, 5, 5), batch.meta(1).info);
        batch.queue(transmit(2, 0, 0, 1), None);
        if errors {
            SEND_RESULTS.with_borrow_mut(|results| {
                results.extend([Err(libc::EINTR), Ok(1), Err(libc::EINVAL)])
            });
        }
        let outcomes = send(&mut batch, &socket);
        assert!(outcomes.iter().all(|sent| sent.result.is_ok()));
        let datagrams = outcomes.iter().map(|sent| sent.transmit.count());
        assert_eq!(datagrams.sum::<usize>(), 3 + 2 + 2);
        let mut expected = vec![(batched.clone(), 56)];
        if errors {
            expected.extend([(batched[10..20].to_vec(), 32), (batched[20..].to_vec(), 32)]);
        } else {
            expected.push((batched[10..].to_vec(), 56));
        }
        expected.extend([(b"hello".to_vec(), 32), (vec![], 0)]);
        assert_eq!(sent(), expected);
    }
}

#[test]
fn reply_can_be_longer_than_its_request() {
    let socket = Socket::simulated(false);
    let mut batch = Batch::new(4, 64, &socket);
    add_incoming();
    assert_eq!(batch.receive(&socket, Wait::Block, 4).unwrap(), 4);
    batch.memory(1, 0)[..7].copy_from_slice(b"goodbye");
    batch.queue(transmit(1, 0, 7, 7), batch.meta(1).info);
    assert_eq!(send(&mut batch, &socket).len(), 1);
    assert_eq!(sent(), [(b"goodbye".to_vec(), 32)]);
}

#[test]
fn datagrams_are_kept_up_to_the_size_of_their_slot() {
    let socket = Socket::simulated(false);
    let mut batch = Batch::new(4, 64, &socket);
    // A slot without control messages has some in the next round.
    for (most, first) in [(4, 2), (1, 0), (3, 1)] {
        INCOMING.with_borrow_mut(VecDeque::clear);
        add_incoming();
        INCOMING.with_borrow_mut(|coming| coming.rotate_left(first));
        assert_eq!(batch.receive(&socket, Wait::Poll, most).unwrap(), most);
        for slot in 0..most {
            let meta = batch.meta(slot);
            let kept = batch.bytes(slot).len();
            assert_eq!(kept, meta.length.min(64));
            batch.queue(transmit(slot, 0, kept, kept), meta.info);
        }
        let outcomes = send(&mut batch, &socket);
        assert!(outcomes.iter().all(|sent| sent.result.is_ok()));
        assert_eq!(sent().len(), most);
    }
}
