//! Where requests were lost, by the daemon's metrics.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Child;

use nix::sys::signal::Signal;
use serde_json::{Value, json as expected};

use crate::harness::calm::undisturbed;
use crate::harness::{DEADLINE, Daemon, client, kernel_drops, receive, uninterrupted, wait_until};
use crate::reflectors::{
    LONG, Reflector, end_waiting, ended, finished, joined, json, object, probe, signal, started,
};

#[test]
fn attribution_counts_each_lost_request_once_with_records() {
    for mode in ["exchange", "lockstep", "echo"] {
        let mode = format!("--mode={mode}");
        let daemon = Daemon::start(&[&mode, "--min-source-port=65535"]);
        let args = format!(
            "{mode} --count=5 --interval=0.01 --wait=0.2 {}",
            url(&daemon, "/metrics")
        );
        let refused =
            expected!({"uplink": 0, "server_drops": 0, "server_refused": 5, "downlink": 0});
        let run = || json(daemon.address(), &args);
        let (status, seen) = undisturbed(run, |(_, seen)| seen["attribution"] == refused);
        assert_eq!((status, &seen["lost"]), (1, &5.into()), "{mode}");
        assert_eq!(seen["attribution"], refused, "{mode}");
        if mode == "--mode=echo" {
            let text = "place of loss, by the daemon's metrics: 0 on the way there, 0 dropped by \
                        its host, 5 refused by it, 0 on the way back";
            let run = || ended(&mut probe(daemon.address(), &args)).1;
            let is_right = |out: &String| joined(out).contains(text);
            let out = undisturbed(run, is_right);
            assert!(is_right(&out), "{out}");
        }
    }
}

#[test]
fn attribution_is_exact_when_the_daemons_host_drops() {
    let is_right = |seen: &Option<Value>| {
        let lost = seen
            .as_ref()
            .map(|seen| (seen["lost"].as_u64(), &seen["attribution"]));
        lost.is_some_and(|(lost, attribution)| {
            let dropped =
                expected!({"uplink": 0, "server_drops": lost, "server_refused": 0, "downlink": 0});
            lost > Some(500) && *attribution == dropped
        })
    };
    // The client waits 5 s for the metrics.
    let seen = undisturbed(dropped_by_the_daemons_host, is_right);
    assert!(is_right(&seen), "{seen:?}");
}

/// Returns the object of a client whose daemon was stopped for a while, or `None` if the client got
/// no metrics.
fn dropped_by_the_daemons_host() -> Option<Value> {
    const REQUESTS: u32 = 2000;
    let daemon = Daemon::start(&["--mode=echo", "--recv-buffer=64KiB"]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = server.local_addr().unwrap();
    let before = daemon.get("/metrics").body;
    daemon.pause();
    let args = format!(
        "--mode=echo --rate=5000 --count={REQUESTS} {LONG} --json --metrics-url=http://{http}/metrics"
    );
    let mut child = started(&mut probe(daemon.address(), &args));
    answer(&server, &mut child, &before)?;
    let drops = || kernel_drops(daemon.address().port());
    wait_until("the kernel drops datagrams, or the client ends", || {
        // Another process may send SIGCONT.
        daemon.pause();
        drops() > 500 || child.try_wait().unwrap().is_some()
    });
    daemon.resume();
    wait_until("each is echoed or dropped, or the client ends", || {
        #[expect(clippy::cast_precision_loss, reason = "the number is small")]
        let drops = drops() as f64;
        daemon.metric("datagrams_echoed_total") + drops >= f64::from(REQUESTS)
            || child.try_wait().unwrap().is_some()
    });
    // The client receives the waiting replies before it ends.
    end_waiting(&child);
    answer(&server, &mut child, &daemon.get("/metrics").body)?;
    let (_, seen) = object(finished(child.wait_with_output().unwrap()));
    Some(seen)
}

#[test]
fn attribution_sees_no_loss_in_other_clients_datagrams() {
    let daemon = Daemon::start(&["--mode=echo"]);
    // A URL without a path stands for /metrics.
    for path in ["", "/"] {
        let echoed = daemon.metric("datagrams_echoed_total");
        let args = format!(
            "--mode=echo --interval=0.02 {LONG} --json {}",
            url(&daemon, path)
        );
        let child = started(&mut probe(daemon.address(), &args));
        wait_until("the client sends", || {
            daemon.metric("datagrams_echoed_total") > echoed
        });
        let other = client(daemon.address());
        for _ in 0..10 {
            other.send(b"x").unwrap();
            receive(&other);
        }
        signal(&child, Signal::SIGINT);
        let (_, seen) = object(finished(child.wait_with_output().unwrap()));
        let others = expected!({"uplink": 0, "server_drops": 0, "server_refused": 0, "downlink": 0,
                                "of_others": 10});
        assert_eq!((&seen["lost"], &seen["attribution"]), (&0.into(), &others));
    }
}

#[test]
fn second_signal_ends_the_wait_for_the_metrics() {
    let silent = Reflector::new(|_| vec![]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = server.local_addr().unwrap();
    let args = format!("--count=2 --interval=0.01 --wait=0.05 --metrics-url=http://{http}/metrics");
    let run = || {
        let mut child = started(&mut probe(silent.address, &args));
        let text = "udp_echo_datagrams_received_total 1\nudp_echo_datagrams_echoed_total 1\n";
        let _after = answer(&server, &mut child, text).and_then(|()| asked(&server, &mut child));
        signal(&child, Signal::SIGINT);
        finished(child.wait_with_output().unwrap())
    };
    let text = "place of loss unknown: cannot read the metrics at ";
    let is_right = |(status, out, err): &(i32, String, String)| {
        let out = joined(out);
        let is_shown = out.contains(text) && out.ends_with(": interrupted");
        (*status, err.as_str()) == (1, "") && is_shown
    };
    // The client waits 5 s for the metrics.
    let seen = undisturbed(run, is_right);
    assert!(is_right(&seen), "{seen:?}");
}

/// Accepts the next connection and reads its request. Returns `None` if the client ends before.
fn asked(server: &TcpListener, child: &mut Child) -> Option<TcpStream> {
    server.set_nonblocking(true).unwrap();
    let mut connection = None;
    wait_until("the client asks for metrics, or ends", || {
        connection = server.accept().ok().map(|(connection, _)| connection);
        connection.is_some() || child.try_wait().unwrap().is_some()
    });
    let mut connection = connection?;
    connection.set_nonblocking(false).unwrap();
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut request = [0; 1024];
    let length = uninterrupted(|| connection.read(&mut request));
    length.is_ok_and(|length| length > 0).then_some(connection)
}

/// Answers the next request. Returns `None` if the client ends before.
fn answer(server: &TcpListener, child: &mut Child, text: &str) -> Option<()> {
    let length = text.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    let mut connection = asked(server, child)?;
    connection.write_all((head + text).as_bytes()).ok()
}

fn url(daemon: &Daemon, path: &str) -> String {
    format!("--metrics-url=http://{}{path}", daemon.http.unwrap())
}
