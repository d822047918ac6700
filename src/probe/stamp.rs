//! The client's side of STAMP (RFC 8762, RFC 8972), without a socket or a clock: each flow is a session
//! of the reflector.
//!
//! T1 and T4 are times of this host's clock, T2 and T3 of the reflector's. The client remembers T1 and
//! does not use the one that the reflector returns.

mod delays;
mod event;
mod figures;
mod packets;
mod session;

use std::time::Duration;

pub use delays::{DelaySummary, Delays};
pub use event::{FirstReply, StampEvent};
pub use figures::{StampFaults, StampFigures};
use packets::Packets;
pub use packets::{Padding, StampRequests};
use packets::{Parsed, ParsedReply};
use session::Session;
pub use session::{Delay, LostByDirection, Settled};

use super::wire::{Change, Message};
use crate::reflect::stamp::{ErrorEstimate, NtpTimestamp};

/// How far the system clock may move against the monotonic clock between two requests without a step.
const STEP: Duration = Duration::from_millis(1);
/// The fastest slew of a clock: `adjtime` and chronyd stay below a tenth.
const SLEW: u32 = 100;

/// A measurement: the sessions and their figures.
#[derive(Debug)]
pub struct Stamp {
    sessions: StampSessions,
    figures: StampFigures,
    /// The last readings of both clocks: since the start of the run, and since 1970.
    clocks: Option<(Duration, Duration)>,
}

/// The sessions of all flows, without figures.
#[derive(Debug)]
pub struct StampSessions {
    packets: Packets,
    sessions: Box<[Session]>,
    /// Number of requests that each session keeps.
    capacity: usize,
}

/// How a reply was received.
#[derive(Debug, Clone, Copy)]
pub struct StampReception {
    /// When it arrived, since the start of the run.
    pub at: Duration,
    /// T4, since 1970. `None` if it is not known.
    pub time_of_day: Option<Duration>,
    /// TTL or hop limit.
    pub ttl: Option<u8>,
    /// TOS byte or traffic class.
    pub traffic_class: Option<u8>,
}

/// A reply to a request that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matched {
    /// The request's number in the tally.
    pub sequence: u64,
    /// Time in the reflector, to be left out of the round trip.
    pub in_reflector: Duration,
    /// Whether it is shorter than its request.
    pub is_cut: bool,
    /// Whether bytes beyond the base packet changed.
    pub is_altered: bool,
}

/// A datagram from the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A reply.
    Reply(Matched),
    /// A datagram that [`StampFaults`] counts: a request that came back, or a wrong HMAC.
    Faulty,
    /// Neither.
    Foreign,
}

impl Answer {
    /// The time in the reflector, to be left out of the round trip.
    pub fn in_reflector(&self) -> Duration {
        match self {
            Self::Reply(reply) => reply.in_reflector,
            Self::Faulty | Self::Foreign => Duration::ZERO,
        }
    }

    /// The datagram of `length` bytes in the terms of other modes, unless it is counted already.
    pub fn message(&self, length: usize) -> Option<Message> {
        let message = match *self {
            Self::Faulty => return None,
            Self::Foreign => Message::Foreign,
            Self::Reply(Matched {
                sequence,
                is_cut,
                is_altered,
                ..
            }) => Message::Reply {
                sequence,
                change: match (is_cut, is_altered) {
                    (true, _) => Change::Truncated { length },
                    (false, true) => Change::Altered,
                    (false, false) => Change::None,
                },
            },
        };
        Some(message)
    }
}

impl Stamp {
    /// Prepares a measurement with this number of flows, which keeps the last `capacity` requests of
    /// each. `random` seeds the padding.
    pub fn new(settings: StampRequests, flows: usize, capacity: usize, random: u32) -> Self {
        Self {
            sessions: StampSessions::new(settings, flows, capacity, random),
            figures: StampFigures::default(),
            clocks: None,
        }
    }

    /// The settings of requests.
    pub fn settings(&self) -> &StampRequests {
        self.sessions.packets.settings()
    }

    /// The figures so far.
    pub fn figures(&self) -> &StampFigures {
        &self.figures
    }

    /// Writes a request. See [`StampSessions::write`].
    pub fn write(
        &mut self,
        flow: usize,
        sequence: u64,
        at: Duration,
        time_of_day: Duration,
        error: ErrorEstimate,
        out: &mut [u8],
    ) {
        self.figures.is_stepped |= self.is_step(at, time_of_day);
        self.clocks = Some((at, time_of_day));
        self.sessions.write(flow, sequence, time_of_day, error, out);
    }

    /// The number in the tally of a request that an ICMP error quotes.
    pub fn quoted(&self, flow: usize, bytes: &[u8]) -> Option<u64> {
        self.sessions.quoted(flow, bytes)
    }

    /// Handles a datagram and adds it to the figures. See [`StampSessions::receive`].
    pub fn receive(
        &mut self,
        flow: usize,
        bytes: &[u8],
        length: usize,
        reception: StampReception,
        sent_at: impl Fn(u64) -> Option<Duration>,
    ) -> Answer {
        let (answer, event) = self
            .sessions
            .receive(flow, bytes, length, reception, sent_at);
        if let Some(event) = event {
            self.figures.add(&event, self.sessions.packets.settings());
        }
        answer
    }

    /// Returns the lost requests by direction.
    pub fn lost(&self) -> LostByDirection {
        let sessions = &self.sessions.sessions;
        let mut sum = LostByDirection::default();
        if self.is_stateful().is_none() {
            sum.unknown = sessions.iter().map(Session::all_lost).sum();
            return sum;
        }
        for lost in sessions.iter().map(Session::lost) {
            sum.forward += lost.forward;
            sum.backward += lost.backward;
            sum.unknown += lost.unknown;
        }
        sum
    }

    /// Whether the reflector numbers its replies. `None` if all numbers equal those of the requests.
    pub fn is_stateful(&self) -> Option<bool> {
        self.sessions.sessions.iter().find_map(Session::is_stateful)
    }

    /// Whether the system clock moved against the monotonic one since the last request.
    fn is_step(&self, at: Duration, time_of_day: Duration) -> bool {
        let Some((at_before, time_before)) = self.clocks else {
            return false;
        };
        let passed = at.saturating_sub(at_before);
        let expected = time_before + passed;
        time_of_day.abs_diff(expected) > STEP + passed / SLEW
    }
}

impl StampSessions {
    /// Prepares this number of sessions, each of which keeps its last `capacity` requests. `random`
    /// seeds the padding.
    pub fn new(settings: StampRequests, flows: usize, capacity: usize, random: u32) -> Self {
        Self {
            packets: Packets::new(settings, random),
            sessions: (0..flows).map(|_| Session::default()).collect(),
            capacity,
        }
    }

    /// Writes the next request of a flow to `out`. `sequence` is its number in the tally. It is sent
    /// at `time_of_day` since 1970 (T1), by a clock with this error.
    pub fn write(
        &mut self,
        flow: usize,
        sequence: u64,
        time_of_day: Duration,
        error: ErrorEstimate,
        out: &mut [u8],
    ) {
        let session = &mut self.sessions[flow];
        let sent_at = NtpTimestamp::from_unix(time_of_day);
        self.packets
            .write(session.next_number(), sent_at, error, out);
        session.sent(sequence, sent_at, self.capacity);
    }

    /// The number in the tally of a request that an ICMP error quotes.
    pub fn quoted(&self, flow: usize, bytes: &[u8]) -> Option<u64> {
        let number = Packets::quoted_sequence(bytes)?;
        self.sessions[flow].get(number).map(|sent| sent.sequence)
    }

    /// Handles a datagram of `length` bytes that arrived on a flow. `bytes` holds all of it, or at
    /// least one byte more than a reply has. `sent_at` returns the time of a request, by its number in
    /// the tally, or `None` if a reply to it shows nothing any more.
    pub fn receive(
        &mut self,
        flow: usize,
        bytes: &[u8],
        length: usize,
        reception: StampReception,
        sent_at: impl Fn(u64) -> Option<Duration>,
    ) -> (Answer, Option<StampEvent>) {
        let reply = match self.packets.parse(bytes, length) {
            Parsed::Reply(reply) => reply,
            Parsed::Request(number, sent_at) if self.is_own(flow, number, sent_at) => {
                return (Answer::Faulty, Some(StampEvent::Echoed));
            }
            Parsed::Request(..) if !self.packets.settings().is_authenticated => {
                return (Answer::Foreign, None);
            }
            Parsed::Request(..) | Parsed::Unverified => {
                return (Answer::Faulty, Some(StampEvent::Unverified));
            }
            Parsed::Other => return (Answer::Foreign, None),
        };
        let number = reply.fields.request_sequence;
        let session = &mut self.sessions[flow];
        let Some(sent) = session.get(number) else {
            return (Answer::Foreign, None);
        };
        let answer = |in_reflector: Option<u64>| {
            Answer::Reply(Matched {
                sequence: sent.sequence,
                in_reflector: Duration::from_nanos(in_reflector.unwrap_or(0)),
                is_cut: reply.is_cut,
                is_altered: reply.is_altered,
            })
        };
        let Some(sent_at) = sent_at(sent.sequence) else {
            return (answer(None), None);
        };
        let round_trip = reception.at.checked_sub(sent_at);
        let (in_reflector, delay) = times(&reply, sent.at, reception, round_trip);
        let is_first = session.is_unanswered(number);
        session.answered(number, reply.fields.sequence, delay);
        let event = is_first.then(|| {
            StampEvent::FirstReply(FirstReply {
                reply,
                reception,
                sent_at: sent.at,
                in_reflector,
                delay,
                neighbours: session.neighbours(number),
            })
        });
        (answer(in_reflector), event)
    }

    /// Returns the next request of a flow, in order, that is answered or lost for good: its number in
    /// the tally is below `settled`.
    pub fn next_settled(&mut self, flow: usize, settled: u64) -> Option<Settled> {
        self.sessions[flow].next_settled(settled)
    }

    /// Whether a request of this number and T1 was sent on the flow.
    fn is_own(&self, flow: usize, number: u32, sent_at: NtpTimestamp) -> bool {
        let sent = self.sessions[flow].get(number);
        sent.is_some_and(|sent| sent.at == sent_at)
    }
}

/// The time in the reflector, if it is possible, and the delays, if T4 is known.
fn times(
    reply: &ParsedReply,
    t1: NtpTimestamp,
    reception: StampReception,
    round_trip: Option<Duration>,
) -> (Option<u64>, Option<Delay>) {
    let [t2, t3] = reply_times(reply);
    let in_reflector = t3.nanoseconds_since(t2);
    let round_trip = round_trip.map(nanoseconds);
    let is_possible = (0..=round_trip.unwrap_or(i64::MAX)).contains(&in_reflector);
    let times = reception.time_of_day.zip(round_trip);
    let delay = times.map(|(time, round_trip)| Delay {
        forward: t2.nanoseconds_since(t1),
        backward: NtpTimestamp::from_unix(time).nanoseconds_since(t3),
        round_trip: round_trip - if is_possible { in_reflector } else { 0 },
    });
    (
        u64::try_from(in_reflector).ok().filter(|_| is_possible),
        delay,
    )
}

/// T2 and T3 in NTP format.
fn reply_times(reply: &ParsedReply) -> [NtpTimestamp; 2] {
    let fields = &reply.fields;
    let times = [fields.received_at, fields.sent_at];
    if fields.error.is_ptp() {
        times.map(NtpTimestamp::from_ptp)
    } else {
        times
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
