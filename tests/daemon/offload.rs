//! Bursts: received as one, sent as one, and counted as the datagrams that they are.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGroSegment;

use crate::harness::service::assert_has;
use crate::harness::{
    DEADLINE, Daemon, client, has_ipv6, has_nothing, program, receive, send_burst, shell, total,
    wait_until,
};
use crate::model::assert_plays_like_the_model;
use crate::modes::{DECODED, DROPS, ECHOED, RECEIVED, assert_counts, patient};
use crate::skipped;

const NOTHING_LARGER: &str = r#"batch_datagrams_bucket{le="64"}"#;

#[test]
fn bursts_are_received_as_one_and_without_offload_as_datagrams() {
    for (offload, calls) in [("--offload=auto", 1.0), ("--offload=off", 3.0)] {
        let daemon = Daemon::start(&["--mode=echo", offload]);
        let peer = client(daemon.address());
        daemon.pause();
        for burst in 0..3 {
            send_burst(&peer, &numbered(burst * 64, 64), 8);
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
fn a_burst_goes_back_as_one_in_echo_mode() {
    let daemon = patient(&["--mode=echo"]);
    let peer = client(daemon.address());
    setsockopt(&peer, UdpGroSegment, &true).unwrap();
    send_burst(&peer, &numbered(0, 8), 8);
    assert_eq!(receive(&peer), numbered(0, 8));
    assert_counts(&daemon, &[(RECEIVED, 8), (ECHOED, 8)]);
    assert!(has_nothing(&peer));
}

#[test]
fn a_burst_is_answered_datagram_by_datagram_in_exchange_mode() {
    for sent in [8, 7, 2] {
        let daemon = patient(&[]);
        let peer = client(daemon.address());
        send_burst(&peer, &numbered(0, sent), 8);
        for number in (0..sent).step_by(2) {
            assert_eq!(receive(&peer), number.to_be_bytes());
        }
        let sent = u32::try_from(sent).unwrap();
        assert_counts(&daemon, &[(RECEIVED, sent), (ECHOED, sent.div_ceil(2))]);
        assert!(has_nothing(&peer));
    }
}

#[test]
fn a_burst_begins_with_the_record_that_its_peer_owes() {
    let daemon = patient(&[]);
    let peer = client(daemon.address());
    peer.send(b"a").unwrap();
    assert_eq!(receive(&peer), b"a");
    let records: Vec<u8> = (0..5_u8).flat_map(|number| [number; 22]).collect();
    send_burst(&peer, &records, 22);
    assert_eq!(receive(&peer), [1; 22]);
    assert_eq!(receive(&peer), [3; 22]);
    assert_counts(&daemon, &[(ECHOED, 3), (DECODED, 3), ("peers", 0)]);
    assert!(has_nothing(&peer));
}

#[test]
fn datagrams_of_a_burst_are_received_one_by_one_where_one_of_them_can_be_the_end() {
    for args in [
        &["--mode=lockstep"][..],
        &["--exit-on=empty"],
        &["--mode=lockstep", "--exit-on=decode-error"],
    ] {
        let daemon = patient(args);
        assert_eq!(offload(&daemon), "no offload", "{args:?}");
        let peer = client(daemon.address());
        send_burst(&peer, &numbered(0, 4), 8);
        assert_eq!(receive(&peer), 0_u64.to_be_bytes());
    }
    let idle = Daemon::start(&["--exit-on=timeout"]);
    assert_ne!(offload(&idle), "no offload");
}

#[test]
fn a_burst_that_the_kernel_does_not_send_as_one_goes_back_one_by_one() {
    for args in [
        &["--timeout=none"][..],
        &["--timeout=none", "--max-peers=5"],
        &["--mode=echo"],
    ] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        forbid_bursts(&socket);
        let daemon = Daemon::start_exactly(handing_over(socket, args));
        assert_has(offload(&daemon), "GRO");
        assert_plays_like_the_model(&daemon, args);
        let peer = client(daemon.address());
        setsockopt(&peer, UdpGroSegment, &true).unwrap();
        send_burst(&peer, &numbered(0, 2), 8);
        assert_eq!(receive(&peer), 0_u64.to_be_bytes(), "not in a burst");
    }
}

#[test]
fn bursts_that_wait_in_a_socket_handed_over_are_datagrams_also_without_offload() {
    for args in [&["--mode=echo"][..], &["--mode=lockstep", "--timeout=none"]] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&socket, UdpGroSegment, &true).unwrap();
        let peer = client(socket.local_addr().unwrap());
        send_burst(&peer, &numbered(0, 5), 8);
        let args = [args, &["--offload=off"]].concat();
        let kept = socket.try_clone().unwrap();
        let daemon = Daemon::start_exactly(handing_over(socket, &args));
        let step = if args[0] == "--mode=echo" { 1 } else { 2 };
        for number in (0..5_u64).step_by(step) {
            assert_eq!(receive(&peer), number.to_be_bytes(), "{args:?}");
        }
        assert_counts(&daemon, &[(RECEIVED, 5)]);
        // Once nothing waits, no more bursts come.
        let receives_batches = || nix::sys::socket::getsockopt(&kept, UdpGroSegment).unwrap();
        wait_until("it gets no more bursts", || !receives_batches());
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
            send_burst(&peer, &numbered(0, 5), 8);
            peer.send(b"next").unwrap();
            let kept = socket.try_clone().unwrap();
            let args = ["--timeout=none", "--mode", mode, "--exit-on", exits];
            let ended = handing_over(socket, &args).output().unwrap();
            assert_eq!(ended.status.code(), Some(1), "{ended:?}");
            // As they would be answered if the daemon were started again for each of them.
            for number in [0_u64, 2, 4] {
                assert_eq!(receive(&peer), number.to_be_bytes(), "{mode} {exits}");
            }
            kept.set_read_timeout(Some(DEADLINE)).unwrap();
            // The datagram behind the batch is for the next process.
            assert_eq!(receive(&kept), b"next", "{mode} {exits}");
        }
    }
}

/// Sets `SO_NO_CHECK` (socket(7)), with which the kernel refuses to send bursts.
#[allow(unsafe_code, reason = "no crate has the option")]
fn forbid_bursts(socket: &UdpSocket) {
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
fn replies_to_a_burst_leave_from_the_address_that_was_asked() {
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
                forbid_bursts(&socket);
            }
            let port = socket.local_addr().unwrap().port();
            let daemon = Daemon::start_exactly(handing_over(socket, &[mode, "--timeout=none"]));
            let step = if mode == "--mode=echo" { 1 } else { 2 };
            for ip in ips {
                // Connected: it takes replies from no other address.
                let peer = client((ip.parse::<IpAddr>().unwrap(), port).into());
                // As many as a burst can have on this host.
                send_burst(&peer, &numbered(0, 128), 8);
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
fn a_burst_that_is_sent_again_one_by_one_counts_once_for_a_rate_limit() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    forbid_bursts(&socket);
    let args = ["--rate-limit=64", "--timeout=none"];
    let daemon = Daemon::start_exactly(handing_over(socket, &args));
    let peer = client(daemon.address());
    send_burst(&peer, &numbered(0, 64), 8);
    for number in (0..64_u64).step_by(2) {
        assert_eq!(receive(&peer), number.to_be_bytes());
    }
    assert_counts(&daemon, &[(RECEIVED, 64), (ECHOED, 32)]);
    assert_counts(&daemon, &[("datagrams_refused_total", 0)]);
}

#[test]
fn what_the_kernel_drops_is_counted_in_bursts_and_without_offload_in_datagrams() {
    for (offload, drop) in [("--offload=auto", 64.0), ("--offload=off", 1.0)] {
        let daemon = Daemon::start(&["--mode=echo", "--recv-buffer=64KiB", offload]);
        let peer = client(daemon.address());
        daemon.pause();
        for burst in 0..100 {
            send_burst(&peer, &numbered(burst * 64, 64), 8);
        }
        daemon.resume();
        let count = |name| total(&daemon.metrics(), name);
        let both = || count(RECEIVED) + drop * count(DROPS);
        wait_until("all are counted", || both() > 6399.5);
        assert!(both() < 6400.5 && count(DROPS) > 0.5, "{offload}");
    }
}

/// What the log says of the first socket.
fn offload(daemon: &Daemon) -> &'static str {
    let log = daemon.log();
    let line = log.iter().find(|line| line.contains("listening on"));
    let line = line.expect("it says what it listens on");
    let known = ["GRO and GSO", "GRO", "no offload"];
    let said = known.into_iter().find(|known| line.ends_with(known));
    said.unwrap_or_else(|| panic!("{line}"))
}

/// So many numbers of 8 bytes each.
fn numbered(first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(u64::to_be_bytes).collect()
}

#[test]
fn a_socket_without_a_name_is_for_datagrams() {
    for names in ["", "LISTEN_FDNAMES=unknown"] {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let daemon = Daemon::start_exactly(handing_over_named(names, socket, &["--mode=echo"]));
        assert_eq!(daemon.listen, [address], "{names}");
        let peer = client(address);
        peer.send(b"hello").unwrap();
        assert_eq!(receive(&peer), b"hello");
    }
}

/// The program with a socket handed over as a service manager does.
pub(crate) fn handing_over(socket: UdpSocket, args: &[&str]) -> Command {
    handing_over_named("LISTEN_FDNAMES=echo", socket, args)
}

fn handing_over_named(names: &str, socket: UdpSocket, args: &[&str]) -> Command {
    let mut command = shell(&format!(
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 {names} exec \"$0\" \"$@\""
    ));
    command.arg(program().get_program()).args(args);
    command.arg("--metrics-listen=127.0.0.1:0");
    command.stdin(Stdio::from(OwnedFd::from(socket)));
    command
}
