//! The service manager: readiness, status, watchdog, stop.

use std::io::Write;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::harness::service::{Service, assert_has, count};
use crate::harness::tidy::Folder;
use crate::harness::{DEADLINE, Daemon, client, program, receive, request_to, uninterrupted};
use crate::running::GET_HEALTH;

const GET_READY: &str = "GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn ready_daemon_answers_at_the_addresses_in_its_status() {
    for _ in 0..5 {
        let service = Service::start(program(), &["--listen=127.0.0.1:0", "--workers=2"]);
        let ready = request_to(service.http.unwrap(), GET_READY);
        assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
        let peer = client(service.listen);
        peer.send(b"at once").unwrap();
        assert_eq!(receive(&peer), b"at once");
        assert_has(&service.status, "; 0 received, 0 echoed, ");
        let address = service.listen.to_string();
        assert_eq!(service.status.matches(&address).count(), 1);
        assert!(service.end().0.success());
    }
}

#[test]
fn status_follows_the_traffic_and_is_sent_only_on_change() {
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
    // One heartbeat per second; an unchanged status would be sent every two seconds.
    for _ in 0..5 {
        assert_eq!(service.manager.next(), "WATCHDOG=1\n");
    }
}

#[test]
fn status_counts_sessions_in_stamp_mode() {
    let service = Service::start(program(), &["--mode=stamp"]);
    assert_has(&service.status, "; 0 received, 0 echoed, 0 sessions, 0 dr");
    for (clients, sessions) in [(1, "1 session"), (2, "2 sessions")] {
        let peer = client(service.listen);
        peer.send(&[0; 44]).unwrap();
        assert_eq!(receive(&peer).len(), 44);
        let numbers = format!("; {clients} received, {clients} echoed, {sessions}, 0 dropped");
        let status = service.manager.wait_for(&numbers);
        assert_has(&status, "STATUS=stamp on 127.0.0.1:");
    }
}

#[test]
fn watchdog_gets_repeated_heartbeats() {
    let mut command = program();
    command.env("WATCHDOG_USEC", "500000");
    let service = Service::start(command, &[]);
    for _ in 0..5 {
        service.manager.wait_for("WATCHDOG=1");
    }
}

#[test]
fn disabled_or_foreign_watchdog_gets_no_heartbeat() {
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
fn stop_signal_sends_stopping_and_exits_with_status_0() {
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
fn daemon_serves_and_warns_once_without_a_manager() {
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
fn ready_is_sent_again_after_a_failure() {
    let folder = Folder::new();
    let path = folder.join("notify");
    let mut command = program();
    command.env("NOTIFY_SOCKET", &path);
    let daemon = Daemon::start_as(command, &[]);
    daemon.wait_for_log("cannot notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut message = [0; 512];
    let length = uninterrupted(|| manager.recv(&mut message)).expect("a message");
    assert!(message[..length].starts_with(b"READY=1\nSTATUS=exchange on "));
    assert!(daemon.stop().success());
}

#[test]
fn manager_may_have_an_abstract_address() {
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
fn stalled_manager_delays_neither_http_nor_stop() {
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
