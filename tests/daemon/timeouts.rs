//! Timeouts: records that expire, idle sockets, pauses and floods.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;

use crate::harness::{DEADLINE, Daemon, client, receive, wait_until};
use crate::modes::{RECORD, ask, assert_counts};
use crate::reference_server::{in_time, seconds};

const RECORD_TIMEOUTS: &str = r#"timeouts_total{waiting_for="record"}"#;
const IDLE_TIMEOUTS: &str = r#"timeouts_total{waiting_for="echo"}"#;

#[test]
fn daemon_is_not_idle_while_one_socket_is_busy() {
    in_time(|timeout| {
        let both = "--listen=127.0.0.1:0,127.0.0.1:0";
        let more = [&*seconds(timeout), "--metrics-listen=none", both];
        let start = Instant::now();
        let mut daemon =
            Daemon::start(&[&["--exit-on=timeout", "--mode=echo"], &more[..]].concat());
        let peer = client(daemon.listen[1]);
        peer.set_nonblocking(true).unwrap();
        let (mut heard, mut busy) = (start, true);
        while busy && heard - start < timeout * 3 / 2 {
            let asked = Instant::now();
            // Fails if the daemon has ended.
            let _ = peer.send(b"busy");
            let mut answered = false;
            wait_until("the daemon answers or ends", || {
                busy = daemon.is_running();
                answered = peer.recv(&mut [0; 4]).is_ok();
                answered || !busy
            });
            if answered {
                heard = asked;
                thread::sleep(Duration::from_millis(20));
            }
        }
        assert_eq!(daemon.wait().code(), Some(0));
        // The daemon must be idle for the timeout. If it ended while it should have been busy, the
        // machine was too slow.
        assert!(heard.elapsed() >= timeout, "too early");
        (heard - start >= timeout * 3 / 2).then_some(())
    });
}

#[test]
fn record_expires_after_the_timeout() {
    for mode in ["--mode=exchange", "--mode=lockstep"] {
        let daemon = Daemon::start(&[mode, "--timeout=300ms"]);
        let peer = client(daemon.address());
        for round in 1..=2 {
            assert_eq!(ask(&peer, b"next"), b"next");
            assert_counts(&daemon, &[(RECORD_TIMEOUTS, round), ("peers", 0)]);
        }
    }
}

#[test]
fn record_expires_while_other_peers_are_busy() {
    let daemon = Daemon::start(&["--timeout=300ms"]);
    let [peer, other] = [client(daemon.address()), client(daemon.address())];
    assert_eq!(ask(&peer, b"a"), b"a");
    wait_until("the record has expired", || {
        other.send(b"").unwrap();
        daemon.metric(RECORD_TIMEOUTS) > 0.5
    });
    assert_eq!(ask(&peer, b"next"), b"next");
}

/// Refused datagrams do not reset the idle timer, even if the socket is never empty.
#[test]
fn refused_flood_delays_no_timeout() {
    let every = "--exit-on=timeout,empty,decode-error";
    for [mode, exits] in [
        ["--mode=lockstep", every],
        ["--mode=exchange", every],
        ["--mode=echo", "--exit-on=timeout"],
        ["--mode=lockstep", "--exit-on=empty"],
        ["--mode=exchange", "--exit-on=empty"],
    ] {
        let mut peers = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        peers.sort_by_key(|peer| peer.local_addr().unwrap().port());
        let [refused, peer] = peers;
        let least = format!("--min-source-port={}", peer.local_addr().unwrap().port());
        // The buffer is never empty, even if the senders get no CPU for a while.
        let more = ["--timeout=500ms", "--recv-buffer=16MiB"];
        let ends = exits.contains("timeout");
        // The daemon may end before the test could ask its HTTP port.
        let http = if ends { "none" } else { "127.0.0.1:0" };
        let http = format!("--metrics-listen={http}");
        let mut daemon = Daemon::start(&[&[mode, exits, &least, &http], &more[..]].concat());
        for socket in [&refused, &peer] {
            socket.connect(daemon.address()).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
        }
        if !ends {
            assert_eq!(ask(&peer, b"a"), b"a", "{mode}");
        }
        while_flooded(&refused, || {
            if ends {
                assert_eq!(daemon.wait().code(), Some(0), "{mode} {exits}");
            } else {
                daemon.wait_for_metric(RECORD_TIMEOUTS, 1.0);
            }
        });
    }
}

#[test]
fn datagrams_that_came_during_a_pause_are_in_time() {
    in_time(|timeout| {
        for mode in ["--mode=exchange", "--mode=lockstep"] {
            let start = Instant::now();
            let daemon = Daemon::start(&[mode, &seconds(timeout)]);
            let peer = client(daemon.address());
            assert_eq!(ask(&peer, b"a"), b"a");
            daemon.pause();
            if start.elapsed() > timeout / 2 {
                return None;
            }
            peer.send(&RECORD).unwrap();
            peer.send(b"b").unwrap();
            thread::sleep(timeout);
            daemon.resume();
            assert_eq!(receive(&peer), b"b", "{mode}");
        }
        Some(())
    });
}

#[test]
fn idle_timeouts_are_counted_once_per_timeout() {
    for mode in ["--mode=exchange", "--mode=lockstep", "--mode=echo"] {
        let start = Instant::now();
        let daemon = Daemon::start(&[mode, "--timeout=0.25"]);
        wait_until("three timeouts", || daemon.metric(IDLE_TIMEOUTS) > 2.5);
        let count = daemon.metric(IDLE_TIMEOUTS);
        assert!(count <= start.elapsed().as_secs_f64() / 0.25, "{mode}");
        assert_counts(&daemon, &[(RECORD_TIMEOUTS, 0)]);
    }
}

#[test]
fn no_record_expires_without_a_timeout() {
    let clock = Daemon::start(&["--timeout=100ms"]);
    for mode in ["--mode=exchange", "--mode=lockstep"] {
        let daemon = Daemon::start(&[mode, "--timeout=none"]);
        let peer = client(daemon.address());
        assert_eq!(ask(&peer, b"a"), b"a");
        let start = clock.metric(IDLE_TIMEOUTS);
        wait_until("time passed", || clock.metric(IDLE_TIMEOUTS) > start + 7.5);
        assert_counts(&daemon, &[("timeouts_total", 0), ("peers", 1)]);
        peer.send(&RECORD).unwrap();
        assert_counts(&daemon, &[("records_decoded_total", 1), ("peers", 0)]);
    }
}

/// Runs `work` while four threads send through `socket` without a pause.
fn while_flooded(socket: &UdpSocket, work: impl FnOnce()) {
    struct Stops<'a>(&'a AtomicBool);
    impl Drop for Stops<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    // One call sends 64 datagrams of one byte.
    setsockopt(socket, UdpGsoSegment, &1).unwrap();
    thread::scope(|scope| {
        // Stops the threads even if `work` panics.
        let _stops = Stops(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    // Fails once the daemon has ended.
                    let _ = socket.send(&[0; 64]);
                }
            });
        }
        work();
    });
}
