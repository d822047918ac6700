//! The client's core against the reflector's, and loss by direction against a model. Over 400 lines:
//! all tests share the two sides.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::reflect::stamp::{Reception, StampKeys, StampSequence, StampSettings};
use crate::reflect::{
    Action, Admission, Datagram, Destination, ExitOn, Mode, Reflector, ReflectorSettings,
};

const MILLISECOND: Duration = Duration::from_millis(1);
/// T1 of the first request, since 1970.
const TODAY: Duration = Duration::from_hours(500_000);
const KEYS: &str = "* 00112233445566778899aabbccddeeff";

/// The reflector's core.
struct Peer(Reflector, Instant);

impl Peer {
    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn new(stamp: StampSettings) -> Self {
        let now = Instant::now();
        let settings = ReflectorSettings {
            mode: Mode::Stamp,
            timeout: None,
            max_datagram: 65507,
            max_peers: NonZeroU32::new(16).unwrap(),
            exit_on: ExitOn::default(),
            admission: Admission::new(0, []),
            limits: None,
            stamp,
        };
        Self(Reflector::new(settings, now).unwrap(), now)
    }

    /// The reply to a request of a flow, received at T2 and sent at T3, since 1970.
    fn reply(&mut self, flow: u16, request: &[u8], t2: Duration, t3: Duration) -> Vec<u8> {
        let mut memory = request.to_vec();
        memory.resize(request.len().max(112), 0);
        let mut datagram = Datagram {
            peer: SocketAddr::from(([192, 0, 2, 1], 5000 + flow)),
            destination: Destination::Here {
                address: None,
                over_loopback: false,
            },
            at: self.1,
            reception: Reception {
                at: NtpTimestamp::from_unix(t2),
                ttl: Some(61),
                traffic_class: Some(46 << 2),
            },
            length: request.len(),
            segment: request.len(),
            memory: &mut memory,
        };
        let Action::StampReply(reply) = self.0.handle(&mut datagram, self.1).action else {
            panic!("refused");
        };
        let t3 = NtpTimestamp::from_unix(t3);
        self.0.complete(&reply, &mut memory, t3);
        memory.truncate(reply.length);
        memory
    }
}

fn open(size: usize) -> StampRequests {
    StampRequests {
        size,
        ssid: 0x1234,
        is_authenticated: false,
        key: None,
        class_of_service: None,
        padding: Padding::Zero,
    }
}

fn authenticated(size: usize) -> StampRequests {
    StampRequests {
        is_authenticated: true,
        key: keys().get(0x1234).cloned(),
        ..open(size)
    }
}

fn keys() -> StampKeys {
    StampKeys::parse(KEYS.as_bytes()).unwrap()
}

/// A client and the time of its requests since the start of the run.
struct Client(Stamp, Vec<Duration>);

impl Client {
    fn new(settings: StampRequests) -> Self {
        Self(Stamp::new(settings, 2, 64, 7), Vec::new())
    }

    fn request(&mut self, flow: usize, at: Duration) -> Vec<u8> {
        let mut bytes = vec![0; self.0.settings().size];
        self.1.push(at);
        let (sequence, error) = (self.1.len() as u64, ErrorEstimate::UNKNOWN);
        self.0
            .write(flow, sequence, at, TODAY + at, error, &mut bytes);
        bytes
    }

    fn receive(&mut self, flow: usize, reply: &[u8], at: Duration) -> Answer {
        let reception = StampReception {
            at,
            time_of_day: Some(TODAY + at),
            ttl: Some(250),
            traffic_class: Some(10 << 2),
        };
        let times = &self.1;
        let sent_at = |sequence: u64| times.get(usize::try_from(sequence).ok()? - 1).copied();
        self.0.receive(flow, reply, reply.len(), reception, sent_at)
    }

    fn faults(&self) -> StampFaults {
        self.0.figures().faults
    }
}

/// Sends one request, and receives its reply after `change`. T2 is 3 ms after T1, T3 2 ms later, T4
/// 5 ms later.
fn exchanged(settings: StampRequests, change: impl Fn(&mut Vec<u8>)) -> (Client, Answer) {
    let stamp = StampSettings {
        keys: settings.is_authenticated.then(|| Arc::new(keys())),
        ..StampSettings::default()
    };
    let (mut peer, mut client) = (Peer::new(stamp), Client::new(settings));
    let request = client.request(0, MILLISECOND);
    let mut reply = peer.reply(
        0,
        &request,
        TODAY + MILLISECOND * 4,
        TODAY + MILLISECOND * 6,
    );
    change(&mut reply);
    let answer = client.receive(0, &reply, MILLISECOND * 11);
    (client, answer)
}

fn whole() -> Answer {
    Answer::Reply(Matched {
        sequence: 1,
        in_reflector: MILLISECOND * 2,
        is_cut: false,
        is_altered: false,
    })
}

#[test]
fn delays_and_path_are_those_of_the_four_timestamps() {
    for settings in [
        open(14),
        open(44),
        open(48),
        open(1472),
        authenticated(112),
        authenticated(300),
    ] {
        let size = settings.size;
        for padding in [Padding::Zero, Padding::Random, Padding::Plain] {
            let (client, answer) = exchanged(
                StampRequests {
                    padding,
                    ..settings.clone()
                },
                |_| {},
            );
            assert_eq!(answer, whole(), "{size} {padding:?}");
            let figures = client.0.figures();
            let only = |delays: &Delays| delays.summary().unwrap().max;
            let millisecond = |count: i64| count * 1_000_000;
            assert!((only(&figures.forward) - millisecond(3)).abs() <= 1);
            assert!((only(&figures.backward) - millisecond(5)).abs() <= 1);
            assert!((only(&figures.reflector) - millisecond(2)).abs() <= 1);
            assert!((only(&figures.offset) + millisecond(1)).abs() <= 2);
            assert_eq!(
                (figures.forward_ttl, figures.backward_ttl),
                (Some(61), Some(250))
            );
            assert_eq!(figures.dscp_returned, Some(10));
            assert_eq!(figures.ssid, (size >= 44).then_some(0x1234));
            assert_eq!(
                client.faults(),
                StampFaults::default(),
                "{size} {padding:?}"
            );
        }
    }
}

#[test]
fn class_of_service_shows_the_dscp_of_both_ways() {
    for (cos, size, refused) in [(46, 52, 0), (0, 52, 1), (46, 56, 0), (10, 1472, 1)] {
        let settings = StampRequests {
            class_of_service: Some(cos),
            ..open(size)
        };
        assert_eq!(settings.check_size(), Ok(()));
        let (client, answer) = exchanged(settings, |_| {});
        assert_eq!(answer, whole());
        assert_eq!(client.0.figures().dscp_received_there, Some(46));
        assert_eq!(client.faults().refused_dscp, refused);
    }
    let signed = StampRequests {
        class_of_service: Some(46),
        ..authenticated(112 + 8 + 20)
    };
    assert_eq!((signed.least(), signed.check_size()), (140, Ok(())));
    let (client, answer) = exchanged(signed, |_| {});
    assert_eq!((answer, client.faults()), (whole(), StampFaults::default()));
    assert_eq!(client.0.figures().dscp_received_there, Some(46));
}

#[test]
fn sizes_without_space_for_a_header_are_refused() {
    let possible = |settings: StampRequests| settings.check_size();
    for size in [14, 43, 44, 48, 65507] {
        assert_eq!(possible(open(size)), Ok(()), "{size}");
    }
    for size in [45, 46, 47] {
        assert_eq!(possible(open(size)), Err((44, 48)), "{size}");
        let plain = StampRequests {
            padding: Padding::Plain,
            ..open(size)
        };
        assert_eq!(possible(plain), Ok(()), "{size}");
    }
    assert_eq!(possible(authenticated(44)), Err((112, 112)));
    assert_eq!(possible(authenticated(112)), Ok(()));
    assert_eq!(possible(authenticated(133)), Err((132, 136)));
    assert_eq!(possible(authenticated(113)), Err((112, 136)));
    assert_eq!(possible(authenticated(136)), Ok(()));
}

#[test]
fn each_fault_of_a_reflector_is_counted() {
    type Case = (fn(&mut Vec<u8>), fn(&StampFaults) -> u64);
    let cases: [Case; 7] = [
        (|reply| reply[14] = 0, |faults| faults.ssid),
        (|reply| reply[30] ^= 1, |faults| faults.changed_t1),
        (
            |reply| reply.copy_within(16..24, 4),
            |faults| faults.equal_times,
        ),
        (|reply| reply[20] ^= 0x80, |faults| faults.impossible_times),
        (|reply| reply.truncate(60), |faults| faults.cut),
        (|reply| reply[44] |= 0x80, |faults| faults.unrecognized),
        (|reply| reply[44] |= 0x40, |faults| faults.malformed),
    ];
    for (number, (change, count)) in cases.into_iter().enumerate() {
        let (client, answer) = exchanged(open(100), change);
        assert!(matches!(answer, Answer::Reply(_)), "case {number}");
        let faults = client.faults();
        assert_eq!(count(&faults), 1, "case {number}: {faults:?}");
        assert_eq!(client.0.figures().forward.count(), 1);
    }
    // Changed padding is a corrupted reply.
    let (_, answer) = exchanged(open(100), |reply| reply[99] ^= 1);
    assert!(matches!(answer, Answer::Reply(matched) if matched.is_altered));
    // Not an answer at all.
    let (client, answer) = exchanged(authenticated(112), |reply| reply[100] ^= 1);
    assert_eq!((answer, client.faults().unverified), (Answer::Faulty, 1));
    let (client, answer) = exchanged(authenticated(300), |reply| reply[299] ^= 1);
    assert_eq!((answer, client.faults().unverified), (Answer::Faulty, 1));
    let (_, answer) = exchanged(open(44), |reply| reply.truncate(35));
    assert_eq!(answer, Answer::Foreign);
    // twampy's responder leaves out the TTL.
    let (client, answer) = exchanged(open(44), |reply| reply.truncate(38));
    assert!(matches!(answer, Answer::Reply(matched) if matched.is_cut));
    let figures = client.0.figures();
    assert_eq!((figures.forward_ttl, figures.faults.cut), (None, 1));
    // The shortest reply of TWAMP-Light (RFC 5357, section 4.2.1).
    let (client, answer) = exchanged(open(14), |reply| reply.truncate(41));
    assert_eq!((answer, client.faults()), (whole(), StampFaults::default()));
    let (_, answer) = exchanged(open(44), |reply| reply[27] = 9);
    assert_eq!(answer, Answer::Foreign);
    let mut client = Client::new(open(44));
    let request = client.request(0, MILLISECOND);
    let answer = client.receive(0, &request, MILLISECOND * 2);
    assert_eq!((answer, client.faults().echoed), (Answer::Faulty, 1));
}

#[test]
fn stepped_clock_is_noticed_and_a_slewed_one_is_not() {
    let stepped = |times: [(u64, u64); 3]| {
        let mut client = Client::new(open(44));
        for (sequence, (at, today)) in (1..).zip(times) {
            let [at, today] = [at, today].map(Duration::from_micros);
            let mut bytes = [0; 44];
            let error = ErrorEstimate::UNKNOWN;
            client
                .0
                .write(0, sequence, at, TODAY + today, error, &mut bytes);
        }
        client.0.figures().is_stepped
    };
    assert!(!stepped([
        (0, 0),
        (1_000_000, 1_000_500),
        (2_000_000, 2_001_000)
    ]));
    assert!(!stepped([(0, 0), (100, 1000), (200, 200)]));
    assert!(stepped([
        (0, 0),
        (1_000_000, 1_500_000),
        (2_000_000, 2_500_000)
    ]));
    assert!(stepped([
        (0, 500_000),
        (1_000_000, 1_000_000),
        (2_000_000, 2_000_000)
    ]));
}

proptest! {
    /// Whatever is lost, the directions add up, and are right up to the last reply.
    #[test]
    fn loss_by_direction_is_that_of_the_path(
        fates in vec((any::<bool>(), any::<bool>(), 0_usize..2), 1..64),
        is_stateful: bool,
    ) {
        let stamp = StampSettings {
            sequence: if is_stateful { StampSequence::Stateful } else { StampSequence::Stateless },
            ..StampSettings::default()
        };
        let (mut peer, mut client) = (Peer::new(stamp), Client::new(open(44)));
        let mut expected = [LostByDirection::default(); 2];
        // Lost since the last reply of the flow: on the way there, and back.
        let mut pending = [[0_u64; 2]; 2];
        let mut has_forward = [false; 2];
        for (lost_there, lost_back, flow) in fates {
            let request = client.request(flow, MILLISECOND);
            if lost_there {
                pending[flow][0] += 1;
                continue;
            }
            let port = u16::try_from(flow).unwrap();
            let reply = peer.reply(port, &request, TODAY + MILLISECOND, TODAY + MILLISECOND);
            if lost_back {
                pending[flow][1] += 1;
                continue;
            }
            client.receive(flow, &reply, MILLISECOND * 2);
            let [there, back] = std::mem::take(&mut pending[flow]);
            has_forward[flow] |= there > 0;
            expected[flow].forward += there;
            expected[flow].backward += back;
        }
        let mut sum = LostByDirection::default();
        for (flow, expected) in expected.iter().enumerate() {
            let trailing: u64 = pending[flow].iter().sum();
            if is_stateful && has_forward.contains(&true) {
                sum.forward += expected.forward;
                sum.backward += expected.backward;
                sum.unknown += trailing;
            } else {
                sum.unknown += expected.forward + expected.backward + trailing;
            }
        }
        prop_assert_eq!(client.0.lost(), sum);
        let differs = is_stateful && has_forward.contains(&true);
        prop_assert_eq!(client.0.is_stateful(), differs.then_some(true));
    }

    #[test]
    fn client_parser_accepts_any_datagram(bytes in vec(any::<u8>(), 0..200), size in 14_usize..200) {
        for settings in [open(size), authenticated(size.max(112))] {
            if settings.check_size().is_err() {
                continue;
            }
            let mut client = Client::new(settings);
            client.request(0, MILLISECOND);
            client.receive(0, &bytes, MILLISECOND * 2);
            client.0.quoted(0, &bytes);
        }
    }
}

#[test]
fn duplicates_on_either_way_are_no_loss() {
    let (mut peer, mut client) = (Peer::new(StampSettings::default()), Client::new(open(44)));
    let mut reply =
        |request: &[u8]| peer.reply(0, request, TODAY + MILLISECOND, TODAY + MILLISECOND);
    let lost = client.request(0, MILLISECOND);
    drop(lost);
    for _ in 0..3 {
        let request = client.request(0, MILLISECOND);
        // Duplicated on the way there, and the second reply on the way back.
        for (reply, times) in [(reply(&request), 1), (reply(&request), 2)] {
            for _ in 0..times {
                client.receive(0, &reply, MILLISECOND * 2);
            }
        }
    }
    let expected = LostByDirection {
        forward: 1,
        ..LostByDirection::default()
    };
    assert_eq!(client.0.lost(), expected);
}

#[test]
fn open_reply_to_an_authenticated_request_is_no_echo() {
    for size in [112, 200] {
        let mut peer = Peer::new(StampSettings::default());
        let mut client = Client::new(authenticated(size));
        let request = client.request(0, MILLISECOND);
        let reply = peer.reply(
            0,
            &request,
            TODAY + MILLISECOND * 2,
            TODAY + MILLISECOND * 2,
        );
        let answer = client.receive(0, &reply, MILLISECOND * 2);
        let faults = client.faults();
        assert_eq!((answer, faults.echoed), (Answer::Faulty, 0));
        assert_eq!(faults.unverified, 1);
    }
}

#[test]
fn worst_error_estimate_of_the_reflector_is_kept() {
    let (mut peer, mut client) = (Peer::new(StampSettings::default()), Client::new(open(44)));
    let good = ErrorEstimate::new(true, MILLISECOND);
    for error in [good, ErrorEstimate::UNKNOWN, good] {
        peer.0.set_clock_error(error);
        let request = client.request(0, MILLISECOND);
        let reply = peer.reply(0, &request, TODAY + MILLISECOND, TODAY + MILLISECOND);
        client.receive(0, &reply, MILLISECOND * 2);
    }
    let worst = client.0.figures().remote_clock;
    assert_eq!(worst, Some(ErrorEstimate::UNKNOWN));
}
