//! A kernel for Miri, which has no `recvmmsg` and `sendmmsg`: it goes through the structures just
//! as the real one does, by the pointers and the sizes in them and nothing else, so that Miri sees
//! every access to the memory that is shared with it. valgrind looks at the real calls.
#![expect(
    unsafe_code,
    reason = "it does what a kernel does, through raw pointers"
)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_uint, iovec, mmsghdr, timespec};

use crate::udp::{Batch, Sent, Socket, Transmit, Wait};

/// What comes or goes: an address as bytes, the payload, control messages.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    name: Vec<u8>,
    payload: Vec<u8>,
    control: Vec<u8>,
}

thread_local! {
    static COMING: RefCell<VecDeque<Message>> = const { RefCell::new(VecDeque::new()) };
    static SENT: RefCell<Vec<Message>> = const { RefCell::new(Vec::new()) };
    /// How many messages the next calls take, or which error they fail with.
    static TAKES: RefCell<VecDeque<Result<usize, c_int>>> = const { RefCell::new(VecDeque::new()) };
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
        let Some(coming) = COMING.with_borrow_mut(VecDeque::pop_front) else {
            break;
        };
        // SAFETY: the caller has so many.
        let message = unsafe { messages.add(received) };
        // SAFETY: a valid one.
        let mut header = unsafe { message.read() };
        let name = coming.name.len().min(header.msg_hdr.msg_namelen as usize);
        // SAFETY: there are `msg_namelen` bytes.
        unsafe {
            ptr::copy_nonoverlapping(coming.name.as_ptr(), header.msg_hdr.msg_name.cast(), name)
        };
        header.msg_hdr.msg_namelen = coming.name.len() as u32;
        assert_eq!(header.msg_hdr.msg_iovlen, 1);
        // SAFETY: there is one.
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
    let takes = TAKES.with_borrow_mut(VecDeque::pop_front);
    let takes = match takes.unwrap_or(Ok(count as usize)) {
        Ok(takes) => takes.min(count as usize),
        Err(error) => {
            // SAFETY: this thread's own.
            unsafe { *libc::__errno_location() = error };
            return -1;
        }
    };
    for index in 0..takes {
        // SAFETY: the caller has so many.
        let message = unsafe { messages.add(index) };
        // SAFETY: a valid one.
        let header = unsafe { message.read() }.msg_hdr;
        let mut payload = vec![];
        for part in 0..header.msg_iovlen {
            // SAFETY: there are so many.
            let part = unsafe { header.msg_iov.add(part) };
            // SAFETY: a valid one.
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
/// There must be `length` bytes.
unsafe fn read(first: *const u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    if length > 0 {
        // SAFETY: as the caller says, and there is room for as many.
        unsafe { ptr::copy_nonoverlapping(first, bytes.as_mut_ptr(), length) };
    }
    bytes
}

/// A control message.
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

/// A burst of three, a single one, an empty one, a long one.
fn come() {
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
    let burst: Vec<_> = (0..27).collect();
    COMING.with_borrow_mut(|coming| {
        coming.extend([
            message(v4(1), &burst, &[info.clone(), gro].concat()),
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
        slot,
        start,
        length,
        segment,
    }
}

/// Sends what is queued; what became of it.
fn send(batch: &mut Batch, socket: &Socket) -> Vec<Sent> {
    std::iter::from_fn(|| batch.send_next(socket, || Duration::ZERO)).collect()
}

#[test]
fn batches_go_out_within_their_memory_and_singly_after_an_error() {
    let socket = Socket::simulated(true);
    let mut batch = Batch::new(4, 64, &socket);
    let burst: Vec<u8> = (0..27).collect();
    for errors in [false, true, false] {
        come();
        assert_eq!(batch.receive(&socket, Wait::Block, 4).unwrap(), 4);
        let meta = batch.meta(0);
        assert_eq!((meta.length, meta.segment), (27, 10));
        assert_eq!(batch.memory(0, 5)[..22], burst[5..]);
        assert_eq!(batch.bytes(0), burst);
        assert_eq!(batch.meta(2).length, 0);
        batch.queue(transmit(0, 0, 27, 10), meta.info);
        batch.queue(transmit(0, 10, 17, 10), meta.info);
        batch.queue(transmit(1, 0, 5, 5), batch.meta(1).info);
        batch.queue(transmit(2, 0, 0, 1), None);
        if errors {
            TAKES.with_borrow_mut(|takes| {
                takes.extend([Err(libc::EINTR), Ok(1), Err(libc::EINVAL)])
            });
        }
        let outcomes = send(&mut batch, &socket);
        assert!(outcomes.iter().all(|sent| sent.result.is_ok()));
        let datagrams = outcomes.iter().map(|sent| sent.transmit.count());
        assert_eq!(datagrams.sum::<usize>(), 3 + 2 + 2);
        let mut expected = vec![(burst.clone(), 56)];
        if errors {
            expected.extend([(burst[10..20].to_vec(), 32), (burst[20..].to_vec(), 32)]);
        } else {
            expected.push((burst[10..].to_vec(), 56));
        }
        expected.extend([(b"hello".to_vec(), 32), (vec![], 0)]);
        assert_eq!(sent(), expected);
    }
}

#[test]
fn a_reply_may_differ_from_its_request_and_be_longer() {
    let socket = Socket::simulated(false);
    let mut batch = Batch::new(4, 64, &socket);
    come();
    assert_eq!(batch.receive(&socket, Wait::Block, 4).unwrap(), 4);
    batch.memory(1, 0)[..7].copy_from_slice(b"goodbye");
    batch.queue(transmit(1, 0, 7, 7), batch.meta(1).info);
    assert_eq!(send(&mut batch, &socket).len(), 1);
    assert_eq!(sent(), [(b"goodbye".to_vec(), 32)]);
}

#[test]
fn single_datagrams_are_kept_up_to_the_size_of_their_slot() {
    let socket = Socket::simulated(false);
    let mut batch = Batch::new(4, 64, &socket);
    // One that was without control messages gets some.
    for (most, first) in [(4, 2), (1, 0), (3, 1)] {
        COMING.with_borrow_mut(VecDeque::clear);
        come();
        COMING.with_borrow_mut(|coming| coming.rotate_left(first));
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
