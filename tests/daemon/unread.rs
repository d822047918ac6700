//! A log that is not read: nothing blocks, and lost lines are counted.

use std::io::{self, Read};
use std::net::UdpSocket;
use std::process::{ChildStderr, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::harness::service::{Service, count};
use crate::harness::{Log, client, program, receive, request_to, samples, shell, wait_until};

pub(crate) const DATAGRAMS: u32 = 20_000;
/// Logs two lines per datagram and the warnings of dropped lines, but none about the service
/// manager.
pub(crate) const ONLY_DATAGRAMS: &str = "--log=udp_echo::telemetry=warn,udp_echo::worker=debug";
const AT_ONCE: u32 = 50;
const GET_METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn full_stderr_pipe_blocks_nothing_and_losses_are_counted() {
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
        // The pipe is read again; the log reports the dropped lines.
        let log = Log::follow(service.child.stderr.take().unwrap());
        assert_adds_up(&log, &service, DATAGRAMS, start);
    }
}

#[test]
fn slow_log_reader_gets_one_loss_warning_per_second() {
    const SOME: u32 = 500;
    let start = Instant::now();
    let mut service = Service::start(program(), &["--mode=echo", ONLY_DATAGRAMS]);
    let stderr = service.child.stderr.take().unwrap();
    let (reads, permits) = mpsc::channel();
    let log = Log::follow(Slow { stderr, permits });
    let mut datagrams = 0;
    wait_until("three warnings of dropped lines", || {
        echoes(&service, SOME);
        datagrams += SOME;
        // At most 64 KiB, while 1000 lines have at least 100 bytes each.
        for _ in 0..8 {
            reads.send(()).unwrap();
        }
        count(&log.lines(), " dropped: ") >= 3
    });
    drop(reads);
    assert_adds_up(&log, &service, datagrams, start);
}

#[test]
fn full_stderr_pipe_does_not_delay_the_stop() {
    for format in ["--log-format=text", "--log-format=json"] {
        let service = Service::start(program(), &["--mode=echo", "--log=debug", format]);
        echoes_on(&service);
        assert!(dropped(&service) > 0);
        assert_ends(service);
        // Nor does the line that gives the reason of the end.
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
fn unwritable_log_lines_are_counted() {
    let mut command = shell("exec \"$0\" \"$@\" 2>/dev/full");
    command.arg(program().get_program()).stdout(Stdio::null());
    let service = Service::start(command, &["--mode=echo", ONLY_DATAGRAMS]);
    assert_eq!(dropped(&service), 0);
    let peer = client(service.listen);
    // The warning of dropped lines, which fails with the second line, is not counted.
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

/// A standard error that is read at most 8 KiB per permit; without limit once the channel closes.
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

/// Waits until every line of `datagrams` is written or reported as dropped, and compares with the
/// metric.
fn assert_adds_up(log: &Log, service: &Service, datagrams: u32, start: Instant) {
    let all = u64::from(2 * datagrams);
    let [mut seen, mut written, mut warnings] = [0; 3];
    let mut lost = 0;
    wait_until("all lines are written or dropped", || {
        let lines = log.lines();
        let new = &lines[seen..];
        seen = lines.len();
        written += count(new, "recv: ") + count(new, "sent: ");
        warnings += count(new, " dropped: ");
        lost += missing(new);
        written as u64 + lost >= all
    });
    let seconds = start.elapsed().as_secs();
    eprintln!("{written} of {all} lines, {warnings} warnings in {seconds} s");
    assert_eq!(written as u64 + lost, all);
    assert_eq!(lost, dropped(service));
    assert!(warnings as u64 <= seconds + 1, "at most one per second");
    assert_eq!(count(&log.lines(), "WARN"), warnings);
}

/// Sends [`DATAGRAMS`], some at once, and receives the replies.
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

/// The number of dropped lines, by the metric.
pub(crate) fn dropped(service: &Service) -> u64 {
    let body = request_to(service.http.unwrap(), GET_METRICS).body;
    let value = samples(&body)["udp_echo_log_lines_dropped_total"];
    format!("{value}").parse().expect("a whole number")
}

pub(crate) fn wait_for_dropped(service: &Service, good: impl Fn(u64) -> bool) -> u64 {
    let mut lost = 0;
    wait_until("enough lines are dropped", || {
        lost = dropped(service);
        good(lost)
    });
    lost
}

/// The number of dropped lines, by the log.
pub(crate) fn missing(log: &[String]) -> u64 {
    let numbers = log.iter().filter_map(|line| {
        let (before, _) = line
            .split_once(" log line")
            .filter(|_| line.contains(" dropped: "))?;
        before.rsplit([' ', '"']).next()
    });
    numbers.map(|number| number.parse::<u64>().unwrap()).sum()
}

/// Stops a service and asserts success.
pub(crate) fn assert_ends(mut service: Service) {
    service.signal(Signal::SIGTERM);
    assert!(service.wait().success());
}
