//! Residence times of GRO batches, and of datagrams that waited for the start.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimestampns;

use crate::harness::{Daemon, client, receive, send_gso_batch, wait_until};
use crate::inherited::command_with_socket;
use crate::modes::{ECHOED, assert_counts};
use crate::offload::numbered;

/// The debug log has each datagram sent by itself, all with the timestamp of the batch.
#[test]
fn each_datagram_of_a_gro_batch_counts_in_the_residence() {
    for log in ["--log=info", "--log=debug"] {
        let daemon = Daemon::start(&["--mode=echo", "--timestamps", log]);
        let peer = client(daemon.address());
        send_gso_batch(&peer, &numbered(0, 10), 8);
        for number in 0..10_u64 {
            assert_eq!(receive(&peer), number.to_be_bytes());
        }
        assert_counts(&daemon, &[(ECHOED, 10)]);
        daemon.wait_for_metric("residence_seconds_count", 10.0);
    }
}

/// The process before had the option set on the socket, as an earlier daemon has. The kernel stamps
/// datagrams on arrival only some time after the first socket has set the option.
#[test]
fn residence_includes_the_wait_for_the_start() {
    let with_timestamps = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&socket, ReceiveTimestampns, &true).unwrap();
        socket
    };
    let _first = with_timestamps();
    wait_until("a datagram is stamped on arrival", || {
        let socket = with_timestamps();
        let peer = client(socket.local_addr().unwrap());
        peer.send(b"early").unwrap();
        let sent = Instant::now();
        wait_until("300 ms have passed", || {
            sent.elapsed() > Duration::from_millis(300)
        });
        let args = ["--mode=echo", "--timestamps"];
        let daemon = Daemon::start_exactly(command_with_socket(socket, &args));
        assert_eq!(receive(&peer), b"early");
        daemon.wait_for_metric("residence_seconds_count", 1.0);
        daemon.metric("residence_seconds_sum") >= 0.3
    });
}
