//! A log that is not read: it holds up nothing, and what is lost of it is counted.

use std::io::{self, Read};
use std::net::UdpSocket;
use std::process::{ChildStderr, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::harness::service::{Service, count};
use crate::harness::{Log, client, program, receive, request_to, samples, shell, wait_until};

pub(crate) const DATAGRAMS: u32 = 20_000;
/// Two lines for each datagram, and warnings of missing ones; no warning of a service manager that
/// does not read.
pub(crate) const ONLY_DATAGRAMS: &str = "--log=udp_echo::telemetry=warn,udp_echo::worker=debug";
const AT_ONCE: u32 = 50;
const GET_METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn a_full_pipe_on_standard_error_holds_up_nothing_and_what_is_lost_is_counted() {
    for format in ["--log-format=text", "--log-format=json"] {
        let start = Instant::now();
        let args = ["--mode=echo", ONLY_DATAGRAMS, format];
        let mut service = Service::start(program(), &args);
        echoes_on(&service);
        let lost = dropped(&service);
        eprintln!(
            "{format}, a full pipe: {lost} of {} lines lost",
            2 * DATAGRAMS
        );
        assert!(lost > 0);
        // It is read again, and says what is missing.
        let log = Log::follow(service.child.stderr.take().unwrap());
        assert_adds_up(&log, &service, DATAGRAMS, start);
    }
}

#[test]
fn a_log_that_is_read_too_slowly_says_once_a_second_what_is_missing() {
    const SOME: u32 = 500;
    let start = Instant::now();
    let mut service = Service::start(program(), &["--mode=echo", ONLY_DATAGRAMS]);
    let stderr = service.child.stderr.take().unwrap();
    let (reads, permits) = mpsc::channel();
    let log = Log::follow(Slow { stderr, permits });
    let mut datagrams = 0;
    wait_until("it says three times what is missing", || {
        echoes(&service, SOME);
        datagrams += SOME;
        // 64 KiB at most, for 1000 lines of 100 bytes and more each.
        for _ in 0..8 {
            reads.send(()).unwrap();
        }
        count(&log.lines(), " missing: ") >= 3
    });
    drop(reads);
    assert_adds_up(&log, &service, datagrams, start);
}

#[test]
fn a_full_pipe_on_standard_error_does_not_hold_up_the_end() {
    for format in ["--log-format=text", "--log-format=json"] {
        let service = Service::start(program(), &["--mode=echo", "--log=debug", format]);
        echoes_on(&service);
        assert!(dropped(&service) > 0);
        assert_ends(service);
        // Nor does the line that says why it could not go on.
        let args = ["--log=debug", "--timeout=none", "--exit-on=decode-error"];
        let mut service = Service::start(program(), &[&args[..], &[format]].concat());
        let peer = client(service.listen);
        while dropped(&service) == 0 {
            for _ in 0..100 {
                exchange(&peer);
            }
        }
        peer.send(b"hello").unwrap();
        receive(&peer);
        peer.send(b"short").unwrap();
        assert_eq!(service.wait().code(), Some(1));
    }
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let mut command = shell("exec \"$0\" \"$@\" 2>/dev/full");
    command.arg(program().get_program()).stdout(Stdio::null());
    let service = Service::start(command, &["--mode=echo", ONLY_DATAGRAMS]);
    assert_eq!(dropped(&service), 0);
    let peer = client(service.listen);
    // The warning of that, which is tried with the second line, is no line of those.
    for lines in [200, 400] {
        for _ in 0..100 {
            peer.send(b"hello").unwrap();
            receive(&peer);
        }
        wait_for_dropped(&service, |lost| lost >= lines);
        assert_eq!(dropped(&service), lines);
    }
    assert_ends(service);
}

/// A standard error that is read 8 KiB at a time, each when it may be; to its end once no more
/// permits can come.
struct Slow {
    stderr: ChildStderr,
    permits: Receiver<()>,
}

impl Read for Slow {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let _ = self.permits.recv();
        let most = bytes.len().min(8192);
        self.stderr.read(&mut bytes[..most])
    }
}

/// Waits until every line of so many datagrams is written or missing, and compares with the metric.
fn assert_adds_up(log: &Log, service: &Service, datagrams: u32, start: Instant) {
    let all = u64::from(2 * datagrams);
    let [mut seen, mut written, mut warnings] = [0; 3];
    let mut lost = 0;
    wait_until("all lines are written or missing", || {
        let lines = log.lines();
        let new = &lines[seen..];
        seen = lines.len();
        written += count(new, "recv: ") + count(new, "sent: ");
        warnings += count(new, " missing: ");
        lost += missing(new);
        written as u64 + lost >= all
    });
    let seconds = start.elapsed().as_secs();
    eprintln!("{written} of {all} lines, {warnings} warnings in {seconds} s");
    assert_eq!(written as u64 + lost, all);
    assert_eq!(lost, dropped(service));
    assert!(warnings as u64 <= seconds + 1, "one a second at most");
    assert_eq!(count(&log.lines(), "WARN"), warnings);
}

/// Sends so many datagrams, some at once, and takes the replies.
pub(crate) fn echoes_on(service: &Service) {
    echoes(service, DATAGRAMS);
}

fn echoes(service: &Service, datagrams: u32) {
    let peer = client(service.listen);
    for round in 0..datagrams / AT_ONCE {
        let numbers = round * AT_ONCE..(round + 1) * AT_ONCE;
        for number in numbers.clone() {
            peer.send(&[number.to_be_bytes(); 25].concat()).unwrap();
        }
        for number in numbers {
            assert_eq!(receive(&peer), [number.to_be_bytes(); 25].concat());
        }
    }
}

fn exchange(peer: &UdpSocket) {
    peer.send(b"hello").unwrap();
    assert_eq!(receive(peer), b"hello");
    peer.send(&[0; 22]).unwrap();
}

/// How many lines of its log were lost, by the metric.
pub(crate) fn dropped(service: &Service) -> u64 {
    let body = request_to(service.http.unwrap(), GET_METRICS).body;
    let value = samples(&body)["udp_echo_log_lines_dropped_total"];
    format!("{value}").parse().expect("a whole number")
}

pub(crate) fn wait_for_dropped(service: &Service, good: impl Fn(u64) -> bool) -> u64 {
    let mut lost = 0;
    wait_until("so many lines are lost", || {
        lost = dropped(service);
        good(lost)
    });
    lost
}

/// How many lines are missing, by the log itself.
pub(crate) fn missing(log: &[String]) -> u64 {
    let numbers = log.iter().filter_map(|line| {
        let (before, _) = line.split_once(" lines of the log are missing: ")?;
        before.rsplit([' ', '"']).next()
    });
    numbers.map(|number| number.parse::<u64>().unwrap()).sum()
}

/// That it stops when asked.
pub(crate) fn assert_ends(mut service: Service) {
    service.signal(Signal::SIGTERM);
    assert!(service.wait().success());
}
