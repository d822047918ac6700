//! A running client: lines, signals, pauses, standard outputs that close or fail.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::calm::undisturbed;
use crate::harness::tidy::end_with_test;
use crate::harness::{DEADLINE, Daemon, program, receive_from, unreachable, wait_until};
use crate::reflectors::{
    LONG, Reflector, end_waiting, ended, probe, script, sequence, signal, started, told,
};
use crate::skip;

#[test]
fn there_is_a_line_for_each_reply_and_each_that_does_not_come() {
    let reflector = Reflector::new(|request| match sequence(request) {
        2 => vec![],
        3 => vec![request.to_vec(), request.to_vec()],
        _ => vec![request.to_vec()],
    });
    let args = "--mode=echo --count=3 --interval=0.05 --wait=0.5 --flows=2";
    let summary = "3 sent, 2 received, 1 lost (33.33 %), 1 duplicate, 0 out of order, 0 corrupted";
    let run = || ended(&mut probe(reflector.address, args));
    let (status, out, err) = undisturbed(run, |(_, out, _)| {
        out.contains(summary) && out.matches("no reply").count() == 1
    });
    assert_eq!((status, err.as_str()), (0, ""));
    let from = format!("64 bytes from {}: seq=", reflector.address);
    let lines: Vec<_> = out.lines().collect();
    assert!(
        lines[1].starts_with(&format!("{from}1 flow=1 time=")),
        "{out}"
    );
    assert!(
        lines[2].starts_with(&format!("{from}3 flow=1 time=")),
        "{out}"
    );
    assert!(lines[3].ends_with(" ms (duplicate)"), "{out}");
    assert_eq!(lines[4], "no reply to seq=2 flow=2 within 500ms", "{out}");
    assert!(out.contains(summary), "{out}");
    // One flow loses and the other does not.
    assert!(out.contains("\n  flow 1, from port ") && out.contains(": 2 sent, 0 lost (0 %)"));
    assert!(out.contains("\n  flow 2, from port ") && out.contains(": 1 sent, 1 lost (100 %)"));
    let args = "--mode=echo --interval=0.05 --flows=2 --quiet";
    let quiet = reflector.measure(3, args).1;
    assert!(
        !quiet.contains("seq=") && quiet.contains(summary),
        "{quiet}"
    );
}

#[test]
fn where_nobody_listens_it_says_so_and_does_not_wait() {
    let (_kept, target) = unreachable(Ipv4Addr::LOCALHOST.into());
    for mode in ["exchange", "echo"] {
        let args = format!("--count=5 --interval=0.01 --wait=30 --mode={mode}");
        let (status, out, err) = ended(&mut probe(target, &args));
        assert_eq!((status, err.as_str()), (1, ""));
        let says = format!("nobody listens on {target} (ICMP port unreachable from 127.0.0.1)");
        assert_eq!(
            out.matches(&says).count(),
            2,
            "once, and in the summary: {out}"
        );
        assert!(out.contains("5 sent, 0 received, 5 lost (100 %)"), "{out}");
        assert!(out.contains(&format!("5 of them: {says}")), "{out}");
    }
}

#[test]
fn what_is_caught_up_with_after_a_pause_takes_the_flows_in_turn_too() {
    let came = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&came);
    let reflector = Reflector::new(move |request| {
        seen.store(sequence(request), Relaxed);
        let lost = sequence(request) % 4 == 3;
        (!lost).then(|| request.to_vec()).into_iter().collect()
    });
    let args = format!("--mode=echo --flows=4 --rate=200 --count=100 --quiet {LONG}");
    let child = started(&mut probe(reflector.address, &args));
    wait_until("it sends", || came.load(Relaxed) > 8);
    signal(&child, Signal::SIGSTOP);
    let stopped = Instant::now();
    wait_until("twenty are due", || {
        stopped.elapsed() > Duration::from_millis(150)
    });
    signal(&child, Signal::SIGCONT);
    wait_until("all have come", || reflector.datagrams() >= 100);
    end_waiting(&child);
    let (_, out, _) = told(child.wait_with_output().unwrap());
    for (flow, counts) in [
        (1, "25 sent, 0 lost (0 %)"),
        (2, "25 sent, 0 lost (0 %)"),
        (3, "25 sent, 25 lost (100 %)"),
        (4, "25 sent, 0 lost (0 %)"),
    ] {
        let line = out
            .lines()
            .find(|line| line.contains(&format!("  flow {flow}, ")));
        assert!(line.is_some_and(|line| line.ends_with(counts)), "{out}");
    }
}

#[test]
fn ctrl_c_prints_the_summary_and_ends_with_the_usual_status() {
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
            told(child.wait_with_output().unwrap()).0,
            status,
            "{out:#?}"
        );
        let summary = out.iter().find(|line| line.contains(" sent, "));
        assert!(summary.is_some(), "{out:#?}");
    }
}

#[test]
fn a_client_that_was_stopped_loses_nothing_by_it() {
    let daemon = Daemon::start(&["--timeout=1s"]);
    let goes_on = || {
        let before = daemon.metric("datagrams_echoed_total");
        wait_until("it goes on", || {
            daemon.metric("datagrams_echoed_total") > before + 100.0
        });
    };
    let given_up = || daemon.metric("timeouts_total{waiting_for=\"record\"}");
    let run = || {
        let args = "--rate=100000 --flows=32 --quiet --wait=2";
        let child = started(&mut probe(daemon.address(), args));
        let before = given_up();
        wait_until("it was stopped with replies to take", || {
            goes_on();
            wait_until("no record is owed", || {
                // SIGCONT may come from elsewhere.
                signal(&child, Signal::SIGSTOP);
                daemon.metric("peers") == 0.0
            });
            signal(&child, Signal::SIGCONT);
            given_up() > before
        });
        goes_on();
        signal(&child, Signal::SIGINT);
        told(child.wait_with_output().unwrap())
    };
    // A daemon that is held up as well may take a request for the record.
    let (status, out, _) = undisturbed(run, |(_, out, _)| out.contains(" 0 lost (0 %)"));
    assert_eq!(status, 0);
    assert!(out.contains(" 0 lost (0 %)"), "{out}");
}

#[test]
fn what_came_while_it_was_stopped_is_no_loss_even_when_its_time_is_over() {
    const REQUESTS: usize = 200;
    for flows in [1, REQUESTS] {
        let all = format!("{REQUESTS} sent, {REQUESTS} received, 0 lost (0 %)");
        let is_right = |(status, out): &(i32, String)| {
            *status == 0 && out.contains(&all) && !out.contains("no reply to")
        };
        // It has to be stopped before its time is over.
        let seen = undisturbed(|| stopped_with_replies_to_take(REQUESTS, flows), is_right);
        assert!(is_right(&seen), "{flows}: {}", seen.1);
    }
}

/// Stops a client that waits for replies until its time is over; they come meanwhile.
fn stopped_with_replies_to_take(requests: usize, flows: usize) -> (i32, String) {
    let reflector = UdpSocket::bind("127.0.0.1:0").unwrap();
    reflector.set_read_timeout(Some(DEADLINE)).unwrap();
    let args = format!("--mode=echo --count={requests} --rate=5000 --wait=2 --flows={flows}");
    let child = started(&mut probe(reflector.local_addr().unwrap(), &args));
    let requests: Vec<_> = (0..requests).map(|_| receive_from(&reflector)).collect();
    signal(&child, Signal::SIGSTOP);
    wait_until("it is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let state = stat.rsplit(") ").next().unwrap();
        state.starts_with('T') || state.starts_with('Z')
    });
    for (request, peer) in requests {
        reflector.send_to(&request, peer).unwrap();
    }
    let stopped = Instant::now();
    wait_until("its time is over", || {
        stopped.elapsed() > Duration::from_secs(2)
    });
    signal(&child, Signal::SIGCONT);
    let (status, out, _) = told(child.wait_with_output().unwrap());
    (status, out)
}

#[test]
fn an_output_that_is_closed_is_an_ordinary_end() {
    let daemon = Daemon::start(&[]);
    let mut child = started(&mut probe(
        daemon.address(),
        &format!("--interval=0.01 {LONG}"),
    ));
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.take(3).flatten().count(), 3);
    wait_until("it ends", || child.try_wait().unwrap().is_some());
    let (status, _, err) = told(child.wait_with_output().unwrap());
    assert_eq!((status, err.as_str()), (0, ""));

    let without_output = format!("exec \"$0\" probe \"$1\" --count=2 --interval=0.01 {LONG} >&-");
    let (status, _, err) = ended(&mut script(&without_output, daemon.address()));
    assert_eq!((status, err.as_str()), (0, ""));

    let (_, closed) = io::pipe().unwrap();
    let mut help = program();
    help.args(["probe", "--help"]).stdout(closed);
    let child = end_with_test(&mut help).stderr(Stdio::piped()).spawn();
    let (status, _, err) = told(child.unwrap().wait_with_output().unwrap());
    assert_eq!((status, err.as_str()), (0, ""));
}

#[test]
fn an_output_that_takes_no_more_is_status_1_and_said() {
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
        let (status, _, err) = told(child.wait_with_output().unwrap());
        let said =
            "udp-echo: cannot write to standard output: No space left on device (os error 28)\n";
        assert_eq!((status, err.as_str()), (1, said), "{form}");
    }
}
