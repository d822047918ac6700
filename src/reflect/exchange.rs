//! The exchange of the reference server, kept per peer: an echo datagram is echoed, and the next
//! datagram of the peer is a record.

use std::hash::RandomState;
use std::net::SocketAddr;
use std::time::Instant;

use super::echo::reply;
use super::lockstep::decide_record;
use super::table::{NoMemory, Place, Table};
use super::{Action, Datagram, End, ExitOn, Expired, Ready, ReflectorSettings, Timeout};

/// The protocol of [`super::Mode::Exchange`].
#[derive(Debug)]
pub(super) struct Exchange {
    peers: Table<SocketAddr, (), RandomState>,
    timeout: Option<Timeout>,
    max_datagram: usize,
    exit_on: ExitOn,
    /// The time of the first reply whose result is unknown.
    unsent_since: Option<Instant>,
    evicted: u64,
    records_expired: u64,
}

impl Exchange {
    pub(super) fn new(settings: &ReflectorSettings) -> Result<Self, NoMemory> {
        Ok(Self {
            peers: Table::new(settings.max_peers, RandomState::new())?,
            timeout: settings.timeout,
            max_datagram: settings.max_datagram,
            exit_on: settings.exit_on,
            unsent_since: None,
            evicted: 0,
            records_expired: 0,
        })
    }

    // Inlined, it would make every protocol save registers that only it needs.
    #[inline(never)]
    pub(super) fn ready(&mut self, datagram: &Datagram<'_>, now: Instant) -> Option<Ready> {
        self.expire_records(now);
        let place = self.peers.place(&datagram.peer);
        let must_wait = match self.peers.since(place) {
            Some(since) => {
                self.peers.is_over_full() || self.unsent_since.is_some_and(|unsent| since >= unsent)
            }
            None => datagram.length > 0 && !self.peers.can_insert(),
        };
        let ready = Ready {
            datagrams: 1,
            place,
        };
        (!must_wait).then_some(ready)
    }

    #[inline]
    pub(super) fn decide(
        &mut self,
        datagram: &Datagram<'_>,
        place: Place,
        now: Instant,
    ) -> (Action, Option<End>) {
        let length = datagram.first_length();
        if self.peers.since(place).is_some() {
            self.peers.remove(place);
            return decide_record(datagram, self.exit_on);
        }
        if length == 0 {
            return (Action::Empty, self.exit_on.empty.then_some(End::Empty));
        }
        self.peers.insert(place, datagram.peer, now, ());
        self.unsent_since.get_or_insert(now);
        (reply(length, self.max_datagram), None)
    }

    pub(super) fn reply_failed(&mut self, peer: SocketAddr) {
        self.peers.remove(self.peers.place(&peer));
    }

    pub(super) fn batch_sent(&mut self) {
        self.unsent_since = None;
        while self.peers.is_over_full() {
            self.peers.remove_oldest();
            self.evicted += 1;
        }
    }

    /// Expires overdue records, and returns whether that of the last datagram was among them.
    pub(super) fn expire(&mut self, now: Instant, last_datagram: Instant) -> Expired {
        match self.expire_records(now) {
            Some(newest) if newest == last_datagram => Expired::LastRecord,
            _ => Expired::Nothing,
        }
    }

    /// When the longest-owing peer began to owe its record.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.peers.oldest()
    }

    pub(super) fn totals(&self) -> (u64, u64, u64) {
        let peers = self.peers.len() as u64;
        (peers, self.evicted, self.records_expired)
    }

    /// Expires overdue records. Returns when the last of them began to be owed.
    #[inline]
    fn expire_records(&mut self, now: Instant) -> Option<Instant> {
        let timeout = self.timeout?;
        let mut newest = None;
        while let Some(since) = self
            .peers
            .oldest()
            .filter(|at| timeout.has_passed(*at, now))
        {
            self.peers.remove_oldest();
            self.records_expired += 1;
            newest = Some(since);
        }
        newest
    }
}
