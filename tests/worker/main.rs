//! A worker on a simulated port, without a socket: replies and counts match a model.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a test fails by a panic; peer and byte counts are small"
)]

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use udp_echo::reflect::stamp::StampSettings;
use udp_echo::reflect::{Admission, ExitOn, Mode, Reflector, ReflectorSettings, Refusal, Timeout};
use udp_echo::udp::{PacketInfo, RecvMeta, Sent, Transmit, Wait};
use udp_echo::worker::{Port, Shared, StampClock, Stopped, TICK, Worker, WorkerOptions};

const SLOTS: usize = 4;
const SLOT_BYTES: usize = 200;
const MAX_DATAGRAM: usize = 50;

/// A datagram or a GRO batch.
#[derive(Debug, Clone)]
struct Incoming {
    peer: usize,
    segment: usize,
    bytes: Vec<u8>,
    /// Whether sending the replies fails.
    fails: bool,
}

/// The peer and the bytes of a reply.
type Reply = (usize, Vec<u8>);

/// A simulated port. Stops the worker after the last receive call.
struct Simulated {
    shared: Arc<Shared>,
    /// The content of each receive call; nothing if it times out.
    incoming: VecDeque<Vec<Incoming>>,
    slots: Vec<(Incoming, Vec<u8>)>,
    queued: VecDeque<Transmit>,
    sent: Vec<Reply>,
    sends_batches: bool,
    /// Whether a send could have waited for space in the send buffer.
    could_wait: bool,
    /// The time that was left for such waits in this round.
    left: Option<Duration>,
    /// Whether this time became less within a round.
    time_passes: bool,
    /// When a reply of this round was last sent.
    sent_at: Option<Instant>,
    /// The receive timeouts that were set.
    timeouts: Vec<Option<Duration>>,
    /// The latest deadline of a heartbeat.
    last_due: Option<Instant>,
}

fn peer(number: usize) -> SocketAddr {
    (
        [192, 0, 2, 1],
        if number == 0 { 7 } else { 5000 + number as u16 },
    )
        .into()
}

impl Port for &mut Simulated {
    fn address(&self) -> SocketAddr {
        ([192, 0, 2, 9], 9999).into()
    }

    fn slots(&self) -> usize {
        SLOTS
    }

    fn receives_batches(&self) -> bool {
        true
    }

    fn sends_batches(&self) -> bool {
        self.sends_batches
    }

    fn named(&self, address: SocketAddr) -> String {
        address.to_string()
    }

    fn queue_emptied(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn set_receive_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.timeouts.push(timeout);
        Ok(())
    }

    fn receive(&mut self, _: Wait, limit: usize) -> io::Result<usize> {
        assert!(self.queued.is_empty(), "replies were not sent");
        self.slots.clear();
        (self.left, self.sent_at) = (None, None);
        let due = self.shared.states[0].due.get(self.shared.epoch);
        self.last_due = self.last_due.max(due);
        let Some(call) = self.incoming.pop_front() else {
            self.shared.stop.store(true, Relaxed);
            return Err(io::ErrorKind::WouldBlock.into());
        };
        if call.is_empty() {
            // Waits like a socket.
            let timeout = self.timeouts.last().copied().flatten();
            thread::sleep(timeout.unwrap_or_default());
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        assert!(call.len() <= limit);
        self.slots.extend(call.into_iter().map(|incoming| {
            let mut memory = incoming.bytes.clone();
            memory.resize(SLOT_BYTES, 0);
            (incoming, memory)
        }));
        Ok(self.slots.len())
    }

    fn meta(&self, slot: usize) -> RecvMeta {
        let incoming = &self.slots[slot].0;
        RecvMeta {
            peer: peer(incoming.peer),
            info: None,
            received_at: None,
            ttl: None,
            traffic_class: None,
            length: incoming.bytes.len(),
            segment: incoming.segment.min(incoming.bytes.len()),
        }
    }

    fn memory(&mut self, slot: usize, start: usize) -> &mut [u8] {
        &mut self.slots[slot].1[start..]
    }

    fn is_forged(&self, _: &RecvMeta) -> bool {
        false
    }

    fn is_broadcast_or_multicast(&self, _: &PacketInfo) -> bool {
        false
    }

    fn is_full(&self) -> bool {
        // A round can take long: each send is progress.
        let progress = self.shared.states[0].progress.get(self.shared.epoch);
        assert!(progress >= self.sent_at, "no progress");
        self.queued.len() == SLOTS
    }

    fn has_replies(&self) -> bool {
        !self.queued.is_empty()
    }

    fn queue(&mut self, transmit: Transmit, _: Option<PacketInfo>) {
        assert!(transmit.count() == 1 || self.sends_batches);
        self.queued.push_back(transmit);
    }

    fn send_next(&mut self, mut time: impl FnMut() -> Duration) -> Option<Sent> {
        let left = time();
        self.could_wait |= !left.is_zero();
        self.time_passes |= self.left.is_some_and(|before| left < before);
        self.left = Some(left);
        self.sent_at = Some(Instant::now());
        let transmit = self.queued.pop_front()?;
        let (incoming, memory) = &self.slots[transmit.slot];
        if incoming.fails {
            let mut transmit = transmit;
            if transmit.count() > 1 {
                // Each segment fails by itself.
                let segment = transmit.segment;
                self.queued.push_front(Transmit {
                    start: transmit.start + segment,
                    length: transmit.length - segment,
                    ..transmit
                });
                transmit.length = segment;
            }
            let result = Err(io::Error::from_raw_os_error(libc::EPERM));
            return Some(Sent { transmit, result });
        }
        let bytes = &memory[transmit.start..][..transmit.length];
        // An empty datagram is a reply, too.
        let mut datagrams = bytes.chunks(transmit.segment);
        let first = datagrams.next().unwrap_or_default();
        for datagram in std::iter::once(first).chain(datagrams) {
            self.sent.push((incoming.peer, datagram.to_vec()));
        }
        let result = Ok(());
        Some(Sent { transmit, result })
    }
}

/// The replies and counts that the protocol requires.
fn model(mode: Mode, calls: &[Vec<Incoming>]) -> (Vec<Reply>, HashMap<&'static str, u64>) {
    let (mut sent, mut counts) = (Vec::new(), HashMap::new());
    let mut owes = [false; 5];
    for incoming in calls.iter().flatten() {
        let bytes = &incoming.bytes[..];
        let mut datagrams: Vec<_> = bytes.chunks(incoming.segment.max(1)).collect();
        if datagrams.is_empty() {
            datagrams.push(&[]);
        }
        for bytes in datagrams {
            let mut count = |name| *counts.entry(name).or_default() += 1;
            count("received");
            let is_record = std::mem::take(&mut owes[incoming.peer]);
            match (incoming.peer, bytes.len()) {
                (0, _) => count("refused"),
                (_, 0) if mode != Mode::Echo => count("empty"),
                (_, 22..) if is_record => count("decoded"),
                _ if is_record => count("decode errors"),
                _ if incoming.fails => count("send errors"),
                (peer, length) => {
                    count("echoed");
                    owes[peer] = mode == Mode::Exchange;
                    sent.push((peer, bytes[..length.min(MAX_DATAGRAM)].to_vec()));
                }
            }
        }
    }
    (sent, counts)
}

fn incoming() -> impl Strategy<Value = Incoming> {
    let lengths = (0..70_usize, 1..4_usize, 0..70_usize);
    let fails = prop::bool::weighted(0.2);
    (0..5_usize, lengths, fails, any::<u8>()).prop_map(|(peer, lengths, fails, first)| {
        let (segment, count, shorter) = lengths;
        let most = (segment * count).min(SLOT_BYTES);
        let length = most - shorter % segment.max(1);
        let bytes = (0..length).map(|at| first.wrapping_add(at as u8)).collect();
        Incoming {
            peer,
            segment,
            bytes,
            fails,
        }
    })
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared::new(Instant::now(), Box::new([Arc::default()])))
}

fn simulated(shared: &Arc<Shared>, calls: &[Vec<Incoming>], sends_batches: bool) -> Simulated {
    Simulated {
        shared: Arc::clone(shared),
        incoming: calls.iter().cloned().collect(),
        slots: Vec::new(),
        queued: VecDeque::new(),
        sent: Vec::new(),
        sends_batches,
        could_wait: false,
        left: None,
        time_passes: false,
        sent_at: None,
        timeouts: Vec::new(),
        last_due: None,
    }
}

fn run(port: &mut Simulated, mode: Mode, shared: &Arc<Shared>) -> Stopped {
    run_with_timeout(port, mode, None, shared)
}

fn run_with_timeout(
    port: &mut Simulated,
    mode: Mode,
    timeout: Option<Timeout>,
    shared: &Arc<Shared>,
) -> Stopped {
    let now = Instant::now();
    let settings = ReflectorSettings {
        mode,
        timeout,
        max_datagram: MAX_DATAGRAM,
        max_peers: NonZeroU32::new(100).unwrap(),
        exit_on: ExitOn::default(),
        admission: Admission::new(1024, []),
        limits: None,
        stamp: StampSettings::default(),
    };
    let options = WorkerOptions {
        busy_poll: Duration::ZERO,
        timestamps: false,
        waiting_since: now,
        time_of_day: || Duration::ZERO,
        stamp_clock: StampClock::NotSynchronized,
    };
    let reflector = Reflector::new(settings, now).unwrap();
    Worker::new(port, reflector, options, 0, Arc::clone(shared)).run()
}

/// A slow machine may use up the time of some rounds, but not of all.
#[test]
fn reply_may_wait_for_space_in_the_send_buffer() {
    let incoming = Incoming {
        peer: 1,
        segment: 1,
        bytes: vec![7],
        fails: false,
    };
    let shared = shared();
    let mut port = simulated(&shared, &vec![vec![incoming]; 1000], false);
    run(&mut port, Mode::Echo, &shared);
    assert_eq!(port.sent.len(), 1000);
    assert!(port.could_wait && port.time_passes);
}

#[test]
fn idle_worker_waits_until_the_next_expiry() {
    let shared = shared();
    let mut port = simulated(&shared, &[vec![], vec![]], false);
    run(&mut port, Mode::Exchange, &shared);
    // Nothing expires.
    assert_eq!(port.timeouts, [Some(TICK), None]);
    assert!(port.last_due > Some(Instant::now() + Duration::from_hours(24)));
}

/// The receive call times out just before the record comes.
#[test]
fn record_that_is_queued_when_its_time_ends_is_decoded() {
    let from_peer = |length| Incoming {
        peer: 1,
        segment: length,
        bytes: vec![7; length],
        fails: false,
    };
    let shared = shared();
    let calls = [vec![from_peer(5)], vec![], vec![from_peer(22)]];
    let mut port = simulated(&shared, &calls, false);
    let timeout = Timeout::new(Duration::from_millis(20));
    run_with_timeout(&mut port, Mode::Lockstep, timeout, &shared);
    let counts = &shared.counts[0];
    assert_eq!((counts.decoded.get(), counts.record_timeouts.get()), (1, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replies_and_counts_match_the_model(
        mode in prop::sample::select(vec![Mode::Exchange, Mode::Echo]),
        sends_batches: bool,
        calls in vec(vec(incoming(), 1..SLOTS + 1), 0..20),
    ) {
        let shared = shared();
        let mut port = simulated(&shared, &calls, sends_batches);
        let stopped = run(&mut port, mode, &shared);
        prop_assert!(matches!(stopped, Stopped::Asked));
        let (sent, expected) = model(mode, &calls);
        prop_assert_eq!(port.sent, sent);
        let counts = &shared.counts[0];
        for (name, count) in [
            ("received", &counts.received),
            ("echoed", &counts.echoed),
            ("decoded", &counts.decoded),
            ("decode errors", &counts.decode_errors),
            ("empty", &counts.empty),
            ("refused", &counts.refused[Refusal::SourcePort as usize]),
        ] {
            prop_assert_eq!(count.get(), *expected.get(name).unwrap_or(&0), "{}", name);
        }
        let errors = expected.get("send errors").unwrap_or(&0);
        prop_assert_eq!(counts.send_errors.sum(), *errors);
    }
}
