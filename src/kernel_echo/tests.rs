//! The program, held against the core: `BPF_PROG_TEST_RUN` runs it on any frame.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::reflect::stamp::{Reception, StampSettings};
use crate::reflect::{
    Action, Admission, Datagram, Destination, ExitOn, Mode, Reflector, ReflectorSettings,
};

const PASS: u32 = 2;
const TX: u32 = 3;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const MAX_DATAGRAM: u32 = 1000;
const LISTEN: [&str; 3] = ["192.0.2.1:9999", "[2001:db8::1]:9999", "192.0.2.1:7777"];

/// A frame before it is damaged.
#[derive(Debug, Clone)]
struct Parts {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
    checksum: Checksum,
    /// IPv4 options, or an IPv6 extension header.
    has_options: bool,
    fragment: u16,
    vlan: bool,
    /// Bytes after the datagram.
    padding: usize,
    to_mac: [u8; 6],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Checksum {
    Right,
    Wrong,
    Zero,
    /// The sum of the pseudo header only, as a sender leaves it for the hardware.
    Unfinished,
}

/// A datagram that the network stack would deliver to a socket.
#[derive(Debug, PartialEq)]
struct Delivered {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
    from_mac: [u8; 6],
    to_mac: [u8; 6],
}

/// The Internet checksum of RFC 1071 before it is inverted, by its definition.
fn folded(words: impl IntoIterator<Item = u16>) -> u16 {
    words.into_iter().fold(0, |sum: u16, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u16> {
    let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
    bytes.chunks(2).map(word)
}

fn pseudo(from: IpAddr, to: IpAddr, length: u16) -> Vec<u16> {
    let octets = |ip| match ip {
        IpAddr::V4(ip) => Ipv4Addr::octets(&ip).to_vec(),
        IpAddr::V6(ip) => Ipv6Addr::octets(&ip).to_vec(),
    };
    let addresses = [octets(from), octets(to)].concat();
    words(&addresses).chain([17, length]).collect()
}

impl Parts {
    fn frame(&self) -> Vec<u8> {
        let length = u16::try_from(self.payload.len() + 8).unwrap();
        let pseudo = pseudo(self.from.ip(), self.to.ip(), length);
        let mut udp = Vec::new();
        for field in [self.from.port(), self.to.port(), length, 0] {
            udp.extend(field.to_be_bytes());
        }
        udp.extend(&self.payload);
        let right = match !folded(pseudo.iter().copied().chain(words(&udp))) {
            0 => 0xffff,
            sum => sum,
        };
        let checksum = match self.checksum {
            Checksum::Right => right,
            Checksum::Wrong => right ^ 0x100,
            Checksum::Zero => 0,
            Checksum::Unfinished => folded(pseudo),
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = [&self.to_mac[..], &PEER_MAC].concat();
        if self.vlan {
            frame.extend([0x81, 0, 0, 5]);
        }
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let options: &[u8] = if self.has_options { &[1; 4] } else { &[] };
                let total = u16::try_from(20 + options.len() + udp.len()).unwrap();
                let [high, low] = total.to_be_bytes();
                let [flags, offset] = self.fragment.to_be_bytes();
                let version = 0x45 + u8::from(self.has_options);
                let mut ip = vec![version, 0xb8, high, low, 1, 2, flags, offset, 33, 17, 0, 0];
                ip.extend(from.octets());
                ip.extend(to.octets());
                ip.extend(options);
                let sum = !folded(words(&ip));
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend([8, 0]);
                frame.extend(ip);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let extension: &[u8] = match (self.has_options, self.fragment) {
                    (true, _) => &[17, 0, 1, 4, 0, 0, 0, 0],
                    (false, 0x4000) => &[],
                    (false, _) => &[17, 0, 0, 1, 0, 0, 0, 7],
                };
                let next = match extension {
                    [] => 17,
                    _ if self.has_options => 60,
                    _ => 44,
                };
                let total = u16::try_from(extension.len() + udp.len()).unwrap();
                let [high, low] = total.to_be_bytes();
                frame.extend([0x86, 0xdd, 0x6b, 0x81, 2, 3, high, low, next, 33]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                frame.extend(extension);
            }
            _ => unreachable!("one family"),
        }
        frame.extend(udp);
        frame.extend(vec![0; self.padding]);
        frame
    }
}

/// The datagram that the stack delivers of a frame without options, extension headers, fragments and VLAN, by
/// RFC 791, RFC 8200 and RFC 768. `None` also where the stack may deliver it, but not plainly.
fn delivered(frame: &[u8]) -> Option<Delivered> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (from, to, udp): (IpAddr, IpAddr, usize) = match word(12)? {
        0x0800 => {
            let header = frame.get(14..34)?;
            let plain = header[0] == 0x45 && word(20)? & 0xbfff == 0 && header[9] == 17;
            if !plain || folded(words(header)) != 0xffff {
                return None;
            }
            let address = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).unwrap();
            if usize::from(word(16)?) != 20 + usize::from(word(38)?) {
                return None;
            }
            (address(12).into(), address(16).into(), 34)
        }
        0x86dd => {
            let header = frame.get(14..54)?;
            if header[0] >> 4 != 6 || header[6] != 17 || word(18)? != word(58)? {
                return None;
            }
            let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).unwrap();
            (address(8).into(), address(24).into(), 54)
        }
        _ => return None,
    };
    let length = word(udp + 4)?;
    let datagram = frame.get(udp..udp + usize::from(length))?;
    let payload = datagram.get(8..)?;
    let sum = folded(pseudo(from, to, length).into_iter().chain(words(datagram)));
    (sum == 0xffff && word(udp + 6)? != 0).then(|| Delivered {
        from: SocketAddr::new(from, word(udp).unwrap()),
        to: SocketAddr::new(to, word(udp + 2).unwrap()),
        payload: payload.to_vec(),
        from_mac: frame[6..12].try_into().unwrap(),
        to_mac: frame[..6].try_into().unwrap(),
    })
}

/// Whether the core echoes a delivered datagram whole.
#[expect(clippy::disallowed_methods, reason = "any time will do")]
fn is_echoed(delivered: &Delivered) -> bool {
    let now = Instant::now();
    let own = LISTEN.map(|own| own.parse().unwrap());
    let mut reflector = Reflector::new(
        ReflectorSettings {
            mode: Mode::Echo,
            timeout: None,
            max_datagram: usize::try_from(MAX_DATAGRAM).unwrap(),
            max_peers: NonZeroU32::MIN,
            exit_on: ExitOn::default(),
            admission: Admission::new(1024, own),
            limits: None,
            stamp: StampSettings::default(),
        },
        now,
    )
    .unwrap();
    // The kernel marks a source that is the destination (worker::answer).
    let destination = if delivered.from.ip() == delivered.to.ip() {
        Destination::Source
    } else {
        Destination::Here {
            address: Some(delivered.to.ip()),
            over_loopback: false,
        }
    };
    let mut memory = delivered.payload.clone();
    let length = memory.len();
    let verdict = reflector.handle(
        &mut Datagram {
            peer: delivered.from,
            destination,
            at: now,
            reception: Reception::default(),
            length,
            segment: length,
            memory: &mut memory,
        },
        now,
    );
    let whole = Action::Reply {
        length,
        truncated: false,
    };
    own.contains(&delivered.to) && verdict.action == whole && memory == delivered.payload
}

fn program() -> Option<Program> {
    let settings = Settings {
        listen: LISTEN.map(|own| own.parse().unwrap()).to_vec(),
        max_datagram: MAX_DATAGRAM,
        min_source_port: 1024,
    };
    match Program::load(&settings, MAC) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        program => {
            let program = program.unwrap();
            Some(program)
        }
    }
}

/// The sums of the counts of all addresses over all CPUs: echoed, bytes, passed.
fn counts(program: &Program) -> [u64; 3] {
    let mut sums = [0; 3];
    for key in 0..3 {
        for entry in program.addresses.read(key).unwrap() {
            for (sum, count) in sums
                .iter_mut()
                .zip([entry.datagrams, entry.bytes, entry.passed])
            {
                *sum += count;
            }
        }
    }
    sums
}

/// Runs the program on a frame. Asserts that it answers only as the core would. Returns whether it
/// answered.
fn check(program: &Program, frame: &[u8]) -> bool {
    program.heartbeat.write(0, sys::monotonic_time()).unwrap();
    check_as_it_is(program, frame)
}

/// [`check`] without a heartbeat.
fn check_as_it_is(program: &Program, frame: &[u8]) -> bool {
    let before = counts(program);
    let (result, left) = sys::run(&program.loaded, frame).unwrap();
    let after = counts(program);
    if result == PASS {
        assert_eq!(left, frame);
        assert_eq!(after[..2], before[..2]);
        return false;
    }
    assert_eq!(result, TX);
    let request = delivered(frame).expect("a datagram that the stack delivers");
    assert!(is_echoed(&request), "{request:?}");
    assert_eq!(request.to_mac, MAC);
    let reply = delivered(&left).expect("a reply that the peer accepts");
    assert_eq!(
        reply,
        Delivered {
            from: request.to,
            to: request.from,
            payload: request.payload,
            from_mac: request.to_mac,
            to_mac: request.from_mac,
        }
    );
    assert_eq!(left.len(), frame.len());
    let [ttl, class] = if request.from.is_ipv4() {
        [22, 15]
    } else {
        [21, 15]
    };
    assert_eq!(left[ttl], 64);
    assert_eq!(left[class], 0);
    let bytes = reply.payload.len() as u64;
    assert_eq!(after, [before[0] + 1, before[1] + bytes, before[2]]);
    true
}

fn parts() -> impl Strategy<Value = Parts> {
    let port =
        prop_oneof![4 => 1024..=u16::MAX, 1 => 0..1024_u16, 1 => Just(9999), 1 => Just(7777)];
    let v4 = prop_oneof![
        4 => Just("192.0.2.77"), 1 => Just("192.0.2.1"), 1 => Just("0.0.0.0"), 1 => Just("127.0.0.1"),
        1 => Just("224.0.0.1"), 1 => Just("255.255.255.255"), 1 => Just("10.0.0.1")
    ];
    let v6 = prop_oneof![
        4 => Just("2001:db8::77"), 1 => Just("2001:db8::1"), 1 => Just("::"), 1 => Just("::1"),
        1 => Just("ff02::1"), 1 => Just("::ffff:192.0.2.7"), 1 => Just("fe80::7")
    ];
    let to = prop_oneof![4 => Just(9999_u16), 1 => Just(7777), 1 => any::<u16>()];
    let checksum = prop_oneof![
        8 => Just(Checksum::Right), 1 => Just(Checksum::Wrong), 1 => Just(Checksum::Zero),
        1 => Just(Checksum::Unfinished)
    ];
    let length = prop_oneof![4 => 0..64_usize, 2 => 0..1100_usize, 1 => 995..1005_usize];
    let payload = length.prop_flat_map(|length| prop::collection::vec(any::<u8>(), length));
    let fragment = prop_oneof![10 => Just(0x4000), 2 => Just(0), 1 => Just(0x2000), 1 => Just(1), 1 => Just(0x8000)];
    let padding = prop_oneof![6 => Just(0), 2 => 0..30_usize];
    let mac = prop_oneof![12 => Just(MAC), 1 => Just([0xff; 6]), 1 => Just([2, 0, 0, 0, 0, 2])];
    let addresses = prop_oneof![
        (
            v4,
            prop_oneof![8 => Just("192.0.2.1"), 1 => Just("192.0.2.2"), 1 => Just("224.0.0.1")]
        ),
        (
            v6,
            prop_oneof![8 => Just("2001:db8::1"), 1 => Just("2001:db8::2"), 1 => Just("ff02::1")]
        ),
    ];
    let rare = || prop::bool::weighted(0.05);
    (
        (addresses, port, to),
        (payload, checksum, fragment, padding, mac),
        (rare(), rare()),
    )
        .prop_map(
            |(
                ((from, to), from_port, to_port),
                (payload, checksum, fragment, padding, to_mac),
                (has_options, vlan),
            )| Parts {
                from: SocketAddr::new(from.parse().unwrap(), from_port),
                to: SocketAddr::new(to.parse().unwrap(), to_port),
                payload,
                checksum,
                has_options,
                fragment,
                vlan,
                padding,
                to_mac,
            },
        )
}

#[test]
fn program_answers_only_what_the_core_echoes() {
    let Some(program) = program() else {
        crate::skip!("loading a program needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN");
    };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(20_000)
    });
    let answered = std::cell::Cell::new(0);
    let damage = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    let cut = prop::option::weighted(0.1, any::<prop::sample::Index>());
    runner
        .run(&(parts(), damage, cut), |(parts, damage, cut)| {
            let mut frame = parts.frame();
            if let Some((at, bits)) = &damage {
                let at = at.index(frame.len());
                frame[at] ^= *bits;
            }
            if let Some(length) = &cut {
                frame.truncate(14 + length.index(frame.len() - 14));
            }
            answered.set(answered.get() + u32::from(check(&program, &frame)));
            Ok(())
        })
        .unwrap();
    assert!(answered.get() > 300);
}

#[test]
fn program_answers_every_plain_datagram() {
    let Some(program) = program() else {
        crate::skip!("loading a program needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN");
    };
    for (from, to) in [
        ("192.0.2.77:1024", LISTEN[0]),
        ("[2001:db8::77]:65535", LISTEN[1]),
        ("10.1.2.3:5000", LISTEN[2]),
        ("[fe80::5]:5000", LISTEN[1]),
    ] {
        for length in 0..=MAX_DATAGRAM + 2 {
            let mut parts = Parts {
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
                payload: (0..length)
                    .map(|n| (n * 7 + length).to_le_bytes()[0])
                    .collect(),
                checksum: Checksum::Right,
                has_options: false,
                fragment: 0x4000,
                vlan: false,
                padding: 0,
                to_mac: MAC,
            };
            let fits = length <= MAX_DATAGRAM;
            assert_eq!(check(&program, &parts.frame()), fits, "{parts:?}");
            // The hardware pads short frames.
            parts.padding = 60_usize.saturating_sub(parts.frame().len());
            assert_eq!(check(&program, &parts.frame()), fits, "{parts:?}");
        }
    }
}

#[test]
fn program_answers_only_while_the_heart_beats() {
    let Some(program) = program() else {
        crate::skip!("loading a program needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN");
    };
    let parts = Parts {
        from: "192.0.2.77:5000".parse().unwrap(),
        to: LISTEN[0].parse().unwrap(),
        payload: vec![1, 2, 3],
        checksum: Checksum::Right,
        has_options: false,
        fragment: 0,
        vlan: false,
        padding: 0,
        to_mac: MAC,
    };
    assert!(check(&program, &parts.frame()));
    let now = sys::monotonic_time();
    for (number, heartbeat) in (1..).zip([0, now - 1_600_000_000, now + 3_600_000_000_000]) {
        program.heartbeat.write(0, heartbeat).unwrap();
        assert!(!check_as_it_is(&program, &parts.frame()), "{heartbeat}");
        assert_eq!(counts(&program)[2], number);
    }
}
