//! From ready to stopped: what the service manager hears, signals, hangs, neighbours, costs.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::harness::held::Held;
use crate::harness::service::{Service, assert_has, count, wait_until_some};
use crate::harness::tidy::Folder;
use crate::harness::{
    DEADLINE, Daemon, Log, Response, client, program, receive, request_to, uninterrupted,
    wait_until,
};
use crate::skip;
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
        service.signal(signal);
        service.manager.wait_for("STOPPING=1");
        assert_eq!(service.wait().code(), Some(0), "{signal}");
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
        let daemon = Daemon::start_as(command, &["--mode=echo"]);
        let peer = client(daemon.address());
        for _ in 0..20 {
            peer.send(b"hello").unwrap();
            assert_eq!(receive(&peer), b"hello");
        }
        let log = daemon.whole_log();
        assert_eq!(count(&log, "NOTIFY_SOCKET"), warnings, "{log:#?}");
        assert!(daemon.stop().success());
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
fn a_worker_polls_after_a_datagram_and_ends_when_asked_to_stop() {
    let daemon = Daemon::start(&["--busy-poll=1h", "--mode=echo"]);
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
    let start = cpu_ticks(daemon.pid());
    wait_until("it polls", || cpu_ticks(daemon.pid()) > start + 50);
    wait_for_health(200, || daemon.get("/-/healthy"));
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
fn datagrams_received_before_the_end_are_answered() {
    for (workers, names) in [
        ("--workers=1", &["worker-0"][..]),
        ("--workers=2", &["worker-0", "worker-1"]),
    ] {
        wait_until("workers and log get a CPU within the time to stop", || {
            let service = Service::start(program(), &["--mode=echo", workers]);
            let peers: Vec<_> = (0..10).map(|_| client(service.listen)).collect();
            // They see that they are to stop before they see a datagram.
            let held: Vec<_> = names
                .iter()
                .map(|name| Held::hold(service.pid(), name))
                .collect();
            // Two batches at most: a worker that is slow takes no third.
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
            if !log.contains("stopped: ") || log.contains("a worker does not stop") {
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
fn a_worker_that_hangs_is_reported_and_one_that_goes_on_again_too() {
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

    // Each line is of the loop that would tell the watchdog, and says how often it would have. A
    // pause of the machine is no hang: after one the watchdog hears of it for a while.
    let manager = &service.manager;
    wait_until(
        "the watchdog hears nothing from one line to the next",
        || {
            let next = count(&log.lines(), "ERROR worker 1 on ") + 1;
            while manager.next_within(Duration::from_millis(1)).is_some() {}
            wait_until("there is the next line", || {
                count(&log.lines(), "ERROR worker 1 on ") >= next
            });
            let lines = log.lines().clone();
            let last = lines
                .iter()
                .rfind(|line| line.contains("ERROR worker 1 on "));
            let mut messages = std::iter::from_fn(|| manager.next_within(Duration::from_millis(1)));
            last.unwrap().contains(" (and ")
                && !messages.any(|message| message.contains("WATCHDOG"))
        },
    );

    drop(held);
    wait_for_health(200, health);
    manager.wait_for("WATCHDOG=1");
    service.signal(Signal::SIGTERM);
    assert!(service.wait().success());
}

#[test]
fn a_pause_of_the_daemon_is_no_hang_of_a_worker_and_a_hang_after_it_is_one() {
    let mut command = program();
    command.env("WATCHDOG_USEC", "50000");
    let daemon = Daemon::start_as(command, &["--mode=echo"]);
    let (http, health) = (daemon.http.unwrap(), || daemon.get("/-/healthy"));
    wait_for_health(200, health);
    // It makes no progress from now on, whichever is the first to run again.
    let Some(held) = Held::hold(daemon.pid(), "worker-0") else {
        skip!("ptrace is not allowed");
    };
    daemon.pause();
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
    drop(held);
    wait_for_health(200, health);
}

#[test]
fn a_worker_that_hangs_does_not_keep_it_from_ending() {
    let mut service = Service::start(program(), &["--mode=echo", "--workers=2"]);
    let Some(held) = Held::hold(service.pid(), "worker-0") else {
        skip!("ptrace is not allowed");
    };
    service.signal(Signal::SIGTERM);
    held.wait_for_their_end();
    assert_eq!(service.wait().code(), Some(0));
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

/// Wake-ups do not depend on how busy the machine is. One window has to do: whatever stops and
/// continues the daemon wakes it, too.
#[test]
fn an_idle_daemon_wakes_at_most_twice_per_second() {
    let daemon = Daemon::start(&[]);
    wait_until("it wakes seldom", || {
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

/// How often the threads of a process went to sleep, and so woke.
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

/// The CPU time that a process took, in ticks of 10 ms (`proc_pid_stat(5)`).
fn cpu_ticks(process: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let times = fields.split(' ').skip(11).take(2);
    times.map(|time| time.parse::<u64>().unwrap()).sum()
}
