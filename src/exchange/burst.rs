//! Bursts: datagrams of one peer that came one after the other, decided on as a whole.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Action, Datagram, Destination, Exchange, Owing, Refusal};
use crate::record::Record;

/// Datagrams that one peer sent to one destination, one after the other. All were kept whole and
/// none is empty.
#[derive(Debug, Clone, Copy)]
pub struct Burst<'a> {
    /// Their source, an IPv4 address as one also on an IPv6 socket.
    pub peer: SocketAddr,
    /// Where they were sent to.
    pub destination: Destination,
    /// When they were received, by a clock that is the same for all that share limits.
    pub at: Instant,
    /// How many bytes each has but the last, which may have fewer.
    pub segment: usize,
    /// The bytes of all.
    pub bytes: &'a [u8],
}

/// What to do with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Together {
    /// Send every one back, its first `most` bytes.
    Echo {
        /// How many bytes go back at most.
        most: usize,
    },
    /// Send the first back as above, decode the second, and so on.
    Exchange {
        /// How many bytes go back at most.
        most: usize,
    },
    /// None gets a reply and nothing changes.
    Refuse(Refusal),
}

impl Together {
    /// What that is for each datagram.
    pub fn actions<'a>(self, burst: &Burst<'a>) -> impl Iterator<Item = (Datagram<'a>, Action)> {
        burst.datagrams().enumerate().map(move |(index, datagram)| {
            let action = match self {
                Self::Refuse(refusal) => Action::Refuse(refusal),
                Self::Exchange { .. } if index % 2 == 1 => {
                    Action::Decode(Record::decode(datagram.bytes))
                }
                Self::Echo { most } | Self::Exchange { most } => {
                    Action::echo(datagram.length, most)
                }
            };
            (datagram, action)
        })
    }
}

impl<'a> Burst<'a> {
    /// How many datagrams.
    pub fn count(&self) -> usize {
        self.bytes.len().div_ceil(self.segment)
    }

    /// The datagrams, in order.
    fn datagrams(&self) -> impl Iterator<Item = Datagram<'a>> {
        let Self {
            peer,
            destination,
            at,
            ..
        } = *self;
        self.bytes.chunks(self.segment).map(move |bytes| Datagram {
            peer,
            destination,
            at,
            length: bytes.len(),
            bytes,
        })
    }
}

impl Exchange {
    /// Decides on a burst as a whole, or on nothing: then [`Self::datagram`] is to be asked about
    /// its first, and about the rest in either way.
    ///
    /// [`Together::Exchange`] holds if all its replies can be sent, and at once: then tell
    /// [`Self::burst_sent`]. If none is, tell [`Self::burst_failed`], and after
    /// [`Self::replies_sent`] ask about each of its datagrams anew, in the order they came.
    pub fn burst(&mut self, burst: &Burst<'_>, now: Instant) -> Option<Together> {
        let first = burst.datagrams().next()?;
        let mode = self.settings.mode;
        let most = self.settings.max_datagram;
        if let Some(refusal) = self.settings.admission.refuses(mode, &first) {
            return Some(Together::Refuse(refusal));
        }
        self.give_up(now);
        let place = self.place(&burst.peer);
        let together = match &self.owing {
            Owing::Nobody => Together::Echo { most },
            // With room to spare nobody is forgotten, and it does not matter that this peer is in
            // the table for longer than it owes, or that its burst comes after others.
            Owing::Each(peers) if peers.is_nearly_full() || peers.since(place).is_some() => {
                return None;
            }
            // Any of its records may be the end.
            Owing::Each(_) if self.settings.exit_on.decode_error => return None,
            Owing::Each(_) => Together::Exchange { most },
            Owing::Whoever(_) => return None,
        };
        if let Some(limits) = &self.settings.limits
            && !limits.allow_all(burst.peer.ip(), burst.count() as u64, burst.at)
        {
            return None;
        }
        self.quiet_since = now;
        self.owes_from_now_on(place, burst.peer, now);
        Some(together)
    }

    /// No reply to a burst of `datagrams` from `peer` was sent: it is as if it had not come.
    pub fn burst_failed(&mut self, peer: SocketAddr, datagrams: usize) {
        self.reply_failed(peer);
        if let Some(limits) = &self.settings.limits {
            limits.give_back(peer.ip(), datagrams as u64);
        }
    }

    /// All replies to a burst of `datagrams` from `peer` were sent: if the last of them was a
    /// record, it owes none.
    pub fn burst_sent(&mut self, peer: SocketAddr, datagrams: usize) {
        if datagrams.is_multiple_of(2) {
            self.owes_no_more(self.place(&peer));
        }
    }
}
