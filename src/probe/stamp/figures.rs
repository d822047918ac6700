//! The figures of a run in STAMP mode.

use super::delays::Delays;
use crate::reflect::stamp::ErrorEstimate;

/// The figures of a run.
#[derive(Debug, Default)]
pub struct StampFigures {
    /// One-way delay on the way there: T2 − T1.
    pub forward: Delays,
    /// One-way delay on the way back: T4 − T3.
    pub backward: Delays,
    /// Packet delay variation (RFC 3393): the difference of the delays of two consecutive requests of
    /// a flow, on the way there.
    pub ipdv_forward: Delays,
    /// On the way back.
    pub ipdv_backward: Delays,
    /// Of the round trip.
    pub ipdv_round_trip: Delays,
    /// Time in the reflector: T3 − T2.
    pub reflector: Delays,
    /// The differences of the clocks, if both ways take the same time: the reflector's minus this one's.
    pub offset: Delays,
    /// TTL that requests arrived with: the last one.
    pub forward_ttl: Option<u8>,
    /// TTL of replies: the last one.
    pub backward_ttl: Option<u8>,
    /// DSCP that requests arrived with, by the Class of Service TLV.
    pub dscp_received_there: Option<u8>,
    /// DSCP of replies: the last one.
    pub dscp_returned: Option<u8>,
    /// SSID of the last reply.
    pub ssid: Option<u16>,
    /// The worst error estimate of a reply.
    pub remote_clock: Option<ErrorEstimate>,
    /// Whether this host's clock was stepped during the run.
    pub is_stepped: bool,
    /// Faults of the reflector.
    pub faults: StampFaults,
}

/// The number of replies with each fault of the reflector, or of the path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StampFaults {
    /// Requests that came back as they were.
    pub echoed: u64,
    /// Replies with a wrong HMAC.
    pub unverified: u64,
    /// Replies without the SSID of the request.
    pub ssid: u64,
    /// Replies whose T1 is not that of the request.
    pub changed_t1: u64,
    /// Replies whose T2 and T3 are equal.
    pub equal_times: u64,
    /// Replies whose T3 is before T2, or whose time in the reflector exceeds the round trip.
    pub impossible_times: u64,
    /// Replies that are shorter than their request.
    pub cut: u64,
    /// Replies with a TLV that the reflector did not understand.
    pub unrecognized: u64,
    /// Replies with a TLV that the reflector calls malformed.
    pub malformed: u64,
    /// Replies with TLVs whose integrity the reflector could not verify.
    pub refused_hmac: u64,
    /// Replies of a reflector that may not use the DSCP of --cos.
    pub refused_dscp: u64,
}
