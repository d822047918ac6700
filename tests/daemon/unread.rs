//! A log that is not read: it holds up nothing, and what is lost of it is counted.

use std::io::{self, Read};
use std::net::UdpSocket;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::service::{Service, count};
use crate::harness::{Log, client, program, receive, request_to, samples, wait_until};

pub(crate) const DATAGRAMS: u32 = 20_000;
/// Two lines for each datagram, and warnings.
pub(crate) const ONLY_DATAGRAMS: &str = "--log=warn,udp_echo::worker=debug";
/// A second is what is promised, on a machine that is not busy with tests.
const STOP: Duration = Duration::from_secs(5);
const GET_METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn a_full_pipe_on_standard_error_holds_up_nothing_and_what_is_lost_is_counted() {
    for format in ["--log-format=text", "--log-format=json"] {
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
        wait_until("it says what is missing", || {
            missing(&log.lines()) == dropped(&service)
        });
        let log = log.lines();
        let written = count(&log, "recv: ") + count(&log, "sent: ");
        let missing = missing(&log);
        assert_eq!(written as u64 + missing, u64::from(2 * DATAGRAMS));
        assert!(count(&log, " missing: ") <= 10, "one a second at most");
        assert_eq!(count(&log, "WARN"), count(&log, " missing: "));
    }
}

#[test]
fn a_log_that_is_read_too_slowly_says_once_a_second_what_is_missing() {
    let mut service = Service::start(program(), &["--mode=echo", ONLY_DATAGRAMS]);
    let stderr = service.child.stderr.take().unwrap();
    let in_time = Arc::new(AtomicBool::new(false));
    let slow = Slow {
        stderr,
        in_time: Arc::clone(&in_time),
    };
    let log = Log::follow(slow);
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < Duration::from_millis(3500) {
        echoes_on(&service);
        rounds += 1;
    }
    in_time.store(true, Relaxed);
    wait_until("it says what is missing", || {
        missing(&log.lines()) == dropped(&service)
    });
    let seconds = start.elapsed().as_secs();
    let log = log.lines();
    let written = count(&log, "recv: ") + count(&log, "sent: ");
    let all = u64::from(rounds * 2 * DATAGRAMS);
    assert_eq!(written as u64 + missing(&log), all);
    let warnings = count(&log, " missing: ") as u64;
    eprintln!("read too slowly: {written} of {all} lines, {warnings} warnings in {seconds} s");
    assert!((3..=seconds + 1).contains(&warnings), "{warnings}");
}

#[test]
fn a_full_pipe_on_standard_error_does_not_hold_up_the_end() {
    for format in ["--log-format=text", "--log-format=json"] {
        let service = Service::start(program(), &["--mode=echo", "--log=debug", format]);
        echoes_on(&service);
        assert!(dropped(&service) > 0);
        assert_ends_soon(service);
        // Nor does the line that says why it could not go on.
        let args = ["--log=debug", "--exit-on=decode-error", format];
        let mut service = Service::start(program(), &args);
        let peer = client(service.listen);
        while dropped(&service) == 0 {
            for _ in 0..100 {
                exchange(&peer);
            }
        }
        peer.send(b"hello").unwrap();
        receive(&peer);
        peer.send(b"short").unwrap();
        let start = Instant::now();
        assert_eq!(service.wait().code(), Some(1));
        let took = start.elapsed();
        eprintln!("could not go on, ended after {} ms", took.as_millis());
        assert!(took < STOP, "{took:?}");
    }
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>/dev/full"]);
    command.arg(program().get_program()).stdout(Stdio::null());
    let service = Service::start(command, &["--mode=echo", ONLY_DATAGRAMS]);
    assert_eq!(dropped(&service), 0);
    let peer = client(service.listen);
    for _ in 0..100 {
        peer.send(b"hello").unwrap();
        receive(&peer);
    }
    // The warning of that is no line of those.
    wait_for_dropped(&service, |lost| lost == 200);
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(dropped(&service), 200);
    assert_ends_soon(service);
}

/// A standard error that is read at 400 KB a second, until it is to be read in time.
struct Slow {
    stderr: ChildStderr,
    in_time: Arc<AtomicBool>,
}

impl Read for Slow {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.in_time.load(Relaxed) {
            thread::sleep(Duration::from_millis(10));
        }
        let most = bytes.len().min(4096);
        self.stderr.read(&mut bytes[..most])
    }
}

/// Sends so many datagrams, some at once, and takes the replies.
pub(crate) fn echoes_on(service: &Service) {
    const AT_ONCE: u32 = 50;
    let peer = client(service.listen);
    for round in 0..DATAGRAMS / AT_ONCE {
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

/// That it stops soon when asked.
pub(crate) fn assert_ends_soon(mut service: Service) {
    let start = Instant::now();
    service.signal(Signal::SIGTERM);
    assert!(service.wait().success());
    let took = start.elapsed();
    eprintln!("stopped after {} ms", took.as_millis());
    assert!(took < STOP, "{took:?}");
}
