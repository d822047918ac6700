//! Sockets with a fixed number of datagrams in flight.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use crate::calls::Extra;
use crate::traffic::{Client, Outgoing, Traffic, Watch, now, receive};
use crate::wire;

/// Sockets, each with a window of datagrams in flight.
pub struct Windows {
    flows: Vec<Flow>,
    bytes: usize,
    /// The time from a reply to the next request in its place.
    pause: Duration,
    /// Whether each place is a peer of its own that sends records.
    peers: bool,
    /// Where a reply has the header of its request.
    header_at: usize,
    in_flight: usize,
}

struct Flow {
    socket: UdpSocket,
    places: Vec<Place>,
}

/// The place of one datagram in flight.
#[derive(Clone, Copy)]
struct Place {
    sequence: u64,
    /// When the request was sent. `None` after the reply.
    sent: Option<Instant>,
    /// The previous request, if it was counted as lost.
    expired: Option<u64>,
    /// When to send the next request, during a pause.
    due: Option<Instant>,
}

impl Windows {
    /// A load of `flows` sockets, each of which is a peer.
    pub fn of_sockets(
        server: SocketAddrV4,
        flows: usize,
        window: usize,
        bytes: usize,
        pause: Duration,
        header_at: usize,
    ) -> io::Result<Self> {
        let flow = || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(server)?;
            Ok(Flow::new(socket, window))
        };
        Ok(Self {
            flows: (0..flows).map(|_| flow()).collect::<io::Result<_>>()?,
            bytes,
            pause,
            peers: false,
            header_at,
            in_flight: 0,
        })
    }

    /// A load of one socket with `peers` source addresses.
    pub fn of_peers(peers: usize, bytes: usize) -> io::Result<Self> {
        Ok(Self {
            flows: vec![Flow::new(UdpSocket::bind("0.0.0.0:0")?, peers)],
            bytes,
            pause: Duration::ZERO,
            peers: true,
            header_at: 0,
            in_flight: 0,
        })
    }
}

impl Flow {
    fn new(socket: UdpSocket, places: usize) -> Self {
        let place = Place {
            sequence: 0,
            sent: None,
            expired: None,
            due: None,
        };
        Self {
            socket,
            places: vec![place; places],
        }
    }

    fn request(
        &mut self,
        outgoing: &mut Outgoing,
        place: usize,
        bytes: usize,
        extra: Extra,
        now: Instant,
    ) -> io::Result<()> {
        let number = place as u32;
        let places = self.places.len() as u64;
        let place = &mut self.places[place];
        place.sequence += 1;
        place.sent = Some(now);
        place.due = None;
        let of_flow = place.sequence * places + u64::from(number);
        let header = wire::request(number, place.sequence, of_flow);
        outgoing.push(&self.socket, &header, bytes, extra)
    }
}

/// The source address of a peer, from 127.1.0.0. All of 127.0.0.0/8 is this host.
pub fn peer(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + number as u32)
}

impl Traffic for Windows {
    fn begin(&mut self, client: &mut Client, now: Instant) -> io::Result<()> {
        for flow in &mut self.flows {
            for place in 0..flow.places.len() {
                let extra = extra(self.peers, place);
                flow.request(&mut client.outgoing, place, self.bytes, extra, now)?;
                self.in_flight += 1;
            }
            client.outgoing.send(&flow.socket)?;
        }
        Ok(())
    }

    fn go_on(&mut self, client: &mut Client, watch: &mut Watch<'_>) -> io::Result<()> {
        for flow in &mut self.flows {
            let count = receive(&mut client.incoming, &flow.socket)?;
            if count == 0 && self.pause.is_zero() {
                continue;
            }
            let now = now();
            let outgoing = &mut client.outgoing;
            for slot in 0..count {
                if client.incoming.length(slot) != self.bytes {
                    continue;
                }
                let reply = wire::reply(client.incoming.bytes(slot, self.header_at));
                let Some((number, sequence)) = reply else {
                    continue;
                };
                let Some(place) = flow.places.get_mut(number) else {
                    continue;
                };
                if place
                    .expired
                    .take_if(|expired| *expired == sequence)
                    .is_some()
                {
                    watch.come_late(1);
                }
                if place.sequence != sequence {
                    continue;
                }
                let Some(sent) = place.sent.take() else {
                    continue;
                };
                self.in_flight -= 1;
                watch.count(1);
                watch.took(now - sent);
                place.due = Some(now + self.pause);
                let extra = extra(self.peers, number);
                if self.peers {
                    outgoing.push(&flow.socket, wire::RECORD, wire::RECORD.len(), extra)?;
                }
                if self.pause.is_zero() && !watch.is_over() {
                    flow.request(outgoing, number, self.bytes, extra, now)?;
                    self.in_flight += 1;
                }
            }
            if !self.pause.is_zero() && !watch.is_over() {
                for place in 0..flow.places.len() {
                    if flow.places[place].due.is_some_and(|due| due <= now) {
                        let extra = extra(self.peers, place);
                        flow.request(outgoing, place, self.bytes, extra, now)?;
                        self.in_flight += 1;
                    }
                }
            }
            outgoing.send(&flow.socket)?;
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
            for place in 0..flow.places.len() {
                let waits = &mut flow.places[place];
                if waits.sent.take_if(|sent| *sent < sent_before).is_none() {
                    continue;
                }
                waits.expired = Some(waits.sequence);
                self.in_flight -= 1;
                watch.lose(1);
                if !watch.is_over() {
                    // It is unknown whether a record is owed. If it is, the server takes this
                    // request for the record and echoes the next one.
                    let extra = extra(self.peers, place);
                    flow.request(&mut client.outgoing, place, self.bytes, extra, now())?;
                    self.in_flight += 1;
                }
            }
            client.outgoing.send(&flow.socket)?;
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

fn extra(peers: bool, place: usize) -> Extra {
    if peers {
        Extra::From(peer(place))
    } else {
        Extra::Nothing
    }
}
