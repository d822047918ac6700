//! Mistakes that are easy to make: what the errors say, and combinations that cannot work.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use crate::harness::service::assert_has;
use crate::harness::{Daemon, client, program, receive};
use crate::usage::ended;

#[test]
fn errors_say_what_to_write_instead() {
    let http = "expected HOST:PORT, such as 127.0.0.1:9862, or none\n";
    let number = |range: &str| format!(": expected a whole number, {range}\n");
    for (args, said) in [
        ("--metrics-listen=9862", http),
        ("--metrics-listen=off", http),
        (
            "--metrics-listen=8080",
            "expected HOST:PORT, such as 127.0.0.1:8080, or none\n",
        ),
        (
            "--timestamps true",
            "cannot use 'true' with --timestamps: it takes no value; remove 'true'; only \
             UDP_ECHO_TIMESTAMPS has a value\n",
        ),
        (
            "--reuse-address=off",
            "cannot use 'off' with --reuse-address: it takes no value; remove --reuse-address to \
             turn it off",
        ),
        (
            "probe --quiet true 127.0.0.1:9",
            "cannot use 'true' with --quiet: it takes no value; remove 'true'; only \
             UDP_ECHO_PROBE_QUIET has a value\n\nUsage: udp-echo probe ",
        ),
        (
            "--verbose",
            "unexpected argument '--verbose' found; --log debug logs each datagram\n",
        ),
        (
            "-v",
            "unexpected argument '-v' found; --log debug logs each datagram\n",
        ),
        ("probe -0 127.0.0.1:9", "unexpected argument '-0' found\n"),
        ("--busy-poll -0", "invalid value '-0' for '--busy-poll "),
        ("--min-source-port -0", &number("0 to 65535")),
        ("--min-source-port 1k", &number("0 to 65535")),
        ("--max-peers 1e6", &number("1 to 16777216")),
        (
            "--max-datagram 0",
            ": expected 1 to 65507 bytes, or a size with a unit (1KiB)\n",
        ),
        ("probe --count 0 h:1", &number("at least 1")),
        ("probe --count 1k h:1", &number("at least 1")),
        (
            "probe --rate 1e6 h:1",
            ": expected a number, more than 0 and ",
        ),
        ("probe --size 15 h:1", ": expected 16 to 65507 bytes (14 "),
        ("probe --flows 0 h:1", &number("1 to 4096")),
        ("--log udp_echo=", "invalid value 'udp_echo=' for '--log "),
        ("--log info,a=", "invalid value 'info,a=' for '--log "),
    ] {
        assert_error(args, said);
    }
}

#[test]
fn combinations_that_can_never_work_are_usage_errors() {
    for (args, said) in [
        (
            "--mode=echo --exit-on=decode-error",
            "cannot use --exit-on decode-error with --mode echo: that mode never exits on it; \
             remove decode-error\n",
        ),
        (
            "--mode=echo --exit-on=timeout,empty",
            "cannot use --exit-on empty with --mode echo: ",
        ),
        (
            "--listen=[::]:9999 --listen=0.0.0.0:9999",
            "cannot listen on both [::]:9999 and 0.0.0.0:9999: they overlap, [::]:9999 includes \
             0.0.0.0:9999; remove 0.0.0.0:9999 from --listen\n",
        ),
        (
            "--listen=*:9999,[::]:9999 --reuse-address",
            "cannot listen on both 0.0.0.0:9999 and [::]:9999: they overlap, [::]:9999 includes ",
        ),
        (
            "--listen=*:9999,localhost:9999",
            "they overlap, 0.0.0.0:9999 includes localhost:9999; remove localhost:9999 ",
        ),
        (
            "--listen=[::1]:9999,[::]:9999",
            "they overlap, [::]:9999 includes [::1]:9999; ",
        ),
    ] {
        assert_error(args, said);
    }
}

#[test]
fn addresses_that_do_not_overlap_are_accepted() {
    for listen in [
        "--listen=[::]:9998,0.0.0.0:9999",
        "--listen=[::]:0,0.0.0.0:0",
        "--listen=[::1]:9,127.0.0.1:9,*:8",
        "--listen=[::1]:9,0.0.0.0:9",
        // A concrete address takes its datagrams from the wildcard address.
        "--listen=127.0.0.1:9,*:9 --reuse-address",
    ] {
        let args = listen.split(' ');
        let (status, _, stderr) = ended(program().arg("--check").args(args));
        assert_eq!(status, Some(0), "{stderr}");
    }
}

#[test]
fn address_beside_the_wildcard_works_with_reuse_address() {
    // This socket reserves the port, and the daemon can still bind it.
    let held = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    held.set_reuse_address(true).unwrap();
    held.bind(&SocketAddr::from(([127, 0, 0, 9], 0)).into())
        .unwrap();
    let port = held.local_addr().unwrap().as_socket().unwrap().port();
    let listen = format!("--listen=127.0.0.1:{port},*:{port}");
    let _daemon = Daemon::start(&["--mode=echo", "--reuse-address", &listen]);
    for host in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        let peer = client((host, port).into());
        peer.send(b"hello").unwrap();
        assert_eq!(receive(&peer), b"hello");
    }
}

#[test]
fn ipv4_mapped_address_is_the_ipv4_address() {
    let daemon = Daemon::start(&[
        "--mode=echo",
        "--listen=[::ffff:127.0.0.1]:0",
        "--metrics-listen=[::ffff:127.0.0.1]:0",
    ]);
    assert!(daemon.address().is_ipv4() && daemon.http.unwrap().is_ipv4());
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
}

/// Asserts a usage error with the text `said`.
fn assert_error(args: &str, said: &str) {
    let (status, stdout, stderr) = ended(program().args(args.split(' ')));
    assert_eq!((status, stdout.as_str()), (Some(2), ""), "{args}: {stderr}");
    assert!(stderr.starts_with("error: "), "{args}: {stderr}");
    assert_has(&stderr, said);
}
