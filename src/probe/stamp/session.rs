//! The requests of one flow, which is one session of the reflector: their numbers, and the direction
//! in which they were lost.

use std::collections::VecDeque;

use crate::reflect::stamp::NtpTimestamp;

/// The delays of one request and its reply, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// T2 − T1.
    pub forward: i64,
    /// T4 − T3.
    pub backward: i64,
    /// (T4 − T1) − (T3 − T2).
    pub round_trip: i64,
}

/// The requests of one flow.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// The number of the next request, not modulo 2^32.
    next: u64,
    /// The last requests, up to `next`.
    kept: VecDeque<Sent>,
    numbers: Numbers,
    /// The next request that [`Self::next_settled`] returns.
    unsettled: u64,
}

/// A request that is answered or lost for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Its number.
    pub number: u32,
    /// Lowest and highest number of its replies.
    pub replies: Option<(u32, u32)>,
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    /// Its number in the tally.
    pub(super) sequence: u64,
    /// T1.
    pub(super) at: NtpTimestamp,
    /// Known once it is answered.
    delay: Option<Delay>,
    /// Lowest and highest number of its replies.
    replies: Option<(u32, u32)>,
}

/// The sequence numbers of replies, from which the direction of loss follows. A stateful reflector
/// numbers its replies, so a gap in the requests' numbers with a smaller gap in the replies' numbers
/// is loss on the way there.
#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    /// Of the first reply: the number of its request, and its own.
    first: Option<(u64, u64)>,
    /// The highest number of an answered request, and the highest number of a reply.
    request: u64,
    reply: u64,
    answered: u64,
    /// Further replies with a number of their own: the request was duplicated on the way there.
    answered_twice: u64,
    /// Whether a reply had another number than its request.
    differ: bool,
}

/// Lost requests by direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LostByDirection {
    /// Requests lost on the way there.
    pub forward: u64,
    /// Replies lost on the way back.
    pub backward: u64,
    /// Lost in one of the directions.
    pub unknown: u64,
}

impl Session {
    /// Returns the sequence number of the next request.
    pub(super) fn next_number(&self) -> u32 {
        wrapped(self.next)
    }

    /// Notes a request. Keeps the last `capacity`.
    pub(super) fn sent(&mut self, sequence: u64, at: NtpTimestamp, capacity: usize) {
        self.next += 1;
        if self.kept.len() >= capacity {
            self.kept.pop_front();
        }
        self.kept.push_back(Sent {
            sequence,
            at,
            delay: None,
            replies: None,
        });
    }

    /// Returns the request with this sequence number, if it is kept.
    pub(super) fn get(&self, number: u32) -> Option<Sent> {
        Some(self.kept[self.index(number)?])
    }

    /// Notes a reply with the sequence number `reply` to the request `number`, which is kept. `delay`
    /// is that of the first reply to a request.
    pub(super) fn answered(&mut self, number: u32, reply: u32, delay: Option<Delay>) {
        let Some(index) = self.index(number) else {
            return;
        };
        let request = self.next - (self.kept.len() - index) as u64;
        let numbers = &mut self.numbers;
        let sent = &mut self.kept[index];
        // The highest number that equals it modulo 2^32 and is not far above the last one.
        let ahead = reply.wrapping_sub(wrapped(numbers.reply)).cast_signed();
        let reply_number = numbers.reply.saturating_add_signed(ahead.into());
        numbers.differ |= reply != number;
        match &mut sent.replies {
            None => {
                sent.replies = Some((reply, reply));
                sent.delay = delay;
                numbers.answered += 1;
            }
            Some((lowest, highest)) if !(*lowest..=*highest).contains(&reply) => {
                numbers.answered_twice += 1;
                (*lowest, *highest) = (reply.min(*lowest), reply.max(*highest));
            }
            // A reply that was duplicated.
            Some(_) => {}
        }
        if numbers.first.is_none() {
            numbers.first = Some((request, reply.into()));
            (numbers.request, numbers.reply) = (request, reply.into());
        } else {
            numbers.request = numbers.request.max(request);
            numbers.reply = numbers.reply.max(reply_number);
        }
    }

    /// Returns the next request, in order, that has a number in the tally below `settled`.
    pub(super) fn next_settled(&mut self, settled: u64) -> Option<Settled> {
        let first = self.next - self.kept.len() as u64;
        let number = self.unsettled.max(first);
        let index = usize::try_from(number - first).ok()?;
        let sent = self
            .kept
            .get(index)
            .filter(|sent| sent.sequence < settled)?;
        self.unsettled = number + 1;
        Some(Settled {
            number: wrapped(number),
            replies: sent.replies,
        })
    }

    /// Whether the request with this sequence number is kept and has no reply.
    pub(super) fn is_unanswered(&self, number: u32) -> bool {
        self.get(number).is_some_and(|sent| sent.replies.is_none())
    }

    /// Returns the delays of the requests before and after an answered one, if they are answered.
    pub(super) fn neighbours(&self, number: u32) -> [Option<Delay>; 2] {
        let delay = |number| self.get(number).and_then(|sent| sent.delay);
        [delay(number.wrapping_sub(1)), delay(number.wrapping_add(1))]
    }

    /// Whether the reflector numbers its replies. `None` if all numbers equal those of the requests:
    /// then either it copies them, or no request was lost on the way there.
    pub(super) fn is_stateful(&self) -> Option<bool> {
        self.numbers.differ.then_some(true)
    }

    /// Returns the number of lost requests.
    pub(super) fn all_lost(&self) -> u64 {
        self.next - self.numbers.answered
    }

    /// Returns the lost requests by direction, for a stateful reflector.
    pub(super) fn lost(&self) -> LostByDirection {
        let numbers = &self.numbers;
        let lost = self.all_lost();
        let unknown = LostByDirection {
            unknown: lost,
            ..LostByDirection::default()
        };
        let Some((request, reply)) = numbers.first else {
            return unknown;
        };
        // A reflector that counts from 0 with the first request shows losses before the first reply.
        // One with an earlier session does not.
        let (before, earlier) = if reply <= request {
            (0, 0)
        } else {
            (request, reply)
        };
        let sent = numbers.request + 1 - before;
        let arrived = (numbers.reply + 1)
            .saturating_sub(earlier)
            .saturating_sub(numbers.answered_twice);
        match (
            sent.checked_sub(arrived),
            arrived.checked_sub(numbers.answered),
        ) {
            (Some(forward), Some(backward)) => LostByDirection {
                forward,
                backward,
                unknown: lost - forward - backward,
            },
            _ => unknown,
        }
    }

    fn index(&self, number: u32) -> Option<usize> {
        let ago = wrapped(self.next).wrapping_sub(number) as usize;
        (ago > 0).then(|| self.kept.len().checked_sub(ago))?
    }
}

/// A number modulo 2^32.
#[expect(clippy::cast_possible_truncation, reason = "modulo 2^32")]
fn wrapped(number: u64) -> u32 {
    number as u32
}
