//! Who is answered at all: the rules that keep a reflector out of echo storms.
//!
//! Two UDP services that answer whatever they get can be set to answer each other for ever
//! by one datagram with a forged source (CVE-1999-0103, CVE-2024-2169). These rules refuse
//! the sources and destinations that make such loops.

use std::net::{IpAddr, SocketAddr};

use super::{Datagram, Destination, Mode};

/// Why a datagram was refused. Refused datagrams are counted and otherwise as if they had
/// never come: they get no reply, take no part in an exchange and do not end a quiet time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The source port is 0, below the least port allowed, or (in echo mode) one that this
    /// daemon listens on: another reflector's.
    SourcePort,
    /// The source is an address and port that this daemon itself listens on, an unspecified
    /// address, or the destination of a datagram from the network.
    OwnAddress,
    /// It was sent to a broadcast or multicast address.
    Destination,
    /// It was above a limit: its source's or that of all.
    RateLimit,
}

/// The rules, fixed when the daemon has bound its sockets.
#[derive(Debug, Clone)]
pub struct Admission {
    min_source_port: u16,
    own: Box<[SocketAddr]>,
}

impl Refusal {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 4] = [
        Self::SourcePort,
        Self::OwnAddress,
        Self::Destination,
        Self::RateLimit,
    ];

    /// Its name in the metrics: the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SourcePort => "source_port",
            Self::OwnAddress => "own_address",
            Self::Destination => "destination",
            Self::RateLimit => "rate_limit",
        }
    }
}

impl Admission {
    /// `own` are the addresses that all sockets of this daemon are bound to. A socket that was
    /// handed over may be bound to an IPv4-mapped one, and its peers have IPv4 addresses.
    pub fn new(min_source_port: u16, own: impl IntoIterator<Item = SocketAddr>) -> Self {
        let unmapped = |own: SocketAddr| SocketAddr::new(own.ip().to_canonical(), own.port());
        Self {
            min_source_port,
            own: own.into_iter().map(unmapped).collect(),
        }
    }

    /// Why this datagram is to be refused, if it is.
    #[inline]
    pub fn refuses(&self, mode: Mode, datagram: &Datagram<'_>) -> Option<Refusal> {
        let port = datagram.peer.port();
        let reflector = self.own.iter().any(|own| own.port() == port);
        if is_this_host(datagram) || (reflector && self.is_own(datagram)) {
            Some(Refusal::OwnAddress)
        } else if port == 0 || port < self.min_source_port || (reflector && mode == Mode::Echo) {
            Some(Refusal::SourcePort)
        } else if matches!(datagram.destination, Destination::Group) {
            Some(Refusal::Destination)
        } else {
            None
        }
    }

    /// A socket bound to every address owns its port on each address of this host.
    fn is_own(&self, datagram: &Datagram<'_>) -> bool {
        let peer = datagram.peer;
        self.own.iter().any(|own| {
            own.port() == peer.port()
                && if own.ip().is_unspecified() {
                    let family = own.is_ipv6() || peer.is_ipv4();
                    family && is_local(peer.ip(), datagram)
                } else {
                    own.ip() == peer.ip()
                }
        })
    }
}

/// Whether a reply would reach a service of this host, on behalf of a sender on the network. Linux
/// delivers datagrams for an unspecified address to this host (`ip6_route_output`,
/// `ip_route_output_key_hash_rcu`), and no client has such an address.
fn is_this_host(datagram: &Datagram<'_>) -> bool {
    matches!(datagram.destination, Destination::Source) || datagram.peer.ip().is_unspecified()
}

/// Whether the source is an address of this host, as far as a datagram shows it. What is sent from
/// one address of a host to another goes over the loopback interface, but Linux says so only where
/// the destination is an address of that interface. What is not seen here makes no loop: in echo
/// mode its port tells it, and else the exchange ends after two replies.
fn is_local(source: IpAddr, datagram: &Datagram<'_>) -> bool {
    source.is_loopback()
        || match datagram.destination {
            Destination::Here { address, looped } => looped || address == Some(source),
            Destination::Group | Destination::Source => false,
        }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const BOUND: Destination = Destination::Here {
        address: None,
        looped: false,
    };

    fn to(address: &str, looped: bool) -> Destination {
        Destination::Here {
            address: Some(address.parse().unwrap()),
            looped,
        }
    }

    fn refusal(
        mode: Mode,
        listen: &[&str],
        peer: &str,
        destination: Destination,
    ) -> Option<Refusal> {
        let own = listen.iter().map(|own| own.parse().unwrap());
        Admission::new(1024, own).refuses(
            mode,
            &Datagram {
                peer: peer.parse().unwrap(),
                destination,
                at: now(),
                length: 1,
                segment: 1,
                memory: &mut [0],
            },
        )
    }

    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn source_port_0_is_refused_even_when_no_least_port_is_set() {
        let own = ["127.0.0.1:9999".parse().unwrap()];
        for (port, expected) in [(0, Some(Refusal::SourcePort)), (1, None)] {
            let datagram = Datagram {
                peer: SocketAddr::from(([192, 0, 2, 1], port)),
                destination: BOUND,
                at: now(),
                length: 0,
                segment: 0,
                memory: &mut [],
            };
            assert_eq!(
                Admission::new(0, own).refuses(Mode::Exchange, &datagram),
                expected
            );
        }
    }

    #[test]
    fn ports_below_the_least_are_refused_and_the_least_itself_is_not() {
        let refused = |peer| refusal(Mode::Exchange, &["0.0.0.0:9999"], peer, BOUND);
        assert_eq!(refused("192.0.2.1:1023"), Some(Refusal::SourcePort));
        assert_eq!(refused("192.0.2.1:1024"), None);
    }

    #[test]
    fn the_listening_port_as_source_is_refused_in_echo_mode_alone() {
        let refused = |mode| refusal(mode, &["0.0.0.0:9999"], "192.0.2.1:9999", BOUND);
        assert_eq!(refused(Mode::Echo), Some(Refusal::SourcePort));
        assert_eq!(refused(Mode::Exchange), None);
        assert_eq!(refused(Mode::Lockstep), None);
    }

    #[test]
    fn the_listeners_own_address_is_refused_in_every_mode() {
        for mode in [Mode::Exchange, Mode::Lockstep, Mode::Echo] {
            let refused = |listen, peer, destination| refusal(mode, &[listen], peer, destination);
            for (listen, peer, destination) in [
                ("127.0.0.1:9999", "127.0.0.1:9999", BOUND),
                ("0.0.0.0:9999", "10.0.0.1:9999", to("10.0.0.1", false)),
                ("0.0.0.0:9999", "10.0.0.1:9999", to("10.0.0.2", true)),
                ("0.0.0.0:9999", "127.0.0.9:9999", to("127.0.0.1", false)),
                ("[::]:9999", "10.0.0.1:9999", to("10.0.0.1", false)),
                ("[::ffff:10.0.0.1]:9999", "10.0.0.1:9999", BOUND),
                (
                    "[::ffff:0.0.0.0]:9999",
                    "10.0.0.1:9999",
                    to("10.0.0.1", false),
                ),
                ("[::]:9999", "[fe80::1]:9999", to("fe80::2", true)),
            ] {
                let got = refused(listen, peer, destination);
                assert_eq!(got, Some(Refusal::OwnAddress), "{mode:?} {listen} {peer}");
            }
        }
    }

    #[test]
    fn unspecified_sources_are_refused_in_every_mode() {
        for mode in [Mode::Exchange, Mode::Lockstep, Mode::Echo] {
            for (listen, peer, destination) in [
                ("[2001:db8::1]:9999", "[::]:8125", BOUND),
                ("[::]:9999", "[::]:8125", to("2001:db8::1", false)),
                ("[::]:9999", "[::]:0", to("::1", true)),
                ("255.255.255.255:9999", "0.0.0.0:8125", BOUND),
                ("0.0.0.0:9999", "0.0.0.0:68", Destination::Group),
                ("[::]:9999", "0.0.0.0:8125", Destination::Group),
            ] {
                let got = refusal(mode, &[listen], peer, destination);
                assert_eq!(got, Some(Refusal::OwnAddress), "{mode:?} {listen} {peer}");
            }
        }
    }

    #[test]
    fn source_equal_to_destination_is_refused_off_loopback() {
        for mode in [Mode::Exchange, Mode::Lockstep, Mode::Echo] {
            for port in [0, 7, 5000, 9999] {
                let peer = format!("[2001:db8::1]:{port}");
                let got = refusal(mode, &["[::]:9999"], &peer, Destination::Source);
                assert_eq!(got, Some(Refusal::OwnAddress), "{mode:?} {peer}");
            }
            let local = to("2001:db8::1", false);
            let got = refusal(mode, &["[::]:9999"], "[2001:db8::1]:5000", local);
            assert_eq!(got, None, "{mode:?}");
        }
    }

    #[test]
    fn another_listener_of_the_same_daemon_is_its_own_address_too() {
        let listen = ["127.0.0.1:9999", "127.0.0.1:9998"];
        let refused = refusal(Mode::Exchange, &listen, "127.0.0.1:9998", BOUND);
        assert_eq!(refused, Some(Refusal::OwnAddress));
    }

    #[test]
    fn loopback_addresses_are_good_sources() {
        let refused = |peer, destination| refusal(Mode::Echo, &["0.0.0.0:9999"], peer, destination);
        assert_eq!(refused("127.0.0.1:5000", to("127.0.0.1", true)), None);
        assert_eq!(refused("127.9.9.9:5000", to("127.0.0.1", true)), None);
        assert_eq!(refused("10.0.0.1:5000", to("10.0.0.1", true)), None);
    }

    #[test]
    fn broadcast_and_multicast_destinations_are_refused() {
        let listen = ["0.0.0.0:9999"];
        let refused = refusal(Mode::Echo, &listen, "192.0.2.1:5000", Destination::Group);
        assert_eq!(refused, Some(Refusal::Destination));
    }
}
