//! HTTP clients cannot delay UDP replies.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::{count, released};
use crate::harness::{DEADLINE, Daemon, client, receive, wait_until};
use crate::namespace::shell;

const CONNECTIONS: usize = 1000;
const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
/// The promises of SECURITY.md.
const CLOSED_WITHIN: Duration = Duration::from_secs(15);
const BACK_WITHIN: Duration = Duration::from_secs(2);

#[test]
#[ignore = "needs a release build; .ci/run runs it"]
fn echo_and_scrapes_work_under_1000_bad_connections() {
    let daemon = start();
    let http = daemon.http.unwrap();
    let peer = client(daemon.address());
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..5 {
        let normal = percentile_99(&peer, &mut asked);
        // Opened once, or opened again when the daemon has closed them.
        for (again, ratios) in [false, true].into_iter().zip(&mut ratios) {
            let (opened, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
            let attacked = thread::scope(|scope| {
                let stops = Stops(&stop);
                scope.spawn(|| attack(http, again, &stop, &opened));
                wait_until("all connections are open", || {
                    opened.load(Relaxed) >= CONNECTIONS
                });
                let scrapes = scope.spawn(|| slowest_of_10_scrapes(&daemon));
                let attacked = percentile_99(&peer, &mut asked);
                slowest = slowest.max(scrapes.join().unwrap());
                drop(stops);
                attacked
            });
            eprintln!(
                "p99 {normal:.0?} without attack, {attacked:.0?} under {} connections",
                opened.into_inner()
            );
            ratios.push(attacked.as_secs_f64() / normal.as_secs_f64());
        }
    }
    // Printed, not asserted: beside other programs a percentile depends on the scheduler. On 2 CPUs
    // ten runs gave 0.9 to 1.5 and 0.9 to 4.9. Three runs beside two endless loops gave 3.7 to 19
    // and 3.3 to 24, when the percentile without attack was 29 µs to 4 ms.
    let [once, again] = ratios.map(|mut ratios| {
        ratios.sort_by(f64::total_cmp);
        ratios[2]
    });
    eprintln!(
        "{asked} echoes, none lost; p99 is {once:.2} times that without attack, {again:.2} times \
         where each connection is opened again (medians of 5); 100 scrapes, the slowest {slowest:.0?}"
    );
    // No request was answered twice. Each was answered, as `percentile_99` waits for the reply.
    daemon.wait_for_metric("datagrams_echoed_total", f64::from(asked));
    assert_eq!(count(&daemon, "socket_drops_total"), 0);
}

#[test]
#[ignore = "needs a release build; .ci/run runs it"]
fn scrape_queued_among_silent_connections_is_answered() {
    let daemon = start();
    let http = daemon.http.unwrap();
    // They queue up during the pause, and are accepted all at once.
    daemon.pause();
    let mut open: Vec<_> = (0..20).map(|_| connect(http)).collect();
    let mut scrape = connect(http);
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    scrape.write_all(request).unwrap();
    open.extend((0..100).map(|_| connect(http)));
    daemon.resume();
    let mut answer = String::new();
    scrape.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(daemon.get("/metrics").status, 200);
}

#[test]
#[ignore = "waits for deadlines; .ci/run runs it"]
fn dead_connections_are_closed_within_15_seconds() {
    let daemon = start();
    let before = own_descriptors(&daemon).len();
    let mut bad: Vec<_> = (0..60)
        .map(|number| Bad::new(daemon.http.unwrap(), number))
        .collect();
    let start = Instant::now();
    // Connections that never read have been answered and are closed already.
    wait_until("the other connections are accepted", || {
        descriptors(&daemon).len() >= before + 45
    });
    wait_until("all connections are closed", || {
        for bad in &mut bad {
            bad.is_open();
        }
        descriptors(&daemon).len() == before
    });
    let took = start.elapsed();
    eprintln!("60 dead connections were closed within {took:.1?}");
    assert!(took < CLOSED_WITHIN, "{took:?}");
}

#[test]
#[ignore = "needs prlimit; .ci/run runs it"]
fn http_recovers_within_2_seconds_of_free_descriptors() {
    let daemon = start();
    let http = daemon.http.unwrap();
    let own = own_descriptors(&daemon);
    let free = (0..1024).find(|number| !own.contains(number)).unwrap();
    let limit = |number: usize| {
        shell(&format!(
            "prlimit --pid {} --nofile={number}:",
            daemon.pid()
        ));
    };
    let peer = client(daemon.address());
    let echoes = |count| {
        for number in 0..count {
            let bytes = u32::to_be_bytes(number);
            peer.send(&bytes).unwrap();
            assert_eq!(receive(&peer), bytes);
        }
    };
    // The daemon's own descriptors use up the limit.
    limit(free);
    let scrapes: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect(http);
            stream.write_all(REQUEST).unwrap();
            stream
        })
        .collect();
    daemon.wait_for_log("cannot accept an HTTP connection");
    echoes(1000);
    for scrape in &scrapes {
        scrape.set_nonblocking(true).unwrap();
        let error = (&*scrape).read(&mut [0]).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::WouldBlock,
            "no descriptor was free"
        );
        scrape.set_nonblocking(false).unwrap();
    }
    let relief = Instant::now();
    limit(1024);
    for mut scrape in scrapes {
        let mut bytes = [0; 12];
        scrape.read_exact(&mut bytes).expect("an answer");
        assert_eq!(&bytes, b"HTTP/1.1 200");
    }
    let back = relief.elapsed();
    eprintln!("HTTP answered {back:.0?} after descriptors were free");
    assert!(back < BACK_WITHIN, "{back:?}");

    // A few free descriptors, all taken by silent clients: a scrape evicts one of them.
    limit(own.len() + 10);
    let silent: Vec<_> = (0..200).map(|_| connect(http)).collect();
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(daemon.get("/metrics").status, 200);
    }
    // Without the eviction, each scrape would wait for the deadline of silent clients.
    assert!(start.elapsed() < CLOSED_WITHIN, "{:?}", start.elapsed());
    echoes(1000);
    drop(silent);
    daemon.wait_for_metric("datagrams_echoed_total", 2000.0);
    assert_eq!(count(&daemon, "socket_drops_total"), 0);
}

fn start() -> Daemon {
    Daemon::start_as(std::process::Command::new(released()), &["--mode=echo"])
}

fn connect(http: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(http).expect("the port is open");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// The descriptors that a daemon has open without any connection.
fn own_descriptors(daemon: &Daemon) -> Vec<usize> {
    // One of these is the connection of the request.
    let at_scrape = daemon.metrics()["process_open_fds"];
    let mut own = Vec::new();
    wait_until("all connections have ended", || {
        own = descriptors(daemon);
        format!("{:.0}", at_scrape - 1.0) == own.len().to_string()
    });
    own
}

/// The descriptors that a daemon has open.
fn descriptors(daemon: &Daemon) -> Vec<usize> {
    let files = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let number = |file: fs::DirEntry| file.file_name().to_str()?.parse().ok();
    files.flatten().filter_map(number).collect()
}

/// The 99th percentile of the round-trip times of 5000 sequential requests.
fn percentile_99(peer: &UdpSocket, asked: &mut u32) -> Duration {
    let mut times: Vec<_> = (0..5000)
        .map(|_| {
            let request = asked.to_be_bytes();
            *asked += 1;
            let start = Instant::now();
            peer.send(&request).unwrap();
            assert_eq!(receive(peer), request);
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() * 99 / 100]
}

fn slowest_of_10_scrapes(daemon: &Daemon) -> Duration {
    let scrapes = (0..10).map(|_| {
        let start = Instant::now();
        assert_eq!(daemon.get("/metrics").status, 200);
        start.elapsed()
    });
    scrapes.max().unwrap()
}

/// Opens a thousand bad connections and handles each once per second, until `stop` is set.
fn attack(http: SocketAddr, again: bool, stop: &AtomicBool, opened: &AtomicUsize) {
    let open = |number| {
        opened.fetch_add(1, Relaxed);
        Bad::new(http, number)
    };
    let mut bad: Vec<_> = (0..CONNECTIONS).map(open).collect();
    for number in (0..CONNECTIONS).cycle() {
        if stop.load(Relaxed) {
            return;
        }
        if !bad[number].is_open() && again {
            bad[number] = open(number);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// A bad connection: silent, half a request, one byte at a time, or never read.
struct Bad {
    stream: TcpStream,
    kind: Kind,
}

enum Kind {
    Waits,
    Drips { since: Instant, bytes: u32 },
    NeverReads,
}

impl Bad {
    fn new(http: SocketAddr, number: usize) -> Self {
        let mut stream = connect(http);
        stream.set_nonblocking(true).unwrap();
        let kind = match number % 4 {
            0 => Kind::Waits,
            1 => {
                let _ = stream.write(&REQUEST[..20]);
                Kind::Waits
            }
            2 => Kind::Drips {
                since: Instant::now(),
                bytes: 0,
            },
            _ => Kind::NeverReads,
        };
        let mut bad = Self { stream, kind };
        bad.is_open();
        bad
    }

    /// Continues the attack. Returns whether the daemon keeps the connection open.
    fn is_open(&mut self) -> bool {
        let written = match &mut self.kind {
            Kind::Drips { since, bytes } if since.elapsed() >= *bytes * Duration::from_secs(1) => {
                *bytes += 1;
                self.stream.write(b"G")
            }
            Kind::Waits | Kind::Drips { .. } => Ok(0),
            // Until the buffers are full.
            Kind::NeverReads => loop {
                match self.stream.write(&REQUEST.repeat(100)) {
                    Ok(_) => {}
                    other => break other,
                }
            },
        };
        let read = match self.kind {
            Kind::NeverReads => Ok(1),
            _ => self.stream.read(&mut [0; 1024]),
        };
        let lives = |result: std::io::Result<usize>| match result {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        lives(written) && !matches!(read, Ok(0)) && lives(read)
    }
}

/// Stops a thread when dropped, even by a panic.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
