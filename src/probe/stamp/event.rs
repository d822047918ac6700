//! The events that datagrams add to the figures.

use super::StampReception;
use super::packets::ParsedReply;
use super::session::Delay;
use crate::reflect::stamp::NtpTimestamp;

/// The event that a datagram adds to the figures.
#[expect(
    clippy::large_enum_variant,
    reason = "it is on the stack, for one datagram"
)]
#[derive(Debug, Clone, Copy)]
pub enum StampEvent {
    /// The first reply to a request.
    FirstReply(FirstReply),
    /// A request that came back as it was.
    Echoed,
    /// A reply with a wrong HMAC.
    Unverified,
}

/// The first reply to a request.
#[derive(Debug, Clone, Copy)]
pub struct FirstReply {
    pub(super) reply: ParsedReply,
    pub(super) reception: StampReception,
    /// T1.
    pub(super) sent_at: NtpTimestamp,
    /// Time in the reflector in nanoseconds, if it is possible.
    pub(super) in_reflector: Option<u64>,
    pub(super) delay: Option<Delay>,
    /// The delays of the flow's requests before and after.
    pub(super) neighbours: [Option<Delay>; 2],
}

impl FirstReply {
    /// Sequence numbers of the request and of the reply.
    pub fn numbers(&self) -> (u32, u32) {
        (
            self.reply.fields.request_sequence,
            self.reply.fields.sequence,
        )
    }

    /// The delays, if T4 is known.
    pub fn delay(&self) -> Option<Delay> {
        self.delay
    }

    /// The differences of the delays of two consecutive requests (RFC 3393), of which this is one.
    pub fn variations(&self) -> impl Iterator<Item = Delay> {
        let [before, after] = self.neighbours;
        let pairs = [before.zip(self.delay), self.delay.zip(after)];
        pairs.into_iter().flatten().map(|(before, after)| Delay {
            forward: after.forward - before.forward,
            backward: after.backward - before.backward,
            round_trip: after.round_trip - before.round_trip,
        })
    }
}
