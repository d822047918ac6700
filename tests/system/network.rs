//! The daemon in networks with firewalls, missing routes, congestion and ICMP errors.

use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{DEADLINE, Daemon, has_nothing, program, receive, send_gso_batch, wait_until};
use crate::namespace::Namespace;

#[test]
#[ignore = "needs root and nft; .ci/run runs it"]
fn replies_blocked_by_a_firewall_leave_no_record_owed() {
    let host = Namespace::new();
    let daemon = host.daemon(&["--listen=127.0.0.1:9999"]);
    host.shell("nft add table inet t");
    host.shell("nft 'add chain inet t out { type filter hook output priority 0; }'");
    host.shell("nft add rule inet t out udp sport 9999 udp dport 5555 drop");
    let blocked = host.client("127.0.0.1:5555", daemon.address());
    let good = host.client("127.0.0.1:0", daemon.address());
    host.inside(|| {
        for round in 0..50_u8 {
            blocked.send(b"blocked").unwrap();
            good.send(&[round]).unwrap();
            assert_eq!(receive(&good), [round]);
            good.send(&[0; 22]).unwrap();
        }
        daemon.wait_for_metric("datagrams_received_total", 150.0);
        daemon.wait_for_metric("records_decoded_total", 50.0);
        daemon.wait_for_metric("send_errors_total{error=\"EPERM\"}", 50.0);
        daemon.wait_for_metric("datagrams_echoed_total", 50.0);
        daemon.wait_for_metric("peers", 0.0);
        daemon.assert_accounted_for();
        assert!(has_nothing(&blocked));
    });
}

#[test]
#[ignore = "needs root and nft; .ci/run runs it"]
fn failed_replies_are_logged_once_per_second_with_a_count() {
    let host = Namespace::new();
    // A buffer large enough that the kernel drops nothing, even if the daemon is delayed.
    let args = [
        "--listen=127.0.0.1:9999",
        "--mode=echo",
        "--workers=2",
        "--recv-buffer=32MiB",
    ];
    let daemon = host.daemon(&args);
    host.shell("nft add table inet t");
    host.shell("nft 'add chain inet t out { type filter hook output priority 0; }'");
    host.shell("nft add rule inet t out udp sport 9999 drop");
    let failed = "send_errors_total{error=\"EPERM\"}";
    // Enough peers for both workers.
    let peers: Vec<_> = (0..20)
        .map(|_| host.client("127.0.0.1:0", daemon.address()))
        .collect();
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < Duration::from_millis(3500) {
        for peer in &peers {
            peer.send(b"blocked").unwrap();
        }
        sent += 20;
        std::thread::sleep(Duration::from_millis(2));
    }
    host.inside(|| daemon.wait_for_metric(failed, f64::from(sent)));
    let seconds = start.elapsed().as_secs();
    // The next warning has the count of the last second.
    std::thread::sleep(Duration::from_millis(1100));
    peers[0].send(b"one more").unwrap();
    sent += 1;
    host.inside(|| daemon.wait_for_metric(failed, f64::from(sent)));
    let reported = |log: &[String]| -> u32 {
        let warnings = log.iter().filter(|line| line.contains("cannot send"));
        warnings
            .map(|line| {
                assert!(
                    line.contains("(os error 1); allow replies in the"),
                    "{line}"
                );
                let more = line.split_once(" (and ").map(|(_, rest)| rest);
                1 + more.map_or(0, |more| more.split(' ').next().unwrap().parse().unwrap())
            })
            .sum()
    };
    wait_until("all failures are reported", || {
        reported(&daemon.log()) == sent
    });
    let log = daemon.log();
    let warnings = log.iter().filter(|line| line.contains(" WARN ")).count() as u64;
    eprintln!("{sent} replies failed: {warnings} warnings in {seconds} s");
    assert!((3..=seconds + 2).contains(&warnings), "{log:#?}");
}

#[test]
#[ignore = "needs root; .ci/run runs it"]
fn failed_replies_are_counted_by_errno_without_a_route() {
    for (kind, errno) in [
        ("unreachable", "EHOSTUNREACH"),
        ("prohibit", "EACCES"),
        ("blackhole", "EINVAL"),
        ("throw", "ENETUNREACH"),
    ] {
        let (server, clients) = Namespace::pair();
        clients.add_address("10.77.0.3/24");
        let daemon = server.daemon(&["--listen=10.77.0.1:9999", "--mode=echo"]);
        let lost = clients.client("10.77.0.2:0", daemon.address());
        let good = clients.client("10.77.0.3:0", daemon.address());
        daemon.pause();
        for number in 0..20_u8 {
            lost.send(&[number]).unwrap();
            good.send(&[number]).unwrap();
        }
        server.shell(&format!("ip route add {kind} 10.77.0.2/32"));
        daemon.resume();
        for number in 0..20_u8 {
            assert_eq!(receive(&good), [number], "{kind}");
        }
        server.inside(|| {
            daemon.wait_for_metric("datagrams_received_total", 40.0);
            daemon.wait_for_metric(&format!("send_errors_total{{error=\"{errno}\"}}"), 20.0);
            daemon.assert_accounted_for();
        });
        assert!(has_nothing(&lost));
    }
}

#[test]
#[ignore = "needs root; .ci/run runs it"]
fn congested_link_costs_replies_but_not_health_or_stop() {
    // No reply leaves in time, a few do, and with large GSO batches.
    for (rate, args, segments) in [
        ("8kbit", &[][..], 1),
        ("200kbit", &["--mode=echo", "--offload=off"], 1),
        ("400kbit", &["--mode=echo", "--log=debug"], 60),
        ("4mbit", &["--mode=echo"], 60),
        ("4mbit", &["--mode=exchange"], 60),
    ] {
        assert_survives_congestion(rate, args, segments);
    }
}

/// Sends for some seconds far more than the replies that a link of `rate` carries.
fn assert_survives_congestion(rate: &str, args: &[&str], segments: usize) {
    let (server, clients) = Namespace::pair();
    server.shell(&format!(
        "tc qdisc add dev eth0 root tbf rate {rate} burst 2kb limit 1mb"
    ));
    let large = ["--listen=10.77.0.1:9999", "--recv-buffer=16MiB"];
    let mut daemon = server.daemon(&[&large, args].concat());
    let peers: Vec<_> = (0..50)
        .map(|_| clients.client("10.77.0.2:0", daemon.address()))
        .collect();
    let lost = || daemon.metric("send_errors_total{error=\"EAGAIN\"}");
    let start = Instant::now();
    let mut unhealthy = 0;
    // Longer than the limit for a stalled worker, and until replies are lost.
    while start.elapsed() < Duration::from_secs(3) || server.inside(lost) < 1.0 {
        for peer in &peers {
            // An echo datagram and its record in one batch: the record's fate depends on the reply.
            if segments > 1 {
                send_gso_batch(peer, &vec![7; 1000 * segments], 1000);
            } else {
                peer.send(&[7; 1000]).unwrap();
                peer.send(&[7; 22]).unwrap();
            }
        }
        let healthy = server.inside(|| daemon.get("/-/healthy").status == 200);
        unhealthy += u32::from(!healthy);
        assert!(
            start.elapsed() < DEADLINE,
            "{rate} {args:?}: nothing is lost"
        );
    }
    assert_eq!(unhealthy, 0, "{rate} {args:?}");
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    let log = daemon.log();
    assert!(
        !log.iter().any(|line| line.contains("did not stop in time")),
        "{rate} {args:?}"
    );
}

#[test]
#[ignore = "needs root and nft; .ci/run runs it"]
fn icmp_errors_do_not_affect_other_clients() {
    let (server, clients) = Namespace::pair();
    let daemon = server.daemon(&["--listen=0.0.0.0:9999", "--mode=echo"]);
    let to: SocketAddr = "10.77.0.1:9999".parse().unwrap();
    // Replies to this port are answered with "administratively prohibited".
    clients.shell("nft add table inet t");
    clients.shell("nft 'add chain inet t in { type filter hook input priority 0; }'");
    clients.shell("nft add rule inet t in udp dport 5555 reject with icmp type admin-prohibited");
    clients.shell("sysctl -qw net.ipv4.icmp_ratelimit=0");
    let rejecting = clients.client("10.77.0.2:5555", to);
    let good = clients.client("10.77.0.2:0", to);
    for round in 0..100_u8 {
        // Replies to this port cause "port unreachable".
        clients.client("10.77.0.2:0", to).send(b"gone").unwrap();
        rejecting.send(b"rejected").unwrap();
        good.send(&[round]).unwrap();
        assert_eq!(receive(&good), [round]);
    }
    server.inside(|| {
        daemon.wait_for_metric("datagrams_echoed_total", 300.0);
        daemon.assert_accounted_for();
    });
}

#[test]
#[ignore = "needs root; .ci/run runs it"]
fn datagrams_to_broadcast_and_multicast_addresses_are_refused() {
    let (server, clients) = Namespace::pair();
    for listen in ["0.0.0.0:9999", "[::]:9999"] {
        let daemon = server.daemon(&["--listen", listen, "--mode=echo"]);
        // The kernel delivers no IPv4 multicast to an IPv6 socket.
        let last = if listen.starts_with('[') {
            "[ff02::1%eth0]:9999"
        } else {
            "224.0.0.1:9999"
        };
        let addresses = ["10.77.0.255:9999", "255.255.255.255:9999", last];
        let askers: Vec<UdpSocket> = addresses.map(|address| ask(&clients, address)).into();
        server.inside(|| {
            let refused = "datagrams_refused_total{reason=\"destination\"}";
            daemon.wait_for_metric(refused, 3.0);
            daemon.assert_accounted_for();
        });
        assert!(askers.iter().all(has_nothing));
        let direct = clients.client("10.77.0.2:0", "10.77.0.1:9999".parse().unwrap());
        direct.send(b"direct").unwrap();
        assert_eq!(receive(&direct), b"direct");
    }
}

#[test]
#[ignore = "needs root; .ci/run runs it"]
fn broadcast_and_multicast_listeners_answer_their_datagrams() {
    for address in ["10.77.0.255:9999", "224.0.0.1:9999"] {
        let (server, clients) = Namespace::pair();
        let daemon = server.daemon(&["--listen", address, "--mode=echo"]);
        let asker = ask(&clients, address);
        let mut bytes = [0; 16];
        let (length, from) = asker.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"request");
        assert_eq!(from, "10.77.0.1:9999".parse().unwrap());
        server.inside(|| daemon.assert_accounted_for());
    }
}

#[test]
#[ignore = "needs root; .ci/run runs it"]
fn reply_leaves_from_the_requested_address_if_multihomed() {
    let (server, clients) = Namespace::pair();
    for address in [
        "10.77.0.11/24",
        "10.88.0.1/32",
        "fd77::11/64",
        "fd88::1/128",
    ] {
        server.add_address(address);
    }
    clients.shell("ip route add 10.88.0.1 via 10.77.0.1");
    clients.shell("ip route add fd88::1 via fd77::1");
    let link = server.shell("ip -6 -o address show dev eth0 scope link");
    let link_local = link.split_whitespace().nth(3).unwrap();
    let link_local = link_local.split('/').next().unwrap();
    let _daemon = server.daemon(&["--listen=[::]:9999", "--mode=echo"]);
    for host in [
        "10.77.0.1",
        "10.77.0.11",
        "10.88.0.1",
        "[fd77::1]",
        "[fd77::11]",
        "[fd88::1]",
        &format!("[{link_local}%eth0]"),
    ] {
        let local = if host.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let client = clients.client(local, clients.resolve(&format!("{host}:9999")));
        client.send(host.as_bytes()).unwrap();
        assert_eq!(receive(&client), host.as_bytes(), "{host}");
    }
}

#[test]
#[ignore = "needs root, for namespaces; .ci/run runs it"]
fn default_ports_are_9999_for_udp_and_9862_for_metrics() {
    let host = Namespace::new();
    let mut command = host.command(program().get_program().to_str().unwrap());
    command.stdin(Stdio::null());
    let daemon = host.inside(|| Daemon::start_exactly(command));
    assert_eq!(daemon.listen, ["127.0.0.1:9999".parse().unwrap()]);
    assert_eq!(daemon.http, Some("127.0.0.1:9862".parse().unwrap()));
    let peer = host.client("127.0.0.1:0", daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
}

/// Sends a datagram to a broadcast or multicast address. The socket accepts any reply.
fn ask(namespace: &Namespace, address: &str) -> UdpSocket {
    let to = namespace.resolve(address);
    namespace.inside(|| {
        let socket = UdpSocket::bind(if to.is_ipv4() {
            "10.77.0.2:0"
        } else {
            "[::]:0"
        })
        .unwrap();
        socket.set_broadcast(true).unwrap();
        socket
            .set_read_timeout(Some(crate::harness::DEADLINE))
            .unwrap();
        socket.send_to(b"request", to).unwrap();
        socket
    })
}
