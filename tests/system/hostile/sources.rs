//! Forged sources whose replies Linux would deliver to services of the daemon's own host.

use std::net::{SocketAddr, UdpSocket};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpTransparent;
use socket2::{Domain, SockRef, Socket, Type};

use super::count;
use super::spoof::Spoofer;
use crate::harness::{Daemon, has_nothing, receive, send_gso_batch};
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
    // A host without an address sends from 0.0.0.0, as DHCP clients do.
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

#[test]
#[ignore = "needs root, for namespaces and forged sources; .ci/run runs it"]
fn source_equal_to_destination_is_refused_off_loopback() {
    let (host, net) = Namespace::pair();
    let outside = net.inside(Spoofer::new);
    let service = service(&host, "[fd77::1]:8125");
    let forger = net.inside(|| {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
        // This socket may bind addresses of other hosts (ip(7)).
        setsockopt(&socket, IpTransparent, &true).unwrap();
        let forged: SocketAddr = "[fd77::1]:8125".parse().unwrap();
        socket.bind(&forged.into()).unwrap();
        UdpSocket::from(socket)
    });
    for mode in MODES {
        for (listen, offload) in [
            ("[fd77::1]:9999", "auto"),
            ("[fd77::1]:9999", "off"),
            ("[::]:9999", "auto"),
        ] {
            let what = format!("{mode} {listen} {offload}");
            let args = ["--listen", listen, "--mode", mode, "--offload", offload];
            let daemon = host.daemon(&args);
            outside.send("[fd77::1]:8125", "[fd77::1]:9999", b"forged");
            assert_refused_all(&host, &daemon, 1, &what);
            forger.connect("[fd77::1]:9999").unwrap();
            forger.send(b"forged").unwrap();
            assert_refused_all(&host, &daemon, 2, &what);
            send_gso_batch(&forger, &[7; 8 * 64], 8);
            // Linux truncates a GRO batch as a whole.
            let batch = mode != "lockstep" && offload == "auto";
            assert_refused_all(&host, &daemon, if batch { 3 } else { 66 }, &what);
            assert!(has_nothing(&service), "{what}");

            // A local client with the same address is served.
            let client = host.client("[fd77::1]:0", "[fd77::1]:9999".parse().unwrap());
            client.send(b"local").unwrap();
            assert_eq!(receive(&client), b"local", "{what}");
            client.send(&[0; 22]).unwrap();
            send_gso_batch(&client, &[7; 22 * 8], 22);
            assert_eq!(receive(&client), [if mode == "echo" { 0 } else { 7 }; 22]);
        }
    }
}
