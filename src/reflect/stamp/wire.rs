//! The base packets of STAMP (RFC 8762, sections 4.2 and 4.3; RFC 8972, section 3), which are also
//! those of TWAMP-Light (RFC 5357, appendix I). Offsets are in the UDP payload:
//!
//! | open | authenticated | request | reply |
//! |---|---|---|---|
//! | 0 | 0 | sequence number | sequence number |
//! | 4 | 16 | T1 | T3 |
//! | 12 | 24 | error estimate of T1 | error estimate of T2 and T3 |
//! | 14 | 26 | SSID | SSID |
//! | 16 | 32 | zero | T2 |
//! | 24 | 48 | zero | sequence number of the request |
//! | 28 | 64 | zero | T1 |
//! | 36 | 72 | zero | error estimate of T1 |
//! | 40 | 80 | zero | TTL of the request |
//! | | 96 | HMAC of the bytes before | HMAC of the bytes before |
//! | 44 | 112 | TLVs or padding | TLVs or padding |
//!
//! All other bytes are zero. A TWAMP-Light request may end after byte 14.

use super::error_estimate::ErrorEstimate;
use super::hmac::{HMAC_BYTES, HmacKey};
use super::timestamp::NtpTimestamp;

/// The shortest request in bytes, which only TWAMP-Light senders send.
pub const MIN_REQUEST: usize = 14;

/// The size of an open base packet in bytes.
pub const OPEN_BYTES: usize = OPEN.size;

/// The size of an authenticated base packet in bytes.
pub const AUTHENTICATED_BYTES: usize = AUTHENTICATED.size;

/// The most seconds between T2 and T3 of a packet that is taken for a reply.
const MAX_RESIDENCE: u32 = 3600;

/// The positions of the fields.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The size of the base packet.
    pub(crate) size: usize,
    /// T1 of a request, T3 of a reply.
    sent_at: usize,
    error: usize,
    ssid: usize,
    /// T2. The fields from here on are zero in a request.
    received_at: usize,
    request_sequence: usize,
    request_sent_at: usize,
    request_error: usize,
    ttl: usize,
    /// The HMAC, if there is one.
    hmac: Option<usize>,
}

pub(crate) static OPEN: Layout = Layout {
    size: 44,
    sent_at: 4,
    error: 12,
    ssid: 14,
    received_at: 16,
    request_sequence: 24,
    request_sent_at: 28,
    request_error: 36,
    ttl: 40,
    hmac: None,
};

pub(crate) static AUTHENTICATED: Layout = Layout {
    size: 112,
    sent_at: 16,
    error: 24,
    ssid: 26,
    received_at: 32,
    request_sequence: 48,
    request_sent_at: 64,
    request_error: 72,
    ttl: 80,
    hmac: Some(96),
};

/// The fields of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) sequence: u32,
    /// T1.
    sent_at: NtpTimestamp,
    error: ErrorEstimate,
    /// The SSID: 0 if the request is too short for one.
    pub(super) ssid: u16,
    /// Whether all bytes are zero that are zero in a proper request.
    pub(super) rest_is_zero: bool,
    /// Whether it is a reply: it has a T2 near its T3. Seconds are compared modulo 2^32, and are at
    /// the same place in NTP and PTP format. T2 is zero in every proper request, so the check refuses
    /// no sender whose clock is near zero.
    pub(super) is_reply: bool,
}

/// The fields of a reply that are known before it is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    pub(super) sequence: u32,
    pub(super) received_at: NtpTimestamp,
    pub(super) ttl: u8,
    pub(super) request: Request,
}

/// The fields of a reply, as its sender reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyFields {
    /// Its sequence number.
    pub sequence: u32,
    /// T3.
    pub sent_at: NtpTimestamp,
    /// Error estimate of T2 and T3.
    pub error: ErrorEstimate,
    /// SSID.
    pub ssid: u16,
    /// T2.
    pub received_at: NtpTimestamp,
    /// Sequence number of the request.
    pub request_sequence: u32,
    /// T1 as the reflector returns it.
    pub request_sent_at: NtpTimestamp,
    /// The TTL that the request arrived with. twampy's replies end before it.
    pub ttl: Option<u8>,
}

impl Layout {
    /// Writes the base packet of a request, or the beginning of it that a TWAMP-Light request has.
    pub(crate) fn write_request(
        &self,
        packet: &mut [u8],
        sequence: u32,
        sent_at: NtpTimestamp,
        error: ErrorEstimate,
        ssid: u16,
    ) {
        let end = self.size.min(packet.len());
        packet[..end].fill(0);
        put(packet, 0, sequence.to_be_bytes());
        put(packet, self.sent_at, sent_at.to_bits().to_be_bytes());
        put(packet, self.error, error.to_bits().to_be_bytes());
        if end == self.size {
            put(packet, self.ssid, ssid.to_be_bytes());
        }
    }

    /// The fields of a reply. `None` if it is too short for them.
    pub(crate) fn parse_reply(&self, bytes: &[u8]) -> Option<ReplyFields> {
        let timestamp =
            |at| get(bytes, at).map(|bits| NtpTimestamp::from_bits(u64::from_be_bytes(bits)));
        let number = |at| get(bytes, at).map(u16::from_be_bytes);
        Some(ReplyFields {
            sequence: u32::from_be_bytes(get(bytes, 0)?),
            sent_at: timestamp(self.sent_at)?,
            error: ErrorEstimate::from_bits(number(self.error)?),
            ssid: number(self.ssid)?,
            received_at: timestamp(self.received_at)?,
            request_sequence: u32::from_be_bytes(get(bytes, self.request_sequence)?),
            request_sent_at: timestamp(self.request_sent_at)?,
            ttl: bytes.get(self.ttl).copied(),
        })
    }

    /// Writes the HMAC of a whole base packet, in a layout with one.
    pub(crate) fn sign(&self, packet: &mut [u8], key: &HmacKey) {
        if let Some(at) = self.hmac {
            let hmac = key.sign(&[&packet[..at]]);
            put(packet, at, hmac);
        }
    }

    /// The fields of a request. `None` if it is shorter than the shortest one.
    pub(super) fn parse(&self, bytes: &[u8]) -> Option<Request> {
        let sent_at = NtpTimestamp::from_bits(u64::from_be_bytes(get(bytes, self.sent_at)?));
        let received_at = get(bytes, self.received_at).unwrap_or_default();
        let received_at = NtpTimestamp::from_bits(u64::from_be_bytes(received_at));
        let apart = received_at.seconds().wrapping_sub(sent_at.seconds());
        let rest = bytes.get(self.received_at..self.hmac.unwrap_or(self.size));
        Some(Request {
            sequence: u32::from_be_bytes(get(bytes, 0)?),
            sent_at,
            error: ErrorEstimate::from_bits(u16::from_be_bytes(get(bytes, self.error)?)),
            // Without the whole base packet, these bytes are padding.
            ssid: if bytes.len() < self.size {
                0
            } else {
                u16::from_be_bytes(get(bytes, self.ssid)?)
            },
            rest_is_zero: rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0)),
            is_reply: received_at.to_bits() != 0
                && apart.min(apart.wrapping_neg()) <= MAX_RESIDENCE,
        })
    }

    /// Whether the HMAC of a whole base packet is that of `key`. True in a layout without HMAC.
    pub(crate) fn verifies(&self, packet: &[u8], key: &HmacKey) -> bool {
        self.hmac.is_none_or(|at| {
            get(packet, at).is_some_and(|hmac| key.verifies(&[&packet[..at]], &hmac))
        })
    }

    /// Writes a reply without T3, error estimate and HMAC. `packet` has at least the size of the
    /// base packet.
    pub(super) fn write_reply(&self, packet: &mut [u8], reply: &Reply) {
        let request = &reply.request;
        packet[..self.size].fill(0);
        put(packet, 0, reply.sequence.to_be_bytes());
        put(packet, self.ssid, request.ssid.to_be_bytes());
        put(
            packet,
            self.received_at,
            reply.received_at.to_bits().to_be_bytes(),
        );
        put(
            packet,
            self.request_sequence,
            request.sequence.to_be_bytes(),
        );
        put(
            packet,
            self.request_sent_at,
            request.sent_at.to_bits().to_be_bytes(),
        );
        put(
            packet,
            self.request_error,
            request.error.to_bits().to_be_bytes(),
        );
        put(packet, self.ttl, [reply.ttl]);
    }

    /// Completes a reply.
    pub(super) fn complete(
        &self,
        packet: &mut [u8],
        sent_at: NtpTimestamp,
        error: ErrorEstimate,
        key: Option<&HmacKey>,
    ) {
        put(packet, self.sent_at, sent_at.to_bits().to_be_bytes());
        put(packet, self.error, error.to_bits().to_be_bytes());
        if let Some(key) = key {
            self.sign(packet, key);
        }
    }
}

/// The bytes at an offset.
pub(crate) fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Writes bytes at an offset.
pub(crate) fn put<const N: usize>(packet: &mut [u8], at: usize, bytes: [u8; N]) {
    packet[at..at + N].copy_from_slice(&bytes);
}

const _: () = assert!(AUTHENTICATED_BYTES == 96 + HMAC_BYTES);
