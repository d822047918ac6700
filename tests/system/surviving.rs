//! The service under restarts, kills, stalls, a full disk and lack of memory.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::harness::{DEADLINE, client, wait_until, wait_until_stopped};
use crate::machine::{ECHO, Machine};
use crate::namespace::shell;
use crate::package::package;

const PEERS: usize = 4000;
/// The time between datagrams: 1000 datagrams per second.
const PACE: Duration = Duration::from_millis(1);
/// The datagrams that a restart and a kill may lose together.
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
    // A kill loses the datagrams in processing. After a stall of the machine that may be a batch,
    // so the kill is repeated.
    let mut kills = 0;
    wait_until("a kill loses little", || {
        let killed = load.unanswered_while(|| {
            let pid = machine.main_pid().unwrap();
            machine.shell(&format!("kill -9 {pid}"));
            wait_until("a new process is started", || {
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

    // The journal is restarted and full, while each datagram is logged.
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
             ! echo more >/var/log/journal/no-space 2>/dev/null",
        );
    });
    assert_eq!([journald_restarted, journal_full], [0, 0]);
    assert_eq!(machine.main_pid(), pid, "the daemon was restarted");
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn stalled_or_out_of_memory_daemon_is_restarted() {
    let machine = Machine::boot();
    machine.install(package(), "");
    assert_eq!(machine.property("udp-echo", "WatchdogUSec"), "10s");
    // A shorter watchdog interval saves time.
    machine.write(
        "/etc/systemd/system/udp-echo.service.d/watchdog.conf",
        "[Service]\nWatchdogSec=5s\n",
    );
    machine.shell("systemctl daemon-reload; systemctl restart udp-echo");
    machine.assert_echoes(ECHO, 1);
    let pid = machine.main_pid().unwrap();
    let cursor = machine.cursor();
    machine.shell(&format!("kill -STOP {pid}"));
    wait_until_stopped(&machine.outer_pid(pid).to_string());
    // The datagram waits in the socket.
    let peer = machine.inside(|| client(ECHO.parse().unwrap()));
    peer.send(b"request").unwrap();
    assert_eq!(crate::harness::receive(&peer), b"request");
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
        eprintln!("SKIPPED MemoryMax: no memory controller here");
        return;
    };
    let pid = machine.main_pid();
    let cursor = machine.cursor();
    machine.inside(|| flood_until(|| machine.main_pid() != pid));
    machine.wait_for_line(&cursor, "status=9/KILL");
    wait_until("the service is started again", || {
        machine.property("udp-echo", "NRestarts") != "0"
    });
    machine.wait_for("ActiveState", "active");
    // The rest of the flood waits in the receive buffer.
    let queue = format!("socket_receive_queue_bytes{{listen=\"{ECHO}\",worker=\"0\"}}");
    wait_until("the receive queue is empty", || {
        machine.metric(&queue) < 1.0
    });
    machine.assert_echoes(ECHO, 1);
    drop(limit);
}

/// Clients on separate ports.
struct Load(Vec<UdpSocket>);

impl Load {
    fn new(machine: &Machine) -> Self {
        let pid = std::process::id();
        shell(&format!("prlimit --pid {pid} --nofile={}:", 2 * PEERS));
        let to = ECHO.parse().unwrap();
        Self(machine.inside(|| (0..PEERS).map(|_| client(to)).collect()))
    }

    /// Sends a datagram every millisecond, from each client in turn, while `work` runs. Returns the
    /// number of datagrams without a reply.
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
                wait_until("each client has sent", || {
                    sent.load(Relaxed) >= number || sender.is_finished()
                });
            };
            wait_for(1000);
            work();
            // Each client has sent, some of them after the work.
            wait_for(PEERS.max(sent.load(Relaxed) + 1000));
            drop(stops);
        });
        self.unanswered(sent.into_inner())
    }

    /// Receives all replies. Returns the number of missing ones.
    fn unanswered(&self, sent: usize) -> usize {
        let mut answered = vec![false; sent];
        let mut idle_since = Instant::now();
        for socket in &self.0 {
            socket.set_nonblocking(true).unwrap();
        }
        // No reply for a while means that none is left.
        while answered.contains(&false) && idle_since.elapsed() < DEADLINE / 4 {
            for (index, socket) in self.0.iter().enumerate() {
                let mut bytes = [0; 65];
                while let Ok(length) = socket.recv(&mut bytes) {
                    let number = usize::from_be_bytes(bytes[..length].try_into().expect("as sent"));
                    assert_eq!(number % PEERS, index, "the reply of another client");
                    assert!(
                        !std::mem::replace(&mut answered[number], true),
                        "answered twice"
                    );
                    idle_since = Instant::now();
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
        answered.iter().filter(|answered| !**answered).count()
    }
}

/// Stops a sender when dropped, even by a panic.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// An effective memory limit of the daemon.
enum MemoryLimit {
    /// The limit of the unit.
    Unit,
    /// A limit in cgroup v1 of the host: systemd in the container has no memory controller.
    Outside(PathBuf),
}

impl MemoryLimit {
    fn new(machine: &Machine) -> Option<Self> {
        let path = machine.property("udp-echo", "ControlGroup");
        let files = [
            format!("/sys/fs/cgroup{path}/memory.max"),
            format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"),
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

/// Sends datagrams from new peers in 127.0.0.0/8 until a condition holds.
fn flood_until(mut condition: impl FnMut() -> bool) {
    // IPPROTO_RAW: the packet includes the IP header (raw(7)).
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
            // The loss of one does not matter.
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
