//! The command line and the environment: valid and invalid values, error texts, help.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use crate::harness::confined::without_capabilities;
use crate::harness::service::{Service, assert_has, wait_until_some};
use crate::harness::tidy::end_with_test;
use crate::harness::{DEADLINE, Daemon, client, program, receive, request_to, samples, wait_until};
use crate::skip;

const GET_METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn usage_error_is_status_2_and_names_option_and_value() {
    for (args, named) in [
        ("--timeout soon", "--timeout 'soon'"),
        ("--timeout 0", "--timeout '0'"),
        ("--timeout=-1", "--timeout '-1'"),
        ("--timeout -1", "--timeout '-1'"),
        ("--timeout 1 --timeout 2", "--timeout"),
        ("--busy-poll soon", "--busy-poll 'soon'"),
        ("--busy-poll -1", "--busy-poll '-1'"),
        ("--mode nope", "--mode 'nope' lockstep"),
        ("--mode=", "--mode"),
        ("--max-datagram 0", "--max-datagram '0' 65507"),
        ("--max-datagram 65508", "--max-datagram '65508' 65507"),
        ("--max-datagram 70000", "--max-datagram '70000' 65507"),
        ("--mode lockstep --workers 2", "lockstep --workers"),
        ("--mode lockstep --listen a:1,b:2", "lockstep --listen"),
        ("--listen nowhere", "--listen 'nowhere' HOST:PORT"),
        ("--listen=", "--listen ''"),
        ("--listen ::1:9", "--listen '::1:9' brackets"),
        ("--listen [::g]:9", "--listen '[::g]:9'"),
        (
            "--listen 127.0.0.1:99999",
            "--listen '127.0.0.1:99999' 65535",
        ),
        ("--listen a:1,b", "--listen 'b'"),
        ("--listen a:1 --listen a:1", "--listen a:1 twice"),
        ("--metrics-listen nowhere", "--metrics-listen 'nowhere'"),
        ("--recv-buffer lots", "--recv-buffer 'lots'"),
        ("--send-buffer 3GiB", "--send-buffer '3GiB'"),
        ("--workers 0", "--workers '0'"),
        ("--workers many", "--workers 'many' auto"),
        ("--max-peers 0", "--max-peers '0'"),
        ("--min-source-port 65536", "--min-source-port '65536' 65535"),
        ("--exit-on never", "--exit-on 'never' decode-error"),
        ("--exit-on empty,never", "--exit-on 'never'"),
        ("--log inof", "--log 'inof' info"),
        ("--log=", "--log"),
        ("--log-format xml", "--log-format 'xml' json"),
        ("--reuse-address=yes", "--reuse-address 'yes'"),
        ("--nonsense", "'--nonsense'"),
        ("stray", "'stray'"),
        ("-p 9", "'-p'"),
    ] {
        assert_wrong_usage(program().args(args.split(' ')), named);
    }
}

#[test]
fn argument_or_variable_not_utf8_is_a_usage_error() {
    let odd = |start: &str| OsString::from_vec([start.as_bytes(), b"\xff\xfe"].concat());
    for argument in [
        "",
        "--timeout=",
        "--listen=",
        "--mode=",
        "--log=",
        "--\u{1}",
        "--reuse-address=",
    ] {
        assert_wrong_usage(program().arg(odd(argument)), "error:");
    }
    for name in environment_names() {
        assert_wrong_usage(program().env(name, odd("")), "error:");
    }
}

#[test]
fn start_failure_is_status_1_and_one_line_with_the_cause() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = &format!("--listen={}", udp.local_addr().unwrap());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = &format!("--metrics-listen={}", tcp.local_addr().unwrap());
    let (free, none) = ("--listen=127.0.0.1:0", "--metrics-listen=none");
    let elsewhere = "--metrics-listen=192.0.2.1:9";
    let (in_use, not_here) = ("Address already in use", "Cannot assign requested address");
    for (args, place, cause) in [
        // An invalid name, which the resolver rejects without a query.
        (["--listen=no..name:9", none], "no..name", "resolve"),
        ([free, "--metrics-listen=no..name:9"], "no..name", "resolve"),
        ([udp, none], &udp.replace("--listen=", "UDP "), in_use),
        (
            [free, tcp],
            &tcp.replace("--metrics-listen=", "TCP "),
            in_use,
        ),
        (["--listen=192.0.2.1:9", none], "UDP 192.0.2.1:9", not_here),
        ([free, elsewhere], "TCP 192.0.2.1:9", not_here),
    ] {
        assert_cannot_start(program().args(args), place, cause);
    }
}

#[test]
fn privileged_port_fails_to_bind_without_the_capability() {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if start.is_ok_and(|start| start.trim().parse::<u16>().is_ok_and(|start| start <= 7)) {
        skip!("no port needs a privilege here");
    }
    let cause = "Permission denied (os error 13); choose a port of net.ipv4.";
    let mut command = without_capabilities();
    command.args(["--listen=127.0.0.1:7", "--metrics-listen=none"]);
    assert_cannot_start(&mut command, "UDP 127.0.0.1:7", cause);
    let mut command = without_capabilities();
    command.args(["--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:7"]);
    assert_cannot_start(&mut command, "TCP 127.0.0.1:7", cause);
}

/// Each option: two values, and the text that each makes appear in the log or the metrics after two
/// peers have sent `xyz`. With the second value, the text of the first does not appear.
const EFFECTS: &str = "
    LISTEN | 127.0.0.2:0 | 127.0.0.3:0 | listening on 127.0.0.2: | listening on 127.0.0.3:
    MODE | echo | lockstep | serving in echo mode | serving in lockstep mode
    TIMEOUT | 90 | none | timeout 1m 30s | timeout none
    MAX_DATAGRAM | 1 | 2 | echoed_bytes_total 2 | echoed_bytes_total 4
    RECV_BUFFER | 64KiB | 32768 | receive buffer 64 KiB | receive buffer 32 KiB
    SEND_BUFFER | 64KiB | 32768 | send buffer 64 KiB | send buffer 32 KiB
    WORKERS | 2 | 1 | worker=\"1\" | worker=\"0\"
    OFFLOAD | auto | off | , GRO | , no offload
    MAX_PEERS | 1 | 2 | evicted_total 1 | evicted_total 0
    MIN_SOURCE_PORT | 65535 | 0 | source_port\"} 2 | source_port\"} 0
    RATE_LIMIT | 1 | 2 | rate_limit\"} 1 | rate_limit\"} 0
    RATE_LIMIT_TOTAL | 1 | 2 | rate_limit\"} 1 | rate_limit\"} 0
    METRICS_LISTEN | 127.0.0.2:0 | 127.0.0.3:0 | http://127.0.0.2: | http://127.0.0.3:
    LOG | debug | udp_echo=info | DEBUG recv: b'xyz' | INFO serving
    LOG_FORMAT | json | text | \"level\":\"INFO\" | INFO serving";

#[test]
fn command_line_overrides_the_variable_of_each_option() {
    let mut names = environment_names();
    for line in EFFECTS.trim().lines() {
        let fields: Vec<_> = line.split(" | ").map(str::trim).collect();
        let [name, one, other, effect_of_one, effect_of_other] = fields[..] else {
            panic!("{line}");
        };
        let flag = format!("--{}={other}", name.to_lowercase().replace('_', "-"));
        let name = format!("UDP_ECHO_{name}");
        let seen_with = |value: &str, args: &[&str]| {
            let mut command = program();
            command.env(&name, value);
            effects(Service::start(command, args))
        };
        // Above the limit, one in 64 passes at random.
        let tries = if name.contains("RATE_LIMIT") { 10 } else { 1 };
        let seen = (0..tries).map(|_| seen_with(one, &[]));
        let mut seen = seen.skip_while(|seen| !seen.contains(effect_of_one));
        assert!(seen.next().is_some(), "{line}: no {effect_of_one}");
        for seen in [seen_with(other, &[]), seen_with(one, &[&flag])] {
            assert_has(&seen, effect_of_other);
            assert!(!seen.contains(effect_of_one), "{line}: {seen}");
        }
        names.remove(&name);
    }
    // These have tests of their own.
    for name in [
        "BUSY_POLL",
        "KERNEL_ECHO",
        "PINS",
        "EXIT_ON",
        "REUSE_ADDRESS",
        "TIMESTAMPS",
    ] {
        assert!(names.remove(&format!("UDP_ECHO_{name}")), "{name}");
    }
    // `check::check_output_sets_the_same_options_as_an_environment` has those of STAMP.
    names.retain(|name| !name.starts_with("UDP_ECHO_STAMP_"));
    assert!(names.is_empty(), "not in the table: {names:?}");
}

#[test]
fn command_line_overrides_the_variable_of_exit_on() {
    for (variable, args, status) in [
        ("empty,decode-error", "--mode=lockstep", 0),
        ("timeout", "--exit-on=decode-error,empty", 0),
        ("empty", "--exit-on=decode-error", 1),
    ] {
        let mut command = program();
        command.env("UDP_ECHO_EXIT_ON", variable);
        let mut service = Service::start(command, &["--timeout=none", args]);
        let peer = client(service.listen);
        if status == 1 {
            peer.send(b"xyz").unwrap();
            receive(&peer);
            peer.send(b"short").unwrap();
        } else {
            peer.send(b"").unwrap();
        }
        assert_eq!(service.wait().code(), Some(status), "{variable} {args}");
    }
}

#[test]
fn lists_accept_spaces_after_commas() {
    let listen = "127.0.0.2:0, 127.0.0.3:0";
    let exits = "empty, timeout";
    let flags = ["--listen", listen, "--exit-on", exits].map(str::to_owned);
    let mut with_flags = program();
    with_flags.args(flags);
    let mut with_variables = program();
    with_variables.envs([("UDP_ECHO_LISTEN", listen), ("UDP_ECHO_EXIT_ON", exits)]);
    for mut command in [with_flags, with_variables] {
        command.arg("--metrics-listen=none");
        let mut daemon = Daemon::start_exactly(command);
        let ips: Vec<_> = daemon.listen.iter().map(|at| at.ip().to_string()).collect();
        assert_eq!(ips, ["127.0.0.2", "127.0.0.3"]);
        client(daemon.listen[1]).send(b"").unwrap();
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

#[test]
fn listen_rejects_two_names_of_one_address() {
    // This socket reserves the port, and the daemon can still bind it.
    let held = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    held.set_reuse_address(true).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    held.bind(&any.into()).unwrap();
    let address = held.local_addr().unwrap().as_socket().unwrap();
    let port = address.port();
    for (listen, last) in [
        (format!("localhost:{port},{address}"), address.to_string()),
        (
            format!("{address},127.0.0.2:{port},localhost:{port}"),
            format!("localhost:{port}"),
        ),
    ] {
        let mut command = program();
        command.args(["--reuse-address", "--metrics-listen=none"]);
        command.arg(format!("--listen={listen}"));
        let place = format!("UDP {address} twice");
        assert_cannot_start(&mut command, &place, &format!("--listen {last}"));
    }
}

#[test]
fn reuse_address_variable_is_a_boolean() {
    let is_set = |variable: &str, args: &[&str]| {
        let mut command = program();
        command.env("UDP_ECHO_REUSE_ADDRESS", variable);
        let service = Service::start(command, args);
        // A second socket can bind the port only if both set the option.
        let other = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        other.set_reuse_address(true).unwrap();
        other.bind(&service.listen.into()).is_ok()
    };
    for yes in ["true", "1", "yes", "on"] {
        assert!(is_set(yes, &[]), "{yes}");
    }
    for no in ["false", "0", "no", "off", ""] {
        assert!(!is_set(no, &[]), "{no}");
        assert!(is_set(no, &["--reuse-address"]), "{no}");
    }
}

#[test]
fn invalid_variable_is_a_usage_error() {
    for (name, value, named) in [
        ("LISTEN", "a:1,nowhere", "'nowhere'"),
        ("MODE", "nope", "'nope'"),
        ("TIMEOUT", "soon", "'soon'"),
        ("MAX_DATAGRAM", "0", "'0'"),
        ("RECV_BUFFER", "lots", "'lots'"),
        ("SEND_BUFFER", "-1", "'-1'"),
        ("WORKERS", "1x", "'1x'"),
        ("OFFLOAD", "maybe", "'maybe'"),
        ("MAX_PEERS", "0", "'0'"),
        ("EXIT_ON", "never", "'never'"),
        ("REUSE_ADDRESS", "maybe", "'maybe'"),
        ("MIN_SOURCE_PORT", "-1", "'-1'"),
        ("RATE_LIMIT", "0", "'0' 10000000"),
        ("RATE_LIMIT_TOTAL", "10000001", "'10000001'"),
        ("METRICS_LISTEN", "nowhere", "'nowhere'"),
        ("LOG", "inof", "'inof'"),
        ("LOG_FORMAT", "xml", "'xml'"),
    ] {
        let name = format!("UDP_ECHO_{name}");
        let named = format!("{name}: {named}");
        assert_wrong_usage(program().env(name, value), &named);
    }
}

#[test]
fn empty_variable_counts_as_unset() {
    let names = environment_names();
    // A flag would override the variable under test. The flags contradict each other, which is
    // found only after every option has been parsed.
    for name in &names {
        let (flags, said) = match name.as_str() {
            "UDP_ECHO_LISTEN" => (["--mode=lockstep", "--workers=2"], "lockstep"),
            _ => (["--listen=a:1", "--listen=a:1"], "twice"),
        };
        assert_wrong_usage(program().args(flags).env(name, ""), said);
    }
    let mut command = program();
    for name in names.iter().filter(|name| !name.ends_with("LISTEN")) {
        command.env(name, "");
    }
    let log = Service::start(command, &[]).end_with_whole_log().1;
    assert_has(&log, " INFO serving in exchange mode, timeout 5s\n");
}

/// Runs a command that is expected to exit, and kills it at the deadline.
pub(crate) fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    ended_with_own_input(command.stdin(Stdio::null()))
}

/// As [`ended`], with the standard input of the command.
pub(crate) fn ended_with_own_input(command: &mut Command) -> (Option<i32>, String, String) {
    command.stdout(Stdio::piped());
    let mut child = end_with_test(command.stderr(Stdio::piped()))
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let deadline = Instant::now() + DEADLINE;
    wait_until_some("the command exits", || {
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        child.try_wait().unwrap()
    });
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output.status.code(), stdout, stderr)
}

/// Asserts status 2 and a message with all the words of `named`.
pub(crate) fn assert_wrong_usage(command: &mut Command, named: &str) {
    let (status, stdout, stderr) = ended(command);
    assert_eq!(
        (status, stdout.as_str()),
        (Some(2), ""),
        "{command:?}: {stderr}"
    );
    assert!(stderr.starts_with("error: "), "{command:?}: {stderr}");
    for word in named.split(' ') {
        assert!(stderr.contains(word), "{word} for {command:?}: {stderr}");
    }
}

/// Asserts status 1 and one line on standard error.
pub(crate) fn assert_cannot_start(command: &mut Command, place: &str, cause: &str) {
    let (status, stdout, stderr) = ended(command);
    assert_eq!(
        (status, stdout.as_str()),
        (Some(1), ""),
        "{command:?}: {stderr}"
    );
    assert!(
        stderr.starts_with("udp-echo: ") && stderr.lines().count() == 1,
        "{stderr}"
    );
    assert!(
        stderr.contains(place) && stderr.contains(cause),
        "{command:?}: {stderr}"
    );
}

/// The variables that `--help` names.
fn environment_names() -> BTreeSet<String> {
    let help = ended(program().arg("--help")).1;
    let names = help.split("[env: ").skip(1);
    let names: BTreeSet<_> = names
        .map(|rest| rest.split(']').next().unwrap().into())
        .collect();
    assert!(names.len() > EFFECTS.lines().count(), "{help}");
    names
}

/// The metrics and the log after two peers have sent `xyz`.
fn effects(service: Service) -> String {
    let listen = format!("listen=\"{}\"", service.listen);
    let peers = [client(service.listen), client(service.listen)];
    for peer in &peers {
        peer.send(b"xyz").unwrap();
    }
    let mut metrics = String::new();
    wait_until("both datagrams and their results are counted", || {
        metrics = request_to(service.http.unwrap(), GET_METRICS).body;
        let samples = samples(&metrics);
        let ends = ["datagrams_echoed", "decode_errors", "datagrams_refused"];
        let ends = ends.map(|name| format!("udp_echo_{name}_total"));
        let is_end = |series: &str| ends.iter().any(|end| series.starts_with(end));
        let counts = samples.iter().filter(|(series, _)| is_end(series));
        counts.map(|(_, count)| count).sum::<f64>() > 1.5
    });
    let (status, log) = service.end_with_whole_log();
    assert!(status.success(), "{log}");
    // All series have the same address.
    let metrics = metrics.replace(&format!("{{{listen}}}"), "");
    metrics.replace(&format!("{listen},"), "") + &log
}
