//! The last requests of a run, by sequence number.

use std::time::Duration;

/// The last requests, each at its sequence number modulo `capacity`. Grows as requests are sent.
#[derive(Debug)]
pub(super) struct Requests {
    kept: Vec<Request>,
    /// Maximum number of requests kept, a power of two.
    capacity: u64,
    /// Next sequence number. The first is 1.
    next: u64,
}

/// A request that was sent. Times are nanoseconds, and requests of the same flow are linked by the
/// differences of their sequence numbers: a run may keep millions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Request {
    sent_at: u64,
    rtt: u64,
    pub(super) flow: u32,
    /// Difference to the flow's request before, or 0.
    back: u32,
    /// Difference to the flow's next request, or 0.
    forward: u32,
    pub(super) status: Status,
}

/// Whether a request was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Status {
    #[default]
    Waiting,
    Replied,
    /// An ICMP error or a failed send showed that the request was not delivered.
    Rejected,
    /// The time to wait for the reply has passed for good.
    Lost,
}

impl Request {
    pub(super) fn sent_at(&self) -> Duration {
        Duration::from_nanos(self.sent_at)
    }

    /// Returns the round-trip time of a request with a reply.
    pub(super) fn rtt(&self) -> Option<Duration> {
        (self.status == Status::Replied).then(|| Duration::from_nanos(self.rtt))
    }
}

impl Requests {
    /// Keeps at least the last `capacity` requests.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            // No request has the sequence number 0.
            kept: vec![Request::default()],
            capacity: capacity.max(1).next_power_of_two() as u64,
            next: 1,
        }
    }

    /// Returns the sequence number of the next request.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Returns the lowest sequence number that is kept.
    pub(super) fn first(&self) -> u64 {
        self.next.saturating_sub(self.capacity).max(1)
    }

    /// Adds a request of `flow`, whose request before has the sequence number `before`, or 0.
    pub(super) fn push(&mut self, flow: usize, before: u64, at: Duration) {
        let sequence = self.next;
        self.next += 1;
        let difference = u32::try_from(sequence - before).unwrap_or(0);
        let is_kept = self.get(before).is_some() && before != sequence;
        let request = Request {
            sent_at: nanoseconds(at),
            flow: u32::try_from(flow).unwrap_or(u32::MAX),
            back: if is_kept { difference } else { 0 },
            ..Request::default()
        };
        if is_kept {
            self.get_mut(before).forward = difference;
        }
        if self.index(sequence) < self.kept.len() {
            *self.get_mut(sequence) = request;
        } else {
            self.kept.push(request);
        }
    }

    /// Notes the first reply to a request.
    pub(super) fn reply(&mut self, sequence: u64, rtt: Duration) {
        let request = self.get_mut(sequence);
        request.status = Status::Replied;
        request.rtt = nanoseconds(rtt);
    }

    /// Returns a request, if it was sent and is still kept.
    pub(super) fn get(&self, sequence: u64) -> Option<Request> {
        let known = sequence > 0 && sequence < self.next;
        let kept = known && sequence >= self.first();
        kept.then(|| self.kept[self.index(sequence)])
    }

    /// Returns a request that is kept.
    pub(super) fn get_mut(&mut self, sequence: u64) -> &mut Request {
        let index = self.index(sequence);
        &mut self.kept[index]
    }

    /// Returns the requests of the same flow just before and just after a request.
    pub(super) fn neighbours(&self, sequence: u64) -> [Option<Request>; 2] {
        let Some(request) = self.get(sequence) else {
            return [None, None];
        };
        let [back, forward] = [request.back, request.forward].map(u64::from);
        [
            (back > 0).then(|| self.get(sequence.saturating_sub(back))),
            (forward > 0).then(|| self.get(sequence + forward)),
        ]
        .map(Option::flatten)
    }

    fn index(&self, sequence: u64) -> usize {
        // The low bits fit into any usize.
        usize::try_from(sequence & (self.capacity - 1)).unwrap_or_default()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_allocate_only_for_those_that_were_sent() {
        const CAPACITY: usize = 1 << 22;
        let mut requests = Requests::new(CAPACITY);
        assert!(requests.kept.capacity() < 1000);
        (0..1000).for_each(|_| requests.push(0, 0, Duration::ZERO));
        assert!(requests.kept.capacity() < 5000);
        let mut small = Requests::new(64);
        (0..1000).for_each(|_| small.push(0, 0, Duration::ZERO));
        assert_eq!((small.kept.len(), small.first()), (64, 937));
    }

    #[test]
    fn neighbours_are_the_next_requests_of_the_flow() {
        let mut requests = Requests::new(4);
        // Flow 0 sends 1, 3 and 4, flow 1 sends 2.
        for (flow, before) in [(0, 0), (1, 0), (0, 1), (0, 3)] {
            requests.push(flow, before, Duration::ZERO);
        }
        requests.reply(3, Duration::from_secs(3));
        let replied = |sequence| {
            let neighbours = requests.neighbours(sequence);
            neighbours.map(|request| request.map(|request| request.rtt().is_some()))
        };
        assert_eq!(replied(1), [None, Some(true)]);
        assert_eq!(replied(2), [None, None]);
        assert_eq!(replied(3), [Some(false), Some(false)]);
        assert_eq!(replied(4), [Some(true), None]);
        // The first one is no longer kept.
        requests.push(1, 2, Duration::ZERO);
        let neighbours = requests.neighbours(3);
        assert!(neighbours[0].is_none() && neighbours[1].is_some());
    }
}
