//! Senders that use GSO: each sends a batch of datagrams at once, and receives replies by GRO.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::Instant;

use crate::calls::set_gro;
use crate::traffic::{Client, Outgoing, Traffic, Watch, now, receive};
use crate::wire;

/// Sockets with one batch in flight each.
pub struct GsoBatches {
    flows: Vec<Flow>,
    /// Datagrams per batch.
    segments: usize,
    bytes: usize,
}

struct Flow {
    socket: UdpSocket,
    sequence: u64,
    sent: Instant,
    /// The datagrams of the batch without a reply.
    missing: usize,
    /// The datagrams of the previous batch that were counted as lost.
    expired: usize,
}

impl GsoBatches {
    pub fn new(
        server: SocketAddrV4,
        flows: usize,
        segments: usize,
        bytes: usize,
    ) -> io::Result<Self> {
        let flow = || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(server)?;
            set_gro(&socket)?;
            Ok(Flow {
                socket,
                sequence: 0,
                sent: now(),
                missing: 0,
                expired: 0,
            })
        };
        Ok(Self {
            flows: (0..flows).map(|_| flow()).collect::<io::Result<_>>()?,
            segments,
            bytes,
        })
    }
}

impl Flow {
    fn send(
        &mut self,
        outgoing: &mut Outgoing,
        segments: usize,
        bytes: usize,
        now: Instant,
    ) -> io::Result<()> {
        self.sequence += 1;
        self.sent = now;
        self.missing = segments;
        let header = wire::request(0, self.sequence, 0);
        outgoing.push_batch(&self.socket, header, segments, bytes)?;
        outgoing.send(&self.socket)
    }
}

impl Traffic for GsoBatches {
    fn begin(&mut self, client: &mut Client, now: Instant) -> io::Result<()> {
        for flow in &mut self.flows {
            flow.send(&mut client.outgoing, self.segments, self.bytes, now)?;
        }
        Ok(())
    }

    fn go_on(&mut self, client: &mut Client, watch: &mut Watch<'_>) -> io::Result<()> {
        for flow in &mut self.flows {
            let count = receive(&mut client.large, &flow.socket)?;
            if count == 0 {
                continue;
            }
            let now = now();
            for slot in 0..count {
                let reply = wire::reply(client.large.bytes(slot, 0));
                let Some((_, sequence)) = reply else {
                    continue;
                };
                let length = client.large.length(slot);
                let datagram = client.large.segment(slot).map_or(length, usize::from);
                if datagram != self.bytes || !length.is_multiple_of(self.bytes) {
                    continue;
                }
                if sequence + 1 == flow.sequence {
                    let came = (length / self.bytes).min(flow.expired);
                    flow.expired -= came;
                    watch.come_late(came);
                }
                if sequence != flow.sequence {
                    continue;
                }
                let came = (length / self.bytes).min(flow.missing);
                flow.missing -= came;
                watch.count(came);
                if came > 0 && flow.missing == 0 {
                    watch.took(now - flow.sent);
                }
            }
            if flow.missing == 0 && !watch.is_over() {
                flow.send(&mut client.outgoing, self.segments, self.bytes, now)?;
            }
        }
        Ok(())
    }

    fn expire(
        &mut self,
        client: &mut Client,
        sent_before: Instant,
        watch: &mut Watch<'_>,
    ) -> io::Result<()> {
        for flow in &mut self.flows {
            if flow.missing == 0 || flow.sent >= sent_before {
                continue;
            }
            watch.lose(flow.missing);
            flow.expired = flow.missing;
            flow.missing = 0;
            if !watch.is_over() {
                flow.send(&mut client.outgoing, self.segments, self.bytes, now())?;
            }
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.flows.iter().map(|flow| flow.missing).sum()
    }
}
