//! GSO batches that the kernel cannot send.

use std::net::UdpSocket;
use std::process::Command;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGroSegment;

use super::namespace::Namespace;
use crate::harness::service::count;
use crate::harness::{Daemon, client, has_nothing, program, receive, send_gso_batch};

const NO_MORE: &str = "UDP GSO failed on the route to a peer; disabled on this socket";

#[test]
#[ignore = "needs strace; .ci/run runs it"]
fn replies_are_sent_singly_when_gso_fails() {
    for (error, for_good) in [
        ("EIO", true),
        ("EINVAL", false),
        ("EMSGSIZE", false),
        ("ENOBUFS", false),
    ] {
        let args = ["--mode=echo", "--timeout=none"];
        let daemon = Daemon::start_as(failing_first_send(error), &args);
        let peer = client(daemon.address());
        setsockopt(&peer, UdpGroSegment, &true).unwrap();
        let one_by_one: Vec<_> = (0..6).map(|number| vec![number; 8]).collect();
        assert_eq!(replies(&peer, 6), one_by_one, "{error}");
        daemon.wait_for_metric("datagrams_received_total", 6.0);
        daemon.assert_accounted_for();
        if for_good {
            assert_eq!(replies(&peer, 6), one_by_one, "{error}");
        } else {
            assert_eq!(replies(&peer, 1), [one_by_one.concat()], "{error}");
        }
        daemon.wait_for_metric("datagrams_received_total", 12.0);
        daemon.wait_for_metric("datagrams_echoed_total", 12.0);
        daemon.assert_accounted_for();
        if for_good {
            daemon.wait_for_log(NO_MORE);
        }
        let said = count(&daemon.log(), NO_MORE);
        assert_eq!(said, usize::from(for_good), "{error}");
        assert!(has_nothing(&peer));
    }
}

#[test]
#[ignore = "needs root, for namespaces; .ci/run runs it"]
fn replies_are_sent_singly_above_the_path_mtu() {
    let (host, clients) = Namespace::pair();
    host.shell("ip route replace 10.77.0.0/24 dev eth0 src 10.77.0.1 mtu 900");
    for (mode, step) in [("--mode=echo", 1), ("--mode=exchange", 2)] {
        let listen = "--listen=10.77.0.1:0";
        let daemon = host.daemon(&[mode, listen, "--timeout=none"]);
        let peer = clients.client("10.77.0.2:0", daemon.address());
        let bytes: Vec<u8> = (0..40_u8).flat_map(|number| [number; 1000]).collect();
        send_gso_batch(&peer, &bytes, 1000);
        for number in (0..40_u8).step_by(step) {
            assert_eq!(receive(&peer), [number; 1000], "{mode}");
        }
        host.inside(|| {
            daemon.wait_for_metric("datagrams_received_total", 40.0);
            daemon.wait_for_metric("batch_datagrams_count", 1.0);
            daemon.assert_accounted_for();
        });
        assert!(has_nothing(&peer));
    }
}

/// Sends a GSO batch of 6 and receives `count` times.
fn replies(peer: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let bytes: Vec<u8> = (0..6_u8).flat_map(|number| [number; 8]).collect();
    send_gso_batch(peer, &bytes, 8);
    (0..count).map(|_| receive(peer)).collect()
}

/// The program with an error injected into its first `sendmmsg`.
fn failing_first_send(error: &str) -> Command {
    let mut command = Command::new("strace");
    // `-D` makes strace the grandchild and the program the child.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=sendmmsg"]);
    command.arg(format!("-einject=sendmmsg:error={error}:when=1"));
    command.arg(program().get_program());
    command
}
