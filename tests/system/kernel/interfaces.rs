//! Both families, VLANs, several interfaces, and long frames.

use std::net::UdpSocket;

use super::{Attached, LISTEN, metric};
use crate::harness::{Daemon, receive, run, wait_until};
use crate::namespace::Namespace;

const LISTEN6: &str = "[fd77::1]:9999";

/// Sends datagrams of some lengths, each of which is echoed. Returns their number.
fn exchange(client: &UdpSocket, lengths: &[usize]) -> f64 {
    for length in lengths {
        let datagram: Vec<_> = (0..*length).map(|at| at.to_le_bytes()[0]).collect();
        client.send(&datagram).unwrap();
        assert_eq!(receive(client), datagram);
    }
    f64::from(u32::try_from(lengths.len()).unwrap())
}

/// Asserts that the program or the socket got each datagram, by the label. Returns how many the
/// program got.
fn by_program(host: &Namespace, daemon: &Daemon, label: &str, sent: f64) -> f64 {
    host.inside(|| {
        let [by_program, passed] = ["datagrams", "passed"]
            .map(|what| metric(daemon, &format!("kernel_echo_{what}_total{{{label}}}")));
        assert!((by_program + passed - sent).abs() < 0.5, "{label} {sent}");
        by_program
    })
}

#[test]
#[ignore = "needs root, BPF and ethtool; .ci/run runs it"]
fn program_echoes_ipv4_and_ipv6() {
    needs_bpf!();
    let (server, clients) = Namespace::pair();
    let _peer = Attached::peer(&clients);
    clients.shell("ethtool -K eth0 tx off");
    let both = format!("{LISTEN},{LISTEN6}");
    let attached = Attached::with(&server, &["--interface=eth0", "--listen", &both]);
    let daemon = attached.daemon(&both);
    let mut all = 0.0;
    for (local, listen) in [("10.77.0.2:0", LISTEN), ("[fd77::2]:0", LISTEN6)] {
        let client = clients.client(local, listen.parse().unwrap());
        let label = format!("listen=\"{listen}\"");
        let mut sent = 0.0;
        wait_until("the program echoes datagrams of all lengths", || {
            let before = by_program(&server, &daemon, &label, sent);
            let now = exchange(&client, &[0, 1, 2, 17, 18, 19, 100, 1023, 1024]);
            sent += now;
            (by_program(&server, &daemon, &label, sent) - before - now).abs() < 0.5
        });
        all += sent;
    }
    server.inside(|| {
        daemon.wait_for_metric("datagrams_echoed_total", all);
        daemon.assert_accounted_for();
    });
}

#[test]
#[ignore = "needs root, BPF and ethtool; .ci/run runs it"]
fn socket_echoes_datagrams_of_a_vlan_on_the_interface() {
    needs_bpf!();
    let (server, clients) = Namespace::pair();
    let add = "ip link add link eth0 name eth0.5 type vlan id 5 && ip link set eth0.5 up";
    let (status, _, said) = run(server.command("sh").args(["-c", add]));
    if !status.success() {
        crate::skip!("the kernel has no VLANs: {}", said.trim());
    }
    clients.shell(add);
    let _peer = Attached::peer(&clients);
    clients.shell("ethtool -K eth0 tx off");
    for (host, number) in [(&server, 1), (&clients, 2)] {
        host.shell(&format!("ip address add 10.88.0.{number}/24 dev eth0.5"));
    }
    let tagged = "10.88.0.1:9999";
    let both = format!("{LISTEN},{tagged}");
    let attached = Attached::with(&server, &["--interface=eth0", "--listen", &both]);
    let daemon = attached.daemon(&both);
    let client = clients.client("10.77.0.2:0", LISTEN.parse().unwrap());
    let label = format!("listen=\"{LISTEN}\"");
    let mut sent = 0.0;
    wait_until("the program answers", || {
        sent += exchange(&client, &[22]);
        by_program(&server, &daemon, &label, sent) > 0.5
    });
    let client = clients.client("10.88.0.2:0", tagged.parse().unwrap());
    exchange(&client, &[22; 50]);
    let label = format!("kernel_echo_datagrams_total{{listen=\"{tagged}\"}}");
    server.inside(|| {
        daemon.wait_for_metric(
            &format!("datagrams_echoed_total{{listen=\"{tagged}\"}}"),
            50.0,
        );
        assert!(metric(&daemon, &label) < 0.5);
        daemon.assert_accounted_for();
    });
}

#[test]
#[ignore = "needs root, BPF and ethtool; .ci/run runs it"]
fn counts_are_those_of_each_interface() {
    needs_bpf!();
    let (server, clients) = Namespace::pair();
    let other = "10.78.0.1:9999";
    // File systems of type bpf have no names with dots.
    crate::namespace::shell(&format!(
        "ip -n {} link add eth1.7 type veth peer name eth1.7 netns {}",
        server.name(),
        clients.name()
    ));
    for (host, number) in [(&server, 1), (&clients, 2)] {
        host.shell(&format!("ip address add 10.78.0.{number}/24 dev eth1.7"));
        host.shell("ip link set eth1.7 up");
    }
    clients.shell("ethtool -K eth0 tx off; ethtool -K eth1.7 tx off");
    let _peer = Attached::with(
        &clients,
        &["--interface=eth0,eth1.7", "--listen=10.77.0.2:9"],
    );
    let both = format!("{LISTEN},{other}");
    for interfaces in [
        &["--interface=eth0,eth1.7"][..],
        &["--interface=eth0", "--interface=eth1.7"],
    ] {
        let attached = Attached::with(&server, &[interfaces, &["--listen", &both]].concat());
        let daemon = attached.daemon(&both);
        let sent = [
            ("eth0", "10.77.0.2:0", LISTEN),
            ("eth1.7", "10.78.0.2:0", other),
        ]
        .map(|(interface, local, listen)| {
            let client = clients.client(local, listen.parse().unwrap());
            let label = format!("interface=\"{interface}\"");
            let mut sent = 0.0;
            wait_until("the program echoes", || {
                sent += exchange(&client, &[22, 50, 1000]);
                by_program(&server, &daemon, &label, sent) > 2.5
            });
            (label, sent)
        });
        // The second interface added nothing to the counts of the first.
        for (label, sent) in &sent {
            by_program(&server, &daemon, label, *sent);
        }
        server.inside(|| {
            daemon.wait_for_metric("kernel_echo_active", 2.0);
            daemon.wait_for_metric("datagrams_echoed_total", sent[0].1 + sent[1].1);
            daemon.assert_accounted_for();
        });
        let (success, said) = attached.run("detach", &["--interface=eth1.7"]);
        assert!(success, "{said}");
        assert!(attached.is_attached());
        assert!(!super::has_program(&server, "eth1.7"));
        server.inside(|| daemon.wait_for_metric("kernel_echo_active{interface=\"eth1.7\"}", 0.0));
        server.inside(|| daemon.wait_for_metric("kernel_echo_active{interface=\"eth0\"}", 1.0));
    }
}

#[test]
#[ignore = "needs root, BPF and ethtool; .ci/run runs it"]
fn datagram_longer_than_a_page_is_passed_to_the_socket() {
    needs_bpf!();
    let (server, clients) = Namespace::pair();
    for host in [&server, &clients] {
        host.shell("ip link set eth0 mtu 9000");
    }
    clients.shell("ethtool -K eth0 tx off");
    let options = [
        "--interface=eth0",
        "--generic",
        "--max-datagram=8000",
        "--listen",
        LISTEN,
    ];
    let attached = Attached::with(&server, &options);
    let pins = format!("--pins={}", attached.pins());
    let listen = format!("--listen={LISTEN}");
    let daemon = server.daemon(&[
        "--mode=echo",
        "--kernel-echo=require",
        "--max-datagram=8000",
        &pins,
        &listen,
    ]);
    let client = clients.client("10.77.0.2:0", LISTEN.parse().unwrap());
    let mut sent = 0.0;
    let label = format!("listen=\"{LISTEN}\"");
    wait_until("the program answers", || {
        sent += exchange(&client, &[4000]);
        by_program(&server, &daemon, &label, sent) > 0.5
    });
    let before = by_program(&server, &daemon, &label, sent);
    for length in [4089, 5000, 8000] {
        client.send(&vec![0; length]).unwrap();
        assert_eq!(receive(&client), vec![0; length]);
        sent += 1.0;
    }
    let after = by_program(&server, &daemon, &label, sent);
    assert!((after - before).abs() < 0.5, "{before} {after}");
}
