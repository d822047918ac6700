//! The session reflector of STAMP (RFC 8762, RFC 8972), also for TWAMP-Light senders (RFC 5357,
//! appendix I).
//!
//! A request is answered in two steps, because T3 must be read last and the HMAC covers it:
//!
//! 1. [`super::Reflector::handle`] writes the reply into the memory of the request, without T3.
//! 2. [`super::Reflector::complete`] writes T3, the error estimate and the HMAC.
//!
//! A reply is a valid request, so two reflectors could answer each other without end. A reply has a
//! T2 near its T3, and is refused. A request that is too short for a T2 gets a reply that is not.

mod dscp;
mod error_estimate;
mod hmac;
mod keys;
mod session;
mod timestamp;
mod tlv;
mod uplink;
mod wire;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use dscp::{DscpSet, ReplyDscp};
pub use error_estimate::ErrorEstimate;
pub use hmac::{HMAC_BYTES, HmacKey};
pub use keys::{KeyFault, KeyFileError, StampKeys};
pub use session::{BYTES_PER_SESSION, SessionTotals};
use session::{SessionKey, Sessions};
pub use timestamp::NtpTimestamp;
use tlv::TlvContext;
pub(crate) use tlv::{INTEGRITY, MALFORMED, UNRECOGNIZED};
pub use tlv::{TlvFault, TlvKind, TlvTotals};
pub use uplink::UplinkTotals;
pub use wire::ReplyFields;
pub(crate) use wire::{AUTHENTICATED, Layout, OPEN, get, put};
pub use wire::{AUTHENTICATED_BYTES, MIN_REQUEST, OPEN_BYTES};
use wire::{Reply, Request};

use super::{Action, Datagram, Destination, NoMemory, ReflectorSettings, Refusal, Timeout};

/// The sequence numbers of replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampSequence {
    /// Those of the requests. The reflector keeps no sessions.
    Stateless,
    /// Those of each session, from 0. A session is a sender's address and port, the address it
    /// sends to, and an SSID.
    Stateful,
}

/// The settings of the mode.
#[derive(Debug, Clone)]
pub struct StampSettings {
    /// The sequence numbers of replies.
    pub sequence: StampSequence,
    /// How long an idle session is kept.
    pub session_timeout: Timeout,
    /// The length in bytes below which requests are refused. At least [`MIN_REQUEST`] applies, and
    /// with keys [`AUTHENTICATED_BYTES`].
    pub min_request: usize,
    /// The keys of authenticated mode, in which all other requests are refused.
    pub keys: Option<Arc<StampKeys>>,
    /// The DSCP of replies.
    pub dscp: ReplyDscp,
    /// The DSCPs that a Class of Service TLV may ask for besides that of the request.
    pub allowed_dscp: DscpSet,
}

impl Default for StampSettings {
    fn default() -> Self {
        Self {
            sequence: StampSequence::Stateful,
            session_timeout: Timeout(Duration::from_mins(15)),
            min_request: MIN_REQUEST,
            keys: None,
            dscp: ReplyDscp::Copy,
            allowed_dscp: DscpSet::default(),
        }
    }
}

/// How a request was received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reception {
    /// T2.
    pub at: NtpTimestamp,
    /// The TTL or hop limit.
    pub ttl: Option<u8>,
    /// The TOS byte or traffic class.
    pub traffic_class: Option<u8>,
}

/// A reply that lacks T3, which [`super::Reflector::complete`] adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StampReply {
    /// The number of bytes.
    pub length: usize,
    /// Whether the request was longer.
    pub truncated: bool,
    /// The DSCP to send it with.
    pub dscp: u8,
    ssid: u16,
}

/// The counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StampTotals {
    /// The sessions; all zero without.
    pub sessions: SessionTotals,
    /// The TLVs.
    pub tlvs: TlvTotals,
}

/// The protocol of [`super::Mode::Stamp`].
#[derive(Debug)]
pub(super) struct Stamp {
    settings: StampSettings,
    max_datagram: usize,
    /// `None` if stateless.
    sessions: Option<Sessions>,
    clock_error: ErrorEstimate,
    tlvs: TlvTotals,
}

impl Stamp {
    /// A reflector whose clock is not synchronized.
    pub(super) fn new(settings: &ReflectorSettings) -> Result<Self, NoMemory> {
        let stamp = settings.stamp.clone();
        let sessions = match stamp.sequence {
            StampSequence::Stateless => None,
            StampSequence::Stateful => {
                Some(Sessions::new(settings.max_peers, stamp.session_timeout)?)
            }
        };
        Ok(Self {
            settings: stamp,
            max_datagram: settings.max_datagram,
            sessions,
            clock_error: ErrorEstimate::UNKNOWN,
            tlvs: TlvTotals::default(),
        })
    }

    /// Sets the error estimate of the clock that T2 and T3 are read from.
    pub(super) fn set_clock_error(&mut self, error: ErrorEstimate) {
        self.clock_error = error;
    }

    /// The reason to refuse a request.
    pub(super) fn refuses(&self, datagram: &Datagram<'_>) -> Option<Refusal> {
        let layout = self.layout();
        let packet = self.packet(datagram);
        let min_request = match self.settings.keys {
            Some(_) => layout.size.max(self.settings.min_request),
            None => self.settings.min_request,
        };
        // A short reply would overwrite the next datagram of a GRO batch, which this mode disables.
        let overwrites = datagram.length > datagram.segment && datagram.segment < layout.size;
        let request = layout.parse(packet);
        let Some(request) = request.filter(|_| packet.len() >= min_request && !overwrites) else {
            return Some(Refusal::TooShort);
        };
        let is_verified = self.settings.keys.as_ref().is_none_or(|keys| {
            let key = keys.get(request.ssid);
            key.is_some_and(|key| layout.verifies(packet, key))
        });
        if !is_verified {
            return Some(Refusal::Integrity);
        }
        request.is_reply.then_some(Refusal::Reply)
    }

    /// Turns a request that is not refused into its reply, but for T3. The memory has at least the
    /// size of the base packet.
    pub(super) fn decide(&mut self, datagram: &mut Datagram<'_>, now: Instant) -> Action {
        let layout = self.layout();
        let packet = self.packet(datagram);
        let Some(request) = layout.parse(packet) else {
            return Action::Refuse(Refusal::TooShort);
        };
        let length = packet.len().max(layout.size);
        let earlier_replies = self.sessions.as_mut().and_then(|sessions| {
            let ssid = session_ssid(&request, self.settings.keys.is_some());
            let key = SessionKey::new(datagram.peer, local_address(datagram), ssid);
            sessions.receive(key, request.sequence, now)
        });
        let Reception {
            at,
            ttl,
            traffic_class,
        } = datagram.reception;
        let traffic_class = traffic_class.unwrap_or_default();
        let reply = Reply {
            sequence: earlier_replies.unwrap_or(request.sequence),
            received_at: at,
            ttl: ttl.unwrap_or(u8::MAX),
            request,
        };
        let packet = &mut datagram.memory[..length];
        layout.write_reply(packet, &reply);
        let asked = packet
            .get_mut(layout.size..)
            .filter(|rest| tlv::are_tlvs(rest))
            .and_then(|tlvs| {
                let context = TlvContext {
                    key: key(&self.settings, request.ssid),
                    request_sequence: request.sequence,
                    reply_sequence: reply.sequence,
                    earlier_replies,
                    is_synchronized: self.clock_error.is_synchronized(),
                    traffic_class,
                    allowed_dscp: self.settings.allowed_dscp,
                };
                tlv::answer(tlvs, &context, &mut self.tlvs)
            });
        let dscp = match self.settings.dscp {
            ReplyDscp::Copy => traffic_class >> 2,
            ReplyDscp::Fixed(dscp) => dscp,
        };
        Action::StampReply(StampReply {
            length,
            truncated: datagram.first_length() > length,
            dscp: asked.unwrap_or(dscp),
            ssid: request.ssid,
        })
    }

    /// Completes a reply in the memory of its request, to be sent at `sent_at` (T3).
    pub(super) fn complete(&self, reply: &StampReply, memory: &mut [u8], sent_at: NtpTimestamp) {
        let packet = &mut memory[..reply.length];
        let key = key(&self.settings, reply.ssid);
        self.layout()
            .complete(packet, sent_at, self.clock_error, key);
    }

    /// Ends the sessions that are idle for the timeout.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Some(sessions) = &mut self.sessions {
            sessions.expire(now);
        }
    }

    /// When [`Self::expire`] is due next if no request arrives.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.sessions.as_ref()?.next_expiry()
    }

    /// The counters.
    pub(super) fn totals(&self) -> StampTotals {
        let sessions = self.sessions.as_ref();
        StampTotals {
            sessions: sessions.map(Sessions::totals).unwrap_or_default(),
            tlvs: self.tlvs,
        }
    }

    fn layout(&self) -> &'static Layout {
        match self.settings.keys {
            Some(_) => &AUTHENTICATED,
            None => &OPEN,
        }
    }

    /// The bytes of a request, cut to the maximum.
    fn packet<'a>(&self, datagram: &'a Datagram<'_>) -> &'a [u8] {
        let most = self.max_datagram.max(self.layout().size);
        let bytes = datagram.first();
        &bytes[..bytes.len().min(most)]
    }
}

/// The key of an SSID, if there is one.
fn key(settings: &StampSettings, ssid: u16) -> Option<&HmacKey> {
    settings.keys.as_ref()?.get(ssid)
}

/// The SSID in the key of the session. In an open packet with other bytes that must be zero, the
/// SSID is padding of a TWAMP-Light sender: random padding must not make a session of each packet.
fn session_ssid(request: &Request, is_authenticated: bool) -> u16 {
    if is_authenticated || request.rest_is_zero {
        request.ssid
    } else {
        0
    }
}

/// The destination address of a request, if the socket receives for more than one.
fn local_address(datagram: &Datagram<'_>) -> Option<IpAddr> {
    match datagram.destination {
        Destination::Here { address, .. } => address,
        Destination::BroadcastOrMulticast | Destination::Source => None,
    }
}
