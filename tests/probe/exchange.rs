//! The client's side of the exchange against the daemon's core, with loss in both directions.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use udp_echo::probe::exchange::{DueRecord, Exchanges};
use udp_echo::probe::tally::{ReplyKind, Tally};
use udp_echo::probe::wire::{Change, Message, Run};
use udp_echo::reflect::stamp::{Reception, StampSettings};
use udp_echo::reflect::{
    Action, Admission, Datagram, Destination, ExitOn, Mode, Reflector, ReflectorSettings, Timeout,
};

const WAIT: Duration = Duration::from_secs(1);
const NOW: Duration = Duration::ZERO;

/// A kind of datagram that may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Record,
}

/// A client with one flow and a daemon, connected by a network with a fixed delay.
struct World {
    run: Run,
    tally: Tally,
    exchanges: Exchanges,
    daemon: Reflector,
    start: Instant,
    now: Duration,
    delay: Duration,
    there: VecDeque<(Duration, Vec<u8>, Kind)>,
    back: VecDeque<(Duration, Vec<u8>, Kind)>,
    /// Whether the next datagram of a kind is lost. The flag is true on the way to the daemon.
    loses: Box<dyn FnMut(Kind, bool) -> bool>,
    /// Requests that the daemon decoded as records.
    swallowed: Vec<u64>,
    /// Lost records and lost echoes of records.
    lost_records: usize,
    /// Lost requests and lost replies.
    lost: Vec<u64>,
    /// Records sent.
    records: u64,
}

impl World {
    fn new(mode: Mode, delay: Duration, loses: impl FnMut(Kind, bool) -> bool + 'static) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the core works with Instant")]
        let start = Instant::now();
        let settings = ReflectorSettings {
            mode,
            timeout: Timeout::new(Duration::from_hours(1)),
            max_datagram: 1024,
            max_peers: NonZeroU32::new(8).unwrap(),
            exit_on: ExitOn::default(),
            admission: Admission::new(1024, []),
            limits: None,
            stamp: StampSettings::default(),
        };
        Self {
            run: Run::new(0xabcd_ef01, 32),
            tally: Tally::new(1, 1 << 12),
            exchanges: Exchanges::new(Mode::Exchange, 1, WAIT),
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

    fn send_request(&mut self) {
        let sequence = self.tally.next_sequence();
        let mut bytes = vec![0; self.run.size()];
        self.run.write(sequence, &mut bytes);
        self.tally.sent(0, self.now);
        self.exchanges.request_sent(0, sequence, self.now);
        self.send(bytes, Kind::Request, sequence);
    }

    fn record(&mut self, due: Option<DueRecord>) {
        if let Some(due) = due {
            self.records += 1;
            let record = self.run.record(due.sequence, due.attempt, due.flow, None);
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
        match self.run.parse(bytes, bytes.len()) {
            Message::Reply { sequence, .. } | Message::Record { sequence, .. } => sequence,
            other => panic!("{other:?}"),
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
                reception: Reception::default(),
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
            let due = match self.run.parse(&bytes, bytes.len()) {
                Message::Reply {
                    sequence,
                    change: Change::None,
                } => match self.tally.reply(sequence, false, self.now, self.now) {
                    ReplyKind::First { flow, rtt, .. } => self
                        .exchanges
                        .reply_received(flow, sequence, rtt, self.now, self.now),
                    other => panic!("{other:?}"),
                },
                Message::Record { sequence, attempt } => {
                    self.exchanges.record_echoed(0, sequence, attempt)
                }
                other => panic!("{other:?}"),
            };
            self.record(due);
        }
        while let Some(due) = self.exchanges.next_record(self.now) {
            self.record(Some(due));
        }
    }

    /// Sends this number of requests, at an interval in milliseconds or as soon as possible.
    fn run(&mut self, requests: u32, interval: u64) {
        for _ in 0..requests {
            while self.exchanges.next_flow().is_none() {
                self.step();
            }
            self.send_request();
            (0..interval).for_each(|_| self.step());
        }
        (0..4000).for_each(|_| self.step());
    }
}

/// Returns the bits one after the other, then `false`.
fn script(bits: Vec<bool>) -> impl FnMut() -> bool {
    let mut bits = bits.into_iter();
    move || bits.next().unwrap_or(false)
}

fn losses() -> impl Strategy<Value = Vec<bool>> {
    prop::collection::vec(prop::bool::weighted(0.3), 0..200)
}

proptest! {
    #[test]
    fn lost_requests_and_replies_cost_no_other_request(
        bits in losses(), delay in 1_u64..240, interval in prop_oneof![Just(0_u64), 0_u64..1200]
    ) {
        let mut lose = script(bits);
        let delay = Duration::from_millis(delay);
        let loses = move |kind, _| kind == Kind::Request && lose();
        let mut world = World::new(Mode::Exchange, delay, loses);
        world.run(60, interval);
        prop_assert_eq!(&world.swallowed, &[] as &[u64]);
        // Each request counts as received unless it or its reply was lost.
        prop_assert_eq!(world.tally.totals().lost(), world.lost.len() as u64);
        prop_assert_eq!(world.daemon.totals().peers, 0);
        prop_assert!(!world.exchanges.is_plain());
        prop_assert_eq!(world.exchanges.echoed_after_reply(), 0);
    }

    #[test]
    fn lost_records_and_echoes_cost_at_most_one_request(
        bits in losses(), delay in 1_u64..240, interval in prop_oneof![Just(0_u64), 0_u64..1200]
    ) {
        let mut lose = script(bits);
        let delay = Duration::from_millis(delay);
        let mut world = World::new(Mode::Exchange, delay, move |_, _| lose());
        world.run(60, interval);
        let missing = (world.lost.len() + world.swallowed.len()) as u64;
        prop_assert_eq!(world.tally.totals().lost(), missing);
        prop_assert!(world.swallowed.len() <= world.lost_records);
        // After the last loss at most one more request is lost.
        let before = world.tally.totals().lost();
        world.loses = Box::new(|_, _| false);
        world.run(20, interval);
        prop_assert!(world.tally.totals().lost() <= before + 1);
        prop_assert!(!world.exchanges.is_plain());
        prop_assert_eq!(world.exchanges.echoed_after_reply(), 0);
    }

    #[test]
    fn replies_beyond_the_wait_do_not_break_the_exchange(
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
    fn plain_reflectors_are_detected_and_get_no_more_records(
        delay in 1_u64..400, interval in prop_oneof![Just(0_u64), 0_u64..1200]
    ) {
        let delay = Duration::from_millis(delay);
        let mut world = World::new(Mode::Echo, delay, |_, _| false);
        world.run(40, interval);
        prop_assert_eq!(world.tally.totals().lost(), 0);
        prop_assert!(world.exchanges.is_plain());
        prop_assert!(world.records <= 8, "{}", world.records);
    }
}

#[test]
fn one_record_follows_each_request_without_loss() {
    let mut world = World::new(Mode::Exchange, Duration::from_millis(3), |_, _| false);
    world.run(50, 0);
    assert_eq!((world.tally.totals().received, world.records), (50, 50));
    assert_eq!(world.daemon.totals().peers, 0);
}

#[test]
fn flows_wait_for_the_echo_of_a_late_record() {
    let milliseconds = Duration::from_millis;
    let mut exchanges = Exchanges::new(Mode::Exchange, 1, WAIT);
    exchanges.request_sent(0, 1, NOW);
    let (arrived, now) = (milliseconds(1), milliseconds(900));
    let due = exchanges
        .reply_received(0, 1, arrived, arrived, now)
        .unwrap();
    assert_eq!((due.attempt, exchanges.next_flow()), (0, None));
    // The record had expired in the daemon: another one ends the exchange that it started.
    let due = exchanges.record_echoed(0, 1, 0).unwrap();
    assert_eq!((due.attempt, exchanges.next_flow()), (1, Some(0)));
    assert_eq!(exchanges.echoed_after_reply(), 0);
    // The daemon decoded the next record.
    exchanges.request_sent(0, 2, now);
    assert!(
        exchanges
            .reply_received(0, 2, NOW, now, now + WAIT)
            .is_some()
    );
    assert_eq!(
        (exchanges.next_record(now + WAIT), exchanges.next_flow()),
        (None, None)
    );
    assert_eq!(exchanges.next_record(now + WAIT * 2), None);
    assert_eq!(exchanges.next_flow(), Some(0));
}

#[test]
fn flows_wait_for_an_echo_for_a_bounded_time() {
    let seconds = Duration::from_secs;
    let mut exchanges = Exchanges::new(Mode::Exchange, 2, seconds(60));
    let now = seconds(2);
    for (flow, sequence) in [(0, 1), (1, 2)] {
        exchanges.request_sent(flow, sequence, NOW);
    }
    // The other flow still waits for its reply.
    assert!(exchanges.reply_received(1, 2, NOW, NOW, now).is_some());
    assert_eq!(
        exchanges.next_deadline(),
        Some(now + Duration::from_millis(500))
    );
    assert!(
        exchanges
            .reply_received(0, 1, seconds(1), seconds(1), now)
            .is_some()
    );
    assert_eq!(exchanges.next_record(now + seconds(1)), None);
    assert_eq!(exchanges.next_flow(), Some(1));
    assert_eq!(exchanges.next_record(now + seconds(2)), None);
    assert_eq!(
        (exchanges.next_flow(), exchanges.next_deadline()),
        (Some(0), None)
    );
}

#[test]
fn idle_flows_send_in_turn() {
    let mut exchanges = Exchanges::new(Mode::Exchange, 3, WAIT);
    for flow in [0, 1, 2] {
        assert_eq!(exchanges.next_flow(), Some(flow));
        exchanges.request_sent(flow, flow as u64 + 1, Duration::ZERO);
    }
    assert_eq!((exchanges.may_send(), exchanges.next_flow()), (false, None));
    assert!(exchanges.reply_received(1, 2, NOW, NOW, NOW).is_some());
    assert_eq!(exchanges.next_flow(), Some(1));
    exchanges.request_sent(1, 4, Duration::ZERO);
    exchanges.request_rejected(0, 1);
    assert_eq!(exchanges.next_flow(), Some(0));
}

#[test]
fn lockstep_keeps_one_request_in_flight_and_echo_any_number() {
    let mut exchanges = Exchanges::new(Mode::Lockstep, 3, WAIT);
    assert_eq!(exchanges.next_flow(), Some(0));
    exchanges.request_sent(0, 1, Duration::ZERO);
    assert_eq!(exchanges.next_flow(), None);
    assert!(exchanges.reply_received(0, 1, NOW, NOW, NOW).is_some());
    assert_eq!(exchanges.next_flow(), Some(1));
    let mut exchanges = Exchanges::new(Mode::Echo, 2, WAIT);
    for (sequence, flow) in (1..).zip([0, 1, 0, 1, 0]) {
        assert_eq!(exchanges.next_flow(), Some(flow));
        exchanges.request_sent(flow, sequence, Duration::ZERO);
    }
    assert_eq!(exchanges.reply_received(0, 1, NOW, NOW, NOW), None);
}

#[test]
fn rejection_ends_only_the_exchange_of_its_request() {
    let mut exchanges = Exchanges::new(Mode::Exchange, 1, WAIT);
    exchanges.request_sent(0, 1, NOW);
    exchanges.request_rejected(0, 2);
    assert_eq!(exchanges.waiting_request(0), Some(1));
    exchanges.request_rejected(0, 1);
    assert_eq!(
        (exchanges.waiting_request(0), exchanges.next_flow()),
        (None, Some(0))
    );
    exchanges.request_sent(0, 2, NOW);
    let due = exchanges.next_record(WAIT / 2).unwrap();
    assert_eq!((due.sequence, due.attempt), (2, 0));
    exchanges.request_rejected(0, 1);
    assert_eq!(
        (exchanges.waiting_request(0), exchanges.next_flow()),
        (None, None)
    );
    exchanges.request_rejected(0, 2);
    assert_eq!(exchanges.next_flow(), Some(0));
}

#[test]
fn echo_of_a_record_after_a_reply_in_time_is_counted_once() {
    let mut exchanges = Exchanges::new(Mode::Exchange, 1, WAIT);
    exchanges.request_sent(0, 1, NOW);
    assert!(exchanges.reply_received(0, 1, NOW, NOW, NOW).is_some());
    let due = exchanges.record_echoed(0, 1, 0).unwrap();
    assert_eq!((due.attempt, exchanges.echoed_after_reply()), (1, 1));
    assert_eq!(exchanges.record_echoed(0, 1, 0), None);
    assert_eq!(exchanges.echoed_after_reply(), 1);
}

#[test]
fn record_is_late_half_a_second_after_the_reply() {
    for (late, next_flow) in [(499, Some(0)), (500, None)] {
        let mut exchanges = Exchanges::new(Mode::Exchange, 1, WAIT);
        exchanges.request_sent(0, 1, NOW);
        let now = Duration::from_millis(late);
        assert!(exchanges.reply_received(0, 1, NOW, NOW, now).is_some());
        assert_eq!(exchanges.next_flow(), next_flow);
    }
}
