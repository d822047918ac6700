//! The options and the kernel's figures of the UDP sockets, bound or passed in.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr};
use nix::sys::socket::{getsockopt, setsockopt};
use socket2::{Domain, Socket, Type};

use crate::harness::confined::without_capabilities;
use crate::harness::held::Held;
use crate::harness::{
    Daemon, client, has_ipv6, kernel_drops, program, receive, shell, unreachable, wait_until,
};
use crate::http::assert_echoes;
use crate::inherited::command_with_socket;
use crate::modes::{DROPS, ECHOED, RECEIVE_ERRORS, assert_counts};
use crate::skip;
use crate::usage::ended_with_own_input;

/// systemd sets `SO_REUSEADDR` on every socket. Another process may have set `O_NONBLOCK`, with
/// which a worker that waits would spin, or `IP_RECVERR`, with which an ICMP error about one reply
/// fails another.
#[test]
fn passed_in_socket_gets_the_daemons_own_flags() {
    for (args, reuses) in [(&[][..], false), (&["--reuse-address"], true)] {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_address(!reuses).unwrap();
        socket.set_nonblocking(true).unwrap();
        setsockopt(&socket, Ipv4RecvErr, &true).unwrap();
        socket.bind(&at_any_port()).unwrap();
        let kept = socket.try_clone().unwrap();
        let args = [&["--mode=echo"], args].concat();
        let daemon = Daemon::start_exactly(command_with_socket(socket.into(), &args));
        assert_eq!(kept.reuse_address().unwrap(), reuses, "{args:?}");
        assert!(!kept.nonblocking().unwrap(), "{args:?}");
        assert!(!getsockopt(&kept, Ipv4RecvErr).unwrap(), "{args:?}");
        assert_echoes(&daemon);
    }
}

#[test]
fn passed_in_ipv6_socket_gets_no_icmp_errors() {
    if !has_ipv6() {
        skip!("there is no IPv6");
    }
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
    setsockopt(&socket, Ipv6RecvErr, &true).unwrap();
    let at = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    socket.bind(&at.into()).unwrap();
    let kept = socket.try_clone().unwrap();
    let _daemon = Daemon::start_exactly(command_with_socket(socket.into(), &[]));
    assert!(!getsockopt(&kept, Ipv6RecvErr).unwrap());
}

#[test]
fn earlier_drops_of_a_passed_in_socket_are_not_counted() {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.bind(&at_any_port()).unwrap();
    let socket = UdpSocket::from(socket);
    let address = socket.local_addr().unwrap();
    let peer = client(address);
    for _ in 0..100 {
        peer.send(&[0; 100]).unwrap();
    }
    let dropped = kernel_drops(address.port());
    assert!(dropped > 0);
    let daemon = Daemon::start_exactly(command_with_socket(socket, &["--mode=echo"]));
    let queued = 100 - u32::try_from(dropped).unwrap();
    assert_counts(&daemon, &[(ECHOED, queued), (DROPS, 0)]);
    assert_eq!(kernel_drops(address.port()), dropped);
}

#[test]
fn buffers_below_the_limit_are_set_without_privileges() {
    let args = ["--recv-buffer=32KiB", "--send-buffer=16KiB"];
    let daemon = Daemon::start_as(without_capabilities(), &args);
    assert_counts(
        &daemon,
        &[
            ("socket_receive_buffer_bytes", 2 * 32 * 1024),
            ("socket_send_buffer_bytes", 2 * 16 * 1024),
        ],
    );
}

#[test]
fn receive_queue_is_shown_while_the_worker_stands_still() {
    let daemon = Daemon::start(&["--mode=echo"]);
    daemon.wait_for_metric("socket_receive_queue_bytes", 0.0);
    let Some(held) = Held::hold(daemon.pid(), "worker-0") else {
        skip!("ptrace is not allowed");
    };
    let peer = client(daemon.address());
    for _ in 0..2 {
        peer.send(&[0; 1000]).unwrap();
    }
    // The memory of both, with the kernel's overhead.
    wait_until("the metric shows both", || {
        daemon.metric("socket_receive_queue_bytes") > 2000.0
    });
    assert!(!daemon.get("/?main").body.contains("<td>0 B<td>"));
    drop(held);
    for _ in 0..2 {
        receive(&peer);
    }
    daemon.wait_for_metric("socket_receive_queue_bytes", 0.0);
}

/// A blocking listener would stop all that the thread of HTTP does.
#[test]
fn passed_in_metrics_socket_serves_http() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let args = ["--listen=127.0.0.1:0", "--mode=echo"];
    let daemon = Daemon::start_exactly(passed_in("metrics", listener.into(), &args));
    assert_eq!(daemon.http, Some(address));
    daemon.wait_for_log("WARN using --listen: ");
    assert_echoes(&daemon);
    assert!(daemon.stop().success());
}

#[test]
fn passed_in_sockets_of_a_wrong_kind_are_errors() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.connect(udp.local_addr().unwrap()).unwrap();
    let [tcp, one] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let unbound = |kind| OwnedFd::from(Socket::new(Domain::IPV4, kind, None).unwrap());
    for (name, socket, fault) in [
        (
            "metrics",
            OwnedFd::from(udp),
            "is not a listening TCP socket",
        ),
        (
            "metrics",
            unbound(Type::STREAM),
            "is not a listening TCP socket",
        ),
        ("echo", OwnedFd::from(tcp), "TCP"),
        ("echo", OwnedFd::from(connected), "connected"),
        ("echo", unbound(Type::DGRAM), "bound"),
        ("metrics:metrics", OwnedFd::from(one), "is a second"),
    ] {
        let mut command = passed_in(name, socket, &["--listen=127.0.0.1:0"]);
        let (status, _, error) = ended_with_own_input(&mut command);
        assert_eq!(status, Some(1), "{error}");
        let name = name.split(':').next().unwrap();
        assert!(error.contains(&format!("passed in as {name}")), "{error}");
        assert!(error.contains(fault), "{error}");
    }
}

#[test]
fn lockstep_refuses_two_passed_in_sockets() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let args = ["--mode=lockstep", "--metrics-listen=none"];
    let mut command = passed_in("echo:echo", socket.into(), &args);
    let (status, _, error) = ended_with_own_input(&mut command);
    assert_eq!(status, Some(2), "{error}");
    assert!(error.contains("2 UDP sockets"), "{error}");
}

/// The error comes from a copy of the socket: an unconnected socket of Linux gets no ICMP errors.
#[test]
fn receive_error_is_counted_and_the_worker_goes_on() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let kept = socket.try_clone().unwrap();
    let daemon = Daemon::start_exactly(command_with_socket(socket, &["--mode=echo"]));
    let closed = {
        let (_own, address) = unreachable([127, 0, 0, 1].into());
        address
    };
    kept.connect(closed).unwrap();
    let refused = r#"receive_errors_total{error="ECONNREFUSED"}"#;
    wait_until("the error is counted", || {
        // The copy takes the error of the datagram before, if the worker has not.
        let _ = kept.send(b"x");
        daemon.metric(refused) > 0.5
    });
    daemon.wait_for_log("WARN cannot receive on 127.0.0.1:");
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    kept.connect(peer.local_addr().unwrap()).unwrap();
    peer.connect(daemon.address()).unwrap();
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
    let errors = daemon.metric(refused);
    assert!((daemon.metric(RECEIVE_ERRORS) - errors).abs() < 0.5);
}

fn at_any_port() -> socket2::SockAddr {
    SocketAddr::from(([127, 0, 0, 1], 0)).into()
}

/// The program with a socket passed in under each of the names, which colons separate.
fn passed_in(names: &str, socket: OwnedFd, args: &[&str]) -> Command {
    let count = names.split(':').count();
    let copies: Vec<_> = (3..3 + count).map(|copy| format!("{copy}<&0")).collect();
    let copies = copies.join(" ");
    let mut command = shell(&format!(
        "exec {copies} </dev/null; LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names} \
         exec \"$0\" \"$@\""
    ));
    command.arg(program().get_program()).args(args);
    command.stdin(Stdio::from(socket));
    command
}
