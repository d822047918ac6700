//! Lines of a running client: outages, figures, times, width.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;

use nix::sys::signal::Signal;

use crate::harness::calm::undisturbed;
use crate::harness::{Daemon, unreachable, wait_until};
use crate::reflectors::{
    LONG, Reflector, ended, finished, object, probe, sequence, signal, started,
};

/// Returns the lines that start like this.
fn lines<'a>(out: &'a str, start: &str) -> Vec<&'a str> {
    out.lines().filter(|line| line.starts_with(start)).collect()
}

#[test]
fn loss_has_a_line_for_the_first_and_last_of_a_run() {
    let reflector = Reflector::new(|request| match sequence(request) {
        3..=7 | 9 | 12.. => vec![],
        _ => vec![request.to_vec()],
    });
    let args = "--mode=echo --count=13 --interval=0.02 --wait=0.3";
    let run = || ended(&mut probe(reflector.address, args)).1;
    let expected = [
        "no reply to seq=3 within 300 ms",
        "no reply to seq=3 to seq=7: 5 in a row",
        "no reply to seq=9 within 300 ms",
        "no reply to seq=12 within 300 ms",
        "no reply to seq=12 to seq=13: 2 in a row",
    ];
    let out = undisturbed(run, |out| lines(out, "no reply") == expected);
    assert_eq!(lines(&out, "no reply"), expected, "{out}");
}

#[test]
fn outage_is_visible_during_the_run() {
    let silent = Reflector::new(|_| vec![]);
    let (_kept, closed) = unreachable(Ipv4Addr::LOCALHOST.into());
    for (target, number, line) in [
        (silent.address, 1, "no reply to seq=1 within 100 ms"),
        (closed, 3, "seq=3: ICMP port unreachable from 127.0.0.1"),
    ] {
        let mut command = probe(target, "--mode=echo --interval=0.02 --wait=0.1");
        let mut child = started(&mut command);
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen: Vec<_> = out.by_ref().map(Result::unwrap).take(number + 1).collect();
        assert_eq!(seen[number], line, "{seen:#?}");
        assert!(child.try_wait().unwrap().is_none());
        signal(&child, Signal::SIGINT);
        assert!(out.map(Result::unwrap).any(|line| line.contains(" sent, ")));
        assert_eq!(finished(child.wait_with_output().unwrap()).0, 1);
    }
}

#[test]
fn reports_have_the_figures_of_their_interval() {
    let daemon = Daemon::start(&["--mode=echo"]);
    for form in ["", "--quiet"] {
        let args = format!("--mode=echo --rate=100 --duration=1 --report=0.25 {form} {LONG}");
        let (_, out, _) = ended(&mut probe(daemon.address(), &args));
        let reports: Vec<_> = out.lines().filter(|line| line.contains(" s: ")).collect();
        assert!(reports.len() > 1, "{out}");
        assert!(reports[0].starts_with("0 to 0."), "{out}");
        let mut all_sent = 0;
        for report in reports {
            let (_, figures) = report.split_once(" s: ").unwrap();
            let sent: u32 = figures.split(' ').next().unwrap().parse().unwrap();
            all_sent += sent;
            assert!(figures.contains(" received, 0 lost (0%)"), "{report}");
            assert!(report.len() <= 80, "{report}");
        }
        assert!((1..=100).contains(&all_sent), "{out}");
    }
}

#[test]
fn sigquit_prints_figures_and_the_run_goes_on() {
    let daemon = Daemon::start(&[]);
    for form in ["", "--quiet", "--json"] {
        let args = format!("--interval=0.02 {form} {LONG}");
        let sent = daemon.metric("datagrams_echoed_total");
        let child = started(&mut probe(daemon.address(), &args));
        let continues = |number: f64| {
            wait_until("the client sends", || {
                daemon.metric("datagrams_echoed_total") > sent + number
            });
        };
        continues(2.0);
        signal(&child, Signal::SIGQUIT);
        continues(20.0);
        signal(&child, Signal::SIGINT);
        let (status, out, err) = finished(child.wait_with_output().unwrap());
        assert_eq!(status, 0, "{out}{err}");
        // Standard output of --json is one object.
        let figures = if form == "--json" { &err } else { &out };
        let line = figures.lines().find(|line| line.contains("0 to "));
        assert!(line.is_some_and(|line| line.contains(" s: ")), "{out}{err}");
        if form == "--json" {
            object((status, out, String::new()));
        } else {
            assert!(out.contains(" 0 lost (0%)"), "{out}");
        }
    }
}

#[test]
fn timestamps_precede_each_line_of_the_run() {
    let daemon = Daemon::start(&[]);
    let args = format!("-D --count=3 --interval=0.01 {LONG}");
    let (_, out, _) = ended(&mut probe(daemon.address(), &args));
    let (lines, summary) = out.split_once("\n\n").unwrap();
    assert!(summary.starts_with("--- "), "{out}");
    assert_eq!(lines.lines().count(), 4, "{out}");
    for line in lines.lines() {
        let (time, rest) = line[1..].split_once("] ").unwrap();
        let (seconds, microseconds) = time.split_once('.').unwrap();
        assert!(line.starts_with('[') && seconds.parse::<u64>().unwrap() > 1_000_000_000);
        assert!(microseconds.len() == 6 && !rest.is_empty(), "{line}");
    }
}

#[test]
fn summary_fits_80_columns_without_zero_counts() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let (_, out, _) = ended(&mut probe(
        daemon.address(),
        &format!("--mode=echo --count=20 --interval=0.005 --flows=2 {LONG}"),
    ));
    assert!(
        out.contains("\n20 sent, 20 received, 0 lost (0%) in "),
        "{out}"
    );
    for zero in ["duplicate", "out of order", "corrupted", "record"] {
        assert!(!out.contains(zero), "{out}");
    }
    // Long sentences are broken.
    let (_kept, closed) = unreachable(Ipv4Addr::LOCALHOST.into());
    for (target, args) in [
        (
            daemon.address(),
            "--mode=echo --count=20 --interval=0.005 --size=2000",
        ),
        (closed, "--count=3 --interval=0.01"),
    ] {
        let (_, out, _) = ended(&mut probe(target, args));
        for line in out.lines() {
            assert!(line.chars().count() <= 80, "{line}: {out}");
        }
    }
}
