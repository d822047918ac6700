//! The TLVs after the base packet (RFC 8972, section 4): flags (1 byte), type (1), length (2), value.
//!
//! They are processed in place, so a reply has the TLVs of its request in their order and lengths.
//! The reflector sets three flags in each:
//!
//! - U: the reflector did not process it.
//! - M: its length is invalid for its type, or exceeds the packet. All bytes after it are copied.
//! - I: the integrity of the TLVs could not be verified. All values are copied.

use super::dscp::DscpSet;
use super::hmac::{HMAC_BYTES, HmacKey};
use super::wire::{get, put};

pub(crate) const UNRECOGNIZED: u8 = 0x80;
pub(crate) const MALFORMED: u8 = 0x40;
pub(crate) const INTEGRITY: u8 = 0x20;

/// The bytes before the value.
const HEADER: usize = 4;

/// Timestamp Information: synchronized by NTP, or by nothing.
const NTP: u8 = 1;
const FREE_RUNNING: u8 = 5;
/// Timestamp Information: timestamps by software of this host.
const SOFTWARE: u8 = 2;

/// Class of Service, RP: the policy does not permit the requested DSCP.
const NOT_PERMITTED: u16 = 1;

/// The type of a TLV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlvKind {
    /// 1, RFC 8972, section 4.1.
    ExtraPadding,
    /// 3, section 4.3.
    TimestampInformation,
    /// 4, section 4.4.
    ClassOfService,
    /// 5, section 4.5.
    DirectMeasurement,
    /// 8, section 4.8.
    Hmac,
    /// Any other.
    Other,
}

/// Why a TLV was returned with a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlvFault {
    /// The reflector does not know its type, or has no session to answer it from.
    Unrecognized,
    /// Its length is invalid.
    Malformed,
    /// The HMAC of the TLVs is wrong, missing or at the wrong place, or there is no key.
    Integrity,
}

/// The number of TLVs that were received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TlvTotals {
    /// By [`TlvKind`].
    pub kinds: [u64; TlvKind::ALL.len()],
    /// By [`TlvFault`].
    pub faults: [u64; TlvFault::ALL.len()],
}

/// The data that TLVs are checked with and answered from.
#[derive(Debug, Clone, Copy)]
pub(super) struct TlvContext<'a> {
    /// The key in authenticated mode.
    pub(super) key: Option<&'a HmacKey>,
    pub(super) request_sequence: u32,
    pub(super) reply_sequence: u32,
    /// The earlier replies of the session, if there is a session.
    pub(super) earlier_replies: Option<u32>,
    pub(super) is_synchronized: bool,
    /// The TOS byte or traffic class of the request.
    pub(super) traffic_class: u8,
    /// The DSCPs that requests may ask for.
    pub(super) allowed_dscp: DscpSet,
}

/// One TLV.
#[derive(Debug, Clone, Copy)]
struct Tlv {
    kind: TlvKind,
    start: usize,
    /// The end of its value; of a malformed one, the end of the packet.
    end: usize,
    is_malformed: bool,
}

/// The result of the check of the HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Integrity {
    /// No HMAC is needed.
    Unprotected,
    /// The HMAC of the TLV at this offset is right.
    Verified(usize),
    Failed,
}

impl TlvKind {
    /// All types, in the order of declaration.
    pub const ALL: [Self; 6] = [
        Self::ExtraPadding,
        Self::TimestampInformation,
        Self::ClassOfService,
        Self::DirectMeasurement,
        Self::Hmac,
        Self::Other,
    ];

    /// The value of the metric label `type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExtraPadding => "extra_padding",
            Self::TimestampInformation => "timestamp_information",
            Self::ClassOfService => "class_of_service",
            Self::DirectMeasurement => "direct_measurement",
            Self::Hmac => "hmac",
            Self::Other => "other",
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::ExtraPadding,
            3 => Self::TimestampInformation,
            4 => Self::ClassOfService,
            5 => Self::DirectMeasurement,
            8 => Self::Hmac,
            _ => Self::Other,
        }
    }

    fn permits(self, length: usize) -> bool {
        match self {
            Self::ExtraPadding | Self::Other => true,
            Self::TimestampInformation => length >= 4,
            Self::ClassOfService => length == 4,
            Self::DirectMeasurement => length == 12,
            Self::Hmac => length == HMAC_BYTES,
        }
    }
}

impl TlvFault {
    /// All faults, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Unrecognized, Self::Malformed, Self::Integrity];

    /// The value of the metric label `fault`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unrecognized => "unrecognized",
            Self::Malformed => "malformed",
            Self::Integrity => "integrity",
        }
    }
}

/// Whether the bytes after the base packet are TLVs. A STAMP sender sets only the flag U. Other bytes
/// are padding of a TWAMP-Light sender.
pub(super) fn are_tlvs(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER && bytes[0] == UNRECOGNIZED
}

/// Turns the TLVs of a request into those of its reply, and counts them. Returns the DSCP that the
/// last Class of Service TLV chooses for the reply.
pub(super) fn answer(
    bytes: &mut [u8],
    context: &TlvContext<'_>,
    totals: &mut TlvTotals,
) -> Option<u8> {
    let integrity = check(bytes, context);
    let mut dscp = None;
    let mut start = 0;
    while let Some(tlv) = next(bytes, start) {
        totals.kinds[tlv.kind as usize] += 1;
        let is_failed = integrity == Integrity::Failed;
        let value = &mut bytes[tlv.start + HEADER..tlv.end];
        let is_processed = match tlv.kind {
            TlvKind::Other => false,
            _ if is_failed => false,
            _ if tlv.is_malformed => true,
            TlvKind::ExtraPadding | TlvKind::Hmac => true,
            TlvKind::TimestampInformation => timestamp_information(value, context),
            TlvKind::ClassOfService => {
                dscp = Some(class_of_service(value, context));
                true
            }
            TlvKind::DirectMeasurement => direct_measurement(value, context),
        };
        let mut flags = if is_failed { UNRECOGNIZED } else { 0 };
        for (is_set, flag, fault) in [
            (
                !is_processed && !is_failed,
                UNRECOGNIZED,
                TlvFault::Unrecognized,
            ),
            (tlv.is_malformed, MALFORMED, TlvFault::Malformed),
            (is_failed, INTEGRITY, TlvFault::Integrity),
        ] {
            if is_set {
                flags |= flag;
                totals.faults[fault as usize] += 1;
            }
        }
        bytes[tlv.start] = flags;
        start = tlv.end;
    }
    if let (Integrity::Verified(at), Some(key)) = (integrity, context.key) {
        let hmac = key.sign(&[&context.reply_sequence.to_be_bytes(), &bytes[..at]]);
        put(bytes, at + HEADER, hmac);
    }
    dscp
}

/// Checks the HMAC TLV. It covers the sequence number and all TLVs before it, and only Extra Padding
/// may follow it. In authenticated mode it is required, unless all TLVs are Extra Padding.
fn check(bytes: &[u8], context: &TlvContext<'_>) -> Integrity {
    let (mut hmac, mut needs_hmac) = (None, false);
    let mut start = 0;
    while let Some(tlv) = next(bytes, start) {
        match tlv.kind {
            TlvKind::ExtraPadding => {}
            TlvKind::Hmac if hmac.is_none() && !tlv.is_malformed => hmac = Some(tlv.start),
            TlvKind::Hmac => return Integrity::Failed,
            _ if hmac.is_some() => return Integrity::Failed,
            _ => needs_hmac = context.key.is_some(),
        }
        start = tlv.end;
    }
    let Some(at) = hmac else {
        return if needs_hmac {
            Integrity::Failed
        } else {
            Integrity::Unprotected
        };
    };
    let verified = context
        .key
        .zip(get(bytes, at + HEADER))
        .is_some_and(|(key, hmac)| {
            key.verifies(
                &[&context.request_sequence.to_be_bytes(), &bytes[..at]],
                &hmac,
            )
        });
    if verified {
        Integrity::Verified(at)
    } else {
        Integrity::Failed
    }
}

/// The TLV at an offset. `None` if too few bytes are left for a header; they are no TLV.
fn next(bytes: &[u8], start: usize) -> Option<Tlv> {
    let [_, kind, high, low] = get(bytes, start)?;
    let kind = TlvKind::from_byte(kind);
    let length = usize::from(u16::from_be_bytes([high, low]));
    let end = start + HEADER + length;
    let is_malformed = end > bytes.len() || !kind.permits(length);
    Some(Tlv {
        kind,
        start,
        end: if is_malformed { bytes.len() } else { end },
        is_malformed,
    })
}

fn timestamp_information(value: &mut [u8], context: &TlvContext<'_>) -> bool {
    let source = if context.is_synchronized {
        NTP
    } else {
        FREE_RUNNING
    };
    put(value, 0, [source, SOFTWARE, source, SOFTWARE]);
    true
}

/// DSCP1 (6 bits, requested), DSCP2 (6, received), ECN (2, received), RP (2), reserved (16). Returns
/// the DSCP of the reply.
fn class_of_service(value: &mut [u8], context: &TlvContext<'_>) -> u8 {
    let requested = value[0] >> 2;
    let (received, ecn) = (context.traffic_class >> 2, context.traffic_class & 3);
    let is_permitted = requested == received || context.allowed_dscp.contains(requested);
    let rp = if is_permitted { 0 } else { NOT_PERMITTED };
    let [requested_bits, received_bits, ecn] = [requested, received, ecn].map(u16::from);
    let bits = requested_bits << 10 | received_bits << 4 | ecn << 2 | rp;
    put(value, 0, bits.to_be_bytes());
    put(value, 2, [0; 2]);
    if is_permitted { requested } else { received }
}

/// The sender's count of sent requests, the count of received requests with this one, the count of
/// earlier replies. Without a session there are no counts.
fn direct_measurement(value: &mut [u8], context: &TlvContext<'_>) -> bool {
    let Some(replies) = context.earlier_replies else {
        return false;
    };
    // Every received request is answered.
    put(value, 4, replies.wrapping_add(1).to_be_bytes());
    put(value, 8, replies.to_be_bytes());
    true
}
