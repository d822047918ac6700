//! The program, held against the core: `BPF_PROG_TEST_RUN` runs it on any frame.

mod frames;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Instant;

use proptest::prelude::*;

use frames::{DAMAGED, Frame, ODDITIES, SHORTEST, folded, frames, pseudo, words};

use super::*;
use crate::reflect::stamp::{Reception, StampSettings};
use crate::reflect::{
    Action, Admission, Datagram, Destination, ExitOn, Mode, Reflector, ReflectorSettings,
};

const PASS: u32 = 2;
const TX: u32 = 3;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const MAX_DATAGRAM: u32 = 1000;
const LISTEN: [&str; 3] = ["192.0.2.1:9999", "[2001:db8::1]:9999", "192.0.2.1:7777"];

/// Why tests cannot run.
const UNLOADED: &str = "loading a program needs BPF, and CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN";

/// A datagram that the network stack would deliver to a socket.
#[derive(Debug, PartialEq)]
struct Delivered {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
    from_mac: [u8; 6],
    to_mac: [u8; 6],
}

/// Whether the stack drops datagrams with such a source (`ip_route_input_slow`, `ip6_rcv_core`).
fn is_martian(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(ip) => {
            let is_zero_network = ip.octets()[0] == 0;
            ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() || is_zero_network
        }
        IpAddr::V6(ip) => {
            let is_mapped = ip.to_ipv4_mapped().is_some();
            ip.is_loopback() || ip.is_multicast() || is_mapped
        }
    }
}

/// The datagram that the stack delivers of a frame without options, extension headers, fragments and
/// VLAN, by RFC 791, RFC 8200 and RFC 768. `None` also if the stack delivers something else.
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
    let is_checked = sum == 0xffff && word(udp + 6)? != 0;
    (is_checked && !is_martian(from)).then(|| Delivered {
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

/// A program; `None` if programs cannot be loaded.
fn program(min_source_port: u16) -> Option<Program> {
    let settings = Settings {
        listen: LISTEN.map(|own| own.parse().unwrap()).to_vec(),
        max_datagram: MAX_DATAGRAM,
        min_source_port,
    };
    match Program::load(&settings, MAC) {
        Err(error) if is_out_of_reach(&error) => None,
        program => Some(program.unwrap()),
    }
}

/// Whether the kernel has no BPF, or this process may not use it.
fn is_out_of_reach(error: &KernelError) -> bool {
    let kind = error.cause.kind();
    [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported].contains(&kind)
}

/// The counts of each address: echoed, bytes, passed.
fn counts(program: &Program) -> [[u64; 3]; LISTEN.len()] {
    let mut key = 0..;
    LISTEN.map(|_| {
        let values = program.addresses.read(key.next().unwrap()).unwrap();
        let counts = values
            .iter()
            .map(|one| [one.datagrams, one.bytes, one.passed]);
        counts.fold([0; 3], |sums, one| {
            std::array::from_fn(|index| sums[index] + one[index])
        })
    })
}

/// Runs the program on a frame. Asserts that it answers only as the core would, and counts. Returns
/// whether it answered.
fn check(program: &Program, frame: &[u8]) -> bool {
    program.heartbeat.write(0, host::monotonic_time()).unwrap();
    check_as_it_is(program, frame)
}

/// [`check`] without a heartbeat.
fn check_as_it_is(program: &Program, frame: &[u8]) -> bool {
    let before = counts(program);
    let (result, left) = sys::run(&program.loaded, frame).unwrap();
    let changed: [[u64; 3]; LISTEN.len()] = {
        let after = counts(program);
        std::array::from_fn(|key| std::array::from_fn(|at| after[key][at] - before[key][at]))
    };
    let request = delivered(frame);
    // One of the addresses counts, if the datagram is for one.
    let counted = |counts| {
        LISTEN.map(|own| match &request {
            Some(request) if request.to == own.parse().unwrap() => counts,
            _ => [0; 3],
        })
    };
    if result == PASS {
        assert_eq!(left, frame);
        match request {
            Some(_) => assert_eq!(changed, counted([0, 0, 1])),
            // The program is not sure to have seen the address.
            None => assert!(changed.iter().all(|[echoed, ..]| *echoed == 0)),
        }
        return false;
    }
    assert_eq!(result, TX);
    let request = request
        .as_ref()
        .expect("a datagram that the stack delivers");
    assert!(is_echoed(request), "{request:?}");
    assert_eq!(request.to_mac, MAC);
    let bytes = request.payload.len() as u64;
    assert_eq!(changed, counted([1, bytes, 0]));
    let reply = delivered(&left).expect("a reply that the peer accepts");
    assert_eq!(
        reply,
        Delivered {
            from: request.to,
            to: request.from,
            payload: request.payload.clone(),
            from_mac: request.to_mac,
            to_mac: request.from_mac,
        }
    );
    // The version and its traffic class, and the TTL, as of any reply.
    let (head, ttl, length): (&[u8], _, _) = match request.from {
        SocketAddr::V4(_) => (&[0x45, 0], 22, 42 + request.payload.len()),
        SocketAddr::V6(_) => (&[0x60, 0, 0, 0], 21, 62 + request.payload.len()),
    };
    assert_eq!(&left[14..14 + head.len()], head);
    assert_eq!(left[ttl], 64);
    // The reply forbids fragmentation.
    assert!(request.from.is_ipv6() || left[20..22] == [0x40, 0]);
    assert_eq!(left.len(), frame.len());
    assert!(left.len() <= length.max(SHORTEST));
    true
}

#[test]
fn program_answers_only_what_the_core_echoes() {
    const CASES: u32 = 20_000;
    let Some(program) = program(1024) else {
        crate::skip!("{UNLOADED}");
    };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(CASES)
    });
    let answered = Cell::new(0);
    // The frames that were passed for being odd in one way only.
    let passed = RefCell::new([0; ODDITIES.len()]);
    runner
        .run(&frames(), |(frame, kinds)| {
            let is_answered = check(&program, &frame.bytes());
            answered.set(answered.get() + u32::from(is_answered));
            match kinds[..] {
                [] => assert!(is_answered),
                [kind] if is_answered => assert_eq!(ODDITIES[kind].0, DAMAGED),
                [kind] => passed.borrow_mut()[kind] += 1,
                _ => (),
            }
            Ok(())
        })
        .unwrap();
    // About a third are plain, and each oddity is alone in one of 75.
    assert!(answered.get() > CASES / 4, "{answered:?}");
    for ((kind, _), passed) in ODDITIES.iter().zip(passed.into_inner()) {
        assert!(passed > CASES / 400, "{passed} frames with {kind}");
    }
}

#[test]
fn program_answers_every_plain_datagram() {
    let Some(program) = program(1024) else {
        crate::skip!("{UNLOADED}");
    };
    for (from, to) in [
        ("192.0.2.77:1024", LISTEN[0]),
        ("[2001:db8::77]:65535", LISTEN[1]),
        ("10.1.2.3:5000", LISTEN[2]),
        ("[fe80::5]:5000", LISTEN[1]),
    ] {
        for length in 0..=MAX_DATAGRAM + 2 {
            let payload = (0..length).map(|n| (n * 7 + length).to_le_bytes()[0]);
            let mut frame = Frame::plain(from, to, payload.collect());
            for is_padded in [false, true] {
                frame.is_padded = is_padded;
                let is_answered = check(&program, &frame.bytes());
                assert_eq!(is_answered, length <= MAX_DATAGRAM, "{frame:?}");
            }
        }
    }
}

#[test]
fn refused_program_has_the_verdict_of_the_verifier() {
    // The instruction `exit`: the program has no result.
    let error = sys::load(&[0x95]).unwrap_err();
    if is_out_of_reach(&error) && error.to_string() == error.cause.to_string() {
        crate::skip!("{UNLOADED}");
    }
    let expected = format!("{}, the verifier says: R0 !read_ok", error.cause);
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.cause.raw_os_error(), Some(libc::EACCES));
    let error = AttachError::new("eth0", XdpMode::Native, error).to_string();
    assert!(
        error.ends_with("with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"),
        "{error}"
    );
}

#[test]
fn program_passes_source_port_0_without_a_minimum() {
    let Some(program) = program(0) else {
        crate::skip!("{UNLOADED}");
    };
    for (from, expected) in [("192.0.2.77:0", PASS), ("192.0.2.77:1", TX)] {
        let frame = Frame::plain(from, LISTEN[0], vec![1]);
        program.heartbeat.write(0, host::monotonic_time()).unwrap();
        let (result, _) = sys::run(&program.loaded, &frame.bytes()).unwrap();
        assert_eq!(result, expected, "{from}");
    }
}

#[test]
fn program_answers_only_while_the_heart_beats() {
    let Some(program) = program(1024) else {
        crate::skip!("{UNLOADED}");
    };
    let frame = Frame::plain("192.0.2.77:5000", LISTEN[0], vec![1, 2, 3]).bytes();
    let start = host::monotonic_time();
    assert!(check(&program, &frame));
    let last = program.addresses.read(0).unwrap();
    let last = last.iter().map(|entry| entry.last).max().unwrap();
    // The program reads a clock that is behind by some ticks.
    let tick = 1_000_000_000;
    assert!((start - tick..=host::monotonic_time()).contains(&last));
    let now = host::monotonic_time();
    for (number, heartbeat) in (1..).zip([0, now - 1_600_000_000, now + 3_600_000_000_000]) {
        program.heartbeat.write(0, heartbeat).unwrap();
        // The program looks at it once per tick.
        let deadline = now + 180_000_000_000;
        while check_as_it_is(&program, &frame) {
            assert!(host::monotonic_time() < deadline, "{heartbeat}");
        }
        assert_eq!(counts(&program)[0][2], number);
        assert!(check(&program, &frame));
    }
}
