//! A running client: lines, signals, pauses, standard outputs that close or fail.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::calm::undisturbed;
use crate::harness::tidy::end_with_test;
use crate::harness::{DEADLINE, Daemon, program, receive_from, unreachable, wait_until};
use crate::reflectors::{
    LONG, Reflector, end_waiting, ended, finished, joined, probe, script, sequence, signal, started,
};
use crate::skip;

#[test]
fn probe_prints_a_line_for_each_reply_and_missing_reply() {
    let reflector = Reflector::new(|request| match sequence(request) {
        2 => vec![],
        3 => vec![request.to_vec(), request.to_vec()],
        _ => vec![request.to_vec()],
    });
    let args = "--mode=echo --count=3 --interval=0.05 --wait=0.5 --flows=2";
    let summary = "3 sent, 2 received, 1 lost (33.33%), 1 duplicate in ";
    let run = || ended(&mut probe(reflector.address, args));
    let (status, out, err) = undisturbed(run, |(_, out, _)| {
        out.contains(summary) && out.matches("no reply").count() == 1
    });
    assert_eq!((status, err.as_str()), (0, ""));
    let from = format!("64 bytes from {}: seq=", reflector.address);
    let lines: Vec<_> = out.lines().collect();
    for (line, number) in [(lines[1], 1), (lines[2], 3)] {
        let rest = line.strip_prefix(&format!("{from}{number} flow=1 ttl="));
        let ttl = rest.and_then(|rest| rest.split_once(" time="));
        let ttl = ttl.and_then(|(ttl, _)| ttl.parse::<u8>().ok());
        assert!(ttl > Some(0), "{out}");
    }
    assert!(lines[3].ends_with(" ms (duplicate)"), "{out}");
    assert_eq!(lines[4], "no reply to seq=2 flow=2 within 500 ms", "{out}");
    assert!(out.contains(summary), "{out}");
    let args = "--mode=echo --interval=0.05 --flows=2 --quiet";
    let out = reflector.measure(3, args).1;
    assert!(!out.contains("seq=") && out.contains(summary), "{out}");
}

#[test]
fn probe_reports_a_closed_port_and_does_not_wait() {
    let (_kept, target) = unreachable(Ipv4Addr::LOCALHOST.into());
    for mode in ["exchange", "echo"] {
        let args = format!("--count=5 --interval=0.01 --wait=30 --mode={mode}");
        let (status, out, err) = ended(&mut probe(target, &args));
        assert_eq!((status, err.as_str()), (1, ""));
        let error = "ICMP port unreachable from 127.0.0.1";
        for number in 1..=5 {
            assert!(out.contains(&format!("\nseq={number}: {error}\n")), "{out}");
        }
        assert!(out.contains("5 sent, 0 received, 5 lost (100%)"), "{out}");
        let says = format!("\n5 requests: the port is closed ({error})\n");
        assert!(out.contains(&says), "{out}");
    }
}

#[test]
fn requests_after_a_pause_use_the_flows_in_turn() {
    let came = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&came);
    let reflector = Reflector::new(move |request| {
        seen.store(sequence(request), Relaxed);
        let lost = sequence(request) % 4 == 3;
        (!lost).then(|| request.to_vec()).into_iter().collect()
    });
    let args = format!("--mode=echo --flows=4 --rate=200 --count=100 --quiet {LONG}");
    let child = started(&mut probe(reflector.address, &args));
    wait_until("the client sends", || came.load(Relaxed) > 8);
    signal(&child, Signal::SIGSTOP);
    let stopped = Instant::now();
    wait_until("twenty requests are due", || {
        stopped.elapsed() > Duration::from_millis(150)
    });
    signal(&child, Signal::SIGCONT);
    wait_until("all requests arrived", || reflector.datagrams() >= 100);
    end_waiting(&child);
    let (_, out, _) = finished(child.wait_with_output().unwrap());
    for (flow, counts) in [
        (1, "25 sent, 0 lost (0%)"),
        (2, "25 sent, 0 lost (0%)"),
        (3, "25 sent, 25 lost (100%)"),
        (4, "25 sent, 0 lost (0%)"),
    ] {
        let line = out
            .lines()
            .find(|line| line.contains(&format!("  flow {flow}, ")));
        assert!(line.is_some_and(|line| line.ends_with(counts)), "{out}");
    }
}

#[test]
fn ctrl_c_prints_the_summary_and_keeps_the_status() {
    let daemon = Daemon::start(&[]);
    let silent = Reflector::new(|_| vec![]);
    for (target, wait, asked, status) in [
        (daemon.address(), LONG, Signal::SIGINT, 0),
        (daemon.address(), LONG, Signal::SIGTERM, 0),
        (silent.address, "--wait=0.2", Signal::SIGINT, 1),
    ] {
        let mut child = started(&mut probe(target, &format!("--interval=0.02 {wait}")));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut out: Vec<String> = lines.by_ref().take(2).map(Result::unwrap).collect();
        signal(&child, asked);
        out.extend(lines.map(Result::unwrap));
        assert_eq!(
            finished(child.wait_with_output().unwrap()).0,
            status,
            "{out:#?}"
        );
        let summary = out.iter().find(|line| line.contains(" sent, "));
        assert!(summary.is_some(), "{out:#?}");
    }
}

#[test]
fn probe_loses_nothing_while_stopped() {
    let daemon = Daemon::start(&["--timeout=1s"]);
    let continues = || {
        let before = daemon.metric("datagrams_echoed_total");
        wait_until("the client continues", || {
            daemon.metric("datagrams_echoed_total") > before + 100.0
        });
    };
    let expired = || daemon.metric("timeouts_total{waiting_for=\"record\"}");
    let run = || {
        let args = "--rate=100000 --flows=32 --quiet --wait=2";
        let child = started(&mut probe(daemon.address(), args));
        let before = expired();
        wait_until("the client was stopped with replies to receive", || {
            continues();
            wait_until("no record is owed", || {
                // Another process may send SIGCONT.
                signal(&child, Signal::SIGSTOP);
                daemon.metric("peers") == 0.0
            });
            signal(&child, Signal::SIGCONT);
            expired() > before
        });
        continues();
        signal(&child, Signal::SIGINT);
        finished(child.wait_with_output().unwrap())
    };
    // A daemon that is delayed as well may decode a request as the record.
    let (status, out, _) = undisturbed(run, |(_, out, _)| out.contains(" 0 lost (0%)"));
    assert_eq!(status, 0);
    assert!(out.contains(" 0 lost (0%)"), "{out}");
}

#[test]
fn replies_during_a_stop_are_received_after_the_deadline() {
    const REQUESTS: usize = 200;
    for flows in [1, REQUESTS] {
        let all = format!("{REQUESTS} sent, {REQUESTS} received, 0 lost (0%)");
        let is_right = |(status, out): &(i32, String)| {
            *status == 0 && out.contains(&all) && !out.contains("no reply to")
        };
        // The client has to be stopped before its deadline.
        let seen = undisturbed(
            || stopped_with_replies_to_receive(REQUESTS, flows),
            is_right,
        );
        assert!(is_right(&seen), "{flows}: {}", seen.1);
    }
}

/// Stops a client that waits for replies until its deadline has passed. The replies arrive before.
fn stopped_with_replies_to_receive(requests: usize, flows: usize) -> (i32, String) {
    let reflector = UdpSocket::bind("127.0.0.1:0").unwrap();
    reflector.set_read_timeout(Some(DEADLINE)).unwrap();
    let args = format!("--mode=echo --count={requests} --rate=5000 --wait=2 --flows={flows}");
    let child = started(&mut probe(reflector.local_addr().unwrap(), &args));
    let requests: Vec<_> = (0..requests).map(|_| receive_from(&reflector)).collect();
    stop(&child);
    for (request, peer) in requests {
        reflector.send_to(&request, peer).unwrap();
    }
    let stopped = Instant::now();
    wait_until("the deadline has passed", || {
        stopped.elapsed() > Duration::from_secs(2)
    });
    signal(&child, Signal::SIGCONT);
    let (status, out, _) = finished(child.wait_with_output().unwrap());
    (status, out)
}

fn stop(child: &Child) {
    signal(child, Signal::SIGSTOP);
    wait_until("the client is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let state = stat.rsplit(") ").next().unwrap();
        state.starts_with('T') || state.starts_with('Z')
    });
}

#[test]
fn probe_counts_unsent_requests_when_a_pause_outlasts_the_run() {
    let reflector = UdpSocket::bind("127.0.0.1:0").unwrap();
    reflector.set_read_timeout(Some(DEADLINE)).unwrap();
    let args = "--mode=echo --rate=100 --duration=1 --wait=0.1 --quiet";
    let child = started(&mut probe(reflector.local_addr().unwrap(), args));
    let received = Instant::now();
    receive_from(&reflector);
    stop(&child);
    wait_until("the run has ended", || {
        received.elapsed() > Duration::from_secs(2)
    });
    signal(&child, Signal::SIGCONT);
    let (_, out, _) = finished(child.wait_with_output().unwrap());
    let numbers_after = |words: &str| -> u32 {
        let rests = out.split(words).skip(1);
        let numbers = rests.map(|rest| rest.split([' ', ';']).next().unwrap());
        numbers.map(|number| number.parse::<u32>().unwrap()).sum()
    };
    let sum = numbers_after(" ---\n") + numbers_after("due but not sent: ");
    assert_eq!(sum, 100, "{out}");
    let reason = "; this process was stopped or blocked for up to ";
    assert!(joined(&out).contains(reason), "{out}");
}

#[test]
fn pause_of_the_process_is_not_blamed_on_the_flows() {
    let daemon = Daemon::start(&["--timeout=none"]);
    let (own, others) = (
        "; this process was stopped or blocked for up to ",
        "use more --flows",
    );
    let run = || {
        let sent = daemon.metric("datagrams_echoed_total");
        let continues = |number: f64| {
            wait_until("the client sends", || {
                daemon.metric("datagrams_echoed_total") > sent + number
            });
        };
        let child = started(&mut probe(daemon.address(), "--rate=50 --quiet --wait=60"));
        continues(3.0);
        stop(&child);
        let stopped = Instant::now();
        wait_until("many requests are due", || {
            stopped.elapsed() > Duration::from_secs(1)
        });
        signal(&child, Signal::SIGCONT);
        continues(20.0);
        signal(&child, Signal::SIGINT);
        joined(&finished(child.wait_with_output().unwrap()).1)
    };
    let is_right = |out: &String| out.contains(own) && !out.contains(others);
    // The flow may wait for a daemon that is delayed.
    let out = undisturbed(run, is_right);
    assert!(is_right(&out), "{out}");
}

#[test]
fn closed_output_ends_the_probe_with_status_0() {
    let daemon = Daemon::start(&[]);
    let mut child = started(&mut probe(
        daemon.address(),
        &format!("--interval=0.01 {LONG}"),
    ));
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.take(3).flatten().count(), 3);
    wait_until("the client ends", || child.try_wait().unwrap().is_some());
    let (status, _, err) = finished(child.wait_with_output().unwrap());
    assert_eq!((status, err.as_str()), (0, ""));

    let without_output = format!("exec \"$0\" probe \"$1\" --count=2 --interval=0.01 {LONG} >&-");
    let (status, _, err) = ended(&mut script(&without_output, daemon.address()));
    assert_eq!((status, err.as_str()), (0, ""));

    let (_, closed) = io::pipe().unwrap();
    let mut help = program();
    help.args(["probe", "--help"]).stdout(closed);
    let child = end_with_test(&mut help).stderr(Stdio::piped()).spawn();
    let (status, _, err) = finished(child.unwrap().wait_with_output().unwrap());
    assert_eq!((status, err.as_str()), (0, ""));
}

#[test]
fn full_output_is_status_1_and_an_error() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        skip!("no /dev/full");
    };
    let daemon = Daemon::start(&[]);
    for form in ["--json", "--quiet", ""] {
        let mut command = probe(daemon.address(), "--count=2 --interval=0.01");
        command
            .args(form.split_whitespace())
            .stdout(full.try_clone().unwrap());
        command.stderr(Stdio::piped());
        let child = end_with_test(&mut command).spawn().unwrap();
        let (status, _, err) = finished(child.wait_with_output().unwrap());
        let said =
            "udp-echo: cannot write to standard output: No space left on device (os error 28)\n";
        assert_eq!((status, err.as_str()), (1, said), "{form}");
    }
}
