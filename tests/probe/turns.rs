//! The client's part of the exchange against the daemon's core, with loss on both ways.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use udp_echo::probe::tally::{Came, Tally};
use udp_echo::probe::turns::{Due, Turns};
use udp_echo::probe::wire::{Change, Run, Seen};
use udp_echo::reflect::{
    Action, Admission, Datagram, Destination, ExitOn, Mode, Reflector, ReflectorSettings, Timeout,
};

const WAIT: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::ZERO;

/// What may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Record,
}

/// A network of a fixed delay between a client of one flow and a daemon.
struct World {
    run: Run,
    tally: Tally,
    turns: Turns,
    daemon: Reflector,
    start: Instant,
    now: Duration,
    delay: Duration,
    there: VecDeque<(Duration, Vec<u8>, Kind)>,
    back: VecDeque<(Duration, Vec<u8>, Kind)>,
    /// Whether the next datagram of a kind is lost: there, back.
    loses: Box<dyn FnMut(Kind, bool) -> bool>,
    /// Requests that the daemon took for records; records and echoes of records that were lost.
    swallowed: Vec<u64>,
    lost_records: usize,
    lost: Vec<u64>,
    records: u64,
}

impl World {
    fn new(mode: Mode, delay: Duration, loses: impl FnMut(Kind, bool) -> bool + 'static) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the core takes no other time")]
        let start = Instant::now();
        let settings = ReflectorSettings {
            mode,
            timeout: Timeout::new(Duration::from_hours(1)),
            max_datagram: 1024,
            max_peers: NonZeroU32::new(8).unwrap(),
            exit_on: ExitOn::default(),
            admission: Admission::new(1024, []),
            limits: None,
        };
        Self {
            run: Run::new(0xabcd_ef01, 32),
            tally: Tally::new(1, 1 << 12),
            turns: Turns::new(Mode::Exchange, 1, WAIT),
            daemon: Reflector::new(settings, start).unwrap(),
            start,
            now: Duration::ZERO,
            delay,
            there: VecDeque::new(),
            back: VecDeque::new(),
            loses: Box::new(loses),
            swallowed: Vec::new(),
            lost_records: 0,
            lost: Vec::new(),
            records: 0,
        }
    }

    fn ask(&mut self) {
        let sequence = self.tally.next_sequence();
        let mut bytes = vec![0; self.run.size()];
        self.run.write(sequence, &mut bytes);
        self.tally.sent(0, self.now);
        self.turns.asked(0, sequence, self.now);
        self.send(bytes, Kind::Request, sequence);
    }

    fn record(&mut self, due: Option<Due>) {
        if let Some(due) = due {
            self.records += 1;
            let record = self.run.record(due.sequence, due.earlier, due.flow, None);
            self.send(record.encode().into(), Kind::Record, due.sequence);
        }
    }

    fn send(&mut self, bytes: Vec<u8>, kind: Kind, sequence: u64) {
        if (self.loses)(kind, true) {
            self.lose(kind, sequence);
        } else {
            self.there.push_back((self.now + self.delay, bytes, kind));
        }
    }

    fn lose(&mut self, kind: Kind, sequence: u64) {
        match kind {
            Kind::Request => self.lost.push(sequence),
            Kind::Record => self.lost_records += 1,
        }
    }

    fn sequence(&self, bytes: &[u8]) -> u64 {
        match self.run.read(bytes, bytes.len()) {
            Seen::Reply { sequence, .. } | Seen::Record { sequence, .. } => sequence,
            seen => panic!("{seen:?}"),
        }
    }

    /// A millisecond passes.
    fn step(&mut self) {
        self.now += Duration::from_millis(1);
        while self.there.front().is_some_and(|next| next.0 <= self.now) {
            let (_, mut bytes, kind) = self.there.pop_front().unwrap();
            let mut datagram = Datagram {
                peer: "192.0.2.1:5000".parse().unwrap(),
                destination: Destination::Here {
                    address: None,
                    over_loopback: false,
                },
                at: self.start + self.now,
                length: bytes.len(),
                segment: bytes.len(),
                memory: &mut bytes,
            };
            let action = self
                .daemon
                .handle(&mut datagram, self.start + self.now)
                .action;
            self.daemon.batch_sent();
            let sequence = self.sequence(&bytes);
            match action {
                Action::Reply { .. } if (self.loses)(kind, false) => self.lose(kind, sequence),
                Action::Reply { .. } => {
                    self.back.push_back((self.now + self.delay, bytes, kind));
                }
                Action::Decode(_) if kind == Kind::Request => self.swallowed.push(sequence),
                Action::Decode(_) => {}
                other => panic!("{other:?}"),
            }
        }
        while self.back.front().is_some_and(|next| next.0 <= self.now) {
            let (_, bytes, _) = self.back.pop_front().unwrap();
            let due = match self.run.read(&bytes, bytes.len()) {
                Seen::Reply {
                    sequence,
                    change: Change::None,
                } => match self.tally.reply(sequence, false, self.now, self.now) {
                    Came::First { flow, rtt, .. } => {
                        self.turns.replied(flow, sequence, rtt, self.now, self.now)
                    }
                    other => panic!("{other:?}"),
                },
                Seen::Record { sequence, earlier } => {
                    self.turns.record_came_back(0, sequence, earlier)
                }
                seen => panic!("{seen:?}"),
            };
            self.record(due);
        }
        while let Some(due) = self.turns.time(self.now) {
            self.record(Some(due));
        }
    }

    /// Asks so many times, at an interval in milliseconds or as soon as it may.
    fn run(&mut self, requests: u32, interval: u64) {
        for _ in 0..requests {
            while self.turns.next_flow().is_none() {
                self.step();
            }
            self.ask();
            (0..interval).for_each(|_| self.step());
        }
        (0..4000).for_each(|_| self.step());
    }
}

/// Bits, one after the other, then `false`.
fn script(bits: Vec<bool>) -> impl FnMut() -> bool {
    let mut bits = bits.into_iter();
    move || bits.next().unwrap_or(false)
}

fn losses() -> impl Strategy<Value = Vec<bool>> {
    prop::collection::vec(prop::bool::weighted(0.3), 0..200)
}

proptest! {
    #[test]
    fn a_lost_request_or_reply_costs_nothing_but_itself(
        bits in losses(), delay in 1_u64..240, interval in prop_oneof![Just(0_u64), 0_u64..1200]
    ) {
        let mut lose = script(bits);
        let delay = Duration::from_millis(delay);
        let loses = move |kind, _| kind == Kind::Request && lose();
        let mut world = World::new(Mode::Exchange, delay, loses);
        world.run(60, interval);
        prop_assert_eq!(&world.swallowed, &[] as &[u64]);
        // Each request that was not lost, nor its reply, counts as received.
        prop_assert_eq!(world.tally.totals().lost(), world.lost.len() as u64);
        prop_assert_eq!(world.daemon.totals().peers, 0);
        prop_assert!(!world.turns.is_plain());
        prop_assert_eq!(world.turns.echoed_after_reply(), 0);
    }

    #[test]
    fn a_lost_record_or_its_echo_costs_at_most_one_request(
        bits in losses(), delay in 1_u64..240, interval in prop_oneof![Just(0_u64), 0_u64..1200]
    ) {
        let mut lose = script(bits);
        let delay = Duration::from_millis(delay);
        let mut world = World::new(Mode::Exchange, delay, move |_, _| lose());
        world.run(60, interval);
        let missing = (world.lost.len() + world.swallowed.len()) as u64;
        prop_assert_eq!(world.tally.totals().lost(), missing);
        prop_assert!(world.swallowed.len() <= world.lost_records);
        // At most one more after the last loss, and then all are answered.
        let before = world.tally.totals().lost();
        world.loses = Box::new(|_, _| false);
        world.run(20, interval);
        prop_assert!(world.tally.totals().lost() <= before + 1);
        prop_assert!(!world.turns.is_plain());
        prop_assert_eq!(world.turns.echoed_after_reply(), 0);
    }

    #[test]
    fn replies_later_than_the_whole_wait_keep_the_daemon_in_step(
        delay in 500_u64..3000, interval in 0_u64..2500
    ) {
        let delay = Duration::from_millis(delay);
        let mut world = World::new(Mode::Exchange, delay, |_, _| false);
        world.run(20, interval);
        (0..5000).for_each(|_| world.step());
        prop_assert_eq!(&world.swallowed, &[] as &[u64]);
        prop_assert_eq!((world.tally.totals().lost(), world.records), (0, 20));
    }

    #[test]
    fn a_plain_reflector_is_found_out_and_gets_no_more_records(
        delay in 1_u64..400, interval in prop_oneof![Just(0_u64), 0_u64..1200]
    ) {
        let delay = Duration::from_millis(delay);
        let mut world = World::new(Mode::Echo, delay, |_, _| false);
        world.run(40, interval);
        prop_assert_eq!(world.tally.totals().lost(), 0);
        prop_assert!(world.turns.is_plain());
        prop_assert!(world.records <= 8, "{}", world.records);
    }
}

#[test]
fn without_loss_each_request_is_followed_by_one_record() {
    let mut world = World::new(Mode::Exchange, Duration::from_millis(3), |_, _| false);
    world.run(50, 0);
    assert_eq!((world.tally.totals().received, world.records), (50, 50));
    assert_eq!(world.daemon.totals().peers, 0);
}

#[test]
fn after_a_record_that_was_held_up_a_flow_waits_for_its_echo() {
    let milliseconds = Duration::from_millis;
    let mut turns = Turns::new(Mode::Exchange, 1, WAIT);
    turns.asked(0, 1, NOW);
    let (came, now) = (milliseconds(1), milliseconds(900));
    let due = turns.replied(0, 1, came, came, now).unwrap();
    assert_eq!((due.earlier, turns.next_flow()), (0, None));
    // The daemon had given it up: another one ends what it began.
    let due = turns.record_came_back(0, 1, 0).unwrap();
    assert_eq!((due.earlier, turns.next_flow()), (1, Some(0)));
    assert_eq!(turns.echoed_after_reply(), 0);
    // It took the next one.
    turns.asked(0, 2, now);
    assert!(turns.replied(0, 2, NOW, now, now + WAIT).is_some());
    assert_eq!((turns.time(now + WAIT), turns.next_flow()), (None, None));
    assert_eq!(turns.time(now + WAIT * 2), None);
    assert_eq!(turns.next_flow(), Some(0));
}

#[test]
fn that_wait_is_not_longer_than_an_echo_may_take_however_long_others_are() {
    let seconds = Duration::from_secs;
    let mut turns = Turns::new(Mode::Exchange, 2, seconds(60));
    let now = seconds(2);
    for (flow, sequence) in [(0, 1), (1, 2)] {
        turns.asked(flow, sequence, NOW);
    }
    // The other flow goes on to wait for its reply.
    assert!(turns.replied(1, 2, NOW, NOW, now).is_some());
    assert_eq!(turns.next_time(), Some(now + Duration::from_millis(500)));
    assert!(turns.replied(0, 1, seconds(1), seconds(1), now).is_some());
    assert_eq!(turns.time(now + seconds(1)), None);
    assert_eq!(turns.next_flow(), Some(1));
    assert_eq!(turns.time(now + seconds(2)), None);
    assert_eq!((turns.next_flow(), turns.next_time()), (Some(0), None));
}

#[test]
fn in_turn_are_the_flows_that_do_not_wait() {
    let mut turns = Turns::new(Mode::Exchange, 3, WAIT);
    for flow in [0, 1, 2] {
        assert_eq!(turns.next_flow(), Some(flow));
        turns.asked(flow, flow as u64 + 1, Duration::ZERO);
    }
    assert_eq!(turns.next_flow(), None);
    assert!(turns.replied(1, 2, NOW, NOW, NOW).is_some());
    assert_eq!(turns.next_flow(), Some(1));
    turns.asked(1, 4, Duration::ZERO);
    turns.rejected(0, 1);
    assert_eq!(turns.next_flow(), Some(0));
}

#[test]
fn in_lockstep_one_request_is_in_flight_over_all_flows_and_in_echo_mode_none_waits() {
    let mut turns = Turns::new(Mode::Lockstep, 3, WAIT);
    assert_eq!(turns.next_flow(), Some(0));
    turns.asked(0, 1, Duration::ZERO);
    assert_eq!(turns.next_flow(), None);
    assert!(turns.replied(0, 1, NOW, NOW, NOW).is_some());
    assert_eq!(turns.next_flow(), Some(1));
    let mut turns = Turns::new(Mode::Echo, 2, WAIT);
    for (sequence, flow) in (1..).zip([0, 1, 0, 1, 0]) {
        assert_eq!(turns.next_flow(), Some(flow));
        turns.asked(flow, sequence, Duration::ZERO);
    }
    assert_eq!(turns.replied(0, 1, NOW, NOW, NOW), None);
}
