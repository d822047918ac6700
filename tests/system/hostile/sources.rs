//! Forged sources whose replies Linux would deliver to services of the daemon's own host.

use std::net::UdpSocket;

use socket2::SockRef;

use super::count;
use super::spoof::Spoofer;
use crate::harness::{Daemon, has_nothing};
use crate::namespace::Namespace;

const MODES: [&str; 3] = ["exchange", "lockstep", "echo"];
const RECEIVED: &str = "datagrams_received_total";
const ECHOED: &str = "datagrams_echoed_total";
const OWN: &str = r#"datagrams_refused_total{reason="own_address"}"#;

/// A service of the host that clients on the network must not reach.
fn service(host: &Namespace, address: &str) -> UdpSocket {
    host.inside(|| UdpSocket::bind(address).unwrap())
}

fn assert_refused_all(host: &Namespace, daemon: &Daemon, refused: u32, what: &str) {
    host.inside(|| {
        daemon.wait_for_metric(OWN, refused.into());
        assert_eq!(count(daemon, ECHOED), 0, "{what}");
        assert_eq!(count(daemon, RECEIVED), u64::from(refused), "{what}");
        daemon.assert_accounted_for();
    });
}

#[test]
#[ignore = "needs root, for namespaces and forged sources; .ci/run runs it"]
fn unspecified_ipv6_sources_reach_no_local_service() {
    let (host, net) = Namespace::pair();
    let [inside, outside] = [&host, &net].map(|place| place.inside(Spoofer::new));
    let service = service(&host, "[::1]:8125");
    for mode in MODES {
        for listen in ["[fd77::1]:9999", "[::]:9999"] {
            let daemon = host.daemon(&["--listen", listen, "--mode", mode]);
            for (sent, sender) in (1..).zip([&outside, &inside, &outside]) {
                sender.send("[::]:8125", "[fd77::1]:9999", b"forged");
                assert_refused_all(&host, &daemon, sent, &format!("{mode} {listen}"));
            }
            assert!(has_nothing(&service), "{mode} {listen}");
        }
    }
}

#[test]
#[ignore = "needs root, for namespaces and forged sources; .ci/run runs it"]
fn unspecified_ipv4_sources_reach_no_local_service() {
    let (host, net) = Namespace::pair();
    // Without an address of its own, a host sends from 0.0.0.0, as DHCP clients do.
    net.shell("ip address flush dev eth0");
    let sender = net.inside(|| UdpSocket::bind("0.0.0.0:8125").unwrap());
    sender.set_broadcast(true).unwrap();
    SockRef::from(&sender).bind_device(Some(b"eth0")).unwrap();
    let service = service(&host, "127.0.0.1:8125");
    for mode in MODES {
        for listen in ["255.255.255.255:9999", "*:9999", "[::]:9999"] {
            let daemon = host.daemon(&["--listen", listen, "--mode", mode]);
            sender.send_to(b"forged", "255.255.255.255:9999").unwrap();
            assert_refused_all(&host, &daemon, 1, &format!("{mode} {listen}"));
            assert!(has_nothing(&service), "{mode} {listen}");
        }
    }
}
