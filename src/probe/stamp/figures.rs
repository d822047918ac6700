//! The figures of a run in STAMP mode.

use super::delays::Delays;
use super::{FirstReply, StampEvent, StampRequests, reply_times};
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

impl StampFigures {
    /// Adds what a datagram shows.
    pub(super) fn add(&mut self, event: &StampEvent, settings: &StampRequests) {
        match event {
            StampEvent::Echoed => self.faults.echoed += 1,
            StampEvent::Unverified => self.faults.unverified += 1,
            StampEvent::FirstReply(first) => self.add_first(first, settings),
        }
    }

    /// Adds the first reply to a request.
    fn add_first(&mut self, first: &FirstReply, settings: &StampRequests) {
        let FirstReply {
            reply, reception, ..
        } = first;
        let [t2, t3] = reply_times(reply);
        self.reflector.add(t3.nanoseconds_since(t2));
        if let Some(delay) = first.delay {
            self.forward.add(delay.forward);
            self.backward.add(delay.backward);
            self.offset.add(delay.forward / 2 - delay.backward / 2);
        }
        for variation in first.variations() {
            self.ipdv_forward.add(variation.forward);
            self.ipdv_backward.add(variation.backward);
            self.ipdv_round_trip.add(variation.round_trip);
        }
        self.forward_ttl = reply.fields.ttl.or(self.forward_ttl);
        self.backward_ttl = reception.ttl.or(self.backward_ttl);
        let dscp = reception.traffic_class.map(|class| class >> 2);
        self.dscp_returned = dscp.or(self.dscp_returned);
        let error = reply.fields.error;
        self.remote_clock = Some(match self.remote_clock {
            Some(worst) => worst.worse(error),
            None => error,
        });
        let has_ssid = settings.size >= settings.base();
        self.ssid = Some(reply.fields.ssid).filter(|_| has_ssid);
        let (is_refused, received) = match reply.class_of_service {
            Some((received, is_refused)) => (is_refused, Some(received)),
            None => (false, None),
        };
        self.dscp_received_there = received.or(self.dscp_received_there);
        let faults = &mut self.faults;
        for (count, is_faulty) in [
            (
                &mut faults.ssid,
                has_ssid && reply.fields.ssid != settings.ssid,
            ),
            (
                &mut faults.changed_t1,
                first.sent_at != reply.fields.request_sent_at,
            ),
            (&mut faults.equal_times, t2 == t3),
            (&mut faults.impossible_times, first.in_reflector.is_none()),
            (&mut faults.cut, reply.is_cut),
            (
                &mut faults.unrecognized,
                reply.flags.is_unrecognized() && !reply.flags.is_unverified(),
            ),
            (&mut faults.malformed, reply.flags.is_malformed()),
            (&mut faults.refused_hmac, reply.flags.is_unverified()),
            (&mut faults.refused_dscp, is_refused),
        ] {
            *count += u64::from(is_faulty);
        }
    }
}
