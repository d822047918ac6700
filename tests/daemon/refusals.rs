//! Refused datagrams: source ports, own addresses, broadcast and multicast.

use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Socket, Type};

use crate::harness::{Daemon, has_ipv6, has_nothing, receive};
use crate::modes::{REFUSED, assert_counts, bound_to};
use crate::skipped;

#[test]
fn source_ports_below_the_minimum_are_refused() {
    let mut peers = [(); 2].map(|()| bound_to(([127, 0, 0, 1], 0)));
    peers.sort_by_key(|peer| peer.local_addr().unwrap().port());
    let [below, minimum] = peers;
    let port = minimum.local_addr().unwrap().port();
    let daemon = Daemon::start(&[&format!("--min-source-port={port}")]);
    for _ in 0..2 {
        below.send_to(b"refused", daemon.address()).unwrap();
    }
    minimum.send_to(b"answered", daemon.address()).unwrap();
    assert_eq!(receive(&minimum), b"answered");
    assert_refused(&daemon, "source_port", 2);
    assert!(has_nothing(&below));
}

#[test]
fn listening_port_as_source_is_refused_only_in_echo_mode() {
    for (mode, refused) in [("echo", 1), ("exchange", 0), ("lockstep", 0)] {
        let daemon = Daemon::start(&["--mode", mode]);
        let peer = bound_to(([127, 0, 0, 3], daemon.address().port()));
        peer.send_to(b"a", daemon.address()).unwrap();
        if refused == 0 {
            assert_eq!(receive(&peer), b"a", "{mode}");
        }
        assert_refused(&daemon, "source_port", refused);
        assert!(has_nothing(&peer), "{mode}");
    }
}

#[test]
fn own_address_as_source_is_refused() {
    for mode in ["--mode=exchange", "--mode=lockstep", "--mode=echo"] {
        let daemon = Daemon::start(&[mode, "--listen=*:0", "--reuse-address"]);
        let port = daemon.address().port();
        let peer = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        peer.set_reuse_address(true).unwrap();
        let own = SocketAddr::from(([127, 0, 0, 3], port));
        peer.bind(&own.into()).unwrap();
        let peer = UdpSocket::from(peer);
        peer.send_to(b"a", ("127.0.0.1", port)).unwrap();
        assert_refused(&daemon, "own_address", 1);
        assert!(has_nothing(&peer), "{mode}");
    }
}

#[test]
fn broadcast_and_multicast_destinations_are_refused() {
    let all: &[_] = &["127.255.255.255", "224.0.0.1"];
    let mut cases = vec![("--listen=*:0", all)];
    if has_ipv6() {
        // An IPv6 socket receives IPv4 multicast only after joining.
        cases.push(("--listen=[::]:0", &all[..1]));
    } else {
        skipped!("there is no IPv6");
    }
    for (listen, destinations) in cases {
        let daemon = Daemon::start(&[listen, "--mode=echo"]);
        let peer = bound_to(([127, 0, 0, 1], 0));
        peer.set_broadcast(true).unwrap();
        let peer = Socket::from(peer);
        peer.set_multicast_if_v4(&[127, 0, 0, 1].into()).unwrap();
        let peer = UdpSocket::from(peer);
        for destination in destinations {
            let to = (*destination, daemon.address().port());
            peer.send_to(b"all", to).unwrap();
        }
        let count = u32::try_from(destinations.len()).unwrap();
        assert_refused(&daemon, "destination", count);
        assert!(has_nothing(&peer), "{listen}");
    }
}

pub(crate) fn assert_refused(daemon: &Daemon, reason: &str, count: u32) {
    let series = format!(r#"datagrams_refused_total{{reason="{reason}"}}"#);
    assert_counts(daemon, &[(&series, count), (REFUSED, count)]);
}
