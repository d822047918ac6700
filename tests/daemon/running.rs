//! From ready to stopped: what the service manager hears, signals, hangs, neighbours, costs.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::harness::service::{Service, assert_has, count, wait_until_some};
use crate::harness::tidy::Folder;
use crate::harness::{
    DEADLINE, Daemon, Response, client, program, receive, request_to, uninterrupted, wait_until,
};
use crate::usage::assert_cannot_start;

const GET_HEALTH: &str = "GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const GET_READY: &str = "GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn when_it_says_that_it_is_ready_echo_and_http_answer_at_the_addresses_it_names() {
    for _ in 0..5 {
        let service = Service::start(program(), &["--listen=127.0.0.1:0"]);
        let ready = request_to(service.http.unwrap(), GET_READY);
        assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
        let peer = client(service.listen);
        peer.send(b"at once").unwrap();
        assert_eq!(receive(&peer), b"at once");
        assert_has(&service.status, "; 0 received, 0 echoed, ");
        assert!(service.end().0.success());
    }
}

#[test]
fn the_status_follows_the_traffic_and_is_not_sent_again_unchanged() {
    let mut command = program();
    command.env("WATCHDOG_USEC", "2500000");
    let service = Service::start(command, &["--mode=echo"]);
    let peer = client(service.listen);
    for round in 1..=2 {
        peer.send(b"hello").unwrap();
        receive(&peer);
        let numbers = format!("; {round} received, {round} echoed, 0 decoded, 0 dropped");
        let status = service.manager.wait_for(&numbers);
        assert_has(&status, "STATUS=echo on 127.0.0.1:");
    }
    // One a second, and a status would come after three.
    for _ in 0..5 {
        assert_eq!(service.manager.next(), "WATCHDOG=1\n");
    }
}

#[test]
fn a_watchdog_hears_of_it_again_and_again() {
    let mut command = program();
    command.env("WATCHDOG_USEC", "500000");
    let service = Service::start(command, &[]);
    for _ in 0..5 {
        service.manager.wait_for("WATCHDOG=1");
    }
}

#[test]
fn a_watchdog_that_is_off_or_garbled_or_of_another_process_hears_nothing() {
    for variable in "USEC=0 USEC=often USEC=-1 USEC= PID=1".split(' ') {
        let mut command = program();
        let (name, value) = variable.split_once('=').unwrap();
        command
            .env("WATCHDOG_USEC", "100000")
            .env(format!("WATCHDOG_{name}"), value);
        let service = Service::start(command, &[]);
        for _ in 0..5 {
            assert_eq!(request_to(service.http.unwrap(), GET_HEALTH).status, 200);
        }
        service.signal(Signal::SIGTERM);
        loop {
            let message = service.manager.next();
            assert!(!message.contains("WATCHDOG"), "{variable}: {message}");
            if message == "STOPPING=1\n" {
                break;
            }
        }
        assert!(service.end().0.success());
    }
}

#[test]
fn asked_to_stop_it_says_so_and_ends_with_status_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut service = Service::start(program(), &["--workers=2"]);
        let mut half = TcpStream::connect(service.http.unwrap()).unwrap();
        half.write_all(b"GET /metrics HTTP/1.1\r\nHo").unwrap();
        let asked = Instant::now();
        service.signal(signal);
        service.manager.wait_for("STOPPING=1");
        let status = service.wait();
        // A second is what is promised, on a machine that is not busy with tests.
        assert!(asked.elapsed() < Duration::from_secs(5));
        assert_eq!(status.code(), Some(0), "{signal}");
    }
}

#[test]
fn without_a_manager_that_listens_it_serves_all_the_same_and_warns_once() {
    let folder = Folder::new();
    let dead = folder.join("notify");
    drop(UnixDatagram::bind(&dead).unwrap());
    for (socket, warnings) in [
        (Path::new(""), 0),
        (Path::new("/nonexistent/notify"), 1),
        (Path::new("nonsense"), 1),
        (&dead, 1),
    ] {
        let mut command = program();
        command.env("NOTIFY_SOCKET", socket);
        command.env("WATCHDOG_USEC", "20000");
        let mut daemon = Daemon::start_as(command, &["--mode=echo"]);
        let peer = client(daemon.address());
        for _ in 0..20 {
            peer.send(b"hello").unwrap();
            assert_eq!(receive(&peer), b"hello");
        }
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.wait().success());
        daemon.wait_for_log("stopped: 20 received");
        assert_eq!(
            count(&daemon.log(), "NOTIFY_SOCKET"),
            warnings,
            "{}",
            socket.display()
        );
    }
}

#[test]
fn a_manager_may_have_an_abstract_address() {
    let name = format!("udp-echo-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = program();
    command.env("NOTIFY_SOCKET", format!("@{name}"));
    let daemon = Daemon::start_as(command, &[]);
    let mut message = [0; 512];
    let length = uninterrupted(|| manager.recv(&mut message)).expect("a message");
    assert!(message[..length].starts_with(b"READY=1\nSTATUS=exchange on 127.0.0.1:"));
    assert!(daemon.stop().success());
}

#[test]
fn a_manager_that_does_not_read_holds_up_neither_http_nor_the_end() {
    let folder = Folder::new();
    let path = folder.join("notify");
    let _manager = UnixDatagram::bind(&path).unwrap();
    let mut command = program();
    command.env("NOTIFY_SOCKET", &path);
    command.env("WATCHDOG_USEC", "5000");
    let mut daemon = Daemon::start_as(command, &["--mode=echo"]);
    daemon.wait_for_log("cannot notify");
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
    assert_eq!(daemon.get("/-/healthy").status, 200);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
}

#[test]
fn a_record_that_waited_while_the_daemon_was_stopped_came_in_time() {
    let daemon = Daemon::start(&["--timeout=1"]);
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
    daemon.pause();
    peer.send(&[0; 22]).unwrap();
    let stopped = Instant::now();
    wait_until("the timeout is over", || {
        stopped.elapsed() > Duration::from_millis(1500)
    });
    daemon.resume();
    daemon.wait_for_metric("records_decoded_total", 1.0);
    daemon.wait_for_metric("timeouts_total{waiting_for=\"record\"}", 0.0);
}

#[test]
fn a_signal_that_ends_a_receive_ends_no_wait_for_what_is_there() {
    let mut rounds = 0;
    wait_until("three rounds were not too slow", || {
        let daemon = Daemon::start(&["--mode=lockstep", "--timeout=150ms"]);
        let peer = client(daemon.address());
        let asked = Instant::now();
        peer.send(b"hello").unwrap();
        assert_eq!(receive(&peer), b"hello");
        daemon.pause();
        let in_time = asked.elapsed() < Duration::from_millis(100);
        peer.send(&[0; 22]).unwrap();
        wait_until("the timeout is over", || {
            asked.elapsed() > Duration::from_millis(400)
        });
        daemon.resume();
        if in_time {
            daemon.wait_for_metric("records_decoded_total", 1.0);
            rounds += 1;
        }
        rounds == 3
    });
}

#[test]
fn a_busy_poll_takes_a_cpu_after_a_datagram_and_ends_when_asked_to_stop() {
    let daemon = Daemon::start(&["--busy-poll=1h", "--mode=echo"]);
    let idle = cpu_time(daemon.pid());
    assert!(idle < Duration::from_millis(250), "{idle:?}");
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
    wait_until("it polls", || {
        cpu_time(daemon.pid()) > idle + Duration::from_millis(500)
    });
    assert_eq!(daemon.get("/-/healthy").status, 200);
    peer.send(b"again").unwrap();
    assert_eq!(receive(&peer), b"again");
    assert!(daemon.stop().success());
}

#[test]
fn sighup_does_not_end_it() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let peer = client(daemon.address());
    for round in 1..=2 {
        daemon.signal(Signal::SIGHUP);
        wait_until("the signal is seen", || {
            count(&daemon.log(), "SIGHUP") == round
        });
        peer.send(b"hello").unwrap();
        assert_eq!(receive(&peer), b"hello");
    }
    assert!(daemon.stop().success());
}

#[test]
fn what_was_received_before_the_end_is_answered() {
    for workers in ["--workers=1", "--workers=2"] {
        let mut daemon = Daemon::start(&["--mode=echo", workers]);
        let peers: Vec<_> = (0..10).map(|_| client(daemon.address())).collect();
        daemon.pause();
        for number in 0..10_u8 {
            for peer in &peers {
                peer.send(&[number; 5]).unwrap();
            }
        }
        daemon.signal(Signal::SIGTERM);
        daemon.resume();
        for number in 0..10 {
            for peer in &peers {
                assert_eq!(receive(peer), [number; 5]);
            }
        }
        assert_eq!(daemon.wait().code(), Some(0));
        daemon.wait_for_log("stopped: 100 received, 100 echoed");
    }
}

#[test]
fn a_worker_that_hangs_is_reported_and_one_that_goes_on_again_too() {
    let mut command = program();
    command.env("WATCHDOG_USEC", "500000");
    let service = Service::start(command, &["--mode=echo", "--workers=2"]);
    let health = || request_to(service.http.unwrap(), GET_HEALTH);
    assert_eq!(health().status, 200);
    let held = Held::hold(service.pid(), "worker-1");
    let problem = wait_for_health(503, health);
    assert_has(&problem.body, "worker 1 on 127.0.0.1:");
    assert!(!problem.body.contains("worker 0"), "{}", problem.body);
    assert_eq!(request_to(service.http.unwrap(), GET_READY).status, 200);

    // What was sent before that answer is here by now; nothing may follow for five intervals.
    let manager = &service.manager;
    while manager.next_within(Duration::from_millis(1)).is_some() {}
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let message = manager
            .next_within(Duration::from_millis(100))
            .unwrap_or_default();
        assert!(!message.contains("WATCHDOG"), "{message}");
    }

    held.release();
    wait_for_health(200, health);
    manager.wait_for("WATCHDOG=1");
    let (status, log) = service.end();
    assert!(status.success());
    assert_has(&log, "ERROR worker 1 on ");
}

#[test]
fn a_pause_of_the_daemon_is_no_hang_of_a_worker_and_a_hang_after_it_is_one() {
    let mut command = program();
    command.env("WATCHDOG_USEC", "50000");
    let daemon = Daemon::start_as(command, &["--mode=echo"]);
    let (http, health) = (daemon.http.unwrap(), || daemon.get("/-/healthy"));
    assert_eq!(health().status, 200);
    daemon.pause();
    // It makes no progress from now on, whoever is the first to run again.
    let held = Held::hold(daemon.pid(), "worker-0");
    let mut early = TcpStream::connect(http).unwrap();
    early.set_read_timeout(Some(DEADLINE)).unwrap();
    early.write_all(GET_HEALTH.as_bytes()).unwrap();
    let stopped = Instant::now();
    wait_until("it was stopped for longer than a worker may be", || {
        stopped.elapsed() > Duration::from_millis(2600)
    });
    daemon.resume();
    let answer = std::io::read_to_string(&mut early).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let problem = wait_for_health(503, health);
    assert_has(&problem.body, "worker 0 on 127.0.0.1:");
    daemon.wait_for_log("ERROR worker 0 on ");
    held.release();
    wait_for_health(200, health);
}

#[test]
fn a_worker_that_hangs_does_not_keep_it_from_ending() {
    let mut service = Service::start(program(), &["--mode=echo", "--workers=2"]);
    let mut held = Held::hold(service.pid(), "worker-0");
    let asked = Instant::now();
    service.signal(Signal::SIGTERM);
    held.wait_for_its_end();
    let status = service.wait();
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_second_one_on_the_same_port_is_refused_and_the_first_serves_on() {
    for (first, second) in [
        ("--workers=1", "--workers=1"),
        ("--workers=1", "--workers=2"),
        ("--workers=2", "--workers=1"),
        ("--workers=2", "--workers=2"),
        ("--reuse-address", "--workers=2"),
        ("--workers=2", "--reuse-address"),
    ] {
        let daemon = Daemon::start(&["--mode=echo", first]);
        let address = daemon.address();
        let listen = format!("--listen={address}");
        let place = format!("UDP {address}");
        assert_cannot_start(program().args([&listen, second]), &place, "already in use");
        for _ in 0..20 {
            let peer = client(address);
            peer.send(b"hello").unwrap();
            assert_eq!(receive(&peer), b"hello");
        }
        daemon.wait_for_metric("datagrams_echoed_total", 20.0);
    }
}

#[test]
fn with_reuse_address_on_both_the_second_takes_the_port_over() {
    let first = Daemon::start(&["--mode=echo", "--reuse-address"]);
    let listen = format!("--listen={}", first.address());
    let second = Daemon::start(&["--mode=echo", "--reuse-address", &listen]);
    let peer = client(first.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
    second.wait_for_metric("datagrams_echoed_total", 1.0);
}

/// CPU time, not time: how busy the machine is does not matter. One window of three has to do:
/// what the machine does to a process while it runs counts as its own time.
#[test]
fn idle_it_takes_next_to_no_cpu_and_little_memory() {
    let daemon = Daemon::start(&[]);
    let window = Duration::from_secs(5);
    let mut share = 1.0;
    for _ in 0..3 {
        let (before, since) = (cpu_time(daemon.pid()), Instant::now());
        thread::sleep(window);
        let used = cpu_time(daemon.pid()).saturating_sub(before);
        share = used.as_secs_f64() / since.elapsed().as_secs_f64();
        if share <= 0.001 {
            break;
        }
    }
    let kibibytes = resident_kibibytes(daemon.pid());
    eprintln!("idle: {:.3} % CPU, {kibibytes} KiB resident", share * 100.0);
    assert!(share <= 0.001, "{share}");
    assert!(kibibytes <= 12 * 1024, "{kibibytes} KiB");
}

#[test]
fn its_memory_does_not_grow_with_traffic() {
    let daemon = Daemon::start(&[]);
    let peer = client(daemon.address());
    let exchange = |times| {
        for _ in 0..times {
            peer.send(b"hello").unwrap();
            receive(&peer);
            peer.send(&[7; 22]).unwrap();
        }
    };
    exchange(1000);
    daemon.wait_for_metric("records_decoded_total", 1000.0);
    let before = resident_kibibytes(daemon.pid());
    exchange(9000);
    daemon.wait_for_metric("records_decoded_total", 10_000.0);
    let after = resident_kibibytes(daemon.pid());
    assert!(after <= before + 512, "{before} KiB, then {after} KiB");
}

/// One thread of a daemon, stopped while the others run. The thread that made it has to drop it.
pub(crate) struct Held(Option<Pid>);

impl Held {
    pub(crate) fn hold(process: Pid, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let is_it = |task: &Path| fs::read_to_string(task.join("comm")).unwrap().trim() == name;
        let task = tasks
            .flatten()
            .map(|task| task.path())
            .find(|task| is_it(task));
        let task = task.expect("the thread");
        let id = task.file_name().and_then(|id| id.to_str()?.parse().ok());
        let thread = Pid::from_raw(id.unwrap());
        ptrace::seize(thread, ptrace::Options::empty()).expect("ptrace is allowed");
        let held = Self(Some(thread));
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        held
    }

    pub(crate) fn release(mut self) {
        ptrace::detach(self.0.take().unwrap(), None).unwrap();
    }

    /// Until its tracer has seen the end of a thread, the process does not end.
    fn wait_for_its_end(&mut self) {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        let thread = self.0.unwrap();
        wait_until("the thread ends", || {
            waitpid(thread, Some(flags)) != Ok(WaitStatus::StillAlive)
        });
        self.0 = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(thread) = self.0 {
            let _ = ptrace::detach(thread, None);
        }
    }
}

fn wait_for_health(status: u16, health: impl Fn() -> Response) -> Response {
    wait_until_some("health changes", || {
        Some(health()).filter(|now| now.status == status)
    })
}

/// The CPU time that all threads of a process took.
fn cpu_time(process: Pid) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let nanoseconds = |task: fs::DirEntry| -> u64 {
        let text = fs::read_to_string(task.path().join("schedstat")).expect("CONFIG_SCHED_INFO");
        text.split(' ').next().unwrap().parse().unwrap()
    };
    Duration::from_nanos(tasks.flatten().map(nanoseconds).sum())
}

/// The memory of a process, exactly: what `/proc/PID/status` says may lag behind.
fn resident_kibibytes(process: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Rss:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
