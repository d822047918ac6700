//! A reflector bound to one interface or VRF, and one that connection tracking does not see.

use std::net::{SocketAddr, UdpSocket};

use crate::harness::{receive, wait_until};
use crate::machine::Machine;
use crate::namespace::Namespace;
use crate::package::package;
use crate::skipped;

/// The reflector has this address on every interface.
const REFLECTOR: &str = "10.77.0.1:9999";

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn bound_service_serves_its_interface_or_vrf_only() {
    let machine = Machine::boot();
    machine.install(package(), "");
    machine.write("/etc/default/udp-echo", "UDP_ECHO_MODE=echo\n");
    // Two networks with the same addresses.
    let lan = network(&machine, "lan");
    let wan = network(&machine, "wan");
    bind(&machine, "lan");
    assert_serves_only(&machine, &lan, &wan);
    bind(&machine, "wan");
    assert_serves_only(&machine, &wan, &lan);

    let vrf =
        "ip link add red type vrf table 10 && ip link set red up && ip link set wan master red";
    let (status, _, error) = machine.attempt(vrf);
    if error.contains("Unknown device type") {
        skipped!("the kernel has no VRF: a service bound to one");
        return;
    }
    assert!(status.success(), "{error}");
    bind(&machine, "red");
    assert_serves_only(&machine, &wan, &lan);
}

#[test]
#[ignore = "needs root, nft and conntrack; .ci/run runs it"]
fn untracked_reflector_adds_no_conntrack_entries() {
    const NOTRACK: &str = "\
nft add table inet udp_echo
nft 'add chain inet udp_echo before { type filter hook prerouting priority raw; }'
nft 'add chain inet udp_echo out { type filter hook output priority raw; }'
nft add rule inet udp_echo before udp dport 9999 notrack
nft add rule inet udp_echo out udp sport 9999 notrack";
    let (server, clients) = Namespace::pair();
    let _daemon = server.daemon(&["--listen=10.77.0.1:9999", "--mode=echo"]);
    // A firewall that tracks connections.
    server.shell(
        "nft add table inet t; nft 'add chain inet t in { type filter hook input priority 0; \
         policy drop; }'; nft add rule inet t in ct state established,related accept; \
         nft add rule inet t in iif lo accept; nft add rule inet t in udp dport 9999 accept",
    );
    let echo = || {
        for number in 0..50 {
            let peer = clients.client("10.77.0.2:0", address());
            peer.send(&[number]).unwrap();
            assert_eq!(receive(&peer), [number]);
        }
        let entries = server.shell("conntrack -L -p udp --orig-port-dst 9999 2>&1");
        entries.matches("dport=9999").count()
    };
    assert_eq!(echo(), 50);
    server.shell("conntrack -F 2>&1");
    server.shell(NOTRACK);
    assert_eq!(echo(), 0);
}

/// A network of its own behind an interface of the machine.
pub fn network(machine: &Machine, interface: &str) -> Namespace {
    let network = Namespace::new();
    network.shell(&format!(
        "ip link add eth0 type veth peer name {interface} netns {}; \
         ip address add 10.77.0.2/24 dev eth0; ip link set eth0 up",
        machine.outer_pid(1)
    ));
    machine.shell(&format!(
        "ip address add 10.77.0.1/24 dev {interface}; ip link set {interface} up"
    ));
    network
}

/// Binds the service's socket to an interface, as an operator does.
fn bind(machine: &Machine, interface: &str) {
    machine.write(
        "/etc/systemd/system/udp-echo.socket.d/override.conf",
        &format!(
            "[Socket]\nListenDatagram=\nListenDatagram=0.0.0.0:9999\nBindToDevice={interface}\n"
        ),
    );
    machine.shell("systemctl daemon-reload; systemctl restart udp-echo.socket");
}

pub fn assert_serves_only(machine: &Machine, served: &Namespace, other: &Namespace) {
    let without_socket = || -> u32 {
        let count =
            machine.shell("nstat -asz UdpNoPorts | sed -n 's/^UdpNoPorts *\\([0-9]*\\).*/\\1/p'");
        count.trim().parse().unwrap()
    };
    let before = without_socket();
    sender(other).send(b"from elsewhere").unwrap();
    wait_until("the other network's datagram meets no socket", || {
        without_socket() > before
    });
    let peer = sender(served);
    peer.send(b"from its own").unwrap();
    assert_eq!(receive(&peer), b"from its own");
}

fn sender(network: &Namespace) -> UdpSocket {
    network.client("10.77.0.2:0", address())
}

fn address() -> SocketAddr {
    REFLECTOR.parse().unwrap()
}
