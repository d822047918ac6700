//! Where the lost were lost, by the daemon's metrics.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use nix::sys::signal::Signal;
use serde_json::json as expected;

use crate::harness::calm::undisturbed;
use crate::harness::{DEADLINE, Daemon, client, kernel_drops, receive, uninterrupted, wait_until};
use crate::reflectors::{
    LONG, Reflector, end_waiting, ended, json, object, probe, signal, started, told,
};

#[test]
fn each_lost_request_is_told_once_also_where_its_record_is_lost_too() {
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
            let words = "of the 5 lost, by the daemon's metrics: 0 on the way there, 0 dropped by \
                         its host, 5 refused by it, 0 on the way back";
            let run = || ended(&mut probe(daemon.address(), &args)).1;
            let is_told = |out: &String| out.lines().any(|line| line == words);
            let out = undisturbed(run, is_told);
            assert!(is_told(&out), "{out}");
        }
    }
}

#[test]
fn what_the_daemons_host_drops_is_told_to_the_last_one() {
    const REQUESTS: u32 = 2000;
    let daemon = Daemon::start(&["--mode=echo", "--recv-buffer=64KiB"]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = server.local_addr().unwrap();
    let before = daemon.get("/metrics").body;
    daemon.pause();
    let args = format!(
        "--mode=echo --rate=5000 --count={REQUESTS} {LONG} --json --metrics-url=http://{http}/metrics"
    );
    let child = started(&mut probe(daemon.address(), &args));
    answer(&server, &before);
    let drops = || kernel_drops(daemon.address().port());
    wait_until("its host drops some", || {
        // SIGCONT may come from elsewhere.
        daemon.pause();
        drops() > 500
    });
    daemon.resume();
    wait_until("each is echoed or dropped", || {
        #[expect(clippy::cast_precision_loss, reason = "the number is small")]
        let drops = drops() as f64;
        daemon.metric("datagrams_echoed_total") + drops >= f64::from(REQUESTS)
    });
    // Those that wait in the client's socket are taken before it ends.
    end_waiting(&child);
    answer(&server, &daemon.get("/metrics").body);
    let (_, seen) = object(told(child.wait_with_output().unwrap()));
    let lost = seen["lost"].as_u64().unwrap();
    assert!(lost > 500, "{seen}");
    let dropped =
        expected!({"uplink": 0, "server_drops": lost, "server_refused": 0, "downlink": 0});
    assert_eq!(seen["attribution"], dropped);
}

#[test]
fn what_others_do_with_the_daemon_is_not_taken_for_a_loss() {
    let daemon = Daemon::start(&["--mode=echo"]);
    // Its status page stands for its metrics.
    for path in ["", "/"] {
        let echoed = daemon.metric("datagrams_echoed_total");
        let args = format!(
            "--mode=echo --interval=0.02 {LONG} --json {}",
            url(&daemon, path)
        );
        let child = started(&mut probe(daemon.address(), &args));
        wait_until("it sends", || {
            daemon.metric("datagrams_echoed_total") > echoed
        });
        let other = client(daemon.address());
        for _ in 0..10 {
            other.send(b"x").unwrap();
            receive(&other);
        }
        signal(&child, Signal::SIGINT);
        let (_, seen) = object(told(child.wait_with_output().unwrap()));
        let others = expected!({"uplink": 0, "server_drops": 0, "server_refused": 0, "downlink": 0,
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
    let text = "udp_echo_datagrams_received_total 1\nudp_echo_datagrams_echoed_total 1\n";
    answer(&server, text);
    let _after = asked(&server);
    signal(&child, Signal::SIGINT);
    let (status, out, err) = told(child.wait_with_output().unwrap());
    assert_eq!((status, err.as_str()), (1, ""));
    let words = "where they were lost is not known: cannot read the metrics at ";
    assert!(
        out.contains(words) && out.ends_with(": asked to stop\n"),
        "{out}"
    );
}

/// The next connection, whose request has come.
fn asked(server: &TcpListener) -> TcpStream {
    let (mut connection, _) = server.accept().unwrap();
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut request = [0; 1024];
    assert!(uninterrupted(|| connection.read(&mut request)).unwrap() > 0);
    connection
}

/// Answers the next request.
fn answer(server: &TcpListener, text: &str) {
    let length = text.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    let mut connection = asked(server);
    connection.write_all((head + text).as_bytes()).unwrap();
}

fn url(daemon: &Daemon, path: &str) -> String {
    format!("--metrics-url=http://{}{path}", daemon.http.unwrap())
}
