//! The client's side of the exchange, for each flow, and which flow sends next.
//!
//! A daemon in exchange mode echoes a datagram of a flow and decodes the next one as its record. So
//! a flow has at most one request in flight, and exactly one record follows each request before the
//! next one:
//!
//! - The reply arrives: the client sends the record at once.
//! - No reply arrives within half of `--wait`: the client sends the record, too.
//!   - If the daemon had echoed the request, and the reply is late or lost, the daemon decodes the
//!     record. A late reply confirms this.
//!   - If the request was lost, the daemon echoes the record. The client recognizes it and sends
//!     another record, which ends that exchange. It waits for this echo for half of `--wait` again.
//!
//! A lost request or reply thus costs no other request. A lost *record*, or a lost echo of one,
//! costs the next request, which the daemon decodes as the record. Only acknowledged records could
//! avoid this, and the acknowledgements would have the same problem. The request after that is
//! answered again.
//!
//! A client that was stopped or starved may send a record after the daemon's timeout, and the daemon
//! then echoes it. So after such a late record the flow waits for its echo as well. Otherwise the
//! daemon would decode the next request as the record.
//!
//! A plain reflector echoes records, too. It shows by echoing two datagrams of a flow in a row.
//! After [`PLAIN_AFTER`] times in a row the client sends no more records. Some plain reflectors drop
//! a datagram that follows another too closely (xinetd), which looks like an exchange. Echoed records
//! are therefore counted even if the reflector is not found to be plain.
//!
//! In lockstep mode the daemon has one exchange for all peers, so one request is in flight over all
//! flows. In echo mode flows do not wait, and there are no records.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::reflect::Mode;

/// Number of times in a row that a reflector echoes a record before it counts as plain.
pub const PLAIN_AFTER: u32 = 3;

/// Age of a reply from which on a daemon may no longer wait for the record.
const LATE: Duration = Duration::from_millis(500);

/// A record that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueRecord {
    /// Flow that sends it.
    pub flow: usize,
    /// Sequence number of the request that it follows.
    pub sequence: u64,
    /// Number of records sent for that request before.
    pub attempt: u8,
}

/// The exchanges of all flows. Times are measured from the start of the run.
#[derive(Debug)]
pub struct Exchanges {
    mode: Mode,
    timeout: Duration,
    flows: Box<[Flow]>,
    /// Flow at which the search for the next sender starts.
    next: usize,
    /// Deadline of each flow that is not idle, one entry per flow, earliest first.
    deadlines: BTreeSet<(Duration, usize)>,
    /// Number of times in a row that the reflector echoed a record of a complete exchange.
    echoed_records: u32,
    /// Number of echoed records that had followed a reply.
    echoed_after_reply: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    state: FlowState,
    /// Last record sent: sequence number of the request, and attempt.
    last_record: (u64, u8),
    /// Whether that record followed a reply, in time.
    follows_reply: bool,
    /// Value of `last_record` when the last request was sent.
    record_before_request: (u64, u8),
    /// Newest echoed record.
    last_echoed: (u64, u8),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum FlowState {
    /// May send the next request.
    #[default]
    Idle,
    /// Waits for the reply to a request.
    AwaitsReply { sequence: u64, until: Duration },
    /// Waits for the echo of a record that was sent late or without a reply.
    AwaitsEcho { sequence: u64, until: Duration },
}

impl Exchanges {
    /// Creates this number of idle flows. `wait` is the longest time from a request to the flow's
    /// next one.
    pub fn new(mode: Mode, flows: usize, wait: Duration) -> Self {
        Self {
            mode,
            timeout: wait / 2,
            flows: vec![Flow::default(); flows].into(),
            next: 0,
            deadlines: BTreeSet::new(),
            echoed_records: 0,
            echoed_after_reply: 0,
        }
    }

    /// Whether the reflector answers every datagram: by its mode, or by its replies.
    pub fn is_plain(&self) -> bool {
        matches!(self.mode, Mode::Echo | Mode::Stamp) || self.echoed_records >= PLAIN_AFTER
    }

    /// Returns the number of echoed records that had followed a reply. A daemon in exchange mode
    /// echoes such a record only if the network duplicated the request, or if it evicted the peer.
    pub fn echoed_after_reply(&self) -> u64 {
        self.echoed_after_reply
    }

    /// Whether any flow may send a request.
    pub fn may_send(&self) -> bool {
        match self.mode {
            Mode::Echo | Mode::Stamp => true,
            Mode::Exchange => self.deadlines.len() < self.flows.len(),
            Mode::Lockstep => self.deadlines.is_empty(),
        }
    }

    /// Returns the next idle flow in turn, or `None` if no flow may send.
    pub fn next_flow(&mut self) -> Option<usize> {
        if !self.may_send() {
            return None;
        }
        let number = self.flows.len();
        let mut all = (self.next..number).chain(0..self.next);
        let flow = all.find(|flow| self.flows[*flow].state == FlowState::Idle)?;
        self.next = (flow + 1) % number;
        Some(flow)
    }

    /// Notes a request that was sent on an idle flow.
    pub fn request_sent(&mut self, flow: usize, sequence: u64, now: Duration) {
        self.flows[flow].record_before_request = self.flows[flow].last_record;
        if !self.is_plain() {
            let until = now + self.timeout;
            self.set(flow, FlowState::AwaitsReply { sequence, until });
        }
    }

    /// Notes a reply that arrived at `arrived` and is processed at `now`. Returns the record to send.
    pub fn reply_received(
        &mut self,
        flow: usize,
        sequence: u64,
        rtt: Duration,
        arrived: Duration,
        now: Duration,
    ) -> Option<DueRecord> {
        let current = self.flows[flow];
        let record_is_sent = match current.state {
            FlowState::AwaitsReply {
                sequence: waiting, ..
            } if waiting == sequence => false,
            // The daemon decoded the record that was sent without a reply.
            FlowState::AwaitsEcho {
                sequence: waiting, ..
            } if waiting == sequence => true,
            _ => return None,
        };
        // The record before this request was echoed, and so was this request.
        if current.last_echoed == current.record_before_request && current.last_echoed.0 > 0 {
            self.echoed_records += 1;
        } else {
            self.echoed_records = 0;
        }
        self.set(flow, FlowState::Idle);
        if record_is_sent {
            return None;
        }
        let due = self.due(flow, sequence, 0)?;
        if now.saturating_sub(arrived) < LATE {
            self.flows[flow].follows_reply = true;
        } else {
            let until = now + self.timeout.min(LATE.max(rtt * 2));
            self.set(flow, FlowState::AwaitsEcho { sequence, until });
        }
        Some(due)
    }

    /// Notes an echoed record. Returns the record to send, if any.
    pub fn record_echoed(&mut self, flow: usize, sequence: u64, attempt: u8) -> Option<DueRecord> {
        let current = &mut self.flows[flow];
        let again = current.last_echoed >= (sequence, attempt);
        current.last_echoed = current.last_echoed.max((sequence, attempt));
        if current.last_record != (sequence, attempt) || again {
            return None;
        }
        self.echoed_after_reply += u64::from(current.follows_reply);
        match current.state {
            // The waiting request was sent after that record, and ended its exchange.
            FlowState::AwaitsReply { .. } => None,
            FlowState::AwaitsEcho { .. } | FlowState::Idle => {
                // Two records in a row were echoed.
                if attempt > 0 {
                    self.echoed_records += 1;
                }
                self.set(flow, FlowState::Idle);
                let more = u32::from(attempt) < PLAIN_AFTER;
                more.then(|| self.due(flow, sequence, attempt + 1))?
            }
        }
    }

    /// Returns the sequence number of the request whose reply a flow waits for.
    pub fn waiting_request(&self, flow: usize) -> Option<u64> {
        match self.flows[flow].state {
            FlowState::AwaitsReply { sequence, .. } => Some(sequence),
            FlowState::Idle | FlowState::AwaitsEcho { .. } => None,
        }
    }

    /// Ends the exchange of a request that was not delivered.
    pub fn request_rejected(&mut self, flow: usize, sequence: u64) {
        match self.flows[flow].state {
            FlowState::AwaitsReply {
                sequence: waiting, ..
            }
            | FlowState::AwaitsEcho {
                sequence: waiting, ..
            } if waiting == sequence => self.set(flow, FlowState::Idle),
            _ => {}
        }
    }

    /// Ends the exchange of a flow that is a new peer from now on.
    pub fn restart(&mut self, flow: usize) {
        self.set(flow, FlowState::Idle);
        self.flows[flow] = Flow::default();
    }

    /// Returns the next record that is due because no reply arrived. Call it until it returns `None`.
    pub fn next_record(&mut self, now: Duration) -> Option<DueRecord> {
        while let Some((until, flow)) = self.deadlines.first().copied()
            && until <= now
        {
            if let FlowState::AwaitsReply { sequence, .. } = self.flows[flow].state {
                let until = now + self.timeout;
                self.set(flow, FlowState::AwaitsEcho { sequence, until });
                if let Some(due) = self.due(flow, sequence, 0) {
                    return Some(due);
                }
            }
            self.set(flow, FlowState::Idle);
        }
        None
    }

    /// Returns the time to call [`Self::next_record`] next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    fn due(&mut self, flow: usize, sequence: u64, attempt: u8) -> Option<DueRecord> {
        if self.is_plain() {
            return None;
        }
        let current = &mut self.flows[flow];
        current.last_record = (sequence, attempt);
        current.follows_reply = false;
        Some(DueRecord {
            flow,
            sequence,
            attempt,
        })
    }

    fn set(&mut self, flow: usize, state: FlowState) {
        let before = std::mem::replace(&mut self.flows[flow].state, state);
        if let Some(until) = before.until() {
            self.deadlines.remove(&(until, flow));
        }
        if let Some(until) = state.until() {
            self.deadlines.insert((until, flow));
        }
    }
}

impl FlowState {
    fn until(self) -> Option<Duration> {
        match self {
            Self::Idle => None,
            Self::AwaitsReply { until, .. } | Self::AwaitsEcho { until, .. } => Some(until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const WAIT: Duration = Duration::from_secs(1);

    /// Sends a request and receives its reply at once. Returns whether a record follows.
    fn completes(exchanges: &mut Exchanges, flow: usize, sequence: u64) -> bool {
        exchanges.request_sent(flow, sequence, NOW);
        let record = exchanges.reply_received(flow, sequence, NOW, NOW, NOW);
        record.is_some()
    }

    #[test]
    fn reply_to_an_earlier_request_ends_no_exchange() {
        let mut exchanges = Exchanges::new(Mode::Exchange, 1, WAIT);
        exchanges.request_sent(0, 1, NOW);
        assert!(exchanges.next_record(WAIT / 2).is_some());
        assert_eq!(exchanges.next_record(WAIT), None);
        exchanges.request_sent(0, 2, WAIT);
        assert_eq!(exchanges.reply_received(0, 1, WAIT, WAIT, WAIT), None);
        assert_eq!(exchanges.waiting_request(0), Some(2));
        assert!(exchanges.next_record(WAIT * 3 / 2).is_some());
        assert_eq!(exchanges.reply_received(0, 1, WAIT, WAIT, WAIT), None);
        assert_eq!(exchanges.next_flow(), None);
    }

    #[test]
    fn first_replies_of_many_flows_show_no_plain_reflector() {
        let mut exchanges = Exchanges::new(Mode::Exchange, 4, WAIT);
        for (sequence, flow) in (1..).zip(0..4) {
            assert!(completes(&mut exchanges, flow, sequence));
        }
        assert!(!exchanges.is_plain());
    }

    #[test]
    fn records_for_a_request_are_limited_while_others_are_decoded() {
        let mut exchanges = Exchanges::new(Mode::Exchange, 2, WAIT);
        assert!(completes(&mut exchanges, 0, 1));
        let attempts = [0, 1, 2, 3].map(|attempt| {
            assert!(completes(&mut exchanges, 1, u64::from(attempt) + 2));
            let due = exchanges.record_echoed(0, 1, attempt);
            due.map(|due| due.attempt)
        });
        assert_eq!(attempts, [Some(1), Some(2), Some(3), None]);
        assert!(!exchanges.is_plain());
    }

    #[test]
    fn restarted_flow_has_no_exchange_and_no_records() {
        let mut exchanges = Exchanges::new(Mode::Exchange, 1, WAIT);
        assert!(completes(&mut exchanges, 0, 1));
        exchanges.request_sent(0, 2, NOW);
        exchanges.restart(0);
        assert_eq!(
            (exchanges.next_deadline(), exchanges.next_flow()),
            (None, Some(0))
        );
        assert_eq!(exchanges.record_echoed(0, 1, 0), None);
    }

    #[test]
    fn exchanges_keep_one_deadline_per_flow_while_one_waits() {
        const MILLISECOND: Duration = Duration::from_millis(1);
        let mut exchanges = Exchanges::new(Mode::Exchange, 2, Duration::from_hours(1));
        exchanges.request_sent(0, 1, Duration::ZERO);
        for sequence in 2..1000_u32 {
            let now = MILLISECOND * sequence;
            assert_eq!(exchanges.next_flow(), Some(1));
            exchanges.request_sent(1, sequence.into(), now);
            assert_eq!(exchanges.deadlines.len(), 2);
            assert!(
                exchanges
                    .reply_received(1, sequence.into(), MILLISECOND, now, now)
                    .is_some()
            );
            assert_eq!(exchanges.deadlines.len(), 1);
        }
        assert_eq!(exchanges.next_deadline(), Some(Duration::from_mins(30)));
    }
}
