//! The command line of the client for those who know ping: targets, short options, families, and
//! errors that say what to write instead.

use std::net::UdpSocket;

use crate::harness::{Daemon, has_ipv6, program};
use crate::reflectors::{LONG, ended, probe};
use crate::{skip, skipped};

/// Runs the client with these arguments only.
fn run(args: &str) -> (i32, String, String) {
    let mut command = program();
    ended(command.arg("probe").args(args.split_whitespace()))
}

#[test]
fn short_options_of_ping_work_before_the_target() {
    let daemon = Daemon::start(&[]);
    let (status, out, err) = run(&format!("-c 3 -i 0.2 -4 -W 60 {}", daemon.address()));
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("3 sent, 3 received"), "{out}");
    let args = format!("-q -w 0.3 -i 0.1 -s 1KiB -W 60 {}", daemon.address());
    let (status, out, err) = run(&args);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(
        out.starts_with("--- ") && out.contains(" received"),
        "{out}"
    );
}

#[test]
fn first_line_says_an_address_once_and_a_name_with_its_address() {
    let daemon = Daemon::start(&[]);
    let address = daemon.address();
    let args = format!("--count=1 {LONG}");
    for (target, start) in [
        (address.to_string(), format!("probing {address} in ")),
        (
            format!("localhost:{}", address.port()),
            format!("probing localhost:{} ({address}) in ", address.port()),
        ),
    ] {
        let (_, out, _) = ended(&mut probe(&target, &args));
        assert!(out.starts_with(&start), "{out}");
    }
}

#[test]
fn target_without_a_port_has_the_default_port() {
    for (target, said) in [
        ("127.0.0.9", "probing 127.0.0.9:9999 in"),
        ("::1", "probing [::1]:9999 in"),
        ("[::1]", "probing [::1]:9999 in"),
        ("[::1]:9998", "probing [::1]:9998 in"),
    ] {
        if target.contains("::") && !has_ipv6() {
            skipped!("no IPv6: the part about {target}");
            continue;
        }
        // Whether or not something answers.
        let (_, out, err) = ended(&mut probe(target, "-c 1 -W 0.1"));
        assert!(out.starts_with(said), "{out}{err}");
    }
}

#[test]
fn errors_about_targets_say_host_and_port() {
    let usage = "\n\nUsage: udp-echo probe ";
    for (args, said) in [
        (
            "localhost 9999",
            "expected HOST:PORT, such as localhost:9999\n",
        ),
        ("::1 7", "expected HOST:PORT, such as [::1]:7\n"),
        (
            "http://reflector:9862/metrics",
            ": expected HOST:PORT, such as reflector:9862",
        ),
        (
            "udp://reflector",
            ": expected HOST:PORT, such as reflector:9999",
        ),
        ("9999", ": expected HOST:PORT, such as localhost:9999"),
        ("--rate 1 --interval 1 h", usage),
        ("-4 -6 h", "cannot use --ipv4 with --ipv6: "),
        (
            "--dscp EF -Q 0xb8 h",
            "cannot use --dscp with -Q: both set the DSCP",
        ),
        ("--df -M dont h", "cannot use --df with -M: "),
        (
            "--json-lines --json h",
            "cannot use --json-lines with --json: ",
        ),
        (
            "--json-lines -q h",
            "cannot use --json-lines with --quiet: ",
        ),
        ("-4 -I ::1 h", "cannot use --source ::1 with --ipv4: "),
        ("-Q 0xb9 h", "ECN (RFC 3168) and must be 0"),
        ("--dscp 64 h", "expected 0 to 63 or a name"),
        ("-t 0 h", "1 to 255"),
        ("-M maybe h", "[possible values: do, want, dont]"),
        (
            "-I a/b h",
            "expected an address without port, or an interface",
        ),
        (
            "-s 1.5 h",
            ": expected 16 to 65507 bytes (14 to 65507 in stamp mode), or a size with a unit (1KiB)\n",
        ),
    ] {
        let (status, out, err) = run(args);
        assert_eq!((status, out.as_str()), (2, ""), "{args}: {err}");
        assert!(err.contains(said), "{args}: {err}");
        assert!(!err.contains("Usage: udp-echo ["), "{args}: {err}");
    }
}

#[test]
fn multicast_target_is_refused_with_and_without_a_route() {
    // No socket can be bound to this interface.
    let (status, out, err) = run("-I nowhere 224.0.0.1");
    assert_eq!((status, out.as_str()), (1, ""), "{err}");
    let said = "udp-echo: cannot probe 224.0.0.1:9999: reflectors refuse multicast; use the \
                address of one reflector\n";
    assert_eq!(err, said);
}

#[test]
fn unspecified_target_is_this_host() {
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let (status, out, err) = ended(&mut probe(format!("0.0.0.0:{port}"), "-c 1"));
    assert_eq!((status, err.as_str()), (1, ""), "{out}");
    let shown = format!("--- 0.0.0.0:{port} (127.0.0.1:{port}) ---\n");
    assert!(out.contains(&shown), "{out}");
    assert!(out.contains("\n1 request: the port is closed ("), "{out}");
}

#[test]
fn option_given_overrides_the_variable_of_an_excluded_one() {
    let daemon = Daemon::start(&["--mode=echo"]);
    for (variable, value, args) in [
        ("IPV6", "true", "-4"),
        ("DSCP", "EF", "-Q 0"),
        ("DF", "true", "-M dont"),
        ("QUIET", "true", "--json-lines"),
        ("QUIET", "false", "--json-lines"),
    ] {
        let args = format!("--mode=echo --count=1 {LONG} {args}");
        let mut command = probe(daemon.address(), &args);
        command.env(format!("UDP_ECHO_PROBE_{variable}"), value);
        let (status, out, err) = ended(&mut command);
        assert_eq!((status, err.as_str()), (0, ""), "{variable}: {out}");
        // The shared names of older variables do not grow.
        let mut command = probe(daemon.address(), &args);
        let (_, _, err) = ended(command.env(format!("UDP_ECHO_{variable}"), value));
        assert_eq!(err.contains("ignoring"), variable != "QUIET", "{err}");
    }
}

#[test]
fn family_option_selects_the_address_of_localhost() {
    let daemon = Daemon::start(&["--listen=127.0.0.1:0"]);
    let target = format!("localhost:{}", daemon.address().port());
    let (status, out, _) = ended(&mut probe(&target, &format!("-c 1 -4 {LONG}")));
    assert!(status == 0 && out.contains("127.0.0.1:"), "{out}");
    let (status, _, err) = ended(&mut probe("127.0.0.1", "-c 1 -6"));
    assert_eq!(status, 1);
    let said = "udp-echo: cannot resolve \"127.0.0.1\": it has no IPv6 address, and the \
                family or the source asks for one\n";
    assert_eq!(err, said);
    if !has_ipv6() {
        skip!("no IPv6: an IPv6 address of localhost");
    }
    let daemon = Daemon::start(&["--listen=[::1]:0"]);
    let target = format!("localhost:{}", daemon.address().port());
    for args in ["-6", "--source=::1"] {
        let (status, out, err) = ended(&mut probe(&target, &format!("-c 1 {args} {LONG}")));
        assert!(status == 0 && out.contains("[::1]:"), "{out}{err}");
    }
}

#[test]
fn source_is_an_address_or_an_interface_of_this_host() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = socket.local_addr().unwrap().to_string();
    let (_, _, err) = ended(&mut probe(&target, "--mode=echo -c 1 -I 127.0.0.7 -W 0.01"));
    assert_eq!(err, "");
    let (_, from) = crate::harness::receive_from(&socket);
    assert_eq!(from.ip().to_string(), "127.0.0.7");
    let (_, _, err) = ended(&mut probe(&target, "--mode=echo -c 1 -I lo -W 0.01"));
    assert_eq!(err, "");
    let (_, from) = crate::harness::receive_from(&socket);
    assert_eq!(from.ip().to_string(), "127.0.0.1");
    for (source, said) in [
        (
            "192.0.2.99",
            "cannot send from 192.0.2.99: Cannot assign requested address (os error 99); \
             choose an address of this host (`ip address` shows them)",
        ),
        (
            "no-such-link",
            "cannot send from interface \"no-such-link\": No such device (os error 19); \
             choose an interface of this host (`ip link` shows them)",
        ),
    ] {
        let (status, _, err) = ended(&mut probe(&target, &format!("-c 1 --source={source}")));
        assert_eq!((status, err), (1, format!("udp-echo: {said}\n")));
    }
}

#[test]
fn rate_can_be_a_fraction() {
    let daemon = Daemon::start(&[]);
    for (rate, said) in [
        ("0.5", "one request every 2 s"),
        ("1.5", "1.5 requests per second"),
        ("20", "20 requests per second"),
    ] {
        let args = format!("--count=1 --rate={rate} {LONG}");
        let (status, out, _) = ended(&mut probe(daemon.address(), &args));
        assert!(status == 0 && out.contains(said), "{out}");
    }
}

#[test]
fn version_and_help_are_those_of_the_program() {
    let version = |args: &[&str]| ended(program().args(args));
    let (status, own, _) = version(&["probe", "--version"]);
    assert_eq!(status, 0);
    assert_eq!(own, version(&["--version"]).1);
    assert_eq!(own, version(&["probe", "-V"]).1);
    let (status, help, _) = version(&["help", "probe"]);
    assert!(
        status == 0 && help.contains("Usage: udp-echo probe "),
        "{help}"
    );
}
