//! The sessions of a stateful reflector: a bounded table by addresses, ports and SSID.
//!
//! A session that is idle for the timeout ends. When the table is full, no session is evicted: a request
//! of a new session is answered without one.

use std::hash::{Hasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Instant;

use super::super::Timeout;
use super::super::table::{Key, NoMemory, Table, bytes_per_entry};
use super::uplink::{Uplink, UplinkTotals};

/// The identity of a session of one socket: both addresses, the sender's port and scope, the SSID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionKey([u8; 40]);

/// One session.
#[derive(Debug, Clone, Copy)]
struct Session {
    /// The replies, and so the next sequence number.
    replies: u32,
    uplink: Uplink,
}

/// The most memory per session, in bytes.
pub const BYTES_PER_SESSION: usize = bytes_per_entry::<SessionKey, Session>();

/// Counters of the sessions, and their present number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionTotals {
    /// The sessions now.
    pub sessions: u64,
    /// The requests answered without a session because the table was full.
    pub unkept: u64,
    /// The sessions that started again because their sender did.
    pub reset: u64,
    /// The requests on their way to the reflector.
    pub uplink: UplinkTotals,
}

/// The table.
#[derive(Debug)]
pub(super) struct Sessions {
    table: Table<SessionKey, Session, RandomState>,
    timeout: Timeout,
    totals: SessionTotals,
}

impl SessionKey {
    /// The session of a sender. `local` is the destination address of its requests, if the socket
    /// receives for more than one.
    pub(super) fn new(peer: SocketAddr, local: Option<IpAddr>, ssid: u16) -> Self {
        let v6 = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let scope = match peer {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        let mut key = [0; 40];
        key[..16].copy_from_slice(&v6(peer.ip()).octets());
        key[16..32].copy_from_slice(&local.map_or(Ipv6Addr::UNSPECIFIED, v6).octets());
        key[32..36].copy_from_slice(&scope.to_ne_bytes());
        key[36..38].copy_from_slice(&peer.port().to_ne_bytes());
        key[38..40].copy_from_slice(&ssid.to_ne_bytes());
        Self(key)
    }
}

impl Key for SessionKey {
    fn hash(&self, hasher: &mut impl Hasher) {
        hasher.write(&self.0);
    }
}

impl Sessions {
    /// An empty table for at most `capacity` sessions.
    pub(super) fn new(capacity: NonZeroU32, timeout: Timeout) -> Result<Self, NoMemory> {
        Ok(Self {
            table: Table::new(capacity, RandomState::new())?,
            timeout,
            totals: SessionTotals::default(),
        })
    }

    /// Adds a request to its session. Returns the number of earlier replies of the session, or
    /// `None` if the table has no space for a new session.
    pub(super) fn receive(&mut self, key: SessionKey, sequence: u32, now: Instant) -> Option<u32> {
        self.expire(now);
        let place = self.table.place(&key);
        let Some(session) = self.table.value_mut(place) else {
            if self.table.is_full() {
                self.totals.unkept += 1;
                return None;
            }
            let uplink = Uplink::new(sequence, now);
            self.table
                .insert(place, key, now, Session { replies: 1, uplink });
            return Some(0);
        };
        let uplink = &mut self.totals.uplink;
        if session.uplink.is_restart(sequence) {
            session.uplink.end(uplink);
            session.uplink = Uplink::new(sequence, now);
            session.replies = 0;
            self.totals.reset += 1;
        } else {
            session.uplink.receive(sequence, now, uplink);
        }
        let earlier = session.replies;
        session.replies = earlier.wrapping_add(1);
        self.table.touch(place, now);
        Some(earlier)
    }

    /// Ends the sessions that are idle for the timeout.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(since) = self.table.oldest() {
            if !self.timeout.has_passed(since, now) {
                break;
            }
            if let Some(mut session) = self.table.remove_oldest() {
                session.uplink.end(&mut self.totals.uplink);
            }
        }
    }

    /// When the first session ends if no request arrives.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.table.oldest()?.checked_add(self.timeout.get())
    }

    pub(super) fn totals(&self) -> SessionTotals {
        SessionTotals {
            sessions: self.table.len() as u64,
            ..self.totals
        }
    }
}
