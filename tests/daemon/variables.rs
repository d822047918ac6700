//! Environment variables: errors that name them, unknown ones, and those of the client.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::linux::fs::MetadataExt;
use std::os::unix::ffi::OsStringExt;
use std::process::Command;

use crate::harness::service::{assert_has, count};
use crate::harness::tidy::Folder;
use crate::harness::{Daemon, client, program, receive};
use crate::usage::{assert_wrong_usage, ended};

/// The names of the client's variables in older scripts.
const SHARED: &str = "MODE COUNT DURATION INTERVAL RATE SIZE WAIT FLOWS MAX_LOSS METRICS_URL \
                      QUIET JSON";

#[test]
fn error_names_the_variable_that_has_the_value() {
    let (_, _, stderr) = ended(program().env("UDP_ECHO_MODE", "ecko"));
    assert!(
        stderr.starts_with("error: UDP_ECHO_MODE: invalid value 'ecko'\n"),
        "{stderr}"
    );
    assert_has(&stderr, "'echo'");
    assert!(!stderr.contains("--mode"), "{stderr}");
    let (_, _, stderr) = ended(program().env("UDP_ECHO_MAX_PEERS", "0"));
    let line = "error: UDP_ECHO_MAX_PEERS: invalid value '0': expected a whole number, 1 to ";
    assert!(stderr.starts_with(line), "{stderr}");
}

#[test]
fn error_names_the_option_that_overrides_the_variable() {
    for variable in ["echo", "ecko"] {
        let mut command = program();
        command.env("UDP_ECHO_MODE", variable).arg("--mode=ekko");
        let (status, _, stderr) = ended(&mut command);
        assert_eq!(status, Some(2));
        let line = "error: invalid value 'ekko' for '--mode <MODE>'\n";
        assert!(stderr.starts_with(line), "{stderr}");
    }
}

#[test]
fn conflict_names_options_and_variables_as_they_were_written() {
    for (variables, args, said) in [
        (
            "MODE=lockstep WORKERS=2",
            "",
            "cannot use UDP_ECHO_WORKERS with UDP_ECHO_MODE=lockstep: that mode has one worker; \
             remove UDP_ECHO_WORKERS\n",
        ),
        (
            "WORKERS=2",
            "--mode=lockstep",
            "cannot use UDP_ECHO_WORKERS with --mode lockstep: ",
        ),
        (
            "MODE=lockstep LISTEN=a:1,b:1",
            "",
            "cannot use UDP_ECHO_MODE=lockstep on several addresses: that mode has one socket; \
             keep one address in UDP_ECHO_LISTEN\n",
        ),
        (
            "EXIT_ON=timeout",
            "--timeout=none",
            "cannot use UDP_ECHO_EXIT_ON=timeout with --timeout none: ",
        ),
        (
            "EXIT_ON=timeout TIMEOUT=none",
            "",
            "; set UDP_ECHO_TIMEOUT to a time\n",
        ),
        (
            "LISTEN=a:1,a:1",
            "",
            "remove one of the two from UDP_ECHO_LISTEN\n",
        ),
    ] {
        let mut command = program();
        command.args(args.split_whitespace());
        for variable in variables.split(' ') {
            let (name, value) = variable.split_once('=').unwrap();
            command.env(format!("UDP_ECHO_{name}"), value);
        }
        let (status, _, stderr) = ended(&mut command);
        assert_eq!(status, Some(2));
        assert_has(&stderr, said);
    }
}

#[test]
fn start_error_names_the_setting_of_a_taken_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let names = ["UDP_ECHO_METRICS_LISTEN", "--metrics-listen"];
    for by_option in [false, true] {
        let mut command = program();
        command.arg("--listen=127.0.0.1:0");
        if by_option {
            command.arg(format!("--metrics-listen={address}"));
        } else {
            command.env(names[0], address.to_string());
        }
        let (status, _, stderr) = ended(&mut command);
        assert_eq!(status, Some(1), "{stderr}");
        let is_named = names.map(|name| stderr.contains(name));
        assert_eq!(is_named, [!by_option, by_option], "{stderr}");
    }
}

#[test]
fn exit_reason_names_the_option_or_variable() {
    let by_variable = [("UDP_ECHO_EXIT_ON", "decode-error")];
    for (variables, option, said) in [
        (&by_variable[..], None, "(UDP_ECHO_EXIT_ON=decode-error)"),
        (
            &[],
            Some("--exit-on=decode-error"),
            "(--exit-on decode-error)",
        ),
    ] {
        let mut command = program();
        command.envs(variables.iter().copied()).args(option);
        let mut daemon = Daemon::start_as(command, &["--metrics-listen=none"]);
        let peer = client(daemon.address());
        peer.send(b"hello").unwrap();
        assert_eq!(receive(&peer), b"hello");
        peer.send(b"short").unwrap();
        assert_eq!(daemon.wait().code(), Some(1));
        daemon.wait_for_log(said);
    }
}

#[test]
fn usage_error_is_one_line_in_the_journal() {
    let folder = Folder::new();
    let path = folder.join("stderr");
    for (name, value, line) in [
        (
            "UDP_ECHO_MODE",
            "ecko",
            "UDP_ECHO_MODE: invalid value 'ecko' [possible values: exchange, lockstep, echo, stamp]",
        ),
        (
            "UDP_ECHO_LISTEN",
            "a:1,a:1",
            "cannot listen on a:1 twice: only one socket can have the port; remove one of the two \
             from UDP_ECHO_LISTEN",
        ),
    ] {
        let file = File::create(&path).unwrap();
        let metadata = file.metadata().unwrap();
        let stream = format!("{}:{}", metadata.st_dev(), metadata.st_ino());
        let mut command = program();
        command.env("JOURNAL_STREAM", stream).env(name, value);
        assert_eq!(command.stderr(file).status().unwrap().code(), Some(2));
        let written = fs::read_to_string(&path).unwrap();
        assert_eq!(written, format!("<3>error: {line}\n"));
    }
}

#[test]
fn variable_that_is_not_utf8_is_named() {
    let value = OsString::from_vec(b"5\xff".to_vec());
    let mut command = program();
    let named = "UDP_ECHO_TIMEOUT \"5\u{fffd}\": it is not UTF-8";
    assert_wrong_usage(command.env("UDP_ECHO_TIMEOUT", value), named);
}

/// Sets variables of Kubernetes, of the client, an empty one, and two unknown ones.
fn with_unknown_variables(command: &mut Command) -> &mut Command {
    for name in [
        "SERVICE_HOST",
        "SERVICE_PORT_ECHO",
        "METRICS_SERVICE_PORT",
        "PORT",
        "PORT_9999_UDP",
        "METRICS_PORT_9862_TCP_ADDR",
    ] {
        command.env(format!("UDP_ECHO_{name}"), "udp://10.0.0.1:9999");
    }
    for name in SHARED.split(' ') {
        command.env(format!("UDP_ECHO_PROBE_{name}"), "");
    }
    command.env("UDP_ECHO_PROBE_COUNT", "1");
    command.env("UDP_ECHO_COUNT", "1");
    command.env("UDP_ECHO_EMPTY", "");
    command.env("UDP_ECHO_TIMEOUTS", "5");
    command.env("UDP_ECHO_PROBE_TIMEOUT", "5")
}

const WARNING: &str = "ignoring UDP_ECHO_PROBE_TIMEOUT, UDP_ECHO_TIMEOUTS: they belong to no \
                       option; `udp-echo --help` and `udp-echo probe --help` name the variables";

#[test]
fn daemon_warns_of_unknown_variables_once() {
    let mut command = program();
    with_unknown_variables(&mut command);
    let log = Daemon::start_as(command, &["--mode=echo"]).whole_log();
    assert_eq!(count(&log, " WARN "), 1, "{log:#?}");
    assert_eq!(count(&log, &format!(" WARN {WARNING}")), 1, "{log:#?}");
}

#[test]
fn check_and_probe_warn_of_unknown_variables_on_one_line() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let target = daemon.address().to_string();
    for args in [&["--check"][..], &["probe", "--mode=echo", &target]] {
        let mut command = program();
        let (status, _, stderr) = ended(with_unknown_variables(command.args(args)));
        assert_eq!(status, Some(0), "{stderr}");
        assert_eq!(stderr, format!("udp-echo: {WARNING}\n"));
    }
    let (_, _, stderr) = ended(program().arg("--check").env("UDP_ECHO_X", "5"));
    assert_has(&stderr, "ignoring UDP_ECHO_X: it belongs to no option;");
}

#[test]
fn probe_takes_its_variables_by_new_and_old_names() {
    for name in SHARED.split(' ') {
        let (new, old) = (format!("UDP_ECHO_PROBE_{name}"), format!("UDP_ECHO_{name}"));
        for (variables, named) in [
            (vec![(&new, "wrong")], &new),
            (vec![(&old, "wrong")], &old),
            (vec![(&new, "wrong"), (&old, "ecko")], &new),
            (vec![(&new, ""), (&old, "wrong")], &old),
        ] {
            let mut command = program();
            command.args(["probe", "127.0.0.1:9"]).envs(variables);
            let (status, _, stderr) = ended(&mut command);
            assert_eq!(status, Some(2));
            let start = format!("error: {named}: invalid value 'wrong'");
            assert!(stderr.starts_with(&start), "{stderr}");
        }
    }
}

#[test]
fn probe_ignores_an_old_name_beside_the_new_one() {
    let daemon = Daemon::start(&["--mode=echo"]);
    let mut command = program();
    command.args(["probe", "--mode=echo", "--count=1"]);
    command.arg(daemon.address().to_string());
    command.envs([("UDP_ECHO_PROBE_SIZE", "99"), ("UDP_ECHO_SIZE", "wrong")]);
    let (status, stdout, stderr) = ended(&mut command);
    assert_eq!(status, Some(0), "{stderr}");
    assert_has(&stdout, "99 bytes from");
}
