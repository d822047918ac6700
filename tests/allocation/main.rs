//! The datagram path does not allocate: all allocations of a worker's thread are counted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    dead_code,
    unsafe_code,
    reason = "a test fails by a panic; an allocator is unsafe to implement"
)]

#[path = "../harness/mod.rs"]
mod harness;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use udp_echo::metrics::Counts;
use udp_echo::reflect::stamp::StampSettings;
use udp_echo::reflect::{
    Admission, ExitOn, LEAK, Limits, Mode, Rate, Reflector, ReflectorSettings, Refusal, Timeout,
};
use udp_echo::udp::{self, BufferSize, Socket, SocketOptions};
use udp_echo::worker::{self, Shared, Worker};

use harness::{client, send_gso_batch, wait_until};

const ROUNDS: u64 = 500;

/// The system allocator with a counter per thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: forwards every call to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn allocator_counts_an_allocation() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

#[test]
fn worker_does_not_allocate_for_any_datagram() {
    for mode in [Mode::Exchange, Mode::Lockstep, Mode::Echo] {
        for offload in [true, false] {
            assert_allocates_nothing(mode, offload);
        }
    }
}

/// Sends all kinds of datagrams to a worker.
fn assert_allocates_nothing(mode: Mode, offload: bool) {
    let options = SocketOptions {
        ip_header: false,
        receive_buffer: BufferSize::Default,
        send_buffer: BufferSize::Default,
        reuse_address: false,
        timestamps: true,
        offload,
    };
    udp::prepare_wake().unwrap();
    let listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let socket = Arc::new(Socket::bind(listen, &options).unwrap());
    let address = SocketAddr::from(([127, 0, 0, 1], socket.address().port()));
    let refused = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    // Above the rate that is sent.
    let rate = NonZeroU32::new(1_000_000).and_then(Rate::new);
    let own = [socket.address(), refused.local_addr().unwrap()];
    let counts = Arc::new(Counts::default());
    let shared = Arc::new(Shared::new(Instant::now(), Box::new([Arc::clone(&counts)])));
    let settings = ReflectorSettings {
        mode,
        timeout: Timeout::new(Duration::from_millis(1)),
        max_datagram: 1024,
        max_peers: NonZeroU32::new(100).unwrap(),
        exit_on: ExitOn::default(),
        admission: Admission::new(1024, own),
        limits: rate
            .map(|rate| Arc::new(Limits::new(Instant::now(), LEAK, Some(rate), Some(rate)))),
        stamp: StampSettings::default(),
    };
    let worker = thread::spawn({
        let shared = Arc::clone(&shared);
        move || {
            let options = worker::WorkerOptions {
                busy_poll: Duration::ZERO,
                timestamps: true,
                waiting_since: Instant::now(),
                time_of_day: || SystemTime::UNIX_EPOCH.elapsed().unwrap(),
                stamp_clock: worker::StampClock::NotSynchronized,
            };
            let port = worker::port(socket, &settings);
            let reflector = Reflector::new(settings, Instant::now()).unwrap();
            let worker = Worker::new(port, reflector, options, 0, shared);
            let before = ALLOCATIONS.get();
            let _ = worker.run();
            ALLOCATIONS.get() - before
        }
    });
    let peers: Vec<_> = (0..4).map(|_| client(address)).collect();
    for round in 1..=ROUNDS {
        for peer in &peers {
            peer.send(&[1; 1025]).unwrap();
            peer.send(&[2; 22]).unwrap();
        }
        peers[0].send(b"").unwrap();
        for (peer, last) in peers.iter().zip([1, 22]) {
            send_gso_batch(peer, &vec![3; 11 * 22 + last], 22);
        }
        // Wait for the last datagram of the round, so that none is dropped. No other process sends
        // from this address.
        refused.send_to(b"?", address).unwrap();
        wait_until("the round is received", || {
            counts.refused[Refusal::OwnAddress as usize].get() == round
        });
    }
    shared.stop.store(true, Relaxed);
    while !worker.is_finished() {
        udp::wake(&worker);
        thread::sleep(Duration::from_millis(1));
    }
    let allocations = worker.join().unwrap();
    assert_eq!(allocations, 0, "{mode:?}, offload {offload}");
    // Each round sends 10 single datagrams and two GSO batches of 12.
    assert!(counts.received.get() >= ROUNDS * (10 + 24), "{mode:?}");
}
