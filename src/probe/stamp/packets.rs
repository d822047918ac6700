//! Requests and replies of STAMP (RFC 8762, RFC 8972) and TWAMP-Light (RFC 5357, appendix I).
//!
//! A request is a base packet, then these TLVs: Class of Service if asked for, Extra Padding up to the
//! size, and in authenticated mode the HMAC of the others.

use crate::reflect::stamp::{
    AUTHENTICATED, ErrorEstimate, HMAC_BYTES, HmacKey, INTEGRITY, Layout, MALFORMED, NtpTimestamp,
    OPEN, ReplyFields, UNRECOGNIZED, get, put,
};

/// Length of a TLV without its value.
const TLV_HEADER: usize = 4;

/// Types of TLVs (RFC 8972, section 5.1).
const EXTRA_PADDING: u8 = 1;
const CLASS_OF_SERVICE: u8 = 4;
const HMAC: u8 = 8;

/// The header of the HMAC TLV.
const HMAC_HEADER: [u8; TLV_HEADER] = [UNRECOGNIZED, HMAC, 0, 16];
const _: () = assert!(HMAC_HEADER[3] as usize == HMAC_BYTES);

/// Lengths of whole TLVs.
const CLASS_OF_SERVICE_BYTES: usize = TLV_HEADER + 4;
const HMAC_TLV_BYTES: usize = TLV_HEADER + HMAC_BYTES;

/// The content of a request beyond the base packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Padding {
    /// An Extra Padding TLV of zeros.
    #[default]
    Zero,
    /// An Extra Padding TLV of pseudo-random bytes.
    Random,
    /// Zeros without a TLV, as TWAMP-Light senders have them.
    Plain,
}

/// The settings of requests.
#[derive(Debug, Clone, PartialEq)]
pub struct StampRequests {
    /// Length in bytes, TLVs included.
    pub size: usize,
    /// Identifier of the session, 0 for none.
    pub ssid: u16,
    /// Whether requests are authenticated.
    pub is_authenticated: bool,
    /// Key of authenticated mode.
    pub key: Option<HmacKey>,
    /// DSCP that the Class of Service TLV asks the reflector to use.
    pub class_of_service: Option<u8>,
    /// Content beyond the base packet.
    pub padding: Padding,
}

/// Writes requests and parses replies.
#[derive(Debug)]
pub(super) struct Packets {
    settings: StampRequests,
    layout: &'static Layout,
    /// The bytes after the base packet. All requests have the same, except for the HMAC.
    rest: Box<[u8]>,
    /// Offset of the HMAC TLV in the rest.
    hmac: Option<usize>,
}

/// A datagram from the reflector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A reply.
    Reply(ParsedReply),
    /// A request, with its number and T1. If it is this client's, the target echoes and does not
    /// reflect STAMP.
    Request(u32, NtpTimestamp),
    /// A reply whose HMAC is wrong.
    Unverified,
    /// No reply.
    Other,
}

/// A reply and what is unusual about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ParsedReply {
    /// Its base packet.
    pub(super) fields: ReplyFields,
    /// The Class of Service TLV, if the reflector answered it: the DSCP of the request as received,
    /// and whether its policy refused the requested DSCP.
    pub(super) class_of_service: Option<(u8, bool)>,
    /// Whether bytes beyond the base packet are missing.
    pub(super) is_cut: bool,
    /// Whether bytes beyond the base packet changed.
    pub(super) is_altered: bool,
    /// Whether the reflector returned a TLV as not understood, malformed, or not verified.
    pub(super) flags: TlvFlags,
}

/// The flags of all TLVs of a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TlvFlags(u8);

impl TlvFlags {
    /// U: a TLV was not understood.
    pub(super) fn is_unrecognized(self) -> bool {
        self.0 & UNRECOGNIZED != 0
    }

    /// M: a TLV was malformed.
    pub(super) fn is_malformed(self) -> bool {
        self.0 & MALFORMED != 0
    }

    /// I: the integrity of the TLVs could not be verified.
    pub(super) fn is_unverified(self) -> bool {
        self.0 & INTEGRITY != 0
    }
}

impl StampRequests {
    /// Length of the base packet in bytes.
    pub fn base(&self) -> usize {
        self.layout().size
    }

    /// Length of the shortest request with these settings in bytes, except for those of TWAMP-Light.
    pub fn least(&self) -> usize {
        let has_tlvs = self.class_of_service.is_some();
        let hmac = if self.is_authenticated && has_tlvs {
            HMAC_TLV_BYTES
        } else {
            0
        };
        self.base() + self.class_of_service.map_or(0, |_| CLASS_OF_SERVICE_BYTES) + hmac
    }

    /// Returns the reason why requests cannot have this size, and the next smaller and larger ones
    /// that are possible.
    ///
    /// # Errors
    /// If the TLVs do not fit exactly.
    pub fn check_size(&self) -> Result<(), (usize, usize)> {
        let least = self.base() + self.tlvs();
        let is_short = self.size < least;
        let is_light = !self.is_authenticated && self.size < self.base();
        let has_padding = self.padding == Padding::Plain && self.size >= self.base();
        if (is_light || has_padding) && self.class_of_service.is_none() {
            return Ok(());
        }
        match self.size.checked_sub(least) {
            Some(0) => Ok(()),
            Some(rest) if rest >= TLV_HEADER => Ok(()),
            _ if is_short && self.size > self.base() && self.class_of_service.is_none() => {
                Err((self.base(), least + TLV_HEADER))
            }
            _ if is_short => Err((least, least)),
            _ => Err((least, least + TLV_HEADER)),
        }
    }

    /// Length of the TLVs without Extra Padding.
    fn tlvs(&self) -> usize {
        let class_of_service = self.class_of_service.map_or(0, |_| CLASS_OF_SERVICE_BYTES);
        let has_tlvs = self.size > self.base() && self.padding != Padding::Plain;
        let hmac = if self.is_authenticated && has_tlvs {
            HMAC_TLV_BYTES
        } else {
            0
        };
        class_of_service + hmac
    }

    fn layout(&self) -> &'static Layout {
        if self.is_authenticated {
            &AUTHENTICATED
        } else {
            &OPEN
        }
    }
}

impl Packets {
    /// Prepares requests. `random` seeds their padding. The size is one that
    /// [`StampRequests::check_size`] permits.
    pub(super) fn new(settings: StampRequests, random: u32) -> Self {
        let layout = settings.layout();
        let mut rest = Vec::new();
        let mut tlv = |kind, value: &[u8]| {
            let length = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
            rest.extend([UNRECOGNIZED, kind, length[0], length[1]]);
            rest.extend(value);
        };
        if let Some(dscp) = settings.class_of_service {
            tlv(CLASS_OF_SERVICE, &[dscp << 2, 0, 0, 0]);
        }
        let space = settings.size.saturating_sub(settings.base());
        let padding = space.saturating_sub(settings.tlvs());
        match (settings.padding, padding.checked_sub(TLV_HEADER)) {
            (Padding::Plain, _) | (_, None) => {}
            (Padding::Zero, Some(length)) => tlv(EXTRA_PADDING, &vec![0; length]),
            (Padding::Random, Some(length)) => tlv(EXTRA_PADDING, &noise(random, length)),
        }
        let hmac = (settings.is_authenticated && !rest.is_empty()).then_some(rest.len());
        if hmac.is_some() {
            rest.extend(HMAC_HEADER);
        }
        rest.resize(space, 0);
        Self {
            settings,
            layout,
            rest: rest.into(),
            hmac,
        }
    }

    /// The settings.
    pub(super) fn settings(&self) -> &StampRequests {
        &self.settings
    }

    /// Writes a request to `out`, which has [`Self::size`] bytes.
    pub(super) fn write(
        &self,
        sequence: u32,
        sent_at: NtpTimestamp,
        error: ErrorEstimate,
        out: &mut [u8],
    ) {
        let base = self.layout.size.min(out.len());
        out[base..].copy_from_slice(&self.rest);
        self.layout
            .write_request(out, sequence, sent_at, error, self.settings.ssid);
        if let Some(key) = &self.settings.key {
            self.layout.sign(out, key);
            if let Some(at) = self.hmac {
                let hmac = key.sign(&[&sequence.to_be_bytes(), &self.rest[..at]]);
                put(out, base + at + TLV_HEADER, hmac);
            }
        }
    }

    /// The sequence number of a request of this client, or of its beginning, which an ICMP error
    /// quotes. `None` if there is too little of it.
    pub(super) fn quoted_sequence(bytes: &[u8]) -> Option<u32> {
        get(bytes, 0).map(u32::from_be_bytes)
    }

    /// Parses a datagram of `length` bytes. `bytes` holds all of it, or at least one byte more than
    /// the reply to a request has.
    pub(super) fn parse(&self, bytes: &[u8], length: usize) -> Parsed {
        let Some(fields) = self.layout.parse_reply(bytes) else {
            return Parsed::Other;
        };
        // The receive time of a reply is never zero, that of a request is.
        let zero = [fields.received_at, fields.request_sent_at].map(NtpTimestamp::to_bits);
        if zero == [0; 2] && length == self.settings.size {
            return Parsed::Request(fields.sequence, fields.sent_at);
        }
        if let Some(key) = &self.settings.key
            && !self.layout.verifies(bytes, key)
        {
            return Parsed::Unverified;
        }
        let rest = bytes.get(self.layout.size..).unwrap_or_default();
        let mut reply = ParsedReply {
            fields,
            class_of_service: None,
            is_cut: length < self.settings.size,
            is_altered: length > self.settings.size.max(self.layout.size),
            flags: TlvFlags::default(),
        };
        if let Some(rest) = rest.get(..self.rest.len()) {
            self.compare(rest, &mut reply);
        }
        if reply.flags.is_unverified() || self.has_valid_hmac(rest, fields.sequence) {
            Parsed::Reply(reply)
        } else {
            Parsed::Unverified
        }
    }

    /// Compares the bytes after the base packet with those of the request.
    fn compare(&self, rest: &[u8], reply: &mut ParsedReply) {
        let has_tlvs = self.rest.first() == Some(&UNRECOGNIZED);
        let mut start = 0;
        while let Some([_, kind, high, low]) = get::<4>(&self.rest, start).filter(|_| has_tlvs) {
            let value = start + TLV_HEADER;
            let end = value + usize::from(u16::from_be_bytes([high, low]));
            reply.is_altered |= rest[start + 1..value] != self.rest[start + 1..value];
            reply.flags.0 |= rest[start];
            match kind {
                CLASS_OF_SERVICE if rest[start] == 0 => {
                    let value = u16::from_be_bytes([rest[value], rest[value + 1]]);
                    let received = (value >> 4 & 0x3f) as u8;
                    reply.class_of_service = Some((received, value & 0x3 != 0));
                }
                // It has a new value.
                CLASS_OF_SERVICE | HMAC => {}
                _ => reply.is_altered |= rest[value..end] != self.rest[value..end],
            }
            start = end;
        }
        reply.is_altered |= !has_tlvs && *rest != *self.rest;
    }

    /// Whether the HMAC of the TLVs is right, or there is none.
    fn has_valid_hmac(&self, rest: &[u8], sequence: u32) -> bool {
        let (Some(at), Some(key)) = (self.hmac, &self.settings.key) else {
            return true;
        };
        let hmac = get(rest, at + TLV_HEADER);
        // Without the whole TLV, the reply is cut, which is another fault.
        hmac.is_none_or(|hmac| key.verifies(&[&sequence.to_be_bytes(), &rest[..at]], &hmac))
    }
}

/// Pseudo-random bytes (xorshift64, Marsaglia 2003).
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) << 32 | 0x9e37_79b9;
    let numbers = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    });
    numbers.flatten().take(length).collect()
}
