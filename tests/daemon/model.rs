//! The daemon under random traffic, single datagrams and GRO batches, against a naive model of the
//! contract.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use crate::harness::{Daemon, Random, client, has_nothing, receive, send_gso_batch, total};
use crate::modes::{
    DECODED, DROPS, ECHOED, ECHOED_BYTES, EMPTY, EVICTED, PEERS, RECEIVE_ERRORS, RECEIVED,
    RECEIVED_BYTES, REFUSED, SEND_ERRORS, TIMEOUTS, TRUNCATED, WRONG, assert_counts, patient,
};

#[test]
fn replies_match_the_model() {
    assert_like_the_model(&[]);
}

#[test]
fn replies_match_the_model_without_offload() {
    assert_like_the_model(&["--offload=off"]);
}

#[test]
fn replies_match_the_model_with_two_workers() {
    assert_like_the_model(&["--workers=2"]);
}

#[test]
fn replies_match_the_model_when_cut_below_record_size() {
    assert_like_the_model(&["--max-datagram=10"]);
}

#[test]
fn replies_match_the_model_with_evictions_mid_batch() {
    assert_like_the_model(&["--max-peers=5"]);
}

#[test]
fn replies_match_the_model_in_echo_mode() {
    assert_like_the_model(&["--mode=echo"]);
    assert_like_the_model(&["--mode=echo", "--max-datagram=700"]);
    assert_like_the_model(&["--mode=echo", "--offload=off"]);
}

#[test]
fn replies_match_the_model_with_debug_log() {
    assert_like_the_model(&["--log=debug"]);
}

/// Sends 3000 datagrams, many of them in GSO batches, and compares replies and metrics with a
/// [`Model`].
fn assert_like_the_model(args: &[&str]) {
    assert_plays_like_the_model(&patient(args), args);
}

/// Compares a daemon that was started with `args` with a [`Model`].
pub(crate) fn assert_plays_like_the_model(daemon: &Daemon, args: &[&str]) {
    let peers: Vec<_> = (0..60).map(|_| client(daemon.address())).collect();
    let mut random = Random::new(60);
    let mut model = Model::new(args);
    let mut sent = 0;
    while sent < 3000 {
        let at_once = random.below(2) == 0;
        if at_once {
            daemon.pause();
        }
        let mut due = Vec::new();
        let mut peer = 0;
        // About the capacity of the receive buffer.
        let mut free = 64_000;
        while free > 0 {
            if random.below(3) > 0 {
                peer = random.below(peers.len());
            }
            let datagrams = Datagrams::new(&mut random);
            datagrams.send(&peers[peer]);
            for bytes in datagrams.each() {
                sent += 1;
                free = usize::saturating_sub(free, bytes.len() + 500);
                let length = model.datagram(peer, bytes.len());
                due.extend(length.map(|length| (peer, bytes[..length].to_vec())));
            }
        }
        if at_once {
            daemon.resume();
        }
        for (peer, reply) in due {
            assert!(receive(&peers[peer]) == reply, "within the first {sent}");
        }
        // The receive buffer is empty before the next window.
        assert_counts(daemon, &[(RECEIVED, sent)]);
    }
    let errors = [SEND_ERRORS, RECEIVE_ERRORS, DROPS];
    let none = [REFUSED, TIMEOUTS].into_iter().chain(errors);
    let none = none.map(|name| (name, 0));
    let counts: Vec<_> = model.counts.into_iter().chain(none).collect();
    assert_counts(daemon, &counts);
    assert!(peers.iter().all(has_nothing));
    // Some receive calls returned more than one datagram.
    let calls = total(&daemon.metrics(), "batch_datagrams_count");
    assert!(calls < 0.7 * f64::from(sent), "{calls} for {sent}");
}

/// One datagram, or a GSO batch.
struct Datagrams {
    bytes: Vec<u8>,
    /// The segment size.
    segment: usize,
}

impl Datagrams {
    fn new(random: &mut Random) -> Self {
        let any = random.below(2001);
        let segment = [0, random.below(22), 22, any, any, any][random.below(6)];
        let count = [1, 1, 2, 2 + random.below(8), 2 + random.below(63)][random.below(5)];
        let shorter = random.below(segment.max(1));
        let length = if count * segment <= 12_000 {
            count * segment - [0, shorter][random.below(2)]
        } else {
            segment
        };
        Self {
            bytes: random.bytes(length),
            segment,
        }
    }

    fn each(&self) -> Vec<&[u8]> {
        if self.bytes.is_empty() {
            return vec![&[]];
        }
        self.bytes.chunks(self.segment).collect()
    }

    fn send(&self, peer: &UdpSocket) {
        if self.bytes.len() > self.segment {
            send_gso_batch(peer, &self.bytes, self.segment);
        } else {
            peer.send(&self.bytes).unwrap();
        }
    }
}

/// A naive model of the modes `exchange` and `echo`.
struct Model {
    echo_mode: bool,
    max_datagram: usize,
    max_peers: usize,
    /// The longest-owing peer first.
    owing: Vec<usize>,
    counts: BTreeMap<&'static str, u32>,
}

impl Model {
    fn new(args: &[&str]) -> Self {
        let given = |name| args.iter().find_map(|arg| arg.strip_prefix(name));
        let number = |name, default| given(name).map_or(default, |text| text.parse().unwrap());
        Self {
            echo_mode: given("--mode=") == Some("echo"),
            max_datagram: number("--max-datagram=", 1024),
            max_peers: number("--max-peers=", 65536),
            owing: Vec::new(),
            counts: BTreeMap::new(),
        }
    }

    /// The length of the reply to a datagram, if any.
    fn datagram(&mut self, peer: usize, length: usize) -> Option<usize> {
        let mut count = |name, number: usize| {
            *self.counts.entry(name).or_default() += u32::try_from(number).unwrap();
        };
        count(RECEIVED, 1);
        count(RECEIVED_BYTES, length);
        let before = self.owing.len();
        self.owing.retain(|owing| *owing != peer);
        let owed = self.owing.len() < before;
        let echo = !owed && (length > 0 || self.echo_mode);
        count(EMPTY, usize::from(!echo && length == 0));
        count(WRONG, usize::from(owed && (1..22).contains(&length)));
        count(DECODED, usize::from(owed && length >= 22));
        count(ECHOED, usize::from(echo));
        count(TRUNCATED, usize::from(echo && length > self.max_datagram));
        let reply = echo.then_some(length.min(self.max_datagram));
        count(ECHOED_BYTES, reply.unwrap_or(0));
        self.owing.extend((echo && !self.echo_mode).then_some(peer));
        let evicted = self.owing.len().saturating_sub(self.max_peers);
        self.owing.drain(..evicted);
        count(EVICTED, evicted);
        let owing = u32::try_from(self.owing.len()).unwrap();
        self.counts.insert(PEERS, owing);
        reply
    }
}
