//! The protocol core: decides what happens to each datagram, and when records expire.
//!
//! It uses no socket and no clock. The loop that owns both passes in each datagram with the time,
//! acts on the [`Verdict`] and reports failed replies:
//!
//! 1. [`Reflector::handle`] for each datagram or GRO batch, in order, until all of it is handled.
//!    On [`Action::SendFirst`], send the pending replies, then call it again. On
//!    [`Action::StampReply`], read the clock and call [`Reflector::complete`].
//! 2. [`Reflector::reply_failed`] for each reply that could not be sent, then
//!    [`Reflector::batch_sent`].
//! 3. [`Reflector::expire`] when the socket is empty, or has long had only refused datagrams.

mod admission;
mod echo;
mod exchange;
mod gate;
mod lockstep;
mod rate_limit;
mod settings;
pub mod stamp;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

pub use admission::{Admission, Refusal};
use echo::Echo;
use exchange::Exchange;
use gate::Gate;
use lockstep::Lockstep;
pub use rate_limit::{BUCKETS, LEAK, Limits, Rate};
pub use settings::{End, ExitOn, Mode, ReflectorSettings, Timeout};
use stamp::{ErrorEstimate, NtpTimestamp, Reception, Stamp, StampReply, StampTotals};
use table::Place;
pub use table::{BYTES_PER_PEER, NoMemory, SLACK};

use crate::record::{Record, TooShort};

/// The destination of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// An address of this host, or the broadcast or multicast address that the socket is bound to.
    Here {
        /// The address, if the socket receives for more than one.
        address: Option<IpAddr>,
        /// Whether the datagram came over the loopback interface, and so from this host.
        over_loopback: bool,
    },
    /// A broadcast or multicast address other than the bound address.
    BroadcastOrMulticast,
    /// The source address, although the datagram came from the network.
    Source,
}

/// A received datagram, or a GRO batch (udp(7)): datagrams of one peer and one size.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// The source. An IPv4 source on an IPv6 socket is an IPv4 address.
    pub peer: SocketAddr,
    /// The destination.
    pub destination: Destination,
    /// When it was received, by a clock that all sharers of the limits use.
    pub at: Instant,
    /// Its receive time of day, TTL and DSCP. Only [`Mode::Stamp`] uses them.
    pub reception: Reception,
    /// The length in bytes of the datagram or of the whole batch. Can exceed `memory`.
    pub length: usize,
    /// The length of each datagram of a batch except the last, which may be shorter. Equals
    /// `length` for a single datagram.
    pub segment: usize,
    /// The memory of the receive slot: the received bytes, at least those that are echoed or
    /// decoded, then unused bytes for a longer reply.
    pub memory: &'a mut [u8],
}

impl Datagram<'_> {
    /// The number of datagrams.
    #[inline]
    pub fn count(&self) -> usize {
        if self.length > self.segment {
            self.length.div_ceil(self.segment)
        } else {
            1
        }
    }

    /// The length of the first datagram in bytes.
    #[inline]
    fn first_length(&self) -> usize {
        self.length.min(self.segment)
    }

    /// The received bytes of the first datagram.
    #[inline]
    pub fn first(&self) -> &[u8] {
        &self.memory[..self.first_length().min(self.memory.len())]
    }
}

/// The action for a datagram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Send the first `length` bytes of the memory to the peer, in datagrams of the segment size.
    Reply {
        /// The number of bytes.
        length: usize,
        /// Whether the datagram was longer.
        truncated: bool,
    },
    /// Complete the reply in the memory with [`Reflector::complete`], then send it to the peer.
    StampReply(StampReply),
    /// It was a record, or too short for one.
    Decode(Result<Record, TooShort>),
    /// It was empty and is not echoed.
    Empty,
    /// It gets no reply and has no effect.
    Refuse(Refusal),
    /// Send the pending replies, then handle this datagram: its action depends on their results.
    SendFirst,
}

/// The action for the first of the handled datagrams, and whether the daemon stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// The action for each of these datagrams.
    pub action: Action,
    /// The number of datagrams: 0 for [`Action::SendFirst`], more than 1 only in a GRO batch.
    pub datagrams: usize,
    /// Why the daemon stops after this datagram.
    pub end: Option<End>,
}

/// Counters and the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReflectorTotals {
    /// The peers that owe a record now.
    pub peers: u64,
    /// The peers evicted from a full table.
    pub evicted: u64,
    /// The records that did not arrive within the timeout.
    pub records_expired: u64,
    /// The timeouts that passed without a datagram while no record was owed.
    pub idle_timeouts: u64,
    /// When the socket became idle. Refused datagrams do not count.
    pub idle_since: Instant,
}

/// The protocol state of one socket with all its peers.
#[derive(Debug)]
pub struct Reflector {
    gate: Gate,
    protocol: Protocol,
    timeout: Option<Timeout>,
    exit_on_timeout: bool,
    /// The time of the last datagram or idle timeout.
    idle_since: Instant,
    idle_timeouts: u64,
}

/// The protocol of admitted datagrams.
#[derive(Debug)]
enum Protocol {
    Exchange(Exchange),
    Lockstep(Lockstep),
    Echo(Echo),
    Stamp(Box<Stamp>),
}

/// Datagrams that a protocol can decide now.
#[derive(Debug, Clone, Copy)]
struct Ready {
    /// The number of datagrams that it decides at once.
    datagrams: usize,
    /// The place of their peer in the table, if there is a table.
    place: Place,
}

impl Ready {
    /// One datagram, without a table.
    const ONE: Self = Self {
        datagrams: 1,
        place: Place::NONE,
    };
}

/// The result of an expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expired {
    /// The record after the last datagram did not expire.
    Nothing,
    /// The record after the last datagram expired.
    LastRecord,
}

impl Reflector {
    /// A reflector without peers, idle since `now`.
    ///
    /// # Errors
    /// If there is not enough memory for the table of peers.
    pub fn new(settings: ReflectorSettings, now: Instant) -> Result<Self, NoMemory> {
        Ok(Self {
            timeout: settings.timeout,
            exit_on_timeout: settings.exit_on.timeout,
            idle_since: now,
            idle_timeouts: 0,
            protocol: match settings.mode {
                Mode::Exchange => Protocol::Exchange(Exchange::new(&settings)?),
                Mode::Lockstep => Protocol::Lockstep(Lockstep::new(&settings)),
                Mode::Echo => Protocol::Echo(Echo::new(&settings)),
                Mode::Stamp => Protocol::Stamp(Box::new(Stamp::new(&settings)?)),
            },
            gate: Gate::new(settings),
        })
    }

    /// The protocol.
    pub fn mode(&self) -> Mode {
        self.gate.mode()
    }

    /// Handles the next datagram, or the first ones of a GRO batch, as the verdict says. In all
    /// methods, `now` must not be before that of an earlier call.
    pub fn handle(&mut self, datagram: &mut Datagram<'_>, now: Instant) -> Verdict {
        if let Some(refusal) = self.gate.refuses(datagram) {
            return verdict(Action::Refuse(refusal), datagram.count());
        }
        if let Protocol::Stamp(stamp) = &self.protocol
            && let Some(refusal) = stamp.refuses(datagram)
        {
            return verdict(Action::Refuse(refusal), 1);
        }
        let Some(ready) = self.protocol.ready(datagram, now) else {
            return verdict(Action::SendFirst, 0);
        };
        let Some(datagrams) = self.gate.within_limits(datagram, ready.datagrams) else {
            return verdict(Action::Refuse(Refusal::RateLimit), 1);
        };
        self.idle_since = now;
        let ready = Ready { datagrams, ..ready };
        let (action, end) = self.protocol.decide(datagram, ready, now);
        Verdict {
            action,
            datagrams,
            end,
        }
    }

    /// Completes the reply of an [`Action::StampReply`] in the memory of its datagram. `sent_at` is
    /// T3: read the clock just before.
    pub fn complete(&self, reply: &StampReply, memory: &mut [u8], sent_at: NtpTimestamp) {
        if let Protocol::Stamp(stamp) = &self.protocol {
            stamp.complete(reply, memory, sent_at);
        }
    }

    /// Sets the error estimate of the clock that timestamps are read from.
    pub fn set_clock_error(&mut self, error: ErrorEstimate) {
        if let Protocol::Stamp(stamp) = &mut self.protocol {
            stamp.set_clock_error(error);
        }
    }

    /// Reports that a reply to `peer` could not be sent, so it owes no record.
    pub fn reply_failed(&mut self, peer: SocketAddr) {
        match &mut self.protocol {
            Protocol::Exchange(exchange) => exchange.reply_failed(peer),
            Protocol::Lockstep(lockstep) => lockstep.reply_failed(),
            Protocol::Echo(_) | Protocol::Stamp(_) => {}
        }
    }

    /// Reports that all replies so far were sent, or failed and were reported.
    pub fn batch_sent(&mut self) {
        match &mut self.protocol {
            Protocol::Exchange(exchange) => exchange.batch_sent(),
            Protocol::Lockstep(lockstep) => lockstep.batch_sent(),
            Protocol::Echo(_) | Protocol::Stamp(_) => {}
        }
    }

    /// Expires overdue records and idle sessions; to be called when the socket is empty at `now`. `elsewhere` is when
    /// another socket of the daemon last received a datagram: the idle time starts no earlier.
    pub fn expire(&mut self, now: Instant, elsewhere: Option<Instant>) -> Option<End> {
        self.idle_since = elsewhere.map_or(self.idle_since, |at| self.idle_since.max(at));
        if let Protocol::Stamp(stamp) = &mut self.protocol {
            stamp.expire(now);
        }
        let timeout = self.timeout?;
        let is_idle = timeout.has_passed(self.idle_since, now);
        let expired = match &mut self.protocol {
            Protocol::Exchange(exchange) => exchange.expire(now, self.idle_since),
            Protocol::Lockstep(lockstep) if is_idle => lockstep.expire(),
            Protocol::Lockstep(_) | Protocol::Echo(_) | Protocol::Stamp(_) => Expired::Nothing,
        };
        if !is_idle {
            return None;
        }
        self.idle_timeouts += u64::from(expired == Expired::Nothing);
        self.idle_since = now;
        self.exit_on_timeout.then_some(End::Timeout)
    }

    /// Whether [`Self::expire`] must be called at [`Self::next_expiry`] and not later, because a
    /// reply or the end of the daemon depends on it.
    pub fn expires_exactly(&self) -> bool {
        self.exit_on_timeout || matches!(self.protocol, Protocol::Lockstep(_))
    }

    /// When [`Self::expire`] is due next if no datagram arrives.
    pub fn next_expiry(&self) -> Option<Instant> {
        // A record is owed since the last datagram at the latest, so it expires first.
        let (oldest, session_end) = match &self.protocol {
            Protocol::Exchange(exchange) => (exchange.oldest(), None),
            Protocol::Lockstep(_) | Protocol::Echo(_) => (None, None),
            Protocol::Stamp(stamp) => (None, stamp.next_expiry()),
        };
        let since = oldest.unwrap_or(self.idle_since);
        let timeout = self.timeout.map(Timeout::get);
        let due = timeout.and_then(|timeout| since.checked_add(timeout));
        due.into_iter().chain(session_end).min()
    }

    /// The counters and the present state.
    pub fn totals(&self) -> ReflectorTotals {
        let (peers, evicted, records_expired) = match &self.protocol {
            Protocol::Exchange(exchange) => exchange.totals(),
            Protocol::Lockstep(lockstep) => lockstep.totals(),
            Protocol::Echo(_) | Protocol::Stamp(_) => (0, 0, 0),
        };
        ReflectorTotals {
            peers,
            evicted,
            records_expired,
            idle_timeouts: self.idle_timeouts,
            idle_since: self.idle_since,
        }
    }

    /// The sessions and TLVs of [`Mode::Stamp`].
    pub fn stamp_totals(&self) -> Option<StampTotals> {
        match &self.protocol {
            Protocol::Stamp(stamp) => Some(stamp.totals()),
            Protocol::Exchange(_) | Protocol::Lockstep(_) | Protocol::Echo(_) => None,
        }
    }
}

impl Protocol {
    /// The datagrams that can be decided now. `None` if that depends on the results of replies.
    #[inline]
    fn ready(&mut self, datagram: &Datagram<'_>, now: Instant) -> Option<Ready> {
        match self {
            Self::Exchange(exchange) => exchange.ready(datagram, now),
            Self::Lockstep(lockstep) => lockstep.ready(),
            Self::Echo(echo) => Some(echo.ready(datagram)),
            Self::Stamp(_) => Some(Ready::ONE),
        }
    }

    #[inline]
    fn decide(
        &mut self,
        datagram: &mut Datagram<'_>,
        ready: Ready,
        now: Instant,
    ) -> (Action, Option<End>) {
        match self {
            Self::Exchange(exchange) => exchange.decide(datagram, ready.place, now),
            Self::Lockstep(lockstep) => lockstep.decide(datagram),
            Self::Echo(echo) => (echo.decide(datagram, ready.datagrams), None),
            Self::Stamp(stamp) => (stamp.decide(datagram, now), None),
        }
    }
}

#[inline]
fn verdict(action: Action, datagrams: usize) -> Verdict {
    Verdict {
        action,
        datagrams,
        end: None,
    }
}
