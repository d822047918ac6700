//! The sizes of the socket buffers: what is requested, granted and shown.

use std::net::UdpSocket;

use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{getsockopt, setsockopt};

use crate::harness::confined::without_capabilities;
use crate::harness::service::{Service, assert_has, count};
use crate::harness::{Daemon, program};
use crate::inherited::command_with_socket;
use crate::{skip, skipped};

/// The size that `auto` requests, in bytes.
const AUTO: f64 = 4_194_304.0;

const RECEIVE: &str = "socket_receive_buffer_bytes";
const REQUESTED: &str = "receive_buffer_requested_bytes";

#[test]
fn auto_receive_buffer_is_4_mib_or_the_limit_without_a_warning() {
    for args in [&[][..], &["--recv-buffer=auto"], &["--workers=2"]] {
        let daemon = Daemon::start_as(without_capabilities(), args);
        let granted = daemon.metric(&format!("{RECEIVE}{{worker=\"0\"}}"));
        let limit = daemon.metric("receive_buffer_limit_bytes");
        // The kernel doubles what it grants. Its default is never reduced.
        let expected = (2.0 * limit.min(AUTO)).max(default_size());
        assert!((granted - expected).abs() < 0.5, "{granted}, {expected}");
        let metrics = daemon.metrics();
        assert!(!metrics.keys().any(|name| name.contains(REQUESTED)));
        let log = daemon.whole_log();
        assert_eq!(count(&log, " WARN "), 0, "{log:#?}");
        let auto = if limit >= AUTO {
            "4 MiB (auto)"
        } else {
            "(auto, requested 4 MiB)"
        };
        assert_eq!(count(&log, auto), 1, "{log:#?}");
    }
}

#[test]
fn buffers_exceed_the_limit_with_the_privilege() {
    let daemon = Daemon::start(&[]);
    let limits = ["receive", "send"].map(|name| {
        let limit = daemon.metric(&format!("{name}_buffer_limit_bytes"));
        format!("{limit}").parse::<usize>().unwrap()
    });
    let wanted = limits.map(|limit| limit + (1 << 20));
    let own = UdpSocket::bind("127.0.0.1:0").unwrap();
    if setsockopt(&own, RcvBufForce, &wanted[0]).is_err() {
        skip!("this process may not exceed the limits on buffers");
    }
    if wanted.iter().any(|bytes| *bytes > 1 << 29) {
        skip!("the limits on buffers are those of the kernel");
    }
    let [receive, send] = wanted.map(|bytes| bytes.to_string());
    let args = ["--recv-buffer", &receive, "--send-buffer", &send];
    let daemon = Daemon::start(&args);
    for (name, bytes) in [RECEIVE, "socket_send_buffer_bytes"].iter().zip(wanted) {
        let granted = daemon.metric(name);
        assert_eq!(format!("{granted}"), (2 * bytes).to_string(), "{name}");
    }
    assert_eq!(count(&daemon.whole_log(), " WARN "), 0);
}

#[test]
fn lockstep_keeps_the_default_receive_buffer() {
    let auto = ["--mode=lockstep", "--recv-buffer=auto"];
    for args in [&auto[..1], &auto] {
        let daemon = Daemon::start(args);
        let granted = daemon.metric(RECEIVE);
        assert!((granted - default_size()).abs() < 0.5, "{granted}");
    }
    let daemon = Daemon::start(&["--mode=lockstep", "--recv-buffer=64KiB"]);
    assert!((daemon.metric(RECEIVE) - 131_072.0).abs() < 0.5);
}

#[test]
fn receive_buffer_variable_takes_auto() {
    let mut command = program();
    command.env("UDP_ECHO_RECV_BUFFER", "auto");
    let (_, log) = Service::start(command, &[]).end_with_whole_log();
    assert_has(&log, "(auto");
}

#[test]
fn auto_does_not_shrink_the_buffer_of_a_passed_in_socket() {
    for size in [8 << 20, 64 << 10] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Without CAP_NET_ADMIN the kernel grants at most its limit.
        setsockopt(&socket, RcvBufForce, &size)
            .or_else(|_| setsockopt(&socket, RcvBuf, &size))
            .unwrap();
        let before = getsockopt(&socket, RcvBuf).unwrap();
        if size > 4 << 20 && before <= 2 * (4 << 20) {
            skipped!("net.core.rmem_max is too low for a buffer of {size} bytes");
        }
        let kept = socket.try_clone().unwrap();
        let _daemon = Daemon::start_exactly(command_with_socket(socket, &[]));
        let after = getsockopt(&kept, RcvBuf).unwrap();
        if before > 2 * (4 << 20) {
            assert_eq!(after, before);
        }
        assert!(after >= before, "{before} became {after}");
    }
}

#[test]
fn workers_of_one_address_share_a_start_line() {
    let listen = "--listen=127.0.0.1:0,127.0.0.2:0";
    let daemon = Daemon::start(&["--workers=3", listen, "--recv-buffer=64KiB"]);
    let log = daemon.whole_log();
    let lines: Vec<_> = log
        .iter()
        .filter(|line| line.contains("listening on "))
        .collect();
    assert_eq!(lines.len(), 2, "{log:#?}");
    for line in lines {
        assert_has(
            line,
            " (UDP), 3 workers, receive buffer 64 KiB (requested 64 KiB), send ",
        );
    }
}

/// The receive buffer of a socket with the kernel's default, as the kernel counts it.
fn default_size() -> f64 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    f64::from(u32::try_from(getsockopt(&socket, RcvBuf).unwrap()).unwrap())
}
