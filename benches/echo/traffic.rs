//! The parts of every load: memory for its calls, its flows and its counters.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use crate::calls::{Extra, Messages, SLOTS};
use crate::machine::own_cpu;
use crate::servers::Server;
use crate::wire;

/// The duration of a load.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The time before the measurement.
    pub warm_up: Duration,
    /// The time of the measurement.
    pub window: Duration,
}

impl Span {
    pub fn of_milliseconds(warm_up: u64, window: u64) -> Self {
        Self {
            warm_up: Duration::from_millis(warm_up),
            window: Duration::from_millis(window),
        }
    }
}

/// The measurement of one server under one load.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Replies during the measurement.
    pub echoes: u64,
    /// Requests without a reply: before, during and after the measurement.
    pub lost: u64,
    /// Requests whose reply came after the timeout.
    pub late: u64,
    /// The duration of the measurement.
    pub time: Duration,
    /// The server's CPU time during the measurement.
    pub cpu: Duration,
    /// The load's CPU time. Other processes used the rest of its CPU.
    pub load_cpu: Duration,
    /// Round-trip times in nanoseconds: median and 99th percentile. A GSO batch ends with its last
    /// reply. `None` where they are not measured.
    pub rtt: [Option<u32>; 2],
}

/// Memory for the calls, reused by all loads.
pub struct Client {
    pub incoming: Messages,
    /// For GRO batches.
    pub large: Messages,
    pub outgoing: Outgoing,
}

impl Client {
    pub fn new() -> Self {
        Self {
            incoming: Messages::new(2048),
            large: Messages::new(65536),
            outgoing: Outgoing {
                messages: Messages::new(65536),
                next: 0,
            },
        }
    }
}

/// Datagrams to send by `sendmmsg`.
pub struct Outgoing {
    messages: Messages,
    next: usize,
}

impl Outgoing {
    /// Sets the destination for unconnected sockets.
    pub fn address_to(&mut self, to: SocketAddrV4) {
        (0..SLOTS).for_each(|slot| self.messages.address_to(slot, to));
    }

    /// Queues a datagram of `length` bytes that begins with `bytes`. The socket must be unconnected
    /// if `extra` is a source address.
    pub fn push(
        &mut self,
        socket: &UdpSocket,
        bytes: &[u8],
        length: usize,
        extra: Extra,
    ) -> io::Result<()> {
        if self.next == SLOTS {
            self.send(socket)?;
        }
        let connected = !matches!(extra, Extra::From(_));
        self.messages.write(self.next, 0, bytes);
        self.messages.queue(self.next, length, connected, extra);
        self.next += 1;
        Ok(())
    }

    /// Queues a GSO batch of `segments` datagrams of `bytes` bytes. Each begins with `header`.
    pub fn push_batch(
        &mut self,
        socket: &UdpSocket,
        header: [u8; wire::HEADER],
        segments: usize,
        bytes: usize,
    ) -> io::Result<()> {
        if self.next == SLOTS {
            self.send(socket)?;
        }
        for datagram in 0..segments {
            self.messages.write(self.next, datagram * bytes, &header);
        }
        let size = Extra::Segments(bytes as u16);
        self.messages.queue(self.next, segments * bytes, true, size);
        self.next += 1;
        Ok(())
    }

    /// Sends the queued messages.
    pub fn send(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.next = 0;
        self.messages.send(socket)?;
        Ok(())
    }
}

/// Receives without waiting.
pub fn receive(messages: &mut Messages, socket: &UdpSocket) -> io::Result<usize> {
    match messages.receive(socket, libc::MSG_DONTWAIT) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        received => received,
    }
}

/// The flows of a load.
pub trait Traffic {
    /// Sends the first requests.
    fn begin(&mut self, client: &mut Client, now: Instant) -> io::Result<()>;
    /// Receives replies on each flow, and sends new requests unless the load ends.
    fn go_on(&mut self, client: &mut Client, watch: &mut Watch<'_>) -> io::Result<()>;
    /// Counts requests sent before `sent_before` as lost, and sends new ones unless the load ends.
    fn expire(
        &mut self,
        client: &mut Client,
        sent_before: Instant,
        watch: &mut Watch<'_>,
    ) -> io::Result<()>;
    /// The number of requests without a reply.
    fn in_flight(&self) -> usize;
}

/// The counters of a load, which count during the measurement.
pub struct Watch<'a> {
    server: &'a Server,
    phase: Phase,
    /// The planned start of the measurement, then the actual one.
    begin: Instant,
    end: Instant,
    /// The CPU times of the server and the load: at the start, then during the measurement.
    cpu: [Duration; 2],
    time: Duration,
    echoes: u64,
    lost: u64,
    late: u64,
    rtts: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measurement,
    Over,
}

impl<'a> Watch<'a> {
    pub fn new(server: &'a Server, now: Instant, span: Span) -> Self {
        let begin = now + span.warm_up;
        Self {
            server,
            phase: Phase::WarmUp,
            begin,
            end: begin + span.window,
            cpu: [Duration::ZERO; 2],
            time: Duration::ZERO,
            echoes: 0,
            lost: 0,
            late: 0,
            rtts: Vec::with_capacity(1 << 18),
        }
    }

    /// Starts or ends the measurement if it is due at `at`.
    pub fn advance(&mut self, at: Instant) -> io::Result<()> {
        if self.phase == Phase::WarmUp && at >= self.begin {
            self.phase = Phase::Measurement;
            self.cpu = [self.server.cpu()?, own_cpu()?];
            self.begin = now();
        } else if self.phase == Phase::Measurement && at >= self.end {
            self.phase = Phase::Over;
            let [server, load] = self.cpu;
            self.cpu = [
                self.server.cpu()?.saturating_sub(server),
                own_cpu()?.saturating_sub(load),
            ];
            self.time = now() - self.begin;
        }
        Ok(())
    }

    /// Whether the load ends: no new requests.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Counts replies.
    pub fn count(&mut self, echoes: usize) {
        if self.phase == Phase::Measurement {
            self.echoes += echoes as u64;
        }
    }

    /// Records the round-trip time of a request or a GSO batch.
    pub fn took(&mut self, rtt: Duration) {
        if self.phase == Phase::Measurement {
            self.rtts
                .push(u32::try_from(rtt.as_nanos()).unwrap_or(u32::MAX));
        }
    }

    /// Counts lost requests.
    pub fn lose(&mut self, requests: usize) {
        self.lost += requests as u64;
    }

    /// Counts lost requests as late instead.
    pub fn come_late(&mut self, requests: usize) {
        self.lost -= requests as u64;
        self.late += requests as u64;
    }

    /// Returns the measurement.
    pub fn sample(mut self) -> Sample {
        self.rtts.sort_unstable();
        let quantile = |percent| {
            let index = self.rtts.len() * percent / 100;
            self.rtts.get(index).copied()
        };
        Sample {
            echoes: self.echoes,
            lost: self.lost,
            late: self.late,
            time: self.time,
            cpu: self.cpu[0],
            load_cpu: self.cpu[1],
            rtt: [quantile(50), quantile(99)],
        }
    }
}

/// The load's clock.
#[expect(clippy::disallowed_methods, reason = "this measures time")]
pub fn now() -> Instant {
    Instant::now()
}
