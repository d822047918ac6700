//! The running daemon: signals, stalled workers, a second daemon on the port, wake-ups.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::harness::held::Held;
use crate::harness::service::{Service, assert_has, count, wait_until_some};
use crate::harness::{
    DEADLINE, Daemon, Log, Response, client, program, receive, request_to, wait_until,
};
use crate::skip;
use crate::usage::assert_cannot_start;

pub(crate) const GET_HEALTH: &str =
    "GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
const GET_READY: &str = "GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn queued_record_is_decoded_after_an_interrupted_receive() {
    let mut rounds = 0;
    wait_until("three rounds are fast enough", || {
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
fn polling_worker_stops_when_asked() {
    let daemon = Daemon::start(&["--busy-poll=1h", "--mode=echo"]);
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
    let start = cpu_ticks(daemon.pid());
    wait_until("the worker polls", || cpu_ticks(daemon.pid()) > start + 50);
    wait_for_health(200, || daemon.get("/-/healthy"));
    peer.send(b"again").unwrap();
    assert_eq!(receive(&peer), b"again");
    assert!(daemon.stop().success());
}

#[test]
fn sighup_does_not_end_the_daemon() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let peer = client(daemon.address());
    for round in 1..=2 {
        daemon.signal(Signal::SIGHUP);
        wait_until("the signal is logged", || {
            count(&daemon.log(), "SIGHUP") == round
        });
        peer.send(b"hello").unwrap();
        assert_eq!(receive(&peer), b"hello");
    }
    assert!(daemon.stop().success());
}

#[test]
fn datagrams_received_before_the_stop_are_answered() {
    for (workers, names) in [
        ("--workers=1", &["worker-0"][..]),
        ("--workers=2", &["worker-0", "worker-1"]),
    ] {
        wait_until("workers and log get a CPU within the time to stop", || {
            let service = Service::start(program(), &["--mode=echo", workers]);
            let peers: Vec<_> = (0..10).map(|_| client(service.listen)).collect();
            // The workers see the stop before they see a datagram.
            let held: Vec<_> = names
                .iter()
                .map(|name| Held::hold(service.pid(), name))
                .collect();
            // At most two batches: a slow worker does not answer a third.
            for number in 0..3_u8 {
                for peer in &peers {
                    peer.send(&[number; 5]).unwrap();
                }
            }
            service.signal(Signal::SIGTERM);
            service.manager.wait_for("STOPPING=1");
            drop(held);
            let (status, log) = service.end();
            assert_eq!(status.code(), Some(0));
            if !log.contains("stopped: ") || log.contains("did not stop in time") {
                return false;
            }
            assert_has(&log, "stopped: 30 received, 30 echoed");
            for number in 0..3 {
                for peer in &peers {
                    assert_eq!(receive(peer), [number; 5]);
                }
            }
            true
        });
    }
}

#[test]
fn idle_workers_are_woken_to_stop() {
    wait_until("workers and log get a CPU within the time to stop", || {
        let service = Service::start(program(), &["--timeout=none", "--workers=2"]);
        // After a tick they wait without a timeout.
        thread::sleep(Duration::from_millis(300));
        let log = service.end().1;
        log.contains("stopped: ") && !log.contains("did not stop in time")
    });
}

#[test]
fn stalled_worker_is_reported_until_the_stall_ends() {
    let mut command = program();
    command.env("WATCHDOG_USEC", "500000");
    let mut service = Service::start(command, &["--mode=echo", "--workers=2"]);
    let log = Log::follow(service.child.stderr.take().unwrap());
    let http = service.http.unwrap();
    let health = || request_to(http, GET_HEALTH);
    wait_for_health(200, health);
    let Some(held) = Held::hold(service.pid(), "worker-1") else {
        skip!("ptrace is not allowed");
    };
    wait_until_some("worker 1 alone is reported", || {
        let body = wait_for_health(503, health).body;
        let is_it = |worker| body.contains(&format!("worker {worker} on 127.0.0.1:"));
        (is_it(1) && !is_it(0)).then_some(())
    });
    assert_eq!(request_to(http, GET_READY).status, 200);

    // The loop that sends heartbeats logs these lines, with the number of suppressed heartbeats. A
    // pause of the machine is not a stall: heartbeats resume for a while after one.
    let manager = &service.manager;
    wait_until("no heartbeat between two lines", || {
        let next = count(&log.lines(), "ERROR worker 1 on ") + 1;
        while manager.next_within(Duration::from_millis(1)).is_some() {}
        wait_until("the next line is logged", || {
            count(&log.lines(), "ERROR worker 1 on ") >= next
        });
        let lines = log.lines().clone();
        let last = lines
            .iter()
            .rfind(|line| line.contains("ERROR worker 1 on "));
        let mut messages = std::iter::from_fn(|| manager.next_within(Duration::from_millis(1)));
        last.unwrap().contains(" (and ") && !messages.any(|message| message.contains("WATCHDOG"))
    });

    drop(held);
    wait_for_health(200, health);
    manager.wait_for("WATCHDOG=1");
    service.signal(Signal::SIGTERM);
    assert!(service.wait().success());
}

#[test]
fn daemon_pause_is_not_a_worker_stall() {
    let mut command = program();
    command.env("WATCHDOG_USEC", "50000");
    let daemon = Daemon::start_as(command, &["--mode=echo"]);
    let (http, health) = (daemon.http.unwrap(), || daemon.get("/-/healthy"));
    wait_for_health(200, health);
    // The worker makes no progress from now on, before the pause and after it.
    let Some(held) = Held::hold(daemon.pid(), "worker-0") else {
        skip!("ptrace is not allowed");
    };
    daemon.pause();
    let mut early = TcpStream::connect(http).unwrap();
    early.set_read_timeout(Some(DEADLINE)).unwrap();
    early.write_all(GET_HEALTH.as_bytes()).unwrap();
    let stopped = Instant::now();
    wait_until("the pause is longer than a stall may be", || {
        stopped.elapsed() > Duration::from_millis(2600)
    });
    daemon.resume();
    let answer = std::io::read_to_string(&mut early).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let problem = wait_for_health(503, health);
    assert_has(&problem.body, "worker 0 on 127.0.0.1:");
    daemon.wait_for_log("ERROR worker 0 on ");
    drop(held);
    wait_for_health(200, health);
}

#[test]
fn stalled_worker_does_not_delay_the_stop() {
    let mut service = Service::start(program(), &["--mode=echo", "--workers=2"]);
    let Some(held) = Held::hold(service.pid(), "worker-0") else {
        skip!("ptrace is not allowed");
    };
    service.signal(Signal::SIGTERM);
    held.wait_for_their_end();
    assert_eq!(service.wait().code(), Some(0));
}

#[test]
fn second_daemon_on_a_port_is_refused() {
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
fn second_daemon_takes_the_port_with_reuse_address() {
    let first = Daemon::start(&["--mode=echo", "--reuse-address"]);
    let listen = format!("--listen={}", first.address());
    let second = Daemon::start(&["--mode=echo", "--reuse-address", &listen]);
    let peer = client(first.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
    second.wait_for_metric("datagrams_echoed_total", 1.0);
}

/// Wake-ups do not depend on the load of the machine. One good window is enough: a pause of the
/// daemon adds wake-ups.
#[test]
fn idle_daemon_wakes_at_most_twice_per_second() {
    let daemon = Daemon::start(&[]);
    wait_until("a window has few wake-ups", || {
        let (before, start) = (wake_ups(daemon.pid()), Instant::now());
        thread::sleep(Duration::from_secs(6));
        let woken = wake_ups(daemon.pid()) - before;
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("idle: {woken} wake-ups in {seconds:.1} s");
        f64::from(woken) <= 2.0 * seconds
    });
}

fn wait_for_health(status: u16, health: impl Fn() -> Response) -> Response {
    wait_until_some("health changes", || {
        Some(health()).filter(|now| now.status == status)
    })
}

/// The number of times that the threads of a process went to sleep.
fn wake_ups(process: Pid) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of = |task: fs::DirEntry| -> u32 {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let mut lines = status.lines();
        let number = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        number.unwrap().trim().parse().unwrap()
    };
    tasks.flatten().map(of).sum()
}

/// The CPU time of a process in ticks of 10 ms (`proc_pid_stat(5)`).
fn cpu_ticks(process: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let times = fields.split(' ').skip(11).take(2);
    times.map(|time| time.parse::<u64>().unwrap()).sum()
}
