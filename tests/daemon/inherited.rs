//! Sockets that a service manager passes in.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGroSegment;
use socket2::{Domain, Socket, Type};

use crate::harness::service::count;
use crate::harness::{
    DEADLINE, Daemon, client, has_ipv6, has_nothing, program, receive, send_gso_batch, shell,
    wait_until,
};
use crate::modes::{ECHOED, RECEIVED, REFUSED, SEND_ERRORS, ask, assert_counts, bound_to};
use crate::offload::numbered;
use crate::refusals::assert_refused;
use crate::skip;

/// An IPv6 socket may be bound to an IPv4-mapped address.
#[test]
fn ipv4_mapped_inherited_socket_keeps_the_ipv4_rules() {
    if !has_ipv6() {
        skip!("there is no IPv6");
    }
    let mapped = |ip: &str, joins: bool| {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let at: SocketAddr = format!("[::ffff:{ip}]:0").parse().unwrap();
        socket.bind(&at.into()).unwrap();
        if joins {
            let [multicast, loopback] = [ip.parse().unwrap(), [127, 0, 0, 1].into()];
            socket.join_multicast_v4(&multicast, &loopback).unwrap();
        }
        UdpSocket::from(socket)
    };
    let start = |socket: UdpSocket| {
        let port = socket.local_addr().unwrap().port();
        let args = ["--reuse-address", "--mode=echo"];
        (
            Daemon::start_exactly(command_with_socket(socket, &args)),
            port,
        )
    };

    let (daemon, port) = start(mapped("0.0.0.0", false));
    let asked = client(([127, 0, 0, 2], port).into());
    assert_eq!(ask(&asked, b"from there"), b"from there");
    let own = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    own.set_reuse_address(true).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 3], port));
    own.bind(&at.into()).unwrap();
    let own = UdpSocket::from(own);
    own.send_to(b"a", ("127.0.0.1", port)).unwrap();
    assert_refused(&daemon, "own_address", 1);
    let peer = bound_to(([127, 0, 0, 1], 0));
    peer.set_broadcast(true).unwrap();
    peer.send_to(b"all", ("127.255.255.255", port)).unwrap();
    let destination = r#"datagrams_refused_total{reason="destination"}"#;
    assert_counts(&daemon, &[(destination, 1), (REFUSED, 2), (ECHOED, 1)]);
    assert!(has_nothing(&own) && has_nothing(&peer));

    // The multicast address that the socket is bound to is not refused, but Linux sends no reply
    // from it.
    let (daemon, port) = start(mapped("224.0.0.1", true));
    let peer = Socket::from(peer);
    peer.set_multicast_if_v4(&[127, 0, 0, 1].into()).unwrap();
    let peer = UdpSocket::from(peer);
    peer.send_to(b"to all", ("224.0.0.1", port)).unwrap();
    assert_counts(&daemon, &[(SEND_ERRORS, 1), (REFUSED, 0)]);
}

#[test]
fn queued_gro_batches_are_split_without_offload() {
    for args in [&["--mode=echo"][..], &["--mode=lockstep", "--timeout=none"]] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&socket, UdpGroSegment, &true).unwrap();
        let peer = client(socket.local_addr().unwrap());
        send_gso_batch(&peer, &numbered(0, 5), 8);
        let args = [args, &["--offload=off"]].concat();
        let kept = socket.try_clone().unwrap();
        let daemon = Daemon::start_exactly(command_with_socket(socket, &args));
        let step = if args[0] == "--mode=echo" { 1 } else { 2 };
        for number in (0..5_u64).step_by(step) {
            assert_eq!(receive(&peer), number.to_be_bytes(), "{args:?}");
        }
        assert_counts(&daemon, &[(RECEIVED, 5)]);
        // The daemon clears UDP_GRO once the queue is empty.
        let receives_batches = || nix::sys::socket::getsockopt(&kept, UdpGroSegment).unwrap();
        wait_until("UDP_GRO is cleared", || !receives_batches());
        assert!(has_nothing(&peer));
    }
}

#[test]
fn inherited_gro_batch_is_answered_whole_at_an_end() {
    for mode in ["lockstep", "exchange"] {
        for exits in ["decode-error", "empty,decode-error"] {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            setsockopt(&socket, UdpGroSegment, &true).unwrap();
            let peer = client(socket.local_addr().unwrap());
            send_gso_batch(&peer, &numbered(0, 5), 8);
            peer.send(b"next").unwrap();
            let kept = socket.try_clone().unwrap();
            let args = ["--timeout=none", "--mode", mode, "--exit-on", exits];
            let ended = command_with_socket(socket, &args).output().unwrap();
            assert_eq!(ended.status.code(), Some(1), "{ended:?}");
            // A daemon that is restarted after each end would send these replies, too.
            for number in [0_u64, 2, 4] {
                assert_eq!(receive(&peer), number.to_be_bytes(), "{mode} {exits}");
            }
            kept.set_read_timeout(Some(DEADLINE)).unwrap();
            // The datagram after the batch stays for the next process.
            assert_eq!(receive(&kept), b"next", "{mode} {exits}");
        }
    }
}

#[test]
fn unnamed_socket_receives_datagrams() {
    for names in ["", "LISTEN_FDNAMES=unknown"] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let daemon =
            Daemon::start_exactly(command_with_named_socket(names, socket, &["--mode=echo"]));
        assert_eq!(daemon.listen, [address], "{names}");
        let peer = client(address);
        peer.send(b"hello").unwrap();
        assert_eq!(receive(&peer), b"hello");
    }
}

#[test]
fn ignored_options_are_named_as_they_were_written() {
    for (variable, argument, named) in [
        (
            "UDP_ECHO_LISTEN=127.0.0.1:1",
            "--mode=echo",
            "UDP_ECHO_LISTEN",
        ),
        ("UDP_ECHO_MODE=echo", "--listen=127.0.0.1:1", "--listen"),
    ] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut command = command_with_socket(socket, &[argument]);
        let (name, value) = variable.split_once('=').unwrap();
        command.env(name, value);
        let log = Daemon::start_exactly(command).log();
        let warning = format!(" WARN ignoring {named}: systemd passed in sockets");
        assert_eq!(count(&log, " WARN "), 1, "{log:#?}");
        assert_eq!(count(&log, &warning), 1, "{log:#?}");
    }
}

/// The program with a socket passed in as a service manager does it.
pub(crate) fn command_with_socket(socket: UdpSocket, args: &[&str]) -> Command {
    command_with_named_socket("LISTEN_FDNAMES=echo", socket, args)
}

/// `names` sets `LISTEN_FDNAMES` or nothing.
fn command_with_named_socket(names: &str, socket: UdpSocket, args: &[&str]) -> Command {
    let mut command = shell(&format!(
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 {names} exec \"$0\" \"$@\""
    ));
    command.arg(program().get_program()).args(args);
    command.arg("--metrics-listen=127.0.0.1:0");
    command.stdin(Stdio::from(OwnedFd::from(socket)));
    command
}
