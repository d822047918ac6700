//! A long run under mixed load: memory and descriptors do not grow, and every datagram is counted.
//! `UDP_ECHO_TEST_MINUTES` sets the duration.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Daemon, Random, client, program, send_gso_batch, total, wait_until};

const MODES: [&str; 3] = ["--mode=exchange", "--mode=lockstep", "--mode=echo"];
const PEERS: usize = 30;
/// More datagrams than the socket's buffer holds.
const FLOOD: u64 = 1000;
/// Fewer than the buffer holds.
const TRICKLE: u64 = 60;
/// The variation of the allocator and the kernel's pages.
const SLACK_KIB: u64 = 256;

#[test]
#[ignore = "takes a minute, or UDP_ECHO_TEST_MINUTES; .ci/run runs it"]
fn long_run_leaks_nothing_and_counts_every_datagram() {
    let minutes = std::env::var("UDP_ECHO_TEST_MINUTES").map_or(1.0, |text| text.parse().unwrap());
    let length = Duration::from_mins(1).mul_f64(minutes);
    let warm_up = Duration::from_mins(1).min(length / 2);
    let mut random = Random::new(1);
    let mut loads = MODES.map(Load::new);
    let mut restarts = Restarts::new();
    let start = Instant::now();
    let mut turns = 0;
    while start.elapsed() < length {
        for load in &mut loads {
            load.turn(&mut random);
            load.look(start.elapsed() < warm_up);
        }
        restarts.turn();
        turns += 1;
    }
    eprintln!("{minutes} minutes, {turns} turns; {restarts}");
    for load in &loads {
        load.daemon.assert_accounted_for();
        eprintln!("{load}");
    }
    for load in loads {
        assert_eq!(load.daemon.stop().code(), Some(0));
    }
}

/// A daemon that runs for the whole test, and its peers.
struct Load {
    mode: &'static str,
    daemon: Daemon,
    peers: Vec<UdpSocket>,
    sent: u64,
    dropped: u64,
    /// Anonymous memory in KiB and descriptors: the maximum of the warm-up, and since then.
    at_first: [u64; 2],
    since: [u64; 2],
}

impl Load {
    fn new(mode: &'static str) -> Self {
        Self {
            mode,
            daemon: Daemon::start(&[
                mode,
                "--max-peers=20",
                "--timeout=100ms",
                "--recv-buffer=104KiB",
            ]),
            peers: vec![],
            sent: 0,
            dropped: 0,
            at_first: [0; 2],
            since: [0; 2],
        }
    }

    /// New peers, single datagrams of all sizes, GSO batches, refused datagrams, a flood, scrapes.
    fn turn(&mut self, random: &mut Random) {
        let to = self.daemon.address();
        self.peers.drain(..self.peers.len() / 3);
        self.peers.resize_with(PEERS, || client(to));
        let mut silent = TcpStream::connect(self.daemon.http.unwrap()).unwrap();
        silent.write_all(b"GET /metrics HTTP/1.1\r\nHos").unwrap();
        let refused = low_port(to);
        for _ in 0..10 {
            for peer in &self.peers {
                let length = [0, 5, 22, 64, 1500, 9000][random.below(6)];
                peer.send(&random.bytes(length)).unwrap();
                self.sent += 1;
            }
            refused.send(b"refused").unwrap();
            self.sent += 1;
            self.wait_until_counted();
            for peer in &self.peers[..4] {
                let (segment, count) = (1 + random.below(100), 1 + random.below(40));
                send_gso_batch(peer, &random.bytes(segment * count), segment);
                self.sent += count as u64;
            }
            self.wait_until_counted();
            self.peers.iter().for_each(drain);
        }
        // The kernel drops each datagram that does not fit.
        self.daemon.pause();
        for number in 0..FLOOD {
            let peer = &self.peers[random.below(PEERS)];
            peer.send(&number.to_be_bytes()).unwrap();
        }
        self.sent += FLOOD;
        self.daemon.resume();
        let before = self.dropped;
        self.wait_until_counted();
        assert!(self.dropped > before, "nothing was dropped");
        self.peers.iter().for_each(drain);
        assert_eq!(self.daemon.get("/").status, 200);
        assert_eq!(self.daemon.get("/-/healthy").status, 200);
    }

    /// sent = received + dropped.
    fn wait_until_counted(&mut self) {
        let mut last = (0, 0);
        let labels = format!("{{listen=\"{}\",worker=\"0\"}}", self.daemon.address());
        wait_until("all datagrams are received or dropped", || {
            let metrics = self.daemon.metrics();
            let whole = |name: &str| whole(total(&metrics, name));
            last = (
                whole("datagrams_received_total"),
                whole(&format!("socket_drops_total{labels}")),
            );
            assert!(last.0 + last.1 <= self.sent, "{last:?} of {}", self.sent);
            last.0 + last.1 == self.sent
        });
        self.dropped = last.1;
    }

    /// Asserts that memory and descriptors are at most those of the warm-up.
    fn look(&mut self, warming_up: bool) {
        let process = format!("/proc/{}", self.daemon.pid());
        let memory = || {
            let status = fs::read_to_string(format!("{process}/status")).unwrap();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("RssAnon:"));
            let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
            number.parse().unwrap()
        };
        let descriptors = || fs::read_dir(format!("{process}/fd")).unwrap().count() as u64;
        let most = |seen: [u64; 2], now: [u64; 2]| [seen[0].max(now[0]), seen[1].max(now[1])];
        if warming_up {
            self.at_first = most(self.at_first, [memory(), descriptors()]);
            return;
        }
        // A connection that the daemon cuts off may close a little later.
        wait_until("the number of descriptors is that of the warm-up", || {
            descriptors() <= self.at_first[1]
        });
        let now = [memory(), descriptors()];
        assert!(
            now[0] <= self.at_first[0] + SLACK_KIB,
            "{}: {now:?} KiB and descriptors, at first {:?}",
            self.mode,
            self.at_first
        );
        self.since = most(self.since, now);
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} sent = {} received + {} dropped; KiB of memory and descriptors, at most: {:?} \
             at first, {:?} since",
            self.mode,
            self.sent,
            self.sent - self.dropped,
            self.dropped,
            self.at_first,
            self.since
        )
    }
}

/// Daemons of each mode in turn on one socket, which outlives them.
struct Restarts {
    socket: OwnedFd,
    peer: UdpSocket,
    daemon: Option<Daemon>,
    count: usize,
    sent: u64,
    received: u64,
}

impl Restarts {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        Self {
            peer: client(socket.local_addr().unwrap()),
            socket: socket.into(),
            daemon: None,
            count: 0,
            sent: 0,
            received: 0,
        }
    }

    /// Stops a daemon and starts the next one, while datagrams come.
    fn turn(&mut self) {
        self.trickle();
        if let Some(daemon) = self.daemon.take() {
            daemon.signal(Signal::SIGTERM);
            self.trickle();
            let log = daemon.shared_log();
            assert_eq!(daemon.stop().code(), Some(0));
            let mut received = None;
            wait_until("the log has the number of received datagrams", || {
                received = log.lines().iter().find_map(|line| {
                    let (_, rest) = line.split_once("stopped: ")?;
                    rest.split_once(" received")
                        .map(|(number, _)| number.parse().unwrap())
                });
                received.is_some()
            });
            self.received += received.unwrap_or(0);
        }
        self.trickle();
        let mut command = Command::new("sh");
        let line = "exec 3<&0 </dev/null; \
                    LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=echo exec \"$0\" \"$@\"";
        command.args(["-c", line]).arg(program().get_program());
        command.args([MODES[self.count % 3], "--metrics-listen=127.0.0.1:0"]);
        command.stdin(Stdio::from(self.socket.try_clone().unwrap()));
        let daemon = Daemon::start_exactly(command);
        wait_until("all datagrams are received", || {
            let received = whole(daemon.metric("datagrams_received_total"));
            assert!(self.received + received <= self.sent);
            self.received + received == self.sent
        });
        daemon.assert_accounted_for();
        drain(&self.peer);
        self.daemon = Some(daemon);
        self.count += 1;
    }

    fn trickle(&mut self) {
        for number in 0..TRICKLE {
            self.peer.send(&number.to_be_bytes()).unwrap();
        }
        self.sent += TRICKLE;
    }
}

impl std::fmt::Display for Restarts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sent = received by {} daemons", self.sent, self.count)
    }
}

/// A client on a source port that is refused.
fn low_port(to: SocketAddr) -> UdpSocket {
    let sockets = (600..1024).map(|port| UdpSocket::bind(("127.0.0.1", port)));
    let socket = sockets.flatten().next().expect("root has low ports");
    socket.connect(to).unwrap();
    socket
}

/// Receives all queued replies.
fn drain(peer: &UdpSocket) {
    peer.set_nonblocking(true).unwrap();
    while peer.recv(&mut [0; 1]).is_ok() {}
    peer.set_nonblocking(false).unwrap();
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a counter"
)]
fn whole(number: f64) -> u64 {
    number as u64
}
