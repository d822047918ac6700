//! The core: what to do with a datagram or with the passing of time.
//!
//! It knows no socket and no clock. The loop that owns both tells it what came and when,
//! does what the [`Verdict`] says, and reports which replies could not be sent:
//!
//! 1. [`Exchange::datagram`] for each datagram of a batch, in order, or [`Exchange::burst`] for
//!    several at once. On [`Action::SendFirst`], send the replies decided so far, then ask again.
//! 2. [`Exchange::reply_failed`] for each reply that could not be sent, and
//!    [`Exchange::replies_sent`] when all that were decided have been tried.
//! 3. [`Exchange::time`] when the socket had nothing to give, or for long nothing but what is
//!    refused.

mod admission;
mod burst;
mod limit;
mod peers;
mod settings;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

pub use admission::{Admission, Refusal};
pub use burst::{Burst, Together};
pub use limit::{BUCKETS, LEAK, Limits, Rate};
pub use peers::{BYTES_PER_PEER, NoMemory, SLACK};
use peers::{Peers, Place};
pub use settings::{End, ExitOn, Mode, Settings, Timeout};

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

/// A datagram that came in.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Its source, an IPv4 address as one also on an IPv6 socket.
    pub peer: SocketAddr,
    /// Where it was sent to.
    pub destination: Destination,
    /// When it was received, by a clock that is the same for all that share limits.
    pub at: Instant,
    /// Its own length in bytes, which may be more than was kept of it.
    pub length: usize,
    /// What was kept: all of it, or at least what is echoed and decoded at most.
    pub bytes: &'a [u8],
}

/// What to do with a datagram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Send the first `length` bytes back.
    Echo {
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

impl Action {
    #[inline]
    fn echo(length: usize, most: usize) -> Self {
        Self::Echo {
            length: length.min(most),
            truncated: length > most,
        }
    }
}

/// What to do with a datagram, and whether that is the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// The daemon stops after this datagram.
    pub end: Option<End>,
}

/// Running totals, each since the exchange was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Peers forgotten because the table was full.
    pub evicted: u64,
    /// Records given up because they did not come within the timeout.
    pub records_given_up: u64,
    /// Whole timeouts in which nothing came and nothing but an echo datagram was due.
    pub quiet: u64,
}

/// Who owes a record.
#[derive(Debug)]
enum Owing {
    /// [`Mode::Exchange`]: these peers.
    Each(Peers<RandomState>),
    /// [`Mode::Lockstep`]: whoever sends next, if the last datagram was echoed.
    Whoever(bool),
    /// [`Mode::Echo`].
    Nobody,
}

/// The exchange of one socket with all its peers.
#[derive(Debug)]
pub struct Exchange {
    settings: Settings,
    owing: Owing,
    /// The last datagram, or the end of the last timeout without one.
    quiet_since: Instant,
    /// When the first of the replies was decided that may still fail.
    unsent_since: Option<Instant>,
    totals: Totals,
    /// The last random number, never 0.
    random: u64,
}

impl Exchange {
    /// A new exchange, in which nobody owes anything and the socket is quiet from `now` on.
    ///
    /// # Errors
    /// When there is no memory for so many peers.
    pub fn new(settings: Settings, now: Instant) -> Result<Self, NoMemory> {
        let owing = match settings.mode {
            Mode::Exchange => Owing::Each(Peers::new(settings.max_peers, RandomState::new())?),
            Mode::Lockstep => Owing::Whoever(false),
            Mode::Echo => Owing::Nobody,
        };
        Ok(Self {
            settings,
            owing,
            quiet_since: now,
            unsent_since: None,
            totals: Totals::default(),
            random: RandomState::new().build_hasher().finish() | 1,
        })
    }

    /// How it goes.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many peers owe a record.
    pub fn owing(&self) -> usize {
        match &self.owing {
            Owing::Each(peers) => peers.len(),
            Owing::Whoever(owes) => usize::from(*owes),
            Owing::Nobody => 0,
        }
    }

    /// What was counted so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Since when the socket has been quiet, refused datagrams aside.
    pub fn quiet_since(&self) -> Instant {
        self.quiet_since
    }

    /// Whether [`Self::time`] must be called at [`Self::next_time`] and not some time after,
    /// because what is answered, or the daemon's end, depends on it.
    pub fn ends_by_time(&self) -> bool {
        self.settings.mode == Mode::Lockstep || self.settings.exit_on.timeout
    }

    /// Decides on the next datagram. Here and elsewhere `now` must not go back from one call
    /// to the next.
    pub fn datagram(&mut self, datagram: &Datagram<'_>, now: Instant) -> Verdict {
        let Settings { mode, exit_on, .. } = self.settings;
        if let Some(refusal) = self.settings.admission.refuses(mode, datagram) {
            return go_on(Action::Refuse(refusal));
        }
        self.give_up(now);
        let place = self.place(&datagram.peer);
        let owes = match &self.owing {
            Owing::Each(peers) => {
                let since = peers.since(place);
                let depends = match since {
                    Some(since) => peers.is_over_full() || self.may_be_unsent(since),
                    None => datagram.length > 0 && !peers.has_room(),
                };
                if depends {
                    return go_on(Action::SendFirst);
                }
                since.is_some()
            }
            Owing::Whoever(true) if self.unsent_since.is_some() => {
                return go_on(Action::SendFirst);
            }
            Owing::Whoever(owes) => *owes,
            Owing::Nobody => false,
        };
        if !self.is_within_limits(datagram) {
            return go_on(Action::Refuse(Refusal::RateLimit));
        }
        self.quiet_since = now;
        if owes {
            self.owes_no_more(place);
            if datagram.length == 0 {
                return go_on(Action::Empty);
            }
            let record = Record::decode(datagram.bytes);
            return Verdict {
                action: Action::Decode(record),
                end: (record.is_err() && exit_on.decode_error).then_some(End::DecodeError),
            };
        }
        if datagram.length == 0 && mode != Mode::Echo {
            return Verdict {
                action: Action::Empty,
                end: exit_on.empty.then_some(End::Empty),
            };
        }
        self.owes_from_now_on(place, datagram.peer, now);
        go_on(Action::echo(datagram.length, self.settings.max_datagram))
    }

    /// A reply to `peer` could not be sent: it owes no record for it.
    pub fn reply_failed(&mut self, peer: SocketAddr) {
        self.owes_no_more(self.place(&peer));
    }

    /// Every reply decided so far was sent, or reported by [`Self::reply_failed`].
    pub fn replies_sent(&mut self) {
        self.unsent_since = None;
        if let Owing::Each(peers) = &mut self.owing {
            while peers.is_over_full() {
                peers.remove_oldest();
                self.totals.evicted += 1;
            }
        }
    }

    /// Another socket of the same daemon got a datagram at `at`: this one's quiet does not
    /// count from before then.
    pub fn heard_elsewhere(&mut self, at: Instant) {
        self.quiet_since = self.quiet_since.max(at);
    }

    /// The socket has nothing to give at `now`: gives up what did not come in time.
    pub fn time(&mut self, now: Instant) -> Option<End> {
        let newest_given_up = self.give_up(now);
        let timeout = self.settings.timeout?;
        if !timeout.has_passed(self.quiet_since, now) {
            return None;
        }
        match &mut self.owing {
            Owing::Whoever(owes) if *owes => {
                *owes = false;
                self.totals.records_given_up += 1;
            }
            // The last datagram was echoed and its record was what did not come.
            Owing::Each(_) if newest_given_up == Some(self.quiet_since) => {}
            _ => self.totals.quiet += 1,
        }
        self.quiet_since = now;
        self.settings.exit_on.timeout.then_some(End::Timeout)
    }

    /// When [`Self::time`] has something to do next, if no datagram comes before.
    pub fn next_time(&self) -> Option<Instant> {
        let oldest = match &self.owing {
            Owing::Each(peers) => peers.oldest(),
            Owing::Whoever(_) | Owing::Nobody => None,
        };
        // No peer has owed since after the last datagram.
        let since = oldest.unwrap_or(self.quiet_since);
        since.checked_add(self.settings.timeout?.get())
    }

    /// Gives up the records that peers have owed for too long. Returns since when the last
    /// of them had. In lockstep the wait is the socket's and ends in [`Self::time`] alone, as
    /// the recipe's does: a datagram that is there is in time.
    #[inline]
    fn give_up(&mut self, now: Instant) -> Option<Instant> {
        let timeout = self.settings.timeout?;
        let Owing::Each(peers) = &mut self.owing else {
            return None;
        };
        let mut newest = None;
        while let Some(since) = peers.oldest().filter(|at| timeout.has_passed(*at, now)) {
            peers.remove_oldest();
            self.totals.records_given_up += 1;
            newest = Some(since);
        }
        newest
    }

    #[inline]
    fn is_within_limits(&mut self, datagram: &Datagram<'_>) -> bool {
        match &self.settings.limits {
            None => true,
            Some(limits) => {
                let random = || next_random(&mut self.random);
                limits.allow(datagram.peer.ip(), datagram.at, random)
            }
        }
    }

    fn may_be_unsent(&self, since: Instant) -> bool {
        self.unsent_since.is_some_and(|unsent| since >= unsent)
    }

    /// Where a peer is in the table. Nowhere if there is none.
    #[inline]
    fn place(&self, peer: &SocketAddr) -> Place {
        match &self.owing {
            Owing::Each(peers) => peers.place(peer),
            Owing::Whoever(_) | Owing::Nobody => Place::default(),
        }
    }

    #[inline]
    fn owes_no_more(&mut self, place: Place) {
        match &mut self.owing {
            Owing::Each(peers) => peers.remove(place),
            Owing::Whoever(owes) => *owes = false,
            Owing::Nobody => {}
        }
    }

    #[inline]
    fn owes_from_now_on(&mut self, place: Place, peer: SocketAddr, now: Instant) {
        match &mut self.owing {
            Owing::Each(peers) => peers.insert(place, peer, now),
            Owing::Whoever(owes) => *owes = true,
            Owing::Nobody => return,
        }
        self.unsent_since.get_or_insert(now);
    }
}

/// Xorshift, George Marsaglia, 2003.
fn next_random(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

#[inline]
fn go_on(action: Action) -> Verdict {
    Verdict { action, end: None }
}
