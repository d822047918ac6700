//! What a host does to a service: restarts, kills, stops, starves it; and it echoes on.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::harness::{DEADLINE, client, wait_until};
use crate::machine::{ECHO, Machine};
use crate::namespace::shell;
use crate::package::package;

const PEERS: usize = 4000;
/// From one datagram to the next: 1000 a second.
const PACE: Duration = Duration::from_millis(1);
/// What the issue allows to be lost by a restart and a kill.
const LOST: usize = 2;

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn restart_and_kill_under_load_lose_at_most_2_datagrams() {
    let machine = Machine::boot();
    machine.install(package(), "");
    machine.shell("echo UDP_ECHO_MODE=echo >>/etc/default/udp-echo; systemctl restart udp-echo");
    let load = Load::new(&machine);
    let restarted = load.unanswered_while(|| {
        machine.shell("systemctl restart udp-echo");
    });
    // What it has in hand is lost; where the machine held it up before that may be a batch.
    let mut kills = 0;
    wait_until("it loses little when it is killed", || {
        let killed = load.unanswered_while(|| {
            let pid = machine.main_pid().unwrap();
            machine.shell(&format!("kill -9 {pid}"));
            wait_until("another is started", || {
                machine.main_pid().is_some_and(|new| new != pid)
            });
            machine.wait_for("ActiveState", "active");
        });
        eprintln!("unanswered: {restarted} by a restart, {killed} by SIGKILL");
        kills += 1;
        assert_eq!(machine.property("udp-echo", "NRestarts"), kills.to_string());
        assert!(restarted + killed <= LOST || kills < 3, "{killed}");
        restarted + killed <= LOST
    });

    // The journal is in trouble, and each datagram is to be logged.
    machine.shell("echo UDP_ECHO_LOG=debug >>/etc/default/udp-echo; systemctl restart udp-echo");
    let pid = machine.main_pid();
    let journald_restarted = load.unanswered_while(|| {
        machine.shell("systemctl restart systemd-journald");
    });
    let journal_full = load.unanswered_while(|| {
        machine.shell(
            "mkdir -p /var/log/journal; mount -t tmpfs -o size=16M tmpfs /var/log/journal; \
             systemctl restart systemd-journald; journalctl --flush; \
             dd if=/dev/zero of=/var/log/journal/full bs=64k 2>/dev/null; \
             ! echo more >/var/log/journal/no-room 2>/dev/null",
        );
    });
    assert_eq!([journald_restarted, journal_full], [0, 0]);
    assert_eq!(machine.main_pid(), pid, "it was restarted");
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn stalled_or_out_of_memory_daemon_is_restarted() {
    let machine = Machine::boot();
    machine.install(package(), "");
    assert_eq!(machine.property("udp-echo", "WatchdogUSec"), "10s");
    // Sooner, for the test's sake.
    machine.write(
        "/etc/systemd/system/udp-echo.service.d/watchdog.conf",
        "[Service]\nWatchdogSec=5s\n",
    );
    machine.shell("systemctl daemon-reload; systemctl restart udp-echo");
    machine.assert_echoes(ECHO, 1);
    let pid = machine.main_pid().unwrap();
    let cursor = machine.cursor();
    machine.shell(&format!("kill -STOP {pid}"));
    // It waits meanwhile.
    let peer = machine.inside(|| client(ECHO.parse().unwrap()));
    peer.send(b"is anybody there").unwrap();
    assert_eq!(crate::harness::receive(&peer), b"is anybody there");
    machine.wait_for_line(&cursor, "Watchdog timeout");
    machine.wait_for("ActiveState", "active");
    assert_ne!(machine.main_pid(), Some(pid));
    assert_eq!(machine.property("udp-echo", "NRestarts"), "1");

    machine.write(
        "/etc/default/udp-echo",
        "UDP_ECHO_MAX_PEERS=16777216\nUDP_ECHO_TIMEOUT=none\n",
    );
    machine.write(
        "/etc/systemd/system/udp-echo.service.d/memory.conf",
        "[Service]\nMemoryMax=32M\n",
    );
    machine.shell("systemctl daemon-reload; systemctl restart udp-echo");
    let Some(limit) = MemoryLimit::new(&machine) else {
        eprintln!("NOT SHOWN: MemoryMax reached. No memory controller is to be had here");
        return;
    };
    let pid = machine.main_pid();
    let cursor = machine.cursor();
    machine.inside(|| flood_until(|| machine.main_pid() != pid));
    machine.wait_for_line(&cursor, "status=9/KILL");
    wait_until("it is started again", || {
        machine.property("udp-echo", "NRestarts") != "0"
    });
    machine.wait_for("ActiveState", "active");
    // The rest of the flood filled the socket's buffer.
    let queue = format!("socket_receive_queue_bytes{{listen=\"{ECHO}\",worker=\"0\"}}");
    wait_until("the flood is over", || machine.metric(&queue) < 1.0);
    machine.assert_echoes(ECHO, 1);
    drop(limit);
}

/// Clients, each with a port of its own.
struct Load(Vec<UdpSocket>);

impl Load {
    fn new(machine: &Machine) -> Self {
        let pid = std::process::id();
        shell(&format!("prlimit --pid {pid} --nofile={}:", 2 * PEERS));
        let to = ECHO.parse().unwrap();
        Self(machine.inside(|| (0..PEERS).map(|_| client(to)).collect()))
    }

    /// Sends a datagram every millisecond, from each client in turn, and meanwhile does `work`.
    /// How many of the datagrams were not answered.
    fn unanswered_while(&self, work: impl FnOnce()) -> usize {
        let stop = AtomicBool::new(false);
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let start = Instant::now();
                while !stop.load(Relaxed) {
                    let number = sent.load(Relaxed);
                    let due = start + PACE * u32::try_from(number).unwrap();
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    self.0[number % PEERS].send(&number.to_be_bytes()).unwrap();
                    sent.store(number + 1, Relaxed);
                }
            });
            let stops = Stops(&stop);
            let wait_for = |number| {
                wait_until("so many are sent", || {
                    sent.load(Relaxed) >= number || sender.is_finished()
                });
            };
            wait_for(1000);
            work();
            // All peers have had their turn, and some after the work.
            wait_for(PEERS.max(sent.load(Relaxed) + 1000));
            drop(stops);
        });
        self.unanswered(sent.into_inner())
    }

    /// Takes all replies; how many did not come.
    fn unanswered(&self, sent: usize) -> usize {
        let mut answered = vec![false; sent];
        let mut quiet_since = Instant::now();
        for socket in &self.0 {
            socket.set_nonblocking(true).unwrap();
        }
        // No reply for long: none comes any more.
        while answered.contains(&false) && quiet_since.elapsed() < DEADLINE / 4 {
            for (index, socket) in self.0.iter().enumerate() {
                let mut bytes = [0; 65];
                while let Ok(length) = socket.recv(&mut bytes) {
                    let number = usize::from_be_bytes(bytes[..length].try_into().expect("as sent"));
                    assert_eq!(number % PEERS, index, "another's reply");
                    assert!(
                        !std::mem::replace(&mut answered[number], true),
                        "answered twice"
                    );
                    quiet_since = Instant::now();
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
        answered.iter().filter(|answered| !**answered).count()
    }
}

/// Stops a sender when dropped, also by a panic.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A limit of the daemon's memory that is in force.
enum MemoryLimit {
    /// The unit's own.
    Unit,
    /// systemd in the container has no memory controller, but the host has, of cgroup v1.
    Outside(PathBuf),
}

impl MemoryLimit {
    fn new(machine: &Machine) -> Option<Self> {
        let group = machine.property("udp-echo", "ControlGroup");
        let files = [
            format!("/sys/fs/cgroup{group}/memory.max"),
            format!("/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"),
        ];
        let limits = files.map(|file| fs::read_to_string(machine.path(&file)));
        if limits
            .iter()
            .flatten()
            .any(|limit| limit.trim() == "33554432")
        {
            return Some(Self::Unit);
        }
        let outside = Path::new("/sys/fs/cgroup/memory");
        if !outside.join("memory.limit_in_bytes").exists() {
            return None;
        }
        eprintln!(
            "MemoryMax= has no effect in this container, which has no memory controller: the \
             limit is set from outside, on the same process"
        );
        let folder = outside.join(format!("udp-echo-test-{}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        let limit = Self::Outside(folder.clone());
        let pid = machine.outer_pid(machine.main_pid().unwrap());
        fs::write(folder.join("memory.limit_in_bytes"), "8M").ok()?;
        fs::write(folder.join("cgroup.procs"), pid.to_string()).ok()?;
        Some(limit)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        if let Self::Outside(folder) = self {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Sends a datagram from ever other peers, all over 127.0.0.0/8, until a condition holds.
fn flood_until(mut condition: impl FnMut() -> bool) {
    // IPPROTO_RAW: with a header of our own.
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
    let to = SockAddr::from(ECHO.parse::<std::net::SocketAddr>().unwrap());
    let deadline = Instant::now() + 3 * DEADLINE;
    for batch in 0_u32.. {
        for number in 0..20_000 {
            let peer = batch * 20_000 + number;
            let [a, b, c, d] = peer.to_be_bytes();
            let [port_high, port_low] = (2000 + u16::from(a)).to_be_bytes();
            // The kernel fills in the length and checksum of the IP header; UDP needs none.
            let packet = [
                0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, b, c, d, 127, 0, 0, 1, //
                port_high, port_low, 0x27, 0x0f, 0, 9, 0, 0, b'x',
            ];
            // Nothing hangs on one.
            let _ = socket.send_to(&packet, &to);
        }
        if condition() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{batch} batches of peers did nothing"
        );
    }
}
