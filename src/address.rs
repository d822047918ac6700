//! Parsing and resolving `HOST:PORT`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A host and a port. An empty host and `*` are every IPv4 address, `[::]` is every address of both
/// families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// The address families to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Both.
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// A text is not a `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The port is missing.
    #[error("the port is missing: expected HOST:PORT, such as localhost:9999")]
    NoPort,
    /// The port is not a number from 0 to 65535.
    #[error("{0:?} is not a port: expected 0 to 65535")]
    BadPort(String),
    /// An IPv6 address is not in brackets.
    #[error("an IPv6 address needs brackets: [{}]:PORT", .0.escape_debug())]
    NoBrackets(String),
    /// The text in brackets is not an IPv6 address.
    #[error("{0:?} is not an IPv6 address")]
    BadIpv6(String),
    /// The text is a URL, or a port only.
    #[error("expected HOST:PORT, such as {}", .0.escape_debug())]
    NotHostPort(String),
}

/// A host that does not resolve to an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {host:?}: {cause}")]
pub struct ResolveError {
    host: String,
    cause: io::Error,
}

impl FromStr for HostPort {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        // In a list, a space can follow the comma.
        let text = text.trim();
        let (host, port) = text
            .rsplit_once(':')
            .filter(|_| !text.ends_with(']'))
            .ok_or(ParseError::NoPort)?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) => {
                let address = inner.split_once('%').map_or(inner, |(address, _)| address);
                let address = address
                    .parse::<Ipv6Addr>()
                    .map_err(|_| ParseError::BadIpv6(inner.into()))?;
                // An IPv6 socket bound to an IPv4-mapped address would receive nothing.
                let mapped = address.to_ipv4_mapped();
                mapped.map_or(inner.into(), |ipv4| ipv4.to_string())
            }
            None if host.contains(':') => {
                let whole = text.parse::<Ipv6Addr>().map_or(host, |_| text);
                return Err(ParseError::NoBrackets(whole.into()));
            }
            None if host.is_empty() || host == "*" => "0.0.0.0".into(),
            None => host.into(),
        };
        Ok(Self {
            host,
            port: Some(port)
                .filter(|port| !port.starts_with('+'))
                .and_then(|port| port.parse().ok())
                .ok_or_else(|| ParseError::BadPort(port.into()))?,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }

    fn includes(self, address: IpAddr) -> bool {
        self == Self::Any || self == Self::of(address)
    }
}

impl HostPort {
    /// Parses `HOST` or `HOST:PORT`. An IPv6 address without brackets has no port.
    ///
    /// # Errors
    /// If the text is a URL, a port only, or not a `HOST:PORT`.
    pub fn parse_with_default(text: &str, port: u16) -> Result<Self, ParseError> {
        let text = text.trim();
        if let Some((_, rest)) = text.split_once("://") {
            // The user and the path of a URL are not part of its host.
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = host.rsplit('@').next().unwrap_or_default();
            let host = Self::parse_with_default(host, port);
            let host = host.map_or_else(|_| format!("localhost:{port}"), |host| host.to_string());
            return Err(ParseError::NotHostPort(host));
        }
        if let Ok(port) = text.parse::<u16>() {
            return Err(ParseError::NotHostPort(format!("localhost:{port}")));
        }
        let address = text.split('%').next().unwrap_or_default();
        let is_ipv6 = address.parse::<Ipv6Addr>().is_ok();
        if text.is_empty() || text.contains(['/', '@', ' ']) {
            Err(ParseError::NoPort)
        } else if is_ipv6 {
            format!("[{text}]:{port}").parse()
        } else if text.ends_with(']') || !text.contains(':') {
            format!("{text}:{port}").parse()
        } else {
            text.parse()
        }
    }

    /// Resolves the host to its addresses of a family, in the order of the system's resolver (RFC
    /// 6724). `localhost` is 127.0.0.1, then `::1`. An unspecified address is the loopback address
    /// of its family, as the kernel takes it.
    ///
    /// # Errors
    /// If the resolver fails, or returns no address of the family.
    pub fn resolve_all(&self, family: Family) -> Result<Vec<SocketAddr>, ResolveError> {
        let failed = |cause| ResolveError {
            host: self.host.clone(),
            cause,
        };
        let found: Vec<SocketAddr> = match self.ip() {
            Some(address) if address == Ipv4Addr::LOCALHOST && self.is_name() => {
                let both = [address, Ipv6Addr::LOCALHOST.into()];
                both.map(|address| (address, self.port).into()).into()
            }
            Some(address) => {
                let address = match address {
                    IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
                    address => address,
                };
                vec![(address, self.port).into()]
            }
            None => (self.host.as_str(), self.port)
                .to_socket_addrs()
                .map_err(failed)?
                .collect(),
        };
        let found: Vec<_> = found
            .into_iter()
            .filter(|address| family.includes(address.ip().to_canonical()))
            .collect();
        if found.is_empty() {
            let cause = match family {
                Family::Any => "the name has no address",
                Family::Ipv4 => "it has no IPv4 address, and the family or the source asks for one",
                Family::Ipv6 => "it has no IPv6 address, and the family or the source asks for one",
            };
            return Err(failed(io::Error::other(cause)));
        }
        Ok(found)
    }

    /// Resolves the host by the system's resolver. Returns the first IPv4 address, or the first
    /// address if there is no IPv4 address. `localhost` is 127.0.0.1 on any system (RFC 6761).
    ///
    /// # Errors
    /// If the resolver fails or returns no address.
    pub fn resolve(&self) -> Result<SocketAddr, ResolveError> {
        let failed = |cause| ResolveError {
            host: self.host.clone(),
            cause,
        };
        if let Some(address) = self.ip() {
            return Ok(SocketAddr::new(address, self.port));
        }
        let found: Vec<_> = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(failed)?
            .collect();
        found
            .iter()
            .find(|address| address.is_ipv4())
            .or(found.first())
            .copied()
            .ok_or_else(|| failed(io::Error::other("the name has no address")))
    }

    /// Whether the host is a multicast address.
    pub fn is_multicast(&self) -> bool {
        let address = self.host.split('%').next().unwrap_or_default();
        let address = address.parse::<IpAddr>();
        address.is_ok_and(|address| address.is_multicast())
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, if it is known without the resolver. An address with a zone is not.
    fn ip(&self) -> Option<IpAddr> {
        if self.host.eq_ignore_ascii_case("localhost") {
            return Some(Ipv4Addr::LOCALHOST.into());
        }
        self.host.parse().ok()
    }

    /// Whether a resolver has to be asked for the addresses.
    pub(crate) fn needs_resolver(&self) -> bool {
        self.ip().is_none()
    }

    /// Whether the host is a name.
    fn is_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// Whether the host is every address of one or both families.
    pub fn is_wildcard(&self) -> bool {
        self.ip().is_some_and(|address| address.is_unspecified())
    }

    /// Both, the wider one first, if one is a wildcard that includes the other's address and port.
    pub fn wider_and_narrower<'a>(&'a self, other: &'a Self) -> Option<(&'a Self, &'a Self)> {
        let includes = |wide: &Self, narrow: &Self| match (wide.ip(), narrow.ip()) {
            (Some(IpAddr::V4(wide)), Some(IpAddr::V4(_))) => wide.is_unspecified(),
            (Some(IpAddr::V6(wide)), Some(_)) => wide.is_unspecified(),
            _ => false,
        };
        if self.port == 0 || self.port != other.port {
            None
        } else if includes(self, other) {
            Some((self, other))
        } else {
            includes(other, self).then_some((other, self))
        }
    }

    /// Whether both have the same host, as text, and the same port other than 0.
    pub fn clashes_with(&self, other: &Self) -> bool {
        self == other && self.port != 0
    }
}

/// Whether an address is that of one host: neither multicast nor broadcast nor unspecified. A directed
/// broadcast address looks like a unicast one: only packet info shows it.
pub(crate) fn is_one_host(address: IpAddr) -> bool {
    // An IPv6 socket bound to ::ffff:0.0.0.0 receives for every IPv4 address.
    let address = address.to_canonical();
    !(address.is_multicast() || address.is_unspecified() || address == Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> SocketAddr {
        text.parse::<HostPort>().unwrap().resolve().unwrap()
    }

    #[test]
    fn resolve_prefers_ipv4_and_takes_an_empty_host_as_any() {
        assert_eq!(
            resolved("localhost:9999"),
            "127.0.0.1:9999".parse().unwrap()
        );
        assert_eq!(resolved(":9999"), "0.0.0.0:9999".parse().unwrap());
        assert_eq!(resolved("*:0"), "0.0.0.0:0".parse().unwrap());
    }

    #[test]
    fn resolve_accepts_ipv6_in_brackets_with_a_zone() {
        assert_eq!(resolved("[::]:9999"), "[::]:9999".parse().unwrap());
        assert_eq!(resolved("[::1]:1"), "[::1]:1".parse().unwrap());
        assert_eq!(resolved("[fe80::1%1]:1"), "[fe80::1%1]:1".parse().unwrap());
    }

    #[test]
    fn parser_ignores_spaces_around_an_address_only() {
        let parsed = |text: &str| text.parse::<HostPort>();
        assert_eq!(parsed(" 127.0.0.1:9 "), parsed("127.0.0.1:9"));
        assert_eq!(parsed("\t[::1]:9\n"), parsed("[::1]:9"));
        assert_eq!(parsed(" :9"), parsed(":9"));
        assert_eq!(parsed("h: 9"), Err(ParseError::BadPort(" 9".into())));
    }

    #[test]
    fn targets_without_a_port_have_the_default_port() {
        let parsed = |text| HostPort::parse_with_default(text, 9999).map(|host| host.to_string());
        for (text, target) in [
            ("reflector", "reflector:9999"),
            ("reflector:7", "reflector:7"),
            ("192.0.2.1", "192.0.2.1:9999"),
            ("::1", "[::1]:9999"),
            ("2001:db8::1:7", "[2001:db8::1:7]:9999"),
            ("[::1]", "[::1]:9999"),
            ("[::1]:7", "[::1]:7"),
            ("fe80::1%eth0", "[fe80::1%eth0]:9999"),
        ] {
            assert_eq!(parsed(text), Ok(target.into()));
        }
        for (text, said) in [
            ("http://h/metrics", "h:9999"),
            ("udp://h:7", "h:7"),
            ("udp://[::1]", "[::1]:9999"),
            ("://", "localhost:9999"),
            ("7", "localhost:7"),
        ] {
            assert_eq!(parsed(text), Err(ParseError::NotHostPort(said.into())));
        }
        for wrong in ["", "h/x", "u@h", "a b"] {
            assert_eq!(parsed(wrong), Err(ParseError::NoPort), "{wrong}");
        }
    }

    #[test]
    fn addresses_of_a_host_are_those_of_the_family() {
        let all = |text: &str, family| {
            let host: HostPort = text.parse().unwrap();
            let found = host.resolve_all(family).unwrap_or_default();
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (v4, v6) = ("127.0.0.1:9", "[::1]:9");
        assert_eq!(all("localhost:9", Family::Any), [v4, v6]);
        assert_eq!(all("localhost:9", Family::Ipv4), [v4]);
        assert_eq!(all("localhost:9", Family::Ipv6), [v6]);
        assert_eq!(all(v4, Family::Any), [v4]);
        assert_eq!(all(v4, Family::Ipv6), [""; 0]);
        assert_eq!(all("[::1%1]:9", Family::Ipv4), [""; 0]);
    }

    #[test]
    fn parse_error_names_the_fault() {
        let wrong = |text: &str| text.parse::<HostPort>().unwrap_err();
        assert_eq!(wrong("nowhere"), ParseError::NoPort);
        assert_eq!(wrong(""), ParseError::NoPort);
        assert_eq!(wrong("h:"), ParseError::BadPort(String::new()));
        assert_eq!(wrong("h:65536"), ParseError::BadPort("65536".into()));
        assert_eq!(wrong("h:-1"), ParseError::BadPort("-1".into()));
        assert_eq!(wrong("h:+1"), ParseError::BadPort("+1".into()));
        assert_eq!(wrong("::1"), ParseError::NoBrackets("::1".into()));
        assert_eq!(wrong("[::g]:1"), ParseError::BadIpv6("::g".into()));
        assert_eq!(wrong("[::1]"), ParseError::NoPort);
    }

    #[test]
    fn parse_errors_show_no_control_character() {
        for text in [
            "\u{80}[::]",
            "\u{80}::1:9",
            "udp://\u{80}",
            "[\u{80}]",
            "h:\u{80}",
        ] {
            let error = HostPort::parse_with_default(text, 9).unwrap_err();
            assert!(error.to_string().contains("\\u{80}"), "{text:?}: {error}");
        }
    }
}
