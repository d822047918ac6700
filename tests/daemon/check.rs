//! `--check`, and the same options in `config_info` and on the status page.

use std::net::{TcpListener, UdpSocket};

use crate::harness::service::assert_has;
use crate::harness::{Daemon, program, shell};
use crate::inherited::command_with_socket;
use crate::usage::ended;

/// Options that are not the defaults, and what `--check` prints for them.
const OPTIONS: [(&str, &str); 28] = [
    ("--listen=*:0,[::1]:0", "LISTEN=0.0.0.0:0,[::1]:0"),
    ("--mode=echo", "MODE=echo"),
    ("--timeout=90", "TIMEOUT=1m30s"),
    ("--max-datagram=1", "MAX_DATAGRAM=1"),
    ("--recv-buffer=64KiB", "RECV_BUFFER=65536"),
    ("--send-buffer=4096", "SEND_BUFFER=4096"),
    ("--workers=auto", "WORKERS=auto"),
    ("--busy-poll=0.00005", "BUSY_POLL=50us"),
    ("--kernel-echo=off", "KERNEL_ECHO=off"),
    ("--pins=/no/pins", "PINS=/no/pins"),
    ("--offload=off", "OFFLOAD=off"),
    ("--max-peers=7", "MAX_PEERS=7"),
    ("--exit-on=timeout", "EXIT_ON=timeout"),
    ("--reuse-address", "REUSE_ADDRESS=true"),
    ("--timestamps", "TIMESTAMPS=true"),
    ("--min-source-port=0", "MIN_SOURCE_PORT=0"),
    ("--rate-limit=3", "RATE_LIMIT=3"),
    ("--rate-limit-total=9999999", "RATE_LIMIT_TOTAL=9999999"),
    ("--metrics-listen=none", "METRICS_LISTEN=none"),
    ("--log=warn, udp_echo=debug", "LOG=warn,udp_echo=debug"),
    ("--log-format=json", "LOG_FORMAT=json"),
    ("--stamp-sequence=stateless", "STAMP_SEQUENCE=stateless"),
    ("--stamp-session-timeout=90", "STAMP_SESSION_TIMEOUT=1m30s"),
    ("--stamp-min-request=44", "STAMP_MIN_REQUEST=44"),
    ("--stamp-key-file=/no/file", "STAMP_KEY_FILE=/no/file"),
    ("--stamp-clock=0.001", "STAMP_CLOCK=1ms"),
    ("--stamp-dscp=ef", "STAMP_DSCP=46"),
    (
        "--stamp-allow-dscp=cs1, AF11-14",
        "STAMP_ALLOW_DSCP=8,10-14",
    ),
];

#[test]
fn check_prints_every_default_in_the_order_of_help() {
    let help = ended(program().arg("--help")).1;
    let expected = help.split("[env: ").skip(1).map(|entry| {
        let (name, rest) = entry.split_once("] [default: ").unwrap();
        let default = match rest.split(']').next().unwrap() {
            // An empty variable counts as unset.
            "the kernel's" | "nothing" | "none" => "",
            "off" if name.contains("RATE_LIMIT") => "",
            "off" if name.contains("KERNEL_ECHO") => "off",
            "off" => "false",
            default => default,
        };
        format!("{name}={default}\n")
    });
    assert_eq!(checked(&[], &[]), expected.collect::<String>());
}

#[test]
fn check_prints_options_as_the_variables_that_set_them() {
    let expected = OPTIONS.map(|(_, line)| format!("UDP_ECHO_{line}\n"));
    let options = OPTIONS.map(|(option, _)| option);
    assert_eq!(checked(&options, &[]), expected.concat());
}

#[test]
fn check_output_sets_the_same_options_as_an_environment() {
    let all = OPTIONS.map(|(option, _)| option);
    let ends = "--exit-on=timeout,empty,decode-error";
    for options in [
        &[][..],
        &all,
        &["--mode=lockstep", ends, "--timeout=0.123456789"],
        &["--timeout=none", "--listen=[fe80::1%1]:9"],
    ] {
        let printed = checked(options, &[]);
        let variables = printed.lines().map(|line| line.split_once('=').unwrap());
        let variables: Vec<_> = variables.collect();
        assert_eq!(checked(&[], &variables), printed);
    }
}

#[test]
fn check_prints_the_offload_in_force() {
    for options in ["--mode=lockstep", "--exit-on=empty"] {
        assert_has(&checked(&[options], &[]), "\nUDP_ECHO_OFFLOAD=off\n");
    }
}

#[test]
fn check_fails_as_a_start_does() {
    for (args, variable) in [
        ("--timeout=soon", ""),
        ("--mode=lockstep --workers=2", ""),
        ("--mode=echo", "decode-error"),
        ("--mode=exchange", "never"),
    ] {
        let outcome = |check: &[&str]| {
            let mut command = program();
            command.args(args.split(' ')).args(check);
            ended(command.env("UDP_ECHO_EXIT_ON", variable))
        };
        let (start, check) = (outcome(&[]), outcome(&["--check"]));
        assert_eq!(start, check);
        assert_eq!((check.0, check.1.as_str()), (Some(2), ""));
    }
}

#[test]
fn check_opens_no_socket_and_resolves_no_name() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = format!("--listen={}", udp.local_addr().unwrap());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = format!("--metrics-listen={}", tcp.local_addr().unwrap());
    checked(&[&udp, &tcp], &[]);
    checked(&["--listen=no..name:9", "--metrics-listen=no..name:9"], &[]);
}

#[test]
fn check_reports_that_its_output_cannot_be_written() {
    let mut command = shell("exec \"$0\" --check >/dev/full");
    let (status, _, stderr) = ended(command.arg(program().get_program()));
    let line = "udp-echo: cannot write to standard output: No space left on device (os error 28)\n";
    assert_eq!((status, stderr.as_str()), (Some(1), line));
}

#[test]
fn config_info_has_the_values_that_check_prints() {
    for (args, labels) in [
        (&[][..], "mode=\"exchange\",timeout=\"5s\",offload=\"auto\""),
        (
            &["--mode=lockstep", "--timeout=90"],
            "mode=\"lockstep\",timeout=\"1m30s\",offload=\"off\"",
        ),
        (
            &["--mode=echo", "--timeout=none"],
            "mode=\"echo\",timeout=\"none\",offload=\"auto\"",
        ),
    ] {
        let metrics = Daemon::start(args).get("/metrics").body;
        let series = format!("\nudp_echo_config_info{{{labels},kernel_echo=\"off\"}} 1\n");
        assert_has(&metrics, &series);
        assert_has(&metrics, "\n# TYPE udp_echo_config_info gauge\n");
    }
}

#[test]
fn status_page_lists_the_options_in_force() {
    let log = "--log=info,[a{b=<i>&}]=debug";
    let args = ["--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", log];
    let page = Daemon::start(&args).get("/").body;
    let options = checked(&args, &[]);
    assert!(options.lines().count() > 15);
    for line in options.lines() {
        let (name, value) = line.split_once('=').unwrap();
        let value = value.replace('&', "&amp;").replace('<', "&lt;");
        assert_has(&page, &format!("<tr><th scope=\"row\">{name}<td>{value}\n"));
    }
}

#[test]
fn status_page_omits_options_that_passed_in_sockets_replace() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let daemon = Daemon::start_exactly(command_with_socket(socket, &["--mode=echo"]));
    let page = daemon.get("/").body;
    assert_has(&page, ">UDP_ECHO_MODE<td>echo\n");
    assert_has(&page, ">UDP_ECHO_METRICS_LISTEN<td>127.0.0.1:0\n");
    for name in ["LISTEN", "WORKERS"] {
        assert!(!page.contains(&format!(">UDP_ECHO_{name}<")), "{page}");
    }
}

/// The output of a successful check.
fn checked(args: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = program();
    command.arg("--check").args(args);
    let (status, stdout, stderr) = ended(command.envs(variables.iter().copied()));
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{args:?}");
    stdout
}
