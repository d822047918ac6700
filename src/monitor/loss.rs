//! The direction in which requests of one STAMP session were lost, as counters that never fall.
//!
//! A stateful reflector numbers its replies. Of the requests from one answered request to a later one,
//! the numbers of the replies show how many arrived: the others were lost on the way there, and those
//! without a reply were lost on the way back. A reflector that copies the numbers of the requests
//! shows nothing, and its losses are of unknown direction. So are those of a reflector that started
//! its numbers again.

use crate::probe::stamp::{LostByDirection, Settled};

/// How far numbers of replies may be ahead of those of requests, and for how many requests they may be
/// out of order.
const WINDOW: i64 = 64;

/// The losses of one session. Requests are added in the order of their numbers, once they are answered
/// or lost for good.
#[derive(Debug, Default)]
pub(super) struct LossDirection {
    /// Number of the last reply that the directions are known for, and of those that follow in a
    /// session that starts at 0.
    base: u32,
    has_base: bool,
    /// Requests since then, and those of them that are answered.
    requests: u64,
    answered: u64,
    /// Replies to requests that were duplicated on the way there.
    answered_twice: u64,
    /// Highest number of a reply, as the distance from `base`.
    highest: i64,
    /// Whether a reply had another number than its request.
    differ: bool,
}

impl LossDirection {
    /// Adds a request. Returns the losses whose direction this decides.
    pub(super) fn add(&mut self, request: Settled) -> LostByDirection {
        let nothing = LostByDirection::default();
        self.requests += 1;
        let Some((lowest, highest)) = request.replies else {
            return nothing;
        };
        self.answered += 1;
        self.answered_twice += u64::from(lowest != highest);
        self.differ |= lowest != request.number;
        if !self.has_base {
            // A session of the reflector starts at 0, as the requests do. One that existed before
            // shows nothing about the requests before the first answered one.
            let started_here = lowest <= request.number;
            self.base = if started_here {
                u32::MAX
            } else {
                lowest.wrapping_sub(1)
            };
            self.has_base = true;
            if !started_here {
                let unknown = self.requests - self.answered;
                self.restart(highest);
                return LostByDirection { unknown, ..nothing };
            }
        }
        let distance = i64::from(highest.wrapping_sub(self.base).cast_signed());
        self.highest = self.highest.max(distance);
        let lost = self.requests - self.answered;
        let arrived = u64::try_from(self.highest)
            .unwrap_or(0)
            .saturating_sub(self.answered_twice);
        let known = (
            self.requests.checked_sub(arrived),
            arrived.checked_sub(self.answered),
        );
        let ahead = self.highest - i64::try_from(self.requests).unwrap_or(i64::MAX);
        let is_undecided = known.0.is_none() || known.1.is_none();
        if distance <= 0
            || ahead > WINDOW
            || (is_undecided && self.requests > WINDOW.unsigned_abs())
        {
            // The reflector started its numbers again, or they are not those of this session.
            self.restart(highest);
            return LostByDirection {
                unknown: lost,
                ..nothing
            };
        }
        let (Some(forward), Some(backward)) = known else {
            // Replies to later requests have numbers in between: their order changed.
            return nothing;
        };
        let replied = u32::try_from(self.highest).unwrap_or_default();
        self.restart(self.base.wrapping_add(replied));
        if lost == 0 || self.differ {
            LostByDirection {
                forward,
                backward,
                unknown: 0,
            }
        } else {
            LostByDirection {
                unknown: lost,
                ..nothing
            }
        }
    }

    /// Returns the losses that no later reply decides, at the end of the session.
    pub(super) fn finish(&mut self) -> u64 {
        let lost = self.requests - self.answered;
        (self.requests, self.answered) = (0, 0);
        lost
    }

    /// Counts from the reply with this number on.
    fn restart(&mut self, number: u32) {
        self.base = number;
        self.requests = 0;
        self.answered = 0;
        self.answered_twice = 0;
        self.highest = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends requests with numbers from 0. Each is lost on the way there (`f`), on the way back (`b`)
    /// or answered (`.`). `first` is the number of the reflector's first reply.
    fn lost(path: &str, first: u32, stateful: bool) -> LostByDirection {
        let mut direction = LossDirection::default();
        let mut sum = LostByDirection::default();
        let mut reply = first;
        for (number, fate) in (0_u32..).zip(path.chars()) {
            let own = if stateful { reply } else { number };
            reply = reply.wrapping_add(u32::from(fate != 'f'));
            let replies = (fate == '.').then_some((own, own));
            let decided = direction.add(Settled { number, replies });
            sum.forward += decided.forward;
            sum.backward += decided.backward;
            sum.unknown += decided.unknown;
        }
        sum
    }

    fn by_direction(forward: u64, backward: u64, unknown: u64) -> LostByDirection {
        LostByDirection {
            forward,
            backward,
            unknown,
        }
    }

    #[test]
    fn losses_have_the_direction_that_reply_numbers_show() {
        for (path, stateful, expected) in [
            ("....", true, (0, 0, 0)),
            (".f.b.", true, (1, 1, 0)),
            ("ff.bbb.f.", true, (3, 3, 0)),
            // Before the first difference nothing shows that the reflector numbers its replies.
            (".b.f.b.", true, (1, 1, 1)),
            // Not decided before the next reply.
            (".f.ffff", true, (1, 0, 0)),
            (".f.b.", false, (0, 0, 2)),
        ] {
            let (forward, backward, unknown) = expected;
            let expected = by_direction(forward, backward, unknown);
            assert_eq!(lost(path, 0, stateful), expected, "{path} {stateful}");
        }
    }

    #[test]
    fn losses_before_the_first_reply_of_an_old_session_are_unknown() {
        assert_eq!(lost("ff.f.", 1000, true), by_direction(1, 0, 2));
    }

    #[test]
    fn restarted_and_wrapped_numbers_add_no_false_losses() {
        let mut direction = LossDirection::default();
        let mut add = |number, reply: Option<u32>| {
            let replies = reply.map(|reply| (reply, reply));
            direction.add(Settled { number, replies })
        };
        assert_eq!(add(0, Some(u32::MAX - 1)), by_direction(0, 0, 0));
        assert_eq!(add(1, Some(u32::MAX)), by_direction(0, 0, 0));
        assert_eq!(add(2, None), by_direction(0, 0, 0));
        assert_eq!(add(3, Some(0)), by_direction(1, 0, 0));
        assert_eq!(add(4, Some(1)), by_direction(0, 0, 0));
        assert_eq!(add(5, None), by_direction(0, 0, 0));
        // The reflector restarted.
        assert_eq!(add(6, Some(0)), by_direction(0, 0, 1));
        assert_eq!(add(7, None), by_direction(0, 0, 0));
        assert_eq!(add(8, Some(2)), by_direction(0, 1, 0));
    }

    #[test]
    fn numbers_of_another_counter_leave_losses_unknown() {
        let mut direction = LossDirection::default();
        let mut sum = 0;
        // Every second request is lost, and the numbers of replies are far apart.
        for number in 0..1000_u32 {
            let reply = number * 1000;
            let replies = number.is_multiple_of(2).then_some((reply, reply));
            let decided = direction.add(Settled { number, replies });
            assert_eq!(decided.forward + decided.backward, 0);
            sum += decided.unknown;
        }
        assert_eq!(sum + direction.finish(), 500);
    }

    #[test]
    fn swapped_requests_are_not_lost() {
        let mut direction = LossDirection::default();
        let mut sum = LostByDirection::default();
        // Requests 1 and 2 arrive in the other order, and request 3 is duplicated on the way there.
        for (number, replies) in (0..).zip([(0, 0), (2, 2), (1, 1), (3, 4), (5, 5)]) {
            let replies = Some(replies);
            let decided = direction.add(Settled { number, replies });
            sum.forward += decided.forward;
            sum.backward += decided.backward;
            sum.unknown += decided.unknown;
        }
        assert_eq!(sum, LostByDirection::default());
    }

    /// The fate of a request on a path.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fate {
        Answered,
        LostThere,
        LostBack,
        /// Two copies arrive, and both replies return.
        Doubled,
        /// Two copies arrive, and one reply returns.
        DoubledThenLost,
        /// Arrives after the next request.
        Swapped,
    }

    /// The replies that a stateful reflector sends, whose next number is `next`.
    fn replies(fates: &[Fate], mut next: u32) -> Vec<Option<(u32, u32)>> {
        let mut order: Vec<_> = (0..fates.len()).collect();
        for at in 1..fates.len() {
            if fates[at - 1] == Fate::Swapped {
                order.swap(at - 1, at);
            }
        }
        let mut replies = vec![None; fates.len()];
        for at in order {
            let mut number = || {
                next = next.wrapping_add(1);
                next.wrapping_sub(1)
            };
            replies[at] = match fates[at] {
                Fate::Answered | Fate::Swapped => Some(number()).map(|own| (own, own)),
                Fate::LostThere => None,
                Fate::LostBack => {
                    number();
                    None
                }
                Fate::Doubled => Some((number(), number())),
                Fate::DoubledThenLost => {
                    let (first, _) = (number(), number());
                    Some((first, first))
                }
            };
        }
        replies
    }

    /// The losses from one answered request to the next, without swaps and doubles. They have no
    /// known direction while all numbers of replies are those of their requests.
    fn model(fates: &[Fate], first: u32) -> LostByDirection {
        let (mut sum, mut gap) = (LostByDirection::default(), [0; 2]);
        let (mut next, mut differ, mut known) = (first, false, first == 0);
        for (number, fate) in (0..).zip(fates) {
            match fate {
                Fate::LostThere => gap[0] += 1,
                Fate::LostBack => gap[1] += 1,
                _ => {
                    differ |= next != number;
                    if known && differ {
                        sum.forward += gap[0];
                        sum.backward += gap[1];
                    } else {
                        sum.unknown += gap[0] + gap[1];
                    }
                    (gap, known) = ([0; 2], true);
                }
            }
            next += u32::from(*fate != Fate::LostThere);
        }
        sum
    }

    proptest! {
        #[test]
        fn directions_are_exact_without_reordering(
            fates in prop::collection::vec(
                prop::sample::select(&[
                    Fate::Answered,
                    Fate::Answered,
                    Fate::LostThere,
                    Fate::LostBack,
                ][..]),
                1..200,
            ),
            is_old in any::<bool>(),
        ) {
            let first = if is_old { 1_000_000 } else { 0 };
            let mut direction = LossDirection::default();
            let mut sum = LostByDirection::default();
            for (number, replies) in (0..).zip(replies(&fates, first)) {
                let decided = direction.add(Settled { number, replies });
                sum.forward += decided.forward;
                sum.backward += decided.backward;
                sum.unknown += decided.unknown;
            }
            prop_assert_eq!(sum, model(&fates, first));
        }

        #[test]
        fn directions_never_exceed_the_losses_on_any_path(
            fates in prop::collection::vec(
                prop::sample::select(&[
                    Fate::Answered,
                    Fate::Answered,
                    Fate::LostThere,
                    Fate::LostBack,
                    Fate::Doubled,
                    Fate::DoubledThenLost,
                    Fate::Swapped,
                ][..]),
                1..200,
            ),
            first in prop::sample::select(&[0, 5, 1000, u32::MAX - 20][..]),
        ) {
            let mut direction = LossDirection::default();
            let (mut lost, mut sum) = (0, 0);
            for (number, replies) in (0..).zip(replies(&fates, first)) {
                lost += u64::from(replies.is_none());
                let decided = direction.add(Settled { number, replies });
                sum += decided.forward + decided.backward + decided.unknown;
                prop_assert!(sum <= lost, "{} of {} lost", sum, lost);
            }
        }
    }
}
