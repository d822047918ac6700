//! UDP GRO and GSO: batches are received and sent by one call and counted by datagram.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGroSegment;

use crate::harness::service::assert_has;
use crate::harness::{
    Daemon, client, has_ipv6, has_nothing, receive, send_gso_batch, total, wait_until,
};
use crate::inherited::command_with_socket;
use crate::model::assert_plays_like_the_model;
use crate::modes::{DECODED, DROPS, ECHOED, RECEIVED, assert_counts, patient};
use crate::skipped;

const NOTHING_LARGER: &str = r#"batch_datagrams_bucket{le="64"}"#;

#[test]
fn gro_batches_come_in_one_call_only_with_offload() {
    for (offload, calls) in [("--offload=auto", 1.0), ("--offload=off", 3.0)] {
        let daemon = Daemon::start(&["--mode=echo", offload]);
        let peer = client(daemon.address());
        daemon.pause();
        for batch in 0..3 {
            send_gso_batch(&peer, &numbered(batch * 64, 64), 8);
        }
        daemon.resume();
        for number in 0..192_u64 {
            assert_eq!(receive(&peer), number.to_be_bytes(), "{offload}");
        }
        assert_counts(&daemon, &[(RECEIVED, 192), (ECHOED, 192)]);
        let metric = |name| daemon.metric(name);
        daemon.wait_for_metric("batch_datagrams_sum", 192.0);
        assert!((metric("batch_datagrams_count") - calls).abs() < 0.5);
        let small = if calls < 2.0 { 0.0 } else { calls };
        assert!((metric(NOTHING_LARGER) - small).abs() < 0.5);
    }
}

#[test]
fn echo_mode_answers_a_gro_batch_with_a_gso_batch() {
    let daemon = patient(&["--mode=echo"]);
    let peer = client(daemon.address());
    setsockopt(&peer, UdpGroSegment, &true).unwrap();
    send_gso_batch(&peer, &numbered(0, 8), 8);
    assert_eq!(receive(&peer), numbered(0, 8));
    assert_counts(&daemon, &[(RECEIVED, 8), (ECHOED, 8)]);
    assert!(has_nothing(&peer));
}

#[test]
fn exchange_decides_on_each_segment_of_a_gro_batch() {
    for sent in [8, 7, 2] {
        let daemon = patient(&[]);
        let peer = client(daemon.address());
        send_gso_batch(&peer, &numbered(0, sent), 8);
        for number in (0..sent).step_by(2) {
            assert_eq!(receive(&peer), number.to_be_bytes());
        }
        let sent = u32::try_from(sent).unwrap();
        assert_counts(&daemon, &[(RECEIVED, sent), (ECHOED, sent.div_ceil(2))]);
        assert!(has_nothing(&peer));
    }
}

#[test]
fn gro_batch_may_begin_with_the_owed_record() {
    let daemon = patient(&[]);
    let peer = client(daemon.address());
    peer.send(b"a").unwrap();
    assert_eq!(receive(&peer), b"a");
    let records: Vec<u8> = (0..5_u8).flat_map(|number| [number; 22]).collect();
    send_gso_batch(&peer, &records, 22);
    assert_eq!(receive(&peer), [1; 22]);
    assert_eq!(receive(&peer), [3; 22]);
    assert_counts(&daemon, &[(ECHOED, 3), (DECODED, 3), ("peers", 0)]);
    assert!(has_nothing(&peer));
}

#[test]
fn offload_is_off_where_one_datagram_can_end_the_daemon() {
    for args in [
        &["--mode=lockstep"][..],
        &["--exit-on=empty"],
        &["--mode=lockstep", "--exit-on=decode-error"],
    ] {
        let daemon = patient(args);
        assert_eq!(offload(&daemon), "no offload", "{args:?}");
        let peer = client(daemon.address());
        send_gso_batch(&peer, &numbered(0, 4), 8);
        assert_eq!(receive(&peer), 0_u64.to_be_bytes());
    }
    let idle = Daemon::start(&["--exit-on=timeout"]);
    assert_ne!(offload(&idle), "no offload");
}

#[test]
fn replies_are_sent_singly_after_gso_failed() {
    for args in [
        &["--timeout=none"][..],
        &["--timeout=none", "--max-peers=5"],
        &["--mode=echo"],
    ] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        forbid_gso(&socket);
        let daemon = Daemon::start_exactly(command_with_socket(socket, args));
        assert_has(offload(&daemon), "GRO");
        assert_plays_like_the_model(&daemon, args);
        let peer = client(daemon.address());
        setsockopt(&peer, UdpGroSegment, &true).unwrap();
        send_gso_batch(&peer, &numbered(0, 2), 8);
        assert_eq!(receive(&peer), 0_u64.to_be_bytes(), "a GSO batch");
    }
}

/// Sets `SO_NO_CHECK`: the kernel refuses GSO sends without checksums (`udp_send_skb` in
/// net/ipv4/udp.c).
#[allow(unsafe_code, reason = "no crate has the option")]
fn forbid_gso(socket: &UdpSocket) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the option is an int.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            4,
        )
    };
    assert_eq!(status, 0);
}

#[test]
fn gso_replies_leave_from_the_requested_address() {
    let (any, ips) = if has_ipv6() {
        ("[::]:0", &["127.0.0.2", "127.0.0.1", "::1"][..])
    } else {
        skipped!("there is no IPv6");
        ("0.0.0.0:0", &["127.0.0.2", "127.0.0.1"][..])
    };
    for refuses in [false, true] {
        for mode in ["--mode=echo", "--mode=exchange"] {
            let socket = UdpSocket::bind(any).unwrap();
            if refuses {
                forbid_gso(&socket);
            }
            let port = socket.local_addr().unwrap().port();
            let daemon =
                Daemon::start_exactly(command_with_socket(socket, &[mode, "--timeout=none"]));
            let step = if mode == "--mode=echo" { 1 } else { 2 };
            for ip in ips {
                // The client is connected and takes replies from no other address.
                let peer = client((ip.parse::<IpAddr>().unwrap(), port).into());
                // The most segments of a GSO batch (UDP_MAX_SEGMENTS).
                send_gso_batch(&peer, &numbered(0, 128), 8);
                for number in (0..128_u64).step_by(step) {
                    assert_eq!(
                        receive(&peer),
                        number.to_be_bytes(),
                        "{ip} {mode} {refuses}"
                    );
                }
            }
            daemon.assert_accounted_for();
        }
    }
}

#[test]
fn gso_retry_counts_once_for_the_rate_limit() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    forbid_gso(&socket);
    let args = ["--rate-limit=64", "--timeout=none"];
    let daemon = Daemon::start_exactly(command_with_socket(socket, &args));
    let peer = client(daemon.address());
    send_gso_batch(&peer, &numbered(0, 64), 8);
    for number in (0..64_u64).step_by(2) {
        assert_eq!(receive(&peer), number.to_be_bytes());
    }
    assert_counts(&daemon, &[(RECEIVED, 64), (ECHOED, 32)]);
    assert_counts(&daemon, &[("datagrams_refused_total", 0)]);
}

#[test]
fn kernel_drops_count_gro_batches_with_offload() {
    for (offload, drop) in [("--offload=auto", 64.0), ("--offload=off", 1.0)] {
        let daemon = Daemon::start(&["--mode=echo", "--recv-buffer=64KiB", offload]);
        let peer = client(daemon.address());
        daemon.pause();
        for batch in 0..100 {
            send_gso_batch(&peer, &numbered(batch * 64, 64), 8);
        }
        daemon.resume();
        let count = |name| total(&daemon.metrics(), name);
        let both = || count(RECEIVED) + drop * count(DROPS);
        wait_until("all are counted", || both() > 6399.5);
        assert!(both() < 6400.5 && count(DROPS) > 0.5, "{offload}");
    }
}

/// The offload of the first socket, by the log.
fn offload(daemon: &Daemon) -> &'static str {
    let log = daemon.log();
    let line = log.iter().find(|line| line.contains("listening on"));
    let line = line.expect("a line with the address");
    let known = ["GRO and GSO", "GRO", "no offload"];
    let said = known.into_iter().find(|known| line.ends_with(known));
    said.unwrap_or_else(|| panic!("{line}"))
}

/// `count` numbers of 8 bytes each.
pub(crate) fn numbered(first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(u64::to_be_bytes).collect()
}
