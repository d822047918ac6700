//! Counts loss, duplicates, reordering and corruption from the requests and replies of a run.

mod requests;

use std::time::Duration;

use requests::{Requests, Status};

/// The counts of a run. Times are measured from its start.
#[derive(Debug)]
pub struct Tally {
    requests: Requests,
    /// First sequence number that [`Self::overdue`] has not looked at.
    unreported: u64,
    /// Run of lost requests that ends just before `unreported`: the first and the last.
    losses: Option<(u64, u64)>,
    flows: Box<[Flow]>,
    totals: Totals,
}

/// A request without a reply, or a run of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// A request without a reply.
    Request {
        /// Its sequence number.
        sequence: u64,
        /// Its flow.
        flow: usize,
        /// Whether the request before it is none without a reply.
        is_first: bool,
    },
    /// The end of a run of at least two requests without a reply.
    Run {
        /// Sequence number of the first request.
        first: u64,
        /// Sequence number of the last request.
        last: u64,
    },
}

/// The counts of one flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub received: u64,
    /// Sequence number of the last request.
    last: u64,
    /// Highest sequence number of a reply.
    newest: u64,
    /// Unanswered requests that an ICMP error quoted.
    rejected: u64,
    /// ICMP errors that quoted no request, at most one for each request that waited.
    unnamed: u64,
}

/// The counts of all flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub received: u64,
    /// Further replies to a request that was already answered.
    pub duplicates: u64,
    /// First replies that arrived after the reply to a later request of their flow (type
    /// `Reordered` of RFC 4737).
    pub reordered: u64,
    /// Replies that differ from their request, `damaged` included.
    pub corrupted: u64,
    /// Replies whose request cannot be identified.
    pub damaged: u64,
    /// Replies to requests that are no longer kept, or lost for good.
    pub too_late: u64,
    /// Unanswered requests that were not delivered, by an ICMP error or a failed send.
    pub rejected: u64,
    /// Unanswered requests that [`Tally::overdue`] has returned.
    pub overdue: u64,
}

/// How a reply was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// The first reply to a request.
    First {
        /// The round-trip time.
        rtt: Duration,
        /// The differences from those of the flow's requests before and after, without sign, if
        /// these have a reply.
        variations: [Option<Duration>; 2],
        /// The flow of its request.
        flow: usize,
        /// Whether the reply to a later request of the flow arrived before.
        reordered: bool,
    },
    /// A further reply to a request that was already answered.
    Duplicate {
        /// The round-trip time.
        rtt: Duration,
        /// The flow of its request.
        flow: usize,
    },
    /// A reply to a request that is no longer kept, lost for good or was never sent.
    Unknown,
}

impl Totals {
    /// Returns the number of requests without a reply.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Whether at least `percent` percent of the requests are lost.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn lost_at_least(&self, percent: f64) -> bool {
        /// Relative error of both sides of the comparison, far below one request in any count.
        const EXACT_TO: f64 = 1e-12;
        self.lost() as f64 * 1e2 >= percent * self.sent as f64 * (1.0 - EXACT_TO)
    }
}

impl Tally {
    /// Creates a tally for this number of flows, which keeps at least the last `capacity` requests.
    pub fn new(flows: usize, capacity: usize) -> Self {
        Self {
            requests: Requests::new(capacity),
            unreported: 1,
            losses: None,
            flows: vec![Flow::default(); flows].into(),
            totals: Totals::default(),
        }
    }

    /// Returns the counts of all flows.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Returns the counts of each flow.
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// Returns the number of requests that may still get a reply.
    pub fn outstanding(&self) -> u64 {
        self.totals.lost() - self.totals.rejected
    }

    /// Returns the sequence number of the next request.
    pub fn next_sequence(&self) -> u64 {
        self.requests.next()
    }

    /// Returns the send time of a request, if it is kept.
    pub fn sent_at(&self, sequence: u64) -> Option<Duration> {
        self.requests.get(sequence).map(|request| request.sent_at())
    }

    /// Counts a request that `flow` sends at time `at`.
    pub fn sent(&mut self, flow: usize, at: Duration) {
        let sequence = self.requests.next();
        let before = std::mem::replace(&mut self.flows[flow].last, sequence);
        self.requests.push(flow, before, at);
        self.flows[flow].sent += 1;
        self.totals.sent += 1;
    }

    /// Counts a reply with a readable sequence number. It arrived at `at` by the kernel's timestamp,
    /// and at the latest at `by`, which is used if `at` is before the request.
    pub fn reply(
        &mut self,
        sequence: u64,
        corrupted: bool,
        at: Duration,
        by: Duration,
    ) -> ReplyKind {
        self.totals.corrupted += u64::from(corrupted);
        if sequence == 0 || sequence >= self.requests.next() {
            // The checksum matches by chance.
            self.totals.corrupted += u64::from(!corrupted);
            self.totals.damaged += 1;
            return ReplyKind::Unknown;
        }
        let request = self.requests.get(sequence);
        let Some(request) = request.filter(|request| request.status != Status::Lost) else {
            self.totals.too_late += 1;
            return ReplyKind::Unknown;
        };
        let rtt = at
            .checked_sub(request.sent_at())
            .unwrap_or_else(|| by.saturating_sub(request.sent_at()));
        let flow = request.flow as usize;
        if request.status == Status::Replied {
            self.totals.duplicates += 1;
            return ReplyKind::Duplicate { rtt, flow };
        }
        self.requests.reply(sequence, rtt);
        let variations = self.requests.neighbours(sequence).map(|neighbour| {
            let other = neighbour.and_then(|neighbour| neighbour.rtt());
            other.map(|other| rtt.abs_diff(other))
        });
        let was_rejected = u64::from(request.status == Status::Rejected);
        self.totals.rejected -= was_rejected;
        self.totals.overdue -= u64::from(self.is_overdue(sequence, request.status));
        self.totals.received += 1;
        let counts = &mut self.flows[flow];
        counts.received += 1;
        counts.rejected -= was_rejected;
        let reordered = sequence < counts.newest;
        counts.newest = counts.newest.max(sequence);
        self.totals.reordered += u64::from(reordered);
        ReplyKind::First {
            rtt,
            variations,
            flow,
            reordered,
        }
    }

    /// Counts a reply whose request cannot be identified.
    pub fn damaged(&mut self) {
        self.totals.corrupted += 1;
        self.totals.damaged += 1;
    }

    /// Counts a request as not delivered, and returns its flow. Returns `None` if the request does
    /// not wait for a reply.
    pub fn rejected(&mut self, sequence: u64) -> Option<usize> {
        let request = self.requests.get(sequence)?;
        if request.status != Status::Waiting {
            return None;
        }
        self.totals.overdue -= u64::from(self.is_overdue(sequence, request.status));
        self.requests.get_mut(sequence).status = Status::Rejected;
        self.totals.rejected += 1;
        let flow = request.flow as usize;
        self.flows[flow].rejected += 1;
        Some(flow)
    }

    /// Counts an ICMP error about a flow that quotes no request. Returns `false` if each waiting
    /// request of the flow has such an error already.
    pub fn rejected_on(&mut self, flow: usize) -> bool {
        let flow = &mut self.flows[flow];
        let is_about_one = flow.unnamed < flow.sent - flow.received - flow.rejected;
        flow.unnamed += u64::from(is_about_one);
        is_about_one
    }

    /// Returns the next unanswered request that was sent before `sent_before`, or the end of a run
    /// of them. Requests are returned in order, each once.
    pub fn overdue(&mut self, sent_before: Duration) -> Option<Overdue> {
        while self.unreported < self.requests.next() {
            let sequence = self.unreported;
            let request = self.requests.get(sequence);
            let Some(request) = request.filter(|request| request.status == Status::Waiting) else {
                if let Some(run) = self.end_losses() {
                    return Some(run);
                }
                // The requests before the first one kept are gone, too.
                self.unreported = (sequence + 1).max(self.requests.first());
                continue;
            };
            if request.sent_at() >= sent_before {
                return None;
            }
            self.unreported += 1;
            self.totals.overdue += 1;
            let first = self.losses.map_or(sequence, |(first, _)| first);
            self.losses = Some((first, sequence));
            return Some(Overdue::Request {
                sequence,
                flow: request.flow as usize,
                is_first: first == sequence,
            });
        }
        None
    }

    /// Ends the run of lost requests. Returns it if it is longer than one request.
    pub fn end_losses(&mut self) -> Option<Overdue> {
        let (first, last) = self.losses.take()?;
        (first < last).then_some(Overdue::Run { first, last })
    }

    /// Counts the next unanswered request that was sent before `sent_before` as lost for good, and
    /// returns its flow. A later reply to it is too late. Requests are returned in order, each once.
    /// Use it instead of [`Self::overdue`].
    pub fn expire(&mut self, sent_before: Duration) -> Option<usize> {
        let (sent_at, flow) = self.oldest_waiting()?;
        if sent_at >= sent_before {
            return None;
        }
        let request = self.requests.get_mut(self.unreported);
        // No ICMP error can be about it any more.
        self.flows[flow].rejected += u64::from(request.status == Status::Waiting);
        request.status = Status::Lost;
        self.unreported += 1;
        Some(flow)
    }

    /// Returns the send time and the flow of the oldest request that may still get a reply, one with
    /// an ICMP error included. All requests before [`Self::settled`] are then answered or lost.
    pub fn oldest_waiting(&mut self) -> Option<(Duration, usize)> {
        while self.unreported < self.requests.next() {
            let request = self.requests.get(self.unreported);
            match request.map(|request| (request.status, request)) {
                Some((Status::Waiting | Status::Rejected, request)) => {
                    return Some((request.sent_at(), request.flow as usize));
                }
                _ => self.unreported = (self.unreported + 1).max(self.requests.first()),
            }
        }
        None
    }

    /// Returns the sequence number up to which, excluded, all requests are answered or lost for good.
    pub fn settled(&self) -> u64 {
        self.unreported
    }

    /// Whether a request may still get its first reply.
    pub fn is_waiting(&self, sequence: u64) -> bool {
        let request = self.requests.get(sequence);
        request.is_some_and(|request| matches!(request.status, Status::Waiting | Status::Rejected))
    }

    /// Returns the send time of the first request that [`Self::overdue`] has not looked at.
    pub fn next_overdue(&self) -> Option<Duration> {
        let request = self.requests.get(self.unreported);
        request.map(|request| request.sent_at())
    }

    /// Counts the requests between two others of their flow, of those that are kept: first those
    /// with a reply between two without, or the other way round, then all others.
    pub fn alternation(&self) -> [u64; 2] {
        let mut counts = [0; 2];
        for sequence in self.requests.first()..self.requests.next() {
            let neighbours = self.requests.neighbours(sequence);
            if let (Some(own), [Some(before), Some(after)]) =
                (self.requests.get(sequence), neighbours)
            {
                let [own, before, after] =
                    [own, before, after].map(|request| request.status == Status::Replied);
                counts[usize::from(before == own || after == own)] += 1;
            }
        }
        counts
    }

    /// Whether [`Self::overdue`] has returned a request, which has this status.
    fn is_overdue(&self, sequence: u64, status: Status) -> bool {
        status == Status::Waiting && sequence < self.unreported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_counts_unnamed_errors_up_to_the_requests_that_wait() {
        let mut tally = Tally::new(2, 16);
        assert!(!tally.rejected_on(0));
        (0..3).for_each(|_| tally.sent(0, Duration::ZERO));
        tally.sent(1, Duration::ZERO);
        assert_eq!(tally.rejected(1), Some(0));
        tally.reply(2, false, Duration::ZERO, Duration::ZERO);
        assert!(tally.rejected_on(0) && !tally.rejected_on(0));
        assert!(tally.rejected_on(1) && !tally.rejected_on(1));
        // Replies to all of them come in the end.
        for sequence in [1, 3, 4] {
            tally.reply(sequence, false, Duration::ZERO, Duration::ZERO);
        }
        assert!(!tally.rejected_on(0) && !tally.rejected_on(1));
        tally.sent(0, Duration::ZERO);
        tally.sent(0, Duration::ZERO);
        assert!(tally.rejected_on(0));
    }
}
