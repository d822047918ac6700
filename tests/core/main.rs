//! The core in scenarios of the contract, and against a naive model of the contract.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails by a panic, and needs a first instant"
)]

use std::collections::HashMap;
use std::iter;
use std::mem;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use udp_echo::record::{Record, TooShort};
use udp_echo::reflect::stamp::{Reception, StampSettings};
use udp_echo::reflect::{
    Action, Admission, Datagram, Destination, End, ExitOn, Limits, Mode, Rate, Reflector,
    ReflectorSettings, Refusal, Timeout, Verdict,
};

use daemon::{Daemon, Expected};
use model::Model;

mod bounds;
mod daemon;
mod model;
mod stamp;

const A_MOMENT: Duration = Duration::from_nanos(1);
const ALMOST: Duration = Duration::from_nanos(4_999_999);
const TIMEOUT: Duration = Duration::from_millis(5);

const ALICE: &str = "192.0.2.1:5000";
const BOB: &str = "192.0.2.1:5001";
const CAROL: &str = "[2001:db8::2]:5000";
const DAVE: &str = "192.0.2.2:5000";
const ERIN: &str = "[2001:db8::2]:1024";
/// The source port is that of the listener.
const ECHO: &str = "192.0.2.1:9999";
const OWN: [&str; 2] = ["10.0.0.1:9999", "[2001:db8::1]:9999"];
const ADMITTED: [&str; 6] = [ALICE, BOB, CAROL, DAVE, ERIN, ECHO];
const HERE: Destination = Destination::Here {
    address: None,
    over_loopback: false,
};

/// Before the first datagram.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// 64 bytes that are NaN as a float, then varied bytes.
static BYTES: [u8; 2048] = {
    let mut bytes = [0xff_u8; 2048];
    let mut at = 64;
    while at < bytes.len() {
        bytes[at] = bytes[at - 1].wrapping_mul(5).wrapping_add(1);
        at += 1;
    }
    bytes
};
const HELLO: &[u8] = b"hello";
const RECORD: &[u8] = b"\0\0\0\x07ab\0\0\0\0\0\0\0\x08\xff\xfe\x7f\xff\x3f\xc0\0\0";

#[test]
fn echo_datagram_is_echoed_and_the_next_one_is_a_record() {
    for mode in [Mode::Exchange, Mode::Lockstep] {
        let mut daemon = Daemon::new(&defaults(mode));
        assert_eq!(daemon.receives(ALICE, HELLO), echo(5));
        assert_eq!(daemon.receives(ALICE, RECORD), record(RECORD));
        assert_eq!(daemon.receives(ALICE, RECORD), echo(22));
        assert_eq!(daemon.receives(ALICE, HELLO), record(HELLO));
        assert_eq!(daemon.receives(ALICE, HELLO), echo(5));
        assert_eq!(daemon.receives(ALICE, b""), Action::Empty);
        assert_eq!(daemon.receives(ALICE, b""), Action::Empty);
        assert_eq!(daemon.receives(ALICE, HELLO), echo(5));
    }
}

#[test]
fn echo_mode_echoes_every_datagram() {
    let mut daemon = Daemon::new(&defaults(Mode::Echo));
    assert_eq!(daemon.receives(ALICE, HELLO), echo(5));
    assert_eq!(daemon.receives(ALICE, RECORD), echo(22));
    assert_eq!(daemon.receives(ALICE, b""), echo(0));
}

#[test]
fn peers_share_one_exchange_only_in_lockstep() {
    let mut daemon = Daemon::new(&defaults(Mode::Exchange));
    assert_eq!(daemon.receives(ALICE, RECORD), echo(22));
    assert_eq!(daemon.receives(BOB, RECORD), echo(22));
    let mut daemon = Daemon::new(&defaults(Mode::Lockstep));
    assert_eq!(daemon.receives(ALICE, RECORD), echo(22));
    assert_eq!(daemon.receives(BOB, RECORD), record(RECORD));
}

#[test]
fn record_expires_at_the_timeout_and_not_before() {
    for (wait, action) in [(ALMOST, record(RECORD)), (TIMEOUT, echo(22))] {
        let mut daemon = Daemon::new(&defaults(Mode::Exchange));
        daemon.receives(ALICE, HELLO);
        daemon.now += wait;
        assert_eq!(daemon.receives(ALICE, RECORD), action);
    }
}

#[test]
fn lockstep_record_is_in_time_until_the_socket_is_empty() {
    let mut daemon = Daemon::new(&defaults(Mode::Lockstep));
    daemon.receives(ALICE, HELLO);
    daemon.now += 2 * TIMEOUT;
    assert_eq!(daemon.receives(ALICE, RECORD), record(RECORD));
    daemon.receives(ALICE, HELLO);
    daemon.now += TIMEOUT;
    daemon.core.expire(daemon.now, None);
    assert_eq!(daemon.receives(ALICE, RECORD), echo(22));
}

#[test]
fn failed_reply_leaves_no_record_owed() {
    for mode in [Mode::Exchange, Mode::Lockstep] {
        let mut daemon = Daemon::new(&defaults(mode));
        daemon.decides(&given(ALICE, HELLO), true);
        daemon.sends();
        assert_eq!(daemon.receives(ALICE, RECORD), echo(22));
    }
}

#[test]
fn longest_owing_peer_is_evicted_from_a_full_table() {
    let mut settings = defaults(Mode::Exchange);
    settings.max_peers = NonZeroU32::MIN;
    let mut daemon = Daemon::new(&settings);
    daemon.receives(ALICE, HELLO);
    daemon.receives(BOB, HELLO);
    assert_eq!(daemon.receives(BOB, RECORD), record(RECORD));
    assert_eq!(daemon.receives(ALICE, RECORD), echo(22));
    assert_eq!(daemon.core.totals().evicted, 1);
}

#[test]
fn lockstep_with_every_exit_ends_like_the_reference_server() {
    let mut settings = defaults(Mode::Lockstep);
    settings.exit_on = ExitOn {
        timeout: true,
        empty: true,
        decode_error: true,
    };
    let mut daemon = Daemon::new(&settings);
    for (received, end) in [
        (b"" as &[u8], Some(End::Empty)),
        (HELLO, None),
        (HELLO, Some(End::DecodeError)),
        (HELLO, None),
        (b"", None),
        (HELLO, None),
        (RECORD, None),
    ] {
        assert_eq!(daemon.decides(&given(ALICE, received), false).end, end);
        daemon.sends();
    }
    assert_eq!(daemon.core.expire(daemon.now + ALMOST, None), None);
    assert_eq!(
        daemon.core.expire(daemon.now + TIMEOUT, None),
        Some(End::Timeout)
    );
}

#[test]
fn timeout_counts_as_idle_without_the_last_datagrams_record() {
    let mut daemon = Daemon::new(&defaults(Mode::Exchange));
    for peer in [ALICE, BOB] {
        daemon.now += A_MOMENT;
        daemon.receives(peer, HELLO);
    }
    for (expired, idle) in [(2, 0), (2, 1)] {
        daemon.now += TIMEOUT;
        daemon.core.expire(daemon.now, None);
        let totals = daemon.core.totals();
        assert_eq!(
            (totals.records_expired, totals.idle_timeouts),
            (expired, idle)
        );
    }
}

#[test]
fn datagrams_of_different_peers_need_no_send_in_between() {
    for mode in [Mode::Exchange, Mode::Echo] {
        let Daemon { mut core, now, .. } = Daemon::new(&defaults(mode));
        for peer in [ALICE, BOB, CAROL, DAVE, ERIN] {
            assert_eq!(
                given(peer, RECORD).handled(&mut core, 22, now).action,
                echo(22)
            );
        }
    }
}

#[test]
fn peer_must_wait_while_its_reply_is_pending() {
    let Daemon { mut core, now, .. } = Daemon::new(&defaults(Mode::Exchange));
    given(ALICE, HELLO).handled(&mut core, 5, now);
    given(BOB, HELLO).handled(&mut core, 5, now + A_MOMENT);
    let verdict = given(ALICE, RECORD).handled(&mut core, 22, now + A_MOMENT);
    assert_eq!(verdict.action, Action::SendFirst);
}

#[test]
fn exchange_handles_a_gro_batch_datagram_by_datagram() {
    let Daemon { mut core, now, .. } = Daemon::new(&defaults(Mode::Exchange));
    let mut batch = given(ALICE, &BYTES[..66]);
    let first = batch.handled(&mut core, 22, now);
    assert_eq!((first.action, first.datagrams), (echo(22), 1));
    batch.bytes = &BYTES[22..66];
    let second = batch.handled(&mut core, 22, now);
    assert_eq!((second.action, second.datagrams), (Action::SendFirst, 0));
    core.batch_sent();
    let second = batch.handled(&mut core, 22, now);
    assert_eq!(second.datagrams, 1);
    assert!(matches!(second.action, Action::Decode(Ok(_))));
}

#[test]
fn echo_mode_echoes_a_gro_batch_as_one_unless_truncated() {
    for (segment, datagrams, length) in [(22, 3, 66), (1024, 2, 2048), (1025, 1, 1024)] {
        let Daemon { mut core, now, .. } = Daemon::new(&defaults(Mode::Echo));
        let bytes = &BYTES[..BYTES.len().min(3 * segment)];
        let verdict = given(ALICE, bytes).handled(&mut core, segment, now);
        let truncated = segment > 1024;
        let action = Action::Reply { length, truncated };
        assert_eq!((verdict.action, verdict.datagrams), (action, datagrams));
    }
}

#[test]
fn gro_batch_is_refused_as_one() {
    for mode in Mode::ALL {
        let Daemon { mut core, now, .. } = Daemon::new(&defaults(mode));
        let verdict = given(OWN[0], &BYTES[..66]).handled(&mut core, 22, now);
        let refused = Action::Refuse(Refusal::OwnAddress);
        assert_eq!((verdict.action, verdict.datagrams), (refused, 3));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn verdicts_and_totals_match_the_model(
        mut settings in settings(),
        rates in rates(),
        steps in vec(step(), 1..60),
    ) {
        let [each, total] = rates.map(|rate| rate.and_then(Rate::new));
        let sources = [ALICE, CAROL, DAVE].map(|peer| address(peer).ip());
        let mut any = iter::repeat_with(|| Limits::new(*START, 0, each, total));
        let limits = any.find(|limits| limits.have_own_buckets(&sources)).unwrap();
        settings.limits = (rates != [None, None]).then(|| Arc::new(limits));
        let mut daemon = Daemon::new(&settings);
        let mut model = Model::new(&settings, rates, daemon.now);
        for step in steps {
            let mut expected = |sent: &Sent, now| model.decides(sent, now);
            if !matches!(step, Step::Receive(_)) {
                daemon.sends();
            }
            match step {
                Step::Receive(sent) => daemon.handles(&sent, &mut expected),
                Step::Send => {}
                Step::Wait(wait) => daemon.now += wait,
                Step::WaitUntilDueBut(but) => {
                    let due = model.next_time().and_then(|due| due.checked_sub(but));
                    daemon.now = daemon.now.max(due.unwrap_or(daemon.now));
                }
                Step::Expire => {
                    prop_assert_eq!(daemon.core.expire(daemon.now, None), model.time(daemon.now));
                    prop_assert!(model.next_time().is_none_or(|next| next > daemon.now));
                }
                Step::ExpireWithOtherSocket(ago) => {
                    let at = daemon.now.checked_sub(ago).unwrap();
                    model.idle_since = model.idle_since.max(at);
                    let end = daemon.core.expire(daemon.now, Some(at));
                    prop_assert_eq!(end, model.time(daemon.now));
                }
            }
            if daemon.all_is_sent() {
                let totals = daemon.core.totals();
                prop_assert_eq!(totals.evicted, model.evicted);
                prop_assert_eq!(totals.records_expired, model.records_expired);
                prop_assert_eq!(totals.idle_timeouts, model.idle_timeouts);
                prop_assert_eq!(daemon.core.next_expiry(), model.next_time());
                prop_assert_eq!(totals.idle_since, model.idle_since);
                prop_assert_eq!(totals.peers, model.owing.len() as u64);
                prop_assert_eq!(daemon.received, daemon.accounted_for);
            }
        }
    }

    #[test]
    fn exchange_treats_each_peer_like_lockstep_with_one_peer(
        settings in settings(),
        steps in vec((wait(), sent()), 1..60),
    ) {
        let max_peers = NonZeroU32::new(100).unwrap();
        let in_mode = |mode| ReflectorSettings { mode, max_peers, ..settings.clone() };
        let mut shared = Daemon::new(&in_mode(Mode::Exchange));
        let mut alone: HashMap<_, _> = ADMITTED
            .map(|peer| (address(peer), Daemon::new(&in_mode(Mode::Lockstep))))
            .into();
        for (wait, sent) in steps {
            if !wait.is_zero() {
                shared.sends();
                shared.now += wait;
            }
            for daemon in alone.values_mut() {
                daemon.now += wait;
                daemon.core.expire(daemon.now, None);
            }
            shared.handles(&sent, &mut |sent, _| decides_alone(&mut alone, sent));
        }
        shared.sends();
        shared.core.expire(shared.now, None);
        let sum = |of: fn(&Daemon) -> u64| alone.values().map(of).sum::<u64>();
        prop_assert_eq!(shared.core.totals().peers, sum(|own| own.core.totals().peers));
        let expired = |daemon: &Daemon| daemon.core.totals().records_expired;
        prop_assert_eq!(expired(&shared), sum(expired));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Receive(Sent),
    Send,
    Wait(Duration),
    WaitUntilDueBut(Duration),
    Expire,
    ExpireWithOtherSocket(Duration),
}

/// One datagram or a GRO batch.
#[derive(Debug, Clone, Copy)]
struct Sent {
    /// All bytes of a batch.
    datagram: Given<'static>,
    segment: usize,
    /// The reason to refuse it in every mode.
    refused: Option<Refusal>,
    /// Whether its reply fails; in a batch, every other one.
    reply_fails: bool,
}

impl Sent {
    /// The single datagrams of a batch.
    fn each(&self) -> Vec<Self> {
        let Given { length, bytes, .. } = self.datagram;
        if self.segment >= length {
            return vec![*self];
        }
        let mut each = Vec::new();
        for bytes in bytes.chunks(self.segment) {
            let mut alone = *self;
            alone.datagram.bytes = bytes;
            alone.datagram.length = bytes.len();
            alone.reply_fails &= each.len() % 2 == 0;
            each.push(alone);
        }
        each
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => sent().prop_map(Step::Receive),
        1 => Just(Step::Send),
        2 => wait().prop_map(Step::Wait),
        2 => select(vec![Duration::ZERO, A_MOMENT]).prop_map(Step::WaitUntilDueBut),
        3 => Just(Step::Expire),
        1 => wait().prop_map(Step::ExpireWithOtherSocket),
    ]
}

fn wait() -> impl Strategy<Value = Duration> {
    let exact = [Duration::ZERO, A_MOMENT, ALMOST, TIMEOUT, 2 * TIMEOUT];
    prop_oneof![
        select(exact.to_vec()),
        (0..7_u64).prop_map(Duration::from_millis)
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let admitted = |peers: &'static [_]| (select(peers), Just(HERE), Just(None));
    let refused = select(vec![
        (
            ALICE,
            Destination::BroadcastOrMulticast,
            Some(Refusal::Destination),
        ),
        ("192.0.2.1:0", HERE, Some(Refusal::SourcePort)),
        ("[2001:db8::2]:1023", HERE, Some(Refusal::SourcePort)),
        (OWN[0], HERE, Some(Refusal::OwnAddress)),
        (OWN[1], HERE, Some(Refusal::OwnAddress)),
        ("[::]:5000", HERE, Some(Refusal::OwnAddress)),
        (
            "0.0.0.0:5000",
            Destination::BroadcastOrMulticast,
            Some(Refusal::OwnAddress),
        ),
        (CAROL, Destination::Source, Some(Refusal::OwnAddress)),
    ]);
    let from = prop_oneof![4 => admitted(&ADMITTED[..3]), 3 => admitted(&ADMITTED), 1 => refused];
    let edges = [0, 1, 21, 22, 23, 99, 100, 101, 1023, 1024, 1025, 65507];
    let length = prop_oneof![3 => select(edges.to_vec()), 1 => 0..2000_usize];
    let bytes = (0..512_usize).prop_map(|at| &BYTES[at..][..1024]);
    let one =
        (length, bytes).prop_map(|(length, bytes)| (&bytes[..length.min(1024)], length, length));
    let segments = select(vec![1, 21, 22, 23, 99, 100, 101, 400]);
    let batch = (segments, 2..9_usize, 0..400_usize).prop_map(|(segment, count, short)| {
        let length = (segment * count).min(BYTES.len()) - short % segment;
        (&BYTES[..length], length, segment)
    });
    let what = prop_oneof![2 => one, 1 => batch];
    let fails = prop::bool::weighted(0.25);
    (from, what, fails).prop_map(|(from, what, reply_fails)| {
        let (peer, destination, refused) = from;
        let (bytes, length, segment) = what;
        let mut datagram = given(peer, bytes);
        datagram.destination = destination;
        datagram.length = length;
        Sent {
            datagram,
            segment,
            refused,
            reply_fails,
        }
    })
}

/// The verdict of the peer's own daemon; for a peer without one, the refusal.
fn decides_alone(alone: &mut HashMap<SocketAddr, Daemon>, sent: &Sent) -> Expected {
    match alone.get_mut(&sent.datagram.peer) {
        Some(own) => {
            let Verdict { action, end, .. } = own.decides(&sent.datagram, sent.reply_fails);
            own.sends();
            (action, end)
        }
        None => (sent.refused.map(Action::Refuse).unwrap(), None),
    }
}

fn settings() -> impl Strategy<Value = ReflectorSettings> {
    let modes = vec![Mode::Exchange, Mode::Exchange, Mode::Lockstep, Mode::Echo];
    let timeout = select(vec![
        Duration::ZERO,
        A_MOMENT,
        TIMEOUT,
        TIMEOUT,
        Duration::MAX,
    ]);
    let max_datagram = select(vec![1, 22, 100, 1024]);
    let max_peers = prop_oneof![1..5_u32, 64..70_u32];
    let limits = (timeout, max_datagram, max_peers);
    (select(modes), limits, any::<[bool; 3]>()).prop_map(|(mode, limits, exits)| {
        let (timeout, max_datagram, max_peers) = limits;
        let mut settings = defaults(mode);
        settings.timeout = Timeout::new(timeout);
        settings.max_datagram = max_datagram;
        settings.max_peers = NonZeroU32::new(max_peers).unwrap();
        settings.exit_on.timeout = exits[0];
        settings.exit_on.empty = exits[1];
        settings.exit_on.decode_error = exits[2];
        settings
    })
}

/// Datagrams per second, from each source and in total.
fn rates() -> impl Strategy<Value = [Option<NonZeroU32>; 2]> {
    let some = (1..20_u32).prop_map(NonZeroU32::new);
    let rate = || prop_oneof![2 => Just(None), 1 => some.clone()];
    [rate(), rate()]
}

fn defaults(mode: Mode) -> ReflectorSettings {
    ReflectorSettings {
        mode,
        timeout: Timeout::new(TIMEOUT),
        max_datagram: 1024,
        max_peers: NonZeroU32::new(100).unwrap(),
        exit_on: ExitOn::default(),
        admission: Admission::new(1024, OWN.map(address)),
        limits: None,
        stamp: StampSettings::default(),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A received datagram or GRO batch.
#[derive(Debug, Clone, Copy)]
struct Given<'a> {
    peer: SocketAddr,
    destination: Destination,
    /// The length on the wire, if more than `bytes` were sent.
    length: usize,
    bytes: &'a [u8],
}

impl Given<'_> {
    /// The core's verdict on its first datagrams.
    fn handled(&self, core: &mut Reflector, segment: usize, now: Instant) -> Verdict {
        let length = self.length.max(self.bytes.len());
        let mut memory = self.bytes.to_vec();
        let mut datagram = Datagram {
            peer: self.peer,
            destination: self.destination,
            at: now,
            reception: Reception::default(),
            length,
            segment: segment.min(length),
            memory: &mut memory,
        };
        let verdict = core.handle(&mut datagram, now);
        assert_eq!(memory, self.bytes, "the core changed the bytes");
        verdict
    }
}

fn given<'a>(peer: &str, bytes: &'a [u8]) -> Given<'a> {
    Given {
        peer: address(peer),
        destination: HERE,
        length: 0,
        bytes,
    }
}

fn echo(length: usize) -> Action {
    let truncated = false;
    Action::Reply { length, truncated }
}

fn record(bytes: &[u8]) -> Action {
    let got = bytes.len();
    if got < 22 {
        return Action::Decode(Err(TooShort { got }));
    }
    Action::Decode(Ok(Record {
        id: u32::from_be_bytes(bytes[..4].try_into().unwrap()),
        tag: [bytes[4], bytes[5]],
        stamp: u64::from_be_bytes(bytes[6..14].try_into().unwrap()),
        pair: [[bytes[14], bytes[15]], [bytes[16], bytes[17]]].map(i16::from_be_bytes),
        value: f32::from_be_bytes(bytes[18..22].try_into().unwrap()),
    }))
}

/// Separates the float of a record, to compare it by its bits: a NaN does not equal itself.
fn bits(mut verdict: Verdict) -> (Verdict, u32) {
    let value = match &mut verdict.action {
        Action::Decode(Ok(record)) => mem::take(&mut record.value),
        _ => 0.0,
    };
    (verdict, value.to_bits())
}
