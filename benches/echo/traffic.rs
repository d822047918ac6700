//! What every load is made of: memory for its calls, the flows, and what is counted of them.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use crate::calls::{Extra, Messages, SLOTS};
use crate::machine::own_cpu;
use crate::servers::Server;
use crate::wire;

/// How long to run a load.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Before the measurement.
    pub warm_up: Duration,
    /// The measurement.
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

/// What was seen of one server under one load.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Replies in the measurement.
    pub echoes: u64,
    /// Requests without a reply, in the measurement, before it and after it.
    pub lost: u64,
    /// Those for whose reply the load did not wait.
    pub late: u64,
    /// How long the measurement was.
    pub time: Duration,
    /// The server's CPU time in it.
    pub cpu: Duration,
    /// The load's own. What is missing to all of the time, others took.
    pub load_cpu: Duration,
    /// Round-trip times in nanoseconds: the median, and what 99 % are within. Of a burst, the time
    /// until all of it was back.
    pub rtt: [u32; 2],
}

/// Memory for the calls, kept from load to load.
pub struct Client {
    pub incoming: Messages,
    /// As `incoming`, for what GRO puts together.
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

/// Datagrams on their way into `sendmmsg`.
pub struct Outgoing {
    messages: Messages,
    next: usize,
}

impl Outgoing {
    /// Has all that goes over an unconnected socket go to an address.
    pub fn address_to(&mut self, to: SocketAddrV4) {
        (0..SLOTS).for_each(|slot| self.messages.address_to(slot, to));
    }

    /// Queues `length` bytes, the first of which are `bytes` and the rest whatever. Over an
    /// unconnected socket if they are to leave from an address of their own.
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

    /// Queues a burst as one message. Each of its datagrams begins with `header`.
    pub fn push_burst(
        &mut self,
        socket: &UdpSocket,
        header: [u8; wire::HEADER],
        burst: usize,
        bytes: usize,
    ) -> io::Result<()> {
        if self.next == SLOTS {
            self.send(socket)?;
        }
        for datagram in 0..burst {
            self.messages.write(self.next, datagram * bytes, &header);
        }
        let segments = Extra::Segments(bytes as u16);
        self.messages
            .queue(self.next, burst * bytes, true, segments);
        self.next += 1;
        Ok(())
    }

    /// Sends what is queued.
    pub fn send(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.next = 0;
        self.messages.send(socket)?;
        Ok(())
    }
}

/// Receives what is there, without waiting.
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
    /// Takes what has come back on each flow, and sends anew, unless the load is to end.
    fn go_on(&mut self, client: &mut Client, watch: &mut Watch<'_>) -> io::Result<()>;
    /// Counts as lost what was sent before a moment, and replaces it, unless the load is to end.
    fn give_up(
        &mut self,
        client: &mut Client,
        sent_before: Instant,
        watch: &mut Watch<'_>,
    ) -> io::Result<()>;
    /// How many requests wait for a reply.
    fn in_flight(&self) -> usize;
}

/// Counts while it is time to.
pub struct Watch<'a> {
    server: &'a Server,
    phase: Phase,
    /// When the measurement begins, or when it began.
    begin: Instant,
    end: Instant,
    /// The server's CPU time and the load's own: at the beginning, and then in the measurement.
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

    /// The time is now `at`.
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

    /// Whether no more requests are to be sent.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Some replies came.
    pub fn count(&mut self, echoes: usize) {
        if self.phase == Phase::Measurement {
            self.echoes += echoes as u64;
        }
    }

    /// A request, or a burst of them, took this long.
    pub fn took(&mut self, rtt: Duration) {
        if self.phase == Phase::Measurement {
            self.rtts
                .push(u32::try_from(rtt.as_nanos()).unwrap_or(u32::MAX));
        }
    }

    /// Some requests had no reply.
    pub fn lose(&mut self, requests: usize) {
        self.lost += requests as u64;
    }

    /// Some that were counted as lost were not.
    pub fn come_late(&mut self, requests: usize) {
        self.lost -= requests as u64;
        self.late += requests as u64;
    }

    /// What was seen.
    pub fn sample(mut self) -> Sample {
        self.rtts.sort_unstable();
        let quantile = |percent| {
            let index = self.rtts.len() * percent / 100;
            self.rtts.get(index).copied().unwrap_or(0)
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
