//! The load: one thread in closed loops, the same for every server. The thread never sleeps, so no
//! server pays for waking it, and no round-trip time includes its wake-up.

use std::io;
use std::time::Duration;

use crate::gso::GsoBatches;
use crate::servers::Server;
use crate::traffic::{Client, Sample, Span, Traffic, Watch, now};
use crate::windows::Windows;

/// The traffic of a load.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// `flows` sockets with `window` datagrams in flight each. After a reply and a pause, the next
    /// request is sent.
    Windows {
        flows: usize,
        window: usize,
        bytes: usize,
        pause: Duration,
        /// Where a reply has the header of its request.
        header_at: usize,
    },
    /// `flows` sockets that send GSO batches of `segments` datagrams, each batch after all replies
    /// to the previous one.
    GsoBatches {
        flows: usize,
        segments: usize,
        bytes: usize,
    },
    /// `flows` flows with `window` frames in flight each, without sockets. Only over the veth pair.
    Circling { flows: usize, window: usize },
    /// `peers` source addresses with one datagram in flight each. After a reply, a record and the
    /// next request are sent.
    Exchanges { peers: usize, bytes: usize },
}

/// How long to wait for a reply before it counts as lost and a new request is sent. A reply that
/// arrives afterwards is late.
const TIMEOUT: Duration = Duration::from_millis(200);

/// The timeout at the end, when no new requests are sent.
const LAST_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a load against a server.
pub fn run(client: &mut Client, server: &Server, shape: Shape, span: Span) -> io::Result<Sample> {
    let mut traffic: Box<dyn Traffic> = match shape {
        Shape::Windows {
            flows,
            window,
            bytes,
            pause,
            header_at,
        } => Box::new(Windows::of_sockets(
            server.address,
            flows,
            window,
            bytes,
            pause,
            header_at,
        )?),
        Shape::GsoBatches {
            flows,
            segments,
            bytes,
        } => Box::new(GsoBatches::new(server.address, flows, segments, bytes)?),
        Shape::Exchanges { peers, bytes } => {
            client.outgoing.address_to(server.address);
            Box::new(Windows::of_peers(peers, bytes)?)
        }
        Shape::Circling { .. } => return Err(io::Error::other("frames circle only over veth")),
    };
    let begin = now();
    let mut watch = Watch::new(server, begin, span);
    traffic.begin(client, begin)?;
    let mut next_expiry = begin + TIMEOUT;
    loop {
        traffic.go_on(client, &mut watch)?;
        let now = now();
        watch.advance(now)?;
        if now > next_expiry {
            next_expiry = now + TIMEOUT / 10;
            let timeout = if watch.is_over() {
                LAST_TIMEOUT
            } else {
                TIMEOUT
            };
            let sent_before = now.checked_sub(timeout).unwrap_or(now);
            traffic.expire(client, sent_before, &mut watch)?;
        }
        if watch.is_over() && traffic.in_flight() == 0 {
            return Ok(watch.sample());
        }
    }
}
