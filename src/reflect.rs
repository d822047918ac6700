//! The protocol core: what to do with a datagram, and what the passing of time ends.
//!
//! It knows no socket and no clock. The loop that owns both passes in what came and when, does
//! what the [`Verdict`] says, and reports which replies could not be sent:
//!
//! 1. [`Reflector::handle`] for each datagram or GRO batch, in order, until all of it is decided.
//!    On [`Action::SendFirst`], send the replies decided so far, then ask again.
//! 2. [`Reflector::reply_failed`] for each reply that could not be sent, and
//!    [`Reflector::batch_sent`] when all that were decided have been tried.
//! 3. [`Reflector::expire`] when the socket had nothing to give, or for long nothing but what is
//!    refused.

mod admission;
mod echo;
mod exchange;
mod gate;
mod lockstep;
mod peers;
mod rate_limit;
mod settings;

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

pub use admission::{Admission, Refusal};
use echo::Echo;
use exchange::Exchange;
use gate::Gate;
use lockstep::Lockstep;
use peers::Place;
pub use peers::{BYTES_PER_PEER, NoMemory, SLACK};
pub use rate_limit::{BUCKETS, LEAK, Limits, Rate};
pub use settings::{End, ExitOn, Mode, ReflectorSettings, Timeout};

use crate::record::{Record, TooShort};

/// Where a datagram was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To an address of this host.
    Here {
        /// The address, where the socket is bound to more than one.
        address: Option<IpAddr>,
        /// Whether it came over the loopback interface, that is, from this host.
        looped: bool,
    },
    /// To a broadcast or multicast address that the socket is not itself bound to.
    Group,
    /// To the address that is also its source, although it came from the network.
    Source,
}

/// A datagram that came in, or several equal ones of one peer that the kernel joined (UDP GRO).
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Its source, an IPv4 address as one also on an IPv6 socket.
    pub peer: SocketAddr,
    /// Where it was sent to.
    pub destination: Destination,
    /// When it was received, by a clock that is the same for all that share limits.
    pub at: Instant,
    /// Its own length in bytes, or that of the whole GRO batch, which may be more than was kept.
    pub length: usize,
    /// The length of each datagram of a GRO batch but the last, which may be shorter; else
    /// `length`.
    pub segment: usize,
    /// The memory that it was received into: what was kept of it, which is all of it or at least
    /// what is echoed and decoded at most; then room that a longer reply may use.
    pub memory: &'a mut [u8],
}

impl Datagram<'_> {
    /// How many datagrams there are.
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

    /// What was kept of the first datagram.
    #[inline]
    pub fn first(&self) -> &[u8] {
        &self.memory[..self.first_length().min(self.memory.len())]
    }
}

/// What to do with a datagram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Send the first `length` bytes of the memory back. For several datagrams of a GRO batch, they
    /// are all of their bytes, to be cut where the batch was.
    Reply {
        /// How many bytes go back.
        length: usize,
        /// Whether the datagram had more.
        truncated: bool,
    },
    /// It was a record, now decoded (or too short to be).
    Decode(Result<Record, TooShort>),
    /// It was empty and is not echoed.
    Empty,
    /// It gets no reply and changes nothing.
    Refuse(Refusal),
    /// Nothing was decided, because what comes of this datagram depends on whether the
    /// replies decided so far can be sent.
    SendFirst,
}

/// What to do with the first datagrams of those that were handled, and whether that is the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// What to do with each.
    pub action: Action,
    /// How many datagrams it is about: more than one only of a GRO batch, none only for
    /// [`Action::SendFirst`].
    pub datagrams: usize,
    /// The daemon stops after this datagram.
    pub end: Option<End>,
}

/// What was counted so far, and what is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReflectorTotals {
    /// Peers that owe a record now.
    pub peers: u64,
    /// Peers forgotten because the table was full.
    pub evicted: u64,
    /// Records given up because they did not come within the timeout.
    pub records_given_up: u64,
    /// Whole timeouts in which nothing came and nothing but an echo datagram was due.
    pub quiet: u64,
    /// Since when the socket has been quiet, refused datagrams aside.
    pub quiet_since: Instant,
}

/// One socket's side of the protocol with all its peers.
#[derive(Debug)]
pub struct Reflector {
    gate: Gate,
    protocol: Protocol,
    timeout: Option<Timeout>,
    exit_on_timeout: bool,
    /// The last datagram, or the end of the last timeout without one.
    quiet_since: Instant,
    quiet: u64,
}

/// What the datagrams that are let in mean. One who adds a protocol adds it here.
#[derive(Debug)]
enum Protocol {
    Exchange(Exchange),
    Lockstep(Lockstep),
    Echo(Echo),
}

/// What a protocol decides on next, and knows of it.
#[derive(Debug, Clone, Copy)]
struct Ready {
    /// Of a GRO batch, how many datagrams at once.
    datagrams: usize,
    /// Where their peer is in a table, if there is one.
    place: Place,
}

/// What comes of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expired {
    /// Nothing was waited for.
    Nothing,
    /// The record that was to follow the last datagram.
    LastRecord,
}

impl Reflector {
    /// A new one, in which no peer owes anything and the socket is quiet from `now` on.
    ///
    /// # Errors
    /// When there is no memory for so many peers.
    pub fn new(settings: ReflectorSettings, now: Instant) -> Result<Self, NoMemory> {
        Ok(Self {
            timeout: settings.timeout,
            exit_on_timeout: settings.exit_on.timeout,
            quiet_since: now,
            quiet: 0,
            protocol: match settings.mode {
                Mode::Exchange => Protocol::Exchange(Exchange::new(&settings)?),
                Mode::Lockstep => Protocol::Lockstep(Lockstep::new(&settings)),
                Mode::Echo => Protocol::Echo(Echo::new(&settings)),
            },
            gate: Gate::new(settings),
        })
    }

    /// Decides on the next datagram, or on the first of a GRO batch, as far as the verdict says.
    /// Here and elsewhere `now` must not go back from one call to the next.
    pub fn handle(&mut self, datagram: &mut Datagram<'_>, now: Instant) -> Verdict {
        if let Some(refusal) = self.gate.refuses(datagram) {
            return go_on(Action::Refuse(refusal), datagram.count());
        }
        let Some(ready) = self.protocol.ready(datagram, now) else {
            return go_on(Action::SendFirst, 0);
        };
        let Some(datagrams) = self.gate.within_limits(datagram, ready.datagrams) else {
            return go_on(Action::Refuse(Refusal::RateLimit), 1);
        };
        self.quiet_since = now;
        let ready = Ready { datagrams, ..ready };
        let (action, end) = self.protocol.decide(datagram, ready, now);
        Verdict {
            action,
            datagrams,
            end,
        }
    }

    /// A reply to `peer` could not be sent: it owes no record for it.
    pub fn reply_failed(&mut self, peer: SocketAddr) {
        match &mut self.protocol {
            Protocol::Exchange(exchange) => exchange.reply_failed(peer),
            Protocol::Lockstep(lockstep) => lockstep.reply_failed(),
            Protocol::Echo(_) => {}
        }
    }

    /// Every reply decided so far was sent, or reported by [`Self::reply_failed`].
    pub fn batch_sent(&mut self) {
        match &mut self.protocol {
            Protocol::Exchange(exchange) => exchange.batch_sent(),
            Protocol::Lockstep(lockstep) => lockstep.batch_sent(),
            Protocol::Echo(_) => {}
        }
    }

    /// The socket has nothing to give at `now`: gives up what did not come in time. `elsewhere` is
    /// when another socket of the same daemon last got a datagram: this one's quiet does not
    /// count from before then.
    pub fn expire(&mut self, now: Instant, elsewhere: Option<Instant>) -> Option<End> {
        self.quiet_since = elsewhere.map_or(self.quiet_since, |at| self.quiet_since.max(at));
        let timeout = self.timeout?;
        let is_quiet = timeout.has_passed(self.quiet_since, now);
        let expired = match &mut self.protocol {
            Protocol::Exchange(exchange) => exchange.expire(now, self.quiet_since),
            Protocol::Lockstep(lockstep) if is_quiet => lockstep.expire(),
            Protocol::Lockstep(_) | Protocol::Echo(_) => Expired::Nothing,
        };
        if !is_quiet {
            return None;
        }
        self.quiet += u64::from(expired == Expired::Nothing);
        self.quiet_since = now;
        self.exit_on_timeout.then_some(End::Timeout)
    }

    /// Whether [`Self::expire`] must be called at [`Self::next_expiry`] and not some time after,
    /// because what is answered, or the daemon's end, depends on it.
    pub fn expires_exactly(&self) -> bool {
        self.exit_on_timeout || matches!(self.protocol, Protocol::Lockstep(_))
    }

    /// When [`Self::expire`] has something to do next, if no datagram comes before.
    pub fn next_expiry(&self) -> Option<Instant> {
        // No peer has owed since after the last datagram.
        let oldest = match &self.protocol {
            Protocol::Exchange(exchange) => exchange.oldest(),
            Protocol::Lockstep(_) | Protocol::Echo(_) => None,
        };
        let since = oldest.unwrap_or(self.quiet_since);
        since.checked_add(self.timeout?.get())
    }

    /// What was counted so far.
    pub fn totals(&self) -> ReflectorTotals {
        let (peers, evicted, records_given_up) = match &self.protocol {
            Protocol::Exchange(exchange) => exchange.totals(),
            Protocol::Lockstep(lockstep) => lockstep.totals(),
            Protocol::Echo(_) => (0, 0, 0),
        };
        ReflectorTotals {
            peers,
            evicted,
            records_given_up,
            quiet: self.quiet,
            quiet_since: self.quiet_since,
        }
    }
}

impl Protocol {
    /// What can be decided on now; nothing while that depends on replies that may still fail.
    #[inline]
    fn ready(&mut self, datagram: &Datagram<'_>, now: Instant) -> Option<Ready> {
        match self {
            Self::Exchange(exchange) => exchange.ready(datagram, now),
            Self::Lockstep(lockstep) => lockstep.ready(),
            Self::Echo(echo) => Some(echo.ready(datagram)),
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
        }
    }
}

#[inline]
fn go_on(action: Action, datagrams: usize) -> Verdict {
    Verdict {
        action,
        datagrams,
        end: None,
    }
}
