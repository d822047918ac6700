//! Counts loss, duplicates, reordering and corruption from the requests and replies of a run.

use std::time::Duration;

use super::rtt::Rtts;

/// The counts of a run. Times are measured from its start.
#[derive(Debug)]
pub struct Tally {
    /// The last requests, each at its sequence number modulo `capacity`. Grows as requests are sent.
    requests: Vec<Request>,
    /// Maximum number of requests kept, a power of two.
    capacity: u64,
    /// Next sequence number. The first is 1.
    next: u64,
    /// First sequence number that [`Self::overdue`] has not looked at.
    unreported: u64,
    flows: Box<[Flow]>,
    totals: Totals,
    rtts: Rtts,
}

/// A request that was sent.
#[derive(Debug, Clone, Copy, Default)]
struct Request {
    sent_at: Duration,
    flow: u32,
    status: Status,
}

/// Whether a request was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Waiting,
    Replied,
    /// An ICMP error or a failed send showed that the request was not delivered.
    Rejected,
}

/// The counts of one flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered.
    pub received: u64,
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
    /// Replies to requests that are no longer kept.
    pub too_late: u64,
    /// Unanswered requests that were not delivered, by an ICMP error or a failed send.
    pub rejected: u64,
    /// First replies whose flow's request just before or after had a reply, too.
    pub neighbours: u64,
}

/// How a reply was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// The first reply to a request.
    First {
        /// The round-trip time.
        rtt: Duration,
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
    /// A reply to a request that is no longer kept or was never sent.
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

    /// Returns the share of lost requests, 0 to 1. It is 0 if none was sent.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn loss_ratio(&self) -> f64 {
        self.lost() as f64 / self.sent.max(1) as f64
    }
}

impl Tally {
    /// Creates a tally for this number of flows, which keeps at least the last `capacity` requests.
    pub fn new(flows: usize, capacity: usize) -> Self {
        Self {
            // No request has the sequence number 0.
            requests: vec![Request::default()],
            capacity: capacity.max(1).next_power_of_two() as u64,
            next: 1,
            unreported: 1,
            flows: vec![Flow::default(); flows].into(),
            totals: Totals::default(),
            rtts: Rtts::default(),
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

    /// Returns the round-trip times of all first replies.
    pub fn rtts(&self) -> &Rtts {
        &self.rtts
    }

    /// Returns the number of requests that may still get a reply.
    pub fn outstanding(&self) -> u64 {
        self.totals.lost() - self.totals.rejected
    }

    /// Returns the sequence number of the next request.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Counts a request that `flow` sends at time `at`.
    pub fn sent(&mut self, flow: usize, at: Duration) {
        let sequence = self.next;
        self.next += 1;
        let request = Request {
            sent_at: at,
            flow: u32::try_from(flow).unwrap_or(u32::MAX),
            status: Status::Waiting,
        };
        if self.index(sequence) < self.requests.len() {
            *self.request_mut(sequence) = request;
        } else {
            self.requests.push(request);
        }
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
        if sequence == 0 || sequence >= self.next {
            // The checksum matches by chance.
            self.totals.corrupted += u64::from(!corrupted);
            self.totals.damaged += 1;
            return ReplyKind::Unknown;
        }
        let Some(request) = self.request(sequence) else {
            self.totals.too_late += 1;
            return ReplyKind::Unknown;
        };
        let rtt = at
            .checked_sub(request.sent_at)
            .unwrap_or_else(|| by.saturating_sub(request.sent_at));
        let flow = request.flow as usize;
        if request.status == Status::Replied {
            self.totals.duplicates += 1;
            return ReplyKind::Duplicate { rtt, flow };
        }
        self.request_mut(sequence).status = Status::Replied;
        self.totals.neighbours += u64::from(self.has_neighbour(sequence, request.flow));
        let was_rejected = u64::from(request.status == Status::Rejected);
        self.totals.rejected -= was_rejected;
        self.totals.received += 1;
        self.rtts.add(rtt);
        let counts = &mut self.flows[flow];
        counts.received += 1;
        counts.rejected -= was_rejected;
        let reordered = sequence < counts.newest;
        counts.newest = counts.newest.max(sequence);
        self.totals.reordered += u64::from(reordered);
        ReplyKind::First {
            rtt,
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
        let request = self.request(sequence)?;
        if request.status != Status::Waiting {
            return None;
        }
        self.request_mut(sequence).status = Status::Rejected;
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

    /// Returns the sequence number and the flow of the next unanswered request that was sent before
    /// `sent_before`. Each request is returned once.
    pub fn overdue(&mut self, sent_before: Duration) -> Option<(u64, usize)> {
        while self.unreported < self.next {
            let sequence = self.unreported;
            if let Some(request) = self.request(sequence) {
                if request.sent_at >= sent_before {
                    return None;
                }
                self.unreported += 1;
                if request.status == Status::Waiting {
                    return Some((sequence, request.flow as usize));
                }
            } else {
                // The requests before are no longer kept either.
                self.unreported = self.next.saturating_sub(self.capacity);
            }
        }
        None
    }

    /// Returns the send time of the first request that [`Self::overdue`] has not looked at.
    pub fn next_overdue(&self) -> Option<Duration> {
        self.request(self.unreported).map(|request| request.sent_at)
    }

    /// Whether the request of `flow` just before or after `sequence` has a reply. Flows are used in
    /// turn, or one flow for several requests in a row.
    fn has_neighbour(&self, sequence: u64, flow: u32) -> bool {
        let flows = self.flows.len() as u64;
        [1, flows].into_iter().any(|step| {
            let both = [sequence.saturating_sub(step), sequence + step];
            let mut requests = both
                .into_iter()
                .filter_map(|sequence| self.request(sequence));
            requests.any(|request| request.flow == flow && request.status == Status::Replied)
        })
    }

    fn index(&self, sequence: u64) -> usize {
        // The low bits fit into any usize.
        usize::try_from(sequence & (self.capacity - 1)).unwrap_or_default()
    }

    fn request(&self, sequence: u64) -> Option<Request> {
        let known = sequence > 0 && sequence < self.next;
        let kept = known && self.next - sequence <= self.capacity;
        kept.then(|| self.requests[self.index(sequence)])
    }

    fn request_mut(&mut self, sequence: u64) -> &mut Request {
        let index = self.index(sequence);
        &mut self.requests[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_allocates_only_for_requests_that_were_sent() {
        const CAPACITY: usize = 1 << 22;
        let mut tally = Tally::new(1, CAPACITY);
        assert!(tally.requests.capacity() < 1000);
        for _ in 0..1000 {
            tally.sent(0, Duration::ZERO);
        }
        assert!(tally.requests.capacity() < 5000);
        assert_eq!(tally.overdue(Duration::MAX), Some((1, 0)));
        let mut small = Tally::new(1, 64);
        (0..1000).for_each(|_| small.sent(0, Duration::ZERO));
        assert_eq!(small.requests.len(), 64);
    }

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
