//! Where the lost were lost, by the daemon's metrics.

use std::io::{Read, Write};
use std::net::TcpListener;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json as object};

use crate::harness::{Daemon, client, kernel_drops, receive, wait_until};
use crate::reflectors::{Reflector, ended, json, probe, started, told};

#[test]
fn each_lost_request_is_told_once_also_where_its_record_is_lost_too() {
    for mode in ["exchange", "lockstep", "echo"] {
        let mode = format!("--mode={mode}");
        let daemon = Daemon::start(&[&mode, "--min-source-port=65535"]);
        let args = format!(
            "{mode} --count=5 --interval=0.01 --wait=0.5 {}",
            url(&daemon, "/metrics")
        );
        let (status, seen) = json(daemon.address(), &args);
        assert_eq!((status, &seen["lost"]), (1, &5.into()), "{mode}");
        let refused = object!({"uplink": 0, "server_drops": 0, "server_refused": 5, "downlink": 0});
        assert_eq!(seen["attribution"], refused, "{mode}");
        let (_, out, _) = ended(&mut probe(daemon.address(), &args));
        let words = "of the 5 lost, by the daemon's metrics: 0 on the way there, 0 dropped by its \
                     host, 5 refused by it, 0 on the way back";
        assert!(out.lines().any(|line| line == words), "{out}");
    }
}

#[test]
fn what_the_daemons_host_drops_is_told_to_the_last_one() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let args = format!(
        "--mode=echo --rate=2000 --wait=5 --json {}",
        url(&daemon, "/metrics")
    );
    let child = started(&mut probe(daemon.address(), &args));
    wait_until("it sends", || daemon.metric("datagrams_echoed_total") > 0.0);
    daemon.pause();
    wait_until("its host drops some", || {
        kernel_drops(daemon.address().port()) > 500
    });
    daemon.resume();
    let seen = interrupted(child);
    let lost = seen["lost"].as_u64().unwrap();
    assert!(lost > 500, "{seen}");
    let dropped = object!({"uplink": 0, "server_drops": lost, "server_refused": 0, "downlink": 0});
    assert_eq!(seen["attribution"], dropped);
}

#[test]
fn what_others_do_with_the_daemon_is_not_taken_for_a_loss() {
    let daemon = Daemon::start(&["--mode=echo"]);
    // Its status page stands for its metrics.
    for path in ["", "/"] {
        let echoed = daemon.metric("datagrams_echoed_total");
        let args = format!("--mode=echo --interval=0.02 --json {}", url(&daemon, path));
        let child = started(&mut probe(daemon.address(), &args));
        wait_until("it sends", || {
            daemon.metric("datagrams_echoed_total") > echoed
        });
        let other = client(daemon.address());
        for _ in 0..10 {
            other.send(b"x").unwrap();
            receive(&other);
        }
        let seen = interrupted(child);
        let others = object!({"uplink": 0, "server_drops": 0, "server_refused": 0, "downlink": 0,
                              "of_others": 10});
        assert_eq!((&seen["lost"], &seen["attribution"]), (&0.into(), &others));
    }
}

#[test]
fn somebody_who_asks_for_the_end_again_does_not_wait_for_the_metrics() {
    let silent = Reflector::new(|_| vec![]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = server.local_addr().unwrap();
    let args = format!("--count=2 --interval=0.01 --wait=0.05 --metrics-url=http://{http}/metrics");
    let child = started(&mut probe(silent.address, &args));
    let (mut before, _) = server.accept().unwrap();
    let mut request = [0; 1024];
    assert!(before.read(&mut request).unwrap() > 0);
    let text = "udp_echo_datagrams_received_total 1\nudp_echo_datagrams_echoed_total 1\n";
    let length = text.len();
    write!(
        before,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}"
    )
    .unwrap();
    let (mut after, _) = server.accept().unwrap();
    assert!(after.read(&mut request).unwrap() > 0);
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let (status, out, err) = told(child.wait_with_output().unwrap());
    assert_eq!((status, err.as_str()), (1, ""));
    let words = "where they were lost is not known: cannot read the metrics at ";
    assert!(
        out.contains(words) && out.ends_with(": asked to stop\n"),
        "{out}"
    );
}

fn url(daemon: &Daemon, path: &str) -> String {
    format!("--metrics-url=http://{}{path}", daemon.http.unwrap())
}

/// What it says when it was asked to end.
fn interrupted(child: std::process::Child) -> Value {
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let (_, out, err) = told(child.wait_with_output().unwrap());
    assert_eq!(err, "");
    serde_json::from_str(&out).unwrap()
}
