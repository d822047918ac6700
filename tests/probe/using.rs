//! The command line of the client: options, variables, help, exit statuses.

use crate::harness::calm::undisturbed;
use crate::harness::{Daemon, has_ipv6, program};
use crate::reflectors::{LONG, Reflector, ended, joined, probe, script, sequence};
use crate::skipped;

#[test]
fn usage_errors_are_status_2_and_name_option_and_value() {
    for (args, named) in [
        ("", "HOST[:PORT]"),
        ("no/where", "'no/where' HOST:PORT"),
        ("localhost:0", "'localhost:0'"),
        ("h:1 i:2", "'i:2'"),
        ("h:1 --size=15", "--size 15 65507"),
        ("h:1 --size=65508", "--size '65508'"),
        ("h:1 --interval=0", "--interval '0'"),
        ("h:1 --interval=-1", "--interval '-1'"),
        ("h:1 --rate=0", "--rate '0'"),
        ("h:1 --count=0", "--count '0'"),
        ("h:1 --duration=soon", "--duration 'soon'"),
        ("h:1 --wait=0", "--wait '0'"),
        ("h:1 --flows=0", "--flows '0' 4096"),
        ("h:1 --max-loss=0", "--max-loss '0'"),
        ("h:1 --max-loss=101", "--max-loss '101'"),
        ("h:1 --mode=nope", "--mode 'nope' lockstep"),
        ("h:1 --metrics-url=https://h/metrics", "--metrics-url HTTP"),
        ("h:1 --rate=1 --interval=1", "--rate --interval"),
        ("h:1 --listen=h:2", "'--listen'"),
    ] {
        let mut command = program();
        command.arg("probe").args(args.split_whitespace());
        let (status, out, err) = ended(&mut command);
        assert_eq!((status, out.as_str()), (2, ""), "{args}: {err}");
        for word in named.split(' ') {
            assert!(err.contains(word), "{word} for {args}: {err}");
        }
    }
}

/// Each option, a value, and its effect on the output.
const EFFECTS: &str = "
    COUNT | 2 | 2 sent
    DURATION | 0.5 | 1 sent
    INTERVAL | 0.007 | every 7 ms
    RATE | 123 | 123 requests per second
    SIZE | 99 | 99 bytes from
    FLOWS | 3 | 3 flows
    MODE | lockstep | in lockstep mode
    MAX_LOSS | 3 | 1 received
    QUIET | true | ---
    JSON | true | \"target\":";

#[test]
fn each_option_has_a_variable_that_is_used_unless_empty() {
    let daemon = Daemon::start(&[]);
    let mut help = program();
    let (status, help, _) = ended(help.args(["probe", "--help"]));
    assert_eq!(status, 0);
    for line in EFFECTS.trim().lines() {
        let fields: Vec<_> = line.trim().split(" | ").collect();
        let variable = format!("UDP_ECHO_{}", fields[0]);
        let own = format!("[env: UDP_ECHO_PROBE_{}]", fields[0]);
        assert!(help.contains(&own), "{own}");
        let count = if ["COUNT", "DURATION"].contains(&fields[0]) {
            LONG.to_owned()
        } else {
            format!("--count=1 {LONG}")
        };
        let mut command = probe(daemon.address(), &count);
        let (status, out, _) = ended(command.env(&variable, fields[1]));
        assert_eq!(status, 0, "{line}");
        assert!(joined(&out).contains(fields[2]), "{line}: {out}");
        let mut command = probe(daemon.address(), &format!("--count=1 {LONG}"));
        let (status, out, _) = ended(command.env(&variable, ""));
        assert_eq!(status, 0, "{line}");
        assert!(
            out.contains("64 bytes, one request every 1 s"),
            "{line}: {out}"
        );
    }
    let variable = "UDP_ECHO_PROBE_WAIT";
    assert!(help.contains(&format!("[env: {variable}]")));
    let silent = Reflector::new(|_| vec![]);
    for (wait, said) in [("0.05", "within 50 ms"), ("", "within 1 s")] {
        let (_, out, _) = ended(probe(silent.address, "--count=1").env(variable, wait));
        assert!(out.contains(said), "{wait}: {out}");
    }
    let variable = "UDP_ECHO_PROBE_METRICS_URL";
    assert!(help.contains(&format!("[env: {variable}]")));
    let (status, _, err) = ended(probe(daemon.address(), "").env(variable, "nowhere"));
    assert_eq!(status, 2, "{err}");
}

#[test]
fn probe_and_daemon_ignore_each_others_variables() {
    let mut command = program();
    command.env("UDP_ECHO_SIZE", "wrong");
    command.env("UDP_ECHO_COUNT", "wrong\u{1b}");
    let daemon = Daemon::start_as(command, &[]);
    let mut command = probe(daemon.address(), &format!("--count=1 {LONG}"));
    command
        .env("UDP_ECHO_LISTEN", "wrong")
        .env("UDP_ECHO_TIMEOUT", "wrong\u{1b}");
    assert_eq!(ended(&mut command).0, 0);
}

#[test]
fn errors_before_measuring_are_status_1_and_one_line() {
    let daemon = Daemon::start(&[]);
    let http = daemon.http.unwrap();
    let page = format!("--metrics-url=http://{http}/-/healthy");
    let missing = format!("--metrics-url=http://{http}/nothing");
    let local = daemon.address().to_string();
    for (target, args, said) in [
        // A name that fails without a query.
        ("no..name:9", "", "cannot resolve \"no..name\""),
        ("255.255.255.255:9", "", "255.255.255.255:9"),
        (
            "[fe80::1]:9",
            "",
            "the interface of the link-local address, as in [fe80::1%eth0]",
        ),
        (
            &local,
            "--metrics-url=http://127.0.0.1:1/metrics",
            "http://127.0.0.1:1/metrics",
        ),
        (&local, &page, "no metrics of udp-echo"),
        (&local, &missing, "404"),
    ] {
        if target.starts_with('[') && !has_ipv6() {
            skipped!("no IPv6: the part about {target}");
            continue;
        }
        let (status, out, err) = ended(&mut probe(target, &format!("{args} --count=1")));
        assert_eq!(
            (status, out.as_str(), err.lines().count()),
            (1, "", 1),
            "{err}"
        );
        assert!(err.starts_with("udp-echo: ") && err.contains(said), "{err}");
    }
}

#[test]
fn flows_are_limited_by_the_number_of_open_files() {
    let daemon = Daemon::start(&["--mode=echo"]);
    for (limit, status, said) in [
        ("-S -n 20", 0, "100 sent, 100 received"),
        (
            "-n 20",
            1,
            "; raise the limit on open files (ulimit -n, LimitNOFILE=)",
        ),
    ] {
        let args = format!("--mode=echo --flows=100 --count=100 --rate=1000 --quiet {LONG}");
        let limited = format!("ulimit {limit}; exec \"$0\" probe \"$1\" {args}");
        let (ended, out, err) = ended(&mut script(&limited, daemon.address()));
        assert_eq!(ended, status, "{out}{err}");
        assert!(format!("{out}{err}").contains(said), "{out}{err}");
    }
}

#[test]
fn status_is_1_from_max_loss_on() {
    let reflector = Reflector::new(|request| {
        let dropped = sequence(request).is_multiple_of(4);
        (!dropped).then(|| request.to_vec()).into_iter().collect()
    });
    for (max_loss, status) in [("100", 0), ("25.1", 0), ("25", 1), ("0.1", 1)] {
        let args = format!("--mode=echo --rate=1000 --max-loss={max_loss}");
        assert_eq!(reflector.measure(8, &args).0, status, "{max_loss}");
    }
}

#[test]
fn rate_or_interval_on_the_command_line_takes_precedence() {
    let daemon = Daemon::start(&[]);
    let run = |variables: &[(&str, &str)], args: &str| {
        let mut command = probe(daemon.address(), &format!("--count=1 {LONG} {args}"));
        ended(command.envs(variables.iter().copied()))
    };
    let (rate, interval) = (("UDP_ECHO_RATE", "123"), ("UDP_ECHO_INTERVAL", "0.007"));
    for (variables, args, said) in [
        (rate, "--interval=0.007", "one request every 7 ms"),
        (interval, "--rate=123", "123 requests per second"),
    ] {
        let (status, out, _) = run(&[variables], args);
        assert!(status == 0 && out.contains(said), "{out}");
    }
    let (status, _, err) = run(&[rate, interval], "");
    assert_eq!(status, 2);
    assert!(
        err.contains("cannot use UDP_ECHO_RATE with UDP_ECHO_INTERVAL"),
        "{err}"
    );
}

#[test]
fn probe_sends_no_more_than_is_due_within_the_duration() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let args = format!("--mode=echo --rate=500 --duration=0.2 --quiet {LONG}");
    let run = || {
        let (_, out, _) = ended(&mut probe(daemon.address(), &args));
        let sent = out.split(" sent").next().unwrap().lines().last().unwrap();
        sent.parse::<u32>().unwrap()
    };
    // A slow machine sends fewer, and never more.
    let sent = undisturbed(run, |sent| *sent > 1);
    assert!((2..=101).contains(&sent), "{sent}");
}
