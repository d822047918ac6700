//! The rules of admission, which prevent loops between reflectors.
//!
//! One datagram with a forged source can make two UDP services that answer every datagram answer
//! each other without end (CVE-1999-0103, CVE-2024-2169). These rules refuse sources and
//! destinations that make such loops.

use std::net::{IpAddr, SocketAddr};

use super::{Datagram, Destination, Mode};

/// Why a datagram was refused. Refused datagrams are counted and otherwise ignored: no reply, no
/// effect on an exchange, no reset of the idle time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The source port is 0, below the minimum, or in echo mode a port that this daemon listens on
    /// and so another reflector may, too.
    SourcePort,
    /// The source is an address and port that this daemon listens on, an unspecified address, or
    /// the destination of a datagram from the network.
    OwnAddress,
    /// The destination is a broadcast or multicast address.
    Destination,
    /// The rate is above the limit of the source or of all sources.
    RateLimit,
    /// It is shorter than a STAMP request, or than the settings permit.
    TooShort,
    /// It is a STAMP reply.
    Reply,
    /// It has no valid HMAC.
    Integrity,
}

/// `twamp-control` and `twamp-test`, also used by STAMP (RFC 8545, RFC 8762).
const TEST_PORTS: [u16; 2] = [862, 863];

/// The rules. They need the addresses of all sockets.
#[derive(Debug, Clone)]
pub struct Admission {
    min_source_port: u16,
    own: Box<[SocketAddr]>,
}

impl Refusal {
    /// All reasons, in the order of declaration.
    pub const ALL: [Self; 7] = [
        Self::SourcePort,
        Self::OwnAddress,
        Self::Destination,
        Self::RateLimit,
        Self::TooShort,
        Self::Reply,
        Self::Integrity,
    ];

    /// Whether only [`Mode::Stamp`] has it.
    pub fn is_of_stamp(self) -> bool {
        matches!(self, Self::TooShort | Self::Reply | Self::Integrity)
    }

    /// The value of the metric label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SourcePort => "source_port",
            Self::OwnAddress => "own_address",
            Self::Destination => "destination",
            Self::RateLimit => "rate_limit",
            Self::TooShort => "too_short",
            Self::Reply => "reply",
            Self::Integrity => "integrity",
        }
    }
}

impl Admission {
    /// Rules for a daemon whose sockets are bound to the addresses in `own`.
    pub fn new(min_source_port: u16, own: impl IntoIterator<Item = SocketAddr>) -> Self {
        // A socket that was passed in can be bound to an IPv4-mapped address.
        let unmapped = |own: SocketAddr| SocketAddr::new(own.ip().to_canonical(), own.port());
        Self {
            min_source_port,
            own: own.into_iter().map(unmapped).collect(),
        }
    }

    /// The reason to refuse a datagram, if there is one.
    #[inline]
    pub fn refuses(&self, mode: Mode, datagram: &Datagram<'_>) -> Option<Refusal> {
        let port = datagram.peer.port();
        let reflector = self.own.iter().any(|own| own.port() == port);
        if is_this_host(datagram) || (reflector && self.is_own(datagram)) {
            Some(Refusal::OwnAddress)
        } else if port == 0 || self.is_too_low(mode, port) || (reflector && mode == Mode::Echo) {
            Some(Refusal::SourcePort)
        } else if matches!(datagram.destination, Destination::BroadcastOrMulticast) {
            Some(Refusal::Destination)
        } else {
            None
        }
    }

    /// Whether a port is below the minimum. TWAMP and STAMP senders use their own ports (RFC 8762,
    /// section 4.1).
    fn is_too_low(&self, mode: Mode, port: u16) -> bool {
        port < self.min_source_port && !(mode == Mode::Stamp && TEST_PORTS.contains(&port))
    }

    /// Whether the source is a socket of this daemon. A socket bound to every address has its port
    /// on each address of this host.
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

/// Whether a sender on the network could reach a service of this host by the reply. Linux delivers
/// datagrams for an unspecified address to this host (`ip6_route_output`,
/// `ip_route_output_key_hash_rcu`), and no client has such an address.
fn is_this_host(datagram: &Datagram<'_>) -> bool {
    matches!(datagram.destination, Destination::Source) || datagram.peer.ip().is_unspecified()
}

/// Whether the source is known to be an address of this host. Datagrams between addresses of a host
/// go over the loopback interface, but packet info shows it only if the destination is an address
/// of that interface. An unknown source makes no loop: in echo mode its port is refused, and an
/// exchange ends after two replies.
fn is_local(source: IpAddr, datagram: &Datagram<'_>) -> bool {
    source.is_loopback()
        || match datagram.destination {
            Destination::Here {
                address,
                over_loopback,
            } => over_loopback || address == Some(source),
            Destination::BroadcastOrMulticast | Destination::Source => false,
        }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::reflect::stamp::Reception;

    const BOUND: Destination = Destination::Here {
        address: None,
        over_loopback: false,
    };

    fn to(address: &str, over_loopback: bool) -> Destination {
        Destination::Here {
            address: Some(address.parse().unwrap()),
            over_loopback,
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
                reception: Reception::default(),
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
    fn source_port_0_is_refused_without_a_minimum() {
        let own = ["127.0.0.1:9999".parse().unwrap()];
        for (port, expected) in [(0, Some(Refusal::SourcePort)), (1, None)] {
            let datagram = Datagram {
                peer: SocketAddr::from(([192, 0, 2, 1], port)),
                destination: BOUND,
                at: now(),
                reception: Reception::default(),
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
    fn source_ports_below_the_minimum_are_refused() {
        let refused = |peer| refusal(Mode::Exchange, &["0.0.0.0:9999"], peer, BOUND);
        assert_eq!(refused("192.0.2.1:1023"), Some(Refusal::SourcePort));
        assert_eq!(refused("192.0.2.1:1024"), None);
    }

    #[test]
    fn stamp_source_ports_are_admitted_below_the_minimum() {
        let refused = |mode, port| {
            let peer = format!("192.0.2.1:{port}");
            refusal(mode, &["0.0.0.0:862"], &peer, BOUND)
        };
        for port in [862, 863] {
            assert_eq!(refused(Mode::Stamp, port), None);
            assert_eq!(refused(Mode::Exchange, port), Some(Refusal::SourcePort));
        }
        for port in [0, 861, 864] {
            assert_eq!(refused(Mode::Stamp, port), Some(Refusal::SourcePort));
        }
    }

    #[test]
    fn listening_port_as_source_is_refused_only_in_echo_mode() {
        let refused = |mode| refusal(mode, &["0.0.0.0:9999"], "192.0.2.1:9999", BOUND);
        assert_eq!(refused(Mode::Echo), Some(Refusal::SourcePort));
        assert_eq!(refused(Mode::Exchange), None);
        assert_eq!(refused(Mode::Lockstep), None);
    }

    #[test]
    fn own_address_is_refused_in_every_mode() {
        for mode in Mode::ALL {
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
        for mode in Mode::ALL {
            for (listen, peer, destination) in [
                ("[2001:db8::1]:9999", "[::]:8125", BOUND),
                ("[::]:9999", "[::]:8125", to("2001:db8::1", false)),
                ("[::]:9999", "[::]:0", to("::1", true)),
                ("255.255.255.255:9999", "0.0.0.0:8125", BOUND),
                (
                    "0.0.0.0:9999",
                    "0.0.0.0:68",
                    Destination::BroadcastOrMulticast,
                ),
                (
                    "[::]:9999",
                    "0.0.0.0:8125",
                    Destination::BroadcastOrMulticast,
                ),
            ] {
                let got = refusal(mode, &[listen], peer, destination);
                assert_eq!(got, Some(Refusal::OwnAddress), "{mode:?} {listen} {peer}");
            }
        }
    }

    #[test]
    fn source_equal_to_destination_is_refused_off_loopback() {
        for mode in Mode::ALL {
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
    fn own_address_includes_other_listeners_of_the_daemon() {
        let listen = ["127.0.0.1:9999", "127.0.0.1:9998"];
        let refused = refusal(Mode::Exchange, &listen, "127.0.0.1:9998", BOUND);
        assert_eq!(refused, Some(Refusal::OwnAddress));
    }

    #[test]
    fn loopback_sources_are_admitted() {
        let refused = |peer, destination| refusal(Mode::Echo, &["0.0.0.0:9999"], peer, destination);
        assert_eq!(refused("127.0.0.1:5000", to("127.0.0.1", true)), None);
        assert_eq!(refused("127.9.9.9:5000", to("127.0.0.1", true)), None);
        assert_eq!(refused("10.0.0.1:5000", to("10.0.0.1", true)), None);
    }

    #[test]
    fn broadcast_and_multicast_destinations_are_refused() {
        let listen = ["0.0.0.0:9999"];
        let refused = refusal(
            Mode::Echo,
            &listen,
            "192.0.2.1:5000",
            Destination::BroadcastOrMulticast,
        );
        assert_eq!(refused, Some(Refusal::Destination));
    }
}
