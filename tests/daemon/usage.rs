//! The command line and the environment: what is taken, what is refused, and how that is said.

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
use crate::harness::{
    DEADLINE, Daemon, client, program, receive, request_to, samples, shell, wait_until,
};
use crate::skip;

const GET_METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn wrong_usage_is_status_2_and_names_the_option_and_the_value() {
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
fn an_argument_or_a_variable_that_is_no_text_is_wrong_usage() {
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
fn what_keeps_it_from_starting_is_status_1_and_one_line_with_the_address_and_the_cause() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = &format!("--listen={}", udp.local_addr().unwrap());
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = &format!("--metrics-listen={}", tcp.local_addr().unwrap());
    let (free, none) = ("--listen=127.0.0.1:0", "--metrics-listen=none");
    let (in_use, not_here) = ("Address already in use", "Cannot assign requested address");
    for (args, place, cause) in [
        // A name that no server has to be asked about.
        (["--listen=no..name:9", none], "no..name", "resolve"),
        ([free, "--metrics-listen=no..name:9"], "no..name", "resolve"),
        ([udp, none], &udp.replace("--listen=", "UDP "), in_use),
        (
            [free, tcp],
            &tcp.replace("--metrics-listen=", "TCP "),
            in_use,
        ),
        (["--listen=192.0.2.1:9", none], "UDP 192.0.2.1:9", not_here),
        (
            [free, "--metrics-listen=192.0.2.1:9"],
            "TCP 192.0.2.1:9",
            not_here,
        ),
    ] {
        assert_cannot_start(program().args(args), place, cause);
    }
}

#[test]
fn a_port_that_needs_a_privilege_is_refused_without_it() {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if start.is_ok_and(|start| start.trim().parse::<u16>().is_ok_and(|start| start <= 7)) {
        skip!("no port needs a privilege here");
    }
    let cause = "Permission denied";
    let mut command = without_capabilities();
    command.args(["--listen=127.0.0.1:7", "--metrics-listen=none"]);
    assert_cannot_start(&mut command, "UDP 127.0.0.1:7", cause);
    let mut command = without_capabilities();
    command.args(["--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:7"]);
    assert_cannot_start(&mut command, "TCP 127.0.0.1:7", cause);
}

/// Each option: two values, and what each makes appear in the log or in the metrics after two
/// peers sent `xyz`. With the second value, what the first makes appear does not.
const EFFECTS: &str = "
    LISTEN | 127.0.0.2:0 | 127.0.0.3:0 | listening on 127.0.0.2: | listening on 127.0.0.3:
    MODE | echo | lockstep | serving in echo mode | serving in lockstep mode
    TIMEOUT | 90 | none | timeout 1m 30s | timeout none
    MAX_DATAGRAM | 1 | 2 | echoed_bytes_total 2 | echoed_bytes_total 4
    RECV_BUFFER | 64KiB | 32768 | receive buffer 128 KiB | receive buffer 64 KiB
    SEND_BUFFER | 64KiB | 32768 | send buffer 128 KiB | send buffer 64 KiB
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
fn each_option_has_a_variable_and_the_flag_wins_over_it() {
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
        // A limit that is reached lets one of 64 pass.
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
    for name in ["BUSY_POLL", "EXIT_ON", "REUSE_ADDRESS", "TIMESTAMPS"] {
        assert!(names.remove(&format!("UDP_ECHO_{name}")), "{name}");
    }
    assert!(names.is_empty(), "not in the table: {names:?}");
}

#[test]
fn exit_on_has_a_variable_and_the_flag_wins_over_it() {
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
fn a_list_may_have_spaces_after_its_commas() {
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
fn an_address_that_is_given_twice_by_two_names_is_refused_also_with_reuse_address() {
    // So that the port is nobody else's, and can be bound all the same.
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
fn reuse_address_is_a_boolean_in_its_variable_and_the_flag_wins_over_it() {
    let is_set = |variable: &str, args: &[&str]| {
        let mut command = program();
        command.env("UDP_ECHO_REUSE_ADDRESS", variable);
        let service = Service::start(command, args);
        // A socket that sets it too can join only one that did.
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
fn a_variable_that_is_wrong_is_wrong_usage() {
    for (name, value, named) in [
        ("LISTEN", "a:1,nowhere", "--listen 'nowhere'"),
        ("MODE", "nope", "--mode 'nope'"),
        ("TIMEOUT", "soon", "--timeout 'soon'"),
        ("MAX_DATAGRAM", "0", "--max-datagram '0'"),
        ("RECV_BUFFER", "lots", "--recv-buffer 'lots'"),
        ("SEND_BUFFER", "-1", "--send-buffer '-1'"),
        ("WORKERS", "1x", "--workers '1x'"),
        ("OFFLOAD", "maybe", "--offload 'maybe'"),
        ("MAX_PEERS", "0", "--max-peers '0'"),
        ("EXIT_ON", "never", "--exit-on 'never'"),
        ("REUSE_ADDRESS", "maybe", "--reuse-address 'maybe'"),
        ("MIN_SOURCE_PORT", "-1", "--min-source-port '-1'"),
        ("RATE_LIMIT", "0", "--rate-limit '0' 10000000"),
        (
            "RATE_LIMIT_TOTAL",
            "10000001",
            "--rate-limit-total '10000001'",
        ),
        ("METRICS_LISTEN", "nowhere", "--metrics-listen 'nowhere'"),
        ("LOG", "inof", "--log 'inof'"),
        ("LOG_FORMAT", "xml", "--log-format 'xml'"),
    ] {
        assert_wrong_usage(program().env(format!("UDP_ECHO_{name}"), value), named);
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let names = environment_names();
    // A flag would win over the variable, so each is empty where no flag is. That the flags
    // contradict each other is found only after all options were understood.
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

#[test]
fn help_shows_every_option_with_its_variable_and_its_default() {
    let defaults = "listen=localhost:9999 mode=exchange timeout=5s max-datagram=1024 \
                    recv-buffer=the_kernel's send-buffer=the_kernel's workers=1 offload=auto max-peers=65536 \
                    exit-on=nothing reuse-address=off min-source-port=1024 \
                    rate-limit=off rate-limit-total=off \
                    metrics-listen=127.0.0.1:9862 log=info log-format=auto";
    for flag in ["--help", "-h"] {
        let (status, help, stderr) = ended(program().arg(flag));
        assert_eq!((status, stderr.as_str()), (Some(0), ""));
        // Lines are broken anywhere.
        let options = help.split_once("Options:").unwrap().1.split_whitespace();
        let options = options.collect::<Vec<_>>().join(" ");
        for (name, default) in defaults
            .split(' ')
            .map(|word| word.split_once('=').unwrap())
        {
            let mut about = options
                .split(" --")
                .map(|about| about.trim_start_matches("--"));
            let about = about.find(|about| about.split(' ').next() == Some(name));
            let about = about.unwrap_or_else(|| panic!("no --{name} in {help}"));
            let variable = name.to_uppercase().replace('-', "_");
            assert_has(about, &format!("[env: UDP_ECHO_{variable}]"));
            assert_has(about, &format!("[default: {}]", default.replace('_', " ")));
        }
    }
}

#[test]
fn version_is_told() {
    for flag in ["--version", "-V"] {
        let (status, version, stderr) = ended(program().arg(flag));
        assert_eq!((status, stderr.as_str()), (Some(0), ""));
        let start = concat!("udp-echo ", env!("CARGO_PKG_VERSION"), " (");
        assert!(
            version.starts_with(start) && version.lines().count() == 1,
            "{version}"
        );
    }
}

#[test]
fn an_output_that_is_closed_does_not_panic() {
    for script in [
        "\"$0\" --help | read -r line",
        "\"$0\" --help | true",
        "\"$0\" --help >&-",
        "\"$0\" --version >/dev/full",
        "\"$0\" --nonsense 2>&-; test $? = 2",
        "\"$0\" --nonsense 2>/dev/full; test $? = 2",
    ] {
        let mut command = shell(script);
        let (status, _, stderr) = ended(command.arg(program().get_program()));
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{script}");
    }
}

/// Runs a command that is expected to end; should it serve instead, not for ever.
pub(crate) fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = end_with_test(command.stderr(Stdio::piped()))
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let deadline = Instant::now() + DEADLINE;
    wait_until_some("it ends", || {
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

/// `named`: words that the message has to have.
fn assert_wrong_usage(command: &mut Command, named: &str) {
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

/// That it ends with status 1 and one line.
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

/// The variables that the help names.
fn environment_names() -> BTreeSet<String> {
    let help = ended(program().arg("--help")).1;
    let names = help.split("[env: ").skip(1);
    let names: BTreeSet<_> = names
        .map(|rest| rest.split(']').next().unwrap().into())
        .collect();
    assert!(names.len() > EFFECTS.lines().count(), "{help}");
    names
}

/// What is seen after two peers sent `xyz`: the metrics and the log.
fn effects(service: Service) -> String {
    let listen = format!("listen=\"{}\"", service.listen);
    let peers = [client(service.listen), client(service.listen)];
    for peer in &peers {
        peer.send(b"xyz").unwrap();
    }
    let mut metrics = String::new();
    wait_until("both are counted, and what became of them", || {
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
    // All are of one address.
    let metrics = metrics.replace(&format!("{{{listen}}}"), "");
    metrics.replace(&format!("{listen},"), "") + &log
}
