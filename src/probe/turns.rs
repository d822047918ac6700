//! Whose turn it is, and the client's part of the exchange.
//!
//! A daemon in exchange mode takes the datagrams of a flow by turns: one is echoed, the next is
//! taken for the record. So a flow has at most one request in flight there, and each request is
//! followed by just one record, before the next request goes out:
//!
//! - The reply comes: the record is sent at once.
//! - No reply comes within the patience, half of `--wait`: the record is sent all the same.
//!   - The daemon echoed the request, and the reply is late or lost: it takes the record, and is in
//!     step. A late reply says so.
//!   - It never got the request: it echoes the record. The client knows it by its mark, and sends
//!     another one, which ends that exchange. For this it waits once more for the patience.
//!
//! So a request or a reply that is lost costs nothing but itself. A *record* that is lost, or the
//! echo of one, costs the next request, which the daemon takes for the record. No protocol can
//! avoid that without an acknowledgement of records, and it would need one of that in turn; the
//! request after it is in step again.
//!
//! A client that is held up itself, stopped or on a machine that has no time for it, may send a
//! record when the daemon has given it up, and then that is echoed. So after a record that is this
//! late the flow waits for its echo too, or else the next request would be taken for the record.
//!
//! A plain reflector echoes the records too. It is known by echoing two datagrams of a flow in a
//! row; seen [`PLAIN`] times without an exchange that went by the book, no more records are sent.
//! Some leave out what comes too soon after another datagram (xinetd), so that exchanges may go by
//! the book there too: records that came back are counted also where no conclusion is drawn.
//!
//! In lockstep mode the daemon has one exchange for all its peers, so one request is in flight
//! over all flows. In echo mode nothing of this holds: flows do not wait, and there are no records.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::reflect::Mode;

/// How often the other end has to do what no daemon in exchange mode does.
pub const PLAIN: u32 = 3;

/// How long after its reply a record may have been given up, by a daemon with a short timeout.
const LATE: Duration = Duration::from_millis(500);

/// A record that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// On which flow.
    pub flow: usize,
    /// The sequence number of the request that it follows.
    pub sequence: u64,
    /// How many were sent for that request before.
    pub earlier: u8,
}

/// The turns of all flows. Times are since the start of the run.
#[derive(Debug)]
pub struct Turns {
    mode: Mode,
    patience: Duration,
    flows: Box<[Turn]>,
    /// Where to look for the next flow that may send.
    next: usize,
    /// How many flows wait.
    busy: usize,
    /// When each flow that waits has waited long enough: one entry per flow, the next one first.
    deadlines: BTreeSet<(Duration, usize)>,
    /// How often in a row the other end echoed what a daemon in exchange mode would have taken.
    echoed_records: u32,
    /// How many records came back that followed a reply.
    echoed_after_reply: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    wait: FlowWait,
    /// The last record that was sent: the request's sequence number, and how many before it.
    last: (u64, u8),
    /// Whether that followed a reply, in time.
    follows_reply: bool,
    /// The same when the last request was sent.
    last_before: (u64, u8),
    /// The newest record that came back.
    came_back: (u64, u8),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum FlowWait {
    /// The next request may be sent.
    #[default]
    Not,
    /// For the reply to a request, until then.
    Reply { sequence: u64, until: Duration },
    /// For the echo of the record that was sent without a reply or late, until then.
    Echo { sequence: u64, until: Duration },
}

impl Turns {
    /// So many flows, none of which waits. `wait` is how long a request and what follows it may
    /// hold up the next.
    pub fn new(mode: Mode, flows: usize, wait: Duration) -> Self {
        Self {
            mode,
            patience: wait / 2,
            flows: vec![Turn::default(); flows].into(),
            next: 0,
            busy: 0,
            deadlines: BTreeSet::new(),
            echoed_records: 0,
            echoed_after_reply: 0,
        }
    }

    /// Whether the other end is a plain reflector, as it shows.
    pub fn is_plain(&self) -> bool {
        self.mode == Mode::Echo || self.echoed_records >= PLAIN
    }

    /// How many records came back though they followed a reply. A daemon in exchange mode echoes
    /// such a one only if the network doubled the request, or it forgot the flow.
    pub fn echoed_after_reply(&self) -> u64 {
        self.echoed_after_reply
    }

    /// Whether any flow may send a request.
    pub fn may_send(&self) -> bool {
        match self.mode {
            Mode::Echo => true,
            Mode::Exchange => self.busy < self.flows.len(),
            Mode::Lockstep => self.busy == 0,
        }
    }

    /// The flow whose turn it is: the next of those that do not wait.
    pub fn next_flow(&mut self) -> Option<usize> {
        if !self.may_send() {
            return None;
        }
        let number = self.flows.len();
        let all = (self.next..number).chain(0..self.next);
        let flow = all
            .into_iter()
            .find(|flow| self.flows[*flow].wait == FlowWait::Not)?;
        self.next = (flow + 1) % number;
        Some(flow)
    }

    /// A request was sent on a flow that did not wait.
    pub fn asked(&mut self, flow: usize, sequence: u64, now: Duration) {
        self.flows[flow].last_before = self.flows[flow].last;
        if !self.is_plain() {
            let until = now + self.patience;
            self.set(flow, FlowWait::Reply { sequence, until });
        }
    }

    /// A reply came at `came`, which is seen now, after a round trip of `rtt`. Says whether a record
    /// is to be sent now.
    pub fn replied(
        &mut self,
        flow: usize,
        sequence: u64,
        rtt: Duration,
        came: Duration,
        now: Duration,
    ) -> Option<Due> {
        let turn = self.flows[flow];
        let record_is_sent = match turn.wait {
            FlowWait::Reply {
                sequence: asked, ..
            } if asked == sequence => false,
            // The daemon took the record that was sent meanwhile.
            FlowWait::Echo {
                sequence: asked, ..
            } if asked == sequence => true,
            _ => return None,
        };
        // The record before this request came back, and then its reply: nothing was taken.
        if turn.came_back == turn.last_before && turn.came_back.0 > 0 {
            self.echoed_records += 1;
        } else {
            self.echoed_records = 0;
        }
        self.set(flow, FlowWait::Not);
        if record_is_sent {
            return None;
        }
        let due = self.due(flow, sequence, 0)?;
        if now.saturating_sub(came) < LATE {
            self.flows[flow].follows_reply = true;
        } else {
            let until = now + self.patience.min(LATE.max(rtt * 2));
            self.set(flow, FlowWait::Echo { sequence, until });
        }
        Some(due)
    }

    /// A record came back. Says whether another one is to be sent now.
    pub fn record_came_back(&mut self, flow: usize, sequence: u64, earlier: u8) -> Option<Due> {
        let turn = &mut self.flows[flow];
        let again = turn.came_back >= (sequence, earlier);
        turn.came_back = turn.came_back.max((sequence, earlier));
        if turn.last != (sequence, earlier) || again {
            return None;
        }
        self.echoed_after_reply += u64::from(turn.follows_reply);
        match turn.wait {
            // The request that waits was sent after that record, and ends its exchange.
            FlowWait::Reply { .. } => None,
            FlowWait::Echo { .. } | FlowWait::Not => {
                // The record before came back, and so has this one.
                if earlier > 0 {
                    self.echoed_records += 1;
                }
                self.set(flow, FlowWait::Not);
                let more = u32::from(earlier) < PLAIN;
                more.then(|| self.due(flow, sequence, earlier + 1))?
            }
        }
    }

    /// The sequence number of the request whose reply a flow waits for, if it waits.
    pub fn asked_on(&self, flow: usize) -> Option<u64> {
        match self.flows[flow].wait {
            FlowWait::Reply { sequence, .. } => Some(sequence),
            FlowWait::Not | FlowWait::Echo { .. } => None,
        }
    }

    /// Something on the way said that a request did not get there, so there is nothing to end.
    pub fn rejected(&mut self, flow: usize, sequence: u64) {
        match self.flows[flow].wait {
            FlowWait::Reply {
                sequence: asked, ..
            }
            | FlowWait::Echo {
                sequence: asked, ..
            } if asked == sequence => self.set(flow, FlowWait::Not),
            _ => {}
        }
    }

    /// Time has passed. Returns the next record that is to be sent for want of a reply, if any;
    /// to be called until there is none.
    pub fn time(&mut self, now: Duration) -> Option<Due> {
        while let Some((until, flow)) = self.deadlines.first().copied()
            && until <= now
        {
            if let FlowWait::Reply { sequence, .. } = self.flows[flow].wait {
                let until = now + self.patience;
                self.set(flow, FlowWait::Echo { sequence, until });
                if let Some(due) = self.due(flow, sequence, 0) {
                    return Some(due);
                }
            }
            self.set(flow, FlowWait::Not);
        }
        None
    }

    /// When to call [`Self::time`].
    pub fn next_time(&self) -> Option<Duration> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    fn due(&mut self, flow: usize, sequence: u64, earlier: u8) -> Option<Due> {
        if self.is_plain() {
            return None;
        }
        let turn = &mut self.flows[flow];
        turn.last = (sequence, earlier);
        turn.follows_reply = false;
        Some(Due {
            flow,
            sequence,
            earlier,
        })
    }

    fn set(&mut self, flow: usize, wait: FlowWait) {
        let before = std::mem::replace(&mut self.flows[flow].wait, wait);
        if let Some(until) = before.until() {
            self.busy -= 1;
            self.deadlines.remove(&(until, flow));
        }
        if let Some(until) = wait.until() {
            self.busy += 1;
            self.deadlines.insert((until, flow));
        }
    }
}

impl FlowWait {
    fn until(self) -> Option<Duration> {
        match self {
            Self::Not => None,
            Self::Reply { until, .. } | Self::Echo { until, .. } => Some(until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_keep_one_deadline_per_flow_while_one_waits() {
        const MILLISECOND: Duration = Duration::from_millis(1);
        let mut turns = Turns::new(Mode::Exchange, 2, Duration::from_hours(1));
        turns.asked(0, 1, Duration::ZERO);
        for sequence in 2..1000_u32 {
            let now = MILLISECOND * sequence;
            assert_eq!(turns.next_flow(), Some(1));
            turns.asked(1, sequence.into(), now);
            assert_eq!(turns.deadlines.len(), 2);
            assert!(
                turns
                    .replied(1, sequence.into(), MILLISECOND, now, now)
                    .is_some()
            );
            assert_eq!(turns.deadlines.len(), 1);
        }
        assert_eq!(turns.next_time(), Some(Duration::from_mins(30)));
    }
}
