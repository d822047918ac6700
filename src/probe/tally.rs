//! What was sent, what came, and what that makes: loss, duplicates, reordering, corruption.

use std::time::Duration;

use super::rtt::Rtts;

/// The books of a run. Times are since its start.
#[derive(Debug)]
pub struct Tally {
    /// The last requests, each at its sequence number modulo `room`. Grows as requests are sent.
    slots: Vec<Slot>,
    /// How many requests are kept at most, a power of two.
    room: u64,
    /// The next sequence number; the first is 1.
    next: u64,
    /// The first that was not looked at by [`Self::overdue`].
    unlooked: u64,
    flows: Box<[Flow]>,
    totals: Totals,
    rtts: Rtts,
}

/// A request.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    sent_at: Duration,
    flow: u32,
    end: Pending,
}

/// What is known of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Pending {
    #[default]
    Waits,
    Replied,
    /// Something on the way said that it did not get there.
    Rejected,
}

/// What was counted of one flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Requests.
    pub sent: u64,
    /// Of them, those with a reply.
    pub received: u64,
    /// The greatest sequence number that a reply had.
    newest: u64,
    /// Requests that an ICMP error named, while they had no reply.
    rejected: u64,
    /// ICMP errors that named no request, each for one that waited.
    unnamed: u64,
}

/// What was counted in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests.
    pub sent: u64,
    /// Of them, those with a reply.
    pub received: u64,
    /// Replies after the first to the same request.
    pub duplicates: u64,
    /// First replies that came after one to a later request of their flow (RFC 4737, type
    /// `Reordered`).
    pub reordered: u64,
    /// Replies that are not as their requests were, whether it can be told whose they are or not.
    pub corrupted: u64,
    /// Of those, replies too damaged to tell their request.
    pub damaged: u64,
    /// Replies to requests so long ago that they are no more in the books.
    pub too_late: u64,
    /// Requests of which an ICMP error said that they did not get there, while they had no reply.
    pub rejected: u64,
    /// First replies where the request of the same flow just before or after had one too.
    pub neighbours: u64,
}

/// What a reply was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// The first to its request.
    First {
        /// The round-trip time.
        rtt: Duration,
        /// The flow of its request.
        flow: usize,
        /// Whether one to a later request came before.
        reordered: bool,
    },
    /// Another one.
    Again {
        /// The round-trip time.
        rtt: Duration,
        /// The flow of its request.
        flow: usize,
    },
    /// To a request that is no more in the books, or never was.
    Unknown,
}

impl Totals {
    /// Requests without a reply.
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Whether they are so many of a hundred, or more.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn lost_at_least(&self, percent: f64) -> bool {
        /// Neither side of the comparison is exact; no count of requests comes this close.
        const EXACT_TO: f64 = 1e-12;
        self.lost() as f64 * 1e2 >= percent * self.sent as f64 * (1.0 - EXACT_TO)
    }

    /// Their share in all.
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn loss_ratio(&self) -> f64 {
        self.lost() as f64 / self.sent.max(1) as f64
    }
}

impl Tally {
    /// Books for so many flows, which keep at least the last `room` requests.
    pub fn new(flows: usize, room: usize) -> Self {
        Self {
            // No request has the sequence number 0.
            slots: vec![Slot::default()],
            room: room.max(1).next_power_of_two() as u64,
            next: 1,
            unlooked: 1,
            flows: vec![Flow::default(); flows].into(),
            totals: Totals::default(),
            rtts: Rtts::default(),
        }
    }

    /// What was counted in all.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What was counted of each flow.
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// The round-trip times.
    pub fn rtts(&self) -> &Rtts {
        &self.rtts
    }

    /// How many requests may still get a reply.
    pub fn outstanding(&self) -> u64 {
        self.totals.lost() - self.totals.rejected
    }

    /// The sequence number of the next request.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The next request is sent.
    pub fn sent(&mut self, flow: usize, at: Duration) {
        let sequence = self.next;
        self.next += 1;
        let slot = Slot {
            sent_at: at,
            flow: u32::try_from(flow).unwrap_or(u32::MAX),
            end: Pending::Waits,
        };
        if self.index(sequence) < self.slots.len() {
            *self.slot_mut(sequence) = slot;
        } else {
            self.slots.push(slot);
        }
        self.flows[flow].sent += 1;
        self.totals.sent += 1;
    }

    /// A reply came that tells which request it is for: `at` by the kernel's timestamp, which is
    /// wrong if it is before the request, and `by` then at the latest.
    pub fn reply(&mut self, sequence: u64, corrupted: bool, at: Duration, by: Duration) -> Came {
        self.totals.corrupted += u64::from(corrupted);
        if sequence == 0 || sequence >= self.next {
            // Its check is right by chance.
            self.totals.corrupted += u64::from(!corrupted);
            self.totals.damaged += 1;
            return Came::Unknown;
        }
        let Some(slot) = self.slot(sequence) else {
            self.totals.too_late += 1;
            return Came::Unknown;
        };
        let rtt = at
            .checked_sub(slot.sent_at)
            .unwrap_or_else(|| by.saturating_sub(slot.sent_at));
        let flow = slot.flow as usize;
        if slot.end == Pending::Replied {
            self.totals.duplicates += 1;
            return Came::Again { rtt, flow };
        }
        self.slot_mut(sequence).end = Pending::Replied;
        self.totals.neighbours += u64::from(self.has_neighbour(sequence, slot.flow));
        let was_rejected = u64::from(slot.end == Pending::Rejected);
        self.totals.rejected -= was_rejected;
        self.totals.received += 1;
        self.rtts.add(rtt);
        let counts = &mut self.flows[flow];
        counts.received += 1;
        counts.rejected -= was_rejected;
        let reordered = sequence < counts.newest;
        counts.newest = counts.newest.max(sequence);
        self.totals.reordered += u64::from(reordered);
        Came::First {
            rtt,
            flow,
            reordered,
        }
    }

    /// A reply came that is too damaged to tell what it is for.
    pub fn damaged(&mut self) {
        self.totals.corrupted += 1;
        self.totals.damaged += 1;
    }

    /// Something on the way said that a request did not get there. Returns its flow, if it waits.
    pub fn rejected(&mut self, sequence: u64) -> Option<usize> {
        let slot = self.slot(sequence)?;
        if slot.end != Pending::Waits {
            return None;
        }
        self.slot_mut(sequence).end = Pending::Rejected;
        self.totals.rejected += 1;
        let flow = slot.flow as usize;
        self.flows[flow].rejected += 1;
        Some(flow)
    }

    /// Something on the way said that a request of a flow did not get there, but not which. Says
    /// whether the flow has one that waits, without such an error.
    pub fn rejected_on(&mut self, flow: usize) -> bool {
        let flow = &mut self.flows[flow];
        let is_about_one = flow.unnamed < flow.sent - flow.received - flow.rejected;
        flow.unnamed += u64::from(is_about_one);
        is_about_one
    }

    /// The next request that was sent before a moment and has no reply. Each is told once.
    pub fn overdue(&mut self, sent_before: Duration) -> Option<(u64, usize)> {
        while self.unlooked < self.next {
            let sequence = self.unlooked;
            if let Some(slot) = self.slot(sequence) {
                if slot.sent_at >= sent_before {
                    return None;
                }
                self.unlooked += 1;
                if slot.end == Pending::Waits {
                    return Some((sequence, slot.flow as usize));
                }
            } else {
                // All before are forgotten too.
                self.unlooked = self.next.saturating_sub(self.room);
            }
        }
        None
    }

    /// When the first request was sent that [`Self::overdue`] has not told or passed over.
    pub fn next_overdue(&self) -> Option<Duration> {
        self.slot(self.unlooked).map(|slot| slot.sent_at)
    }

    /// Whether the request before or after another of a flow has a reply. Flows are used in turn, or
    /// one for several.
    fn has_neighbour(&self, sequence: u64, flow: u32) -> bool {
        let flows = self.flows.len() as u64;
        [1, flows].into_iter().any(|step| {
            let both = [sequence.saturating_sub(step), sequence + step];
            let mut slots = both.into_iter().filter_map(|sequence| self.slot(sequence));
            slots.any(|slot| slot.flow == flow && slot.end == Pending::Replied)
        })
    }

    fn index(&self, sequence: u64) -> usize {
        // Only the low bits count, of which all are kept.
        usize::try_from(sequence & (self.room - 1)).unwrap_or_default()
    }

    fn slot(&self, sequence: u64) -> Option<Slot> {
        let known = sequence > 0 && sequence < self.next;
        let kept = known && self.next - sequence <= self.room;
        kept.then(|| self.slots[self.index(sequence)])
    }

    fn slot_mut(&mut self, sequence: u64) -> &mut Slot {
        let index = self.index(sequence);
        &mut self.slots[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_takes_room_only_for_requests_that_were_sent() {
        const ROOM: usize = 1 << 22;
        let mut tally = Tally::new(1, ROOM);
        assert!(tally.slots.capacity() < 1000);
        for _ in 0..1000 {
            tally.sent(0, Duration::ZERO);
        }
        assert!(tally.slots.capacity() < 5000);
        assert_eq!(tally.overdue(Duration::MAX), Some((1, 0)));
        let mut small = Tally::new(1, 64);
        (0..1000).for_each(|_| small.sent(0, Duration::ZERO));
        assert_eq!(small.slots.len(), 64);
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
