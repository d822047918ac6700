//! The load: one thread that never sleeps, in closed loops, the same for every server. As it does
//! not sleep, no server pays for waking it, and its own wake-ups are in no round-trip time.

use std::io;
use std::time::Duration;

use crate::bursts::Bursts;
use crate::servers::Server;
use crate::traffic::{Client, Sample, Span, Traffic, Watch, now};
use crate::windows::Windows;

/// What a load is made of.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// So many sockets, each with so many datagrams in flight. Each reply is replaced by a request
    /// after a pause.
    Windows {
        flows: usize,
        window: usize,
        bytes: usize,
        pause: Duration,
    },
    /// So many sockets, each of which sends so many datagrams as one (GSO), and the next when all
    /// are back.
    Bursts {
        flows: usize,
        burst: usize,
        bytes: usize,
    },
    /// So many source addresses with one datagram in flight each. Each reply is followed by a
    /// record and the next request.
    Exchanges { peers: usize, bytes: usize },
}

/// How long to wait for a reply before it is counted as lost and replaced. If it comes after all,
/// it was late.
const PATIENCE: Duration = Duration::from_millis(200);

/// The same for the last ones, which nothing replaces.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Runs a load against a server.
pub fn run(client: &mut Client, server: &Server, shape: Shape, span: Span) -> io::Result<Sample> {
    let mut traffic: Box<dyn Traffic> = match shape {
        Shape::Windows {
            flows,
            window,
            bytes,
            pause,
        } => Box::new(Windows::of_sockets(
            server.address,
            flows,
            window,
            bytes,
            pause,
        )?),
        Shape::Bursts {
            flows,
            burst,
            bytes,
        } => Box::new(Bursts::new(server.address, flows, burst, bytes)?),
        Shape::Exchanges { peers, bytes } => {
            client.outgoing.address_to(server.address);
            Box::new(Windows::of_peers(peers, bytes)?)
        }
    };
    let begin = now();
    let mut watch = Watch::new(server, begin, span);
    traffic.begin(client, begin)?;
    let mut look_for_lost = begin + PATIENCE;
    loop {
        traffic.go_on(client, &mut watch)?;
        let now = now();
        watch.advance(now)?;
        if now > look_for_lost {
            look_for_lost = now + PATIENCE / 10;
            let patience = if watch.is_over() {
                LAST_PATIENCE
            } else {
                PATIENCE
            };
            let sent_before = now.checked_sub(patience).unwrap_or(now);
            traffic.give_up(client, sent_before, &mut watch)?;
        }
        if watch.is_over() && traffic.in_flight() == 0 {
            return Ok(watch.sample());
        }
    }
}
