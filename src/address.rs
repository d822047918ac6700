//! `HOST:PORT` as people write it, and what it resolves to.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A host and a port. An empty host and `*` mean every IPv4 address, `[::]` means every
/// address of both families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is no `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// There is no colon that a port follows.
    #[error("the port is missing: expected HOST:PORT, such as localhost:9999")]
    NoPort,
    /// The port is no number up to 65535.
    #[error("{0:?} is not a port: expected 0 to 65535")]
    BadPort(String),
    /// More than one colon outside brackets.
    #[error("an IPv6 address goes in brackets: [{0}]:PORT")]
    NoBrackets(String),
    /// What the brackets hold is no IPv6 address.
    #[error("{0:?} is not an IPv6 address")]
    BadIpv6(String),
}

/// A name that stands for no address.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {host:?}: {cause}")]
pub struct ResolveError {
    host: String,
    cause: io::Error,
}

impl FromStr for HostPort {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        // In a list, a space may follow the comma.
        let text = text.trim();
        let (host, port) = text
            .rsplit_once(':')
            .filter(|_| !text.ends_with(']'))
            .ok_or(ParseError::NoPort)?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) => {
                let address = inner.split_once('%').map_or(inner, |(address, _)| address);
                address
                    .parse::<Ipv6Addr>()
                    .map_err(|_| ParseError::BadIpv6(inner.into()))?;
                inner
            }
            None if host.contains(':') => {
                let whole = text.parse::<Ipv6Addr>().map_or(host, |_| text);
                return Err(ParseError::NoBrackets(whole.into()));
            }
            None if host.is_empty() || host == "*" => "0.0.0.0",
            None => host,
        };
        Ok(Self {
            host: host.into(),
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

impl HostPort {
    /// The address to use: the first IPv4 address that the system's resolver gives, else the
    /// first at all.
    ///
    /// # Errors
    /// When the resolver knows no address for the name.
    pub fn resolve(&self) -> Result<SocketAddr, ResolveError> {
        let failed = |cause| ResolveError {
            host: self.host.clone(),
            cause,
        };
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

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the two name the same host and port, in the same words.
    pub fn clashes_with(&self, other: &Self) -> bool {
        self == other && self.port != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> SocketAddr {
        text.parse::<HostPort>().unwrap().resolve().unwrap()
    }

    #[test]
    fn names_resolve_to_ipv4_first_and_no_host_is_every_ipv4_address() {
        assert_eq!(
            resolved("localhost:9999"),
            "127.0.0.1:9999".parse().unwrap()
        );
        assert_eq!(resolved(":9999"), "0.0.0.0:9999".parse().unwrap());
        assert_eq!(resolved("*:0"), "0.0.0.0:0".parse().unwrap());
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets_and_may_have_a_zone() {
        assert_eq!(resolved("[::]:9999"), "[::]:9999".parse().unwrap());
        assert_eq!(resolved("[::1]:1"), "[::1]:1".parse().unwrap());
        assert_eq!(resolved("[fe80::1%1]:1"), "[fe80::1%1]:1".parse().unwrap());
    }

    #[test]
    fn spaces_around_it_do_not_count_and_those_inside_do() {
        let parsed = |text: &str| text.parse::<HostPort>();
        assert_eq!(parsed(" 127.0.0.1:9 "), parsed("127.0.0.1:9"));
        assert_eq!(parsed("\t[::1]:9\n"), parsed("[::1]:9"));
        assert_eq!(parsed(" :9"), parsed(":9"));
        assert_eq!(parsed("h: 9"), Err(ParseError::BadPort(" 9".into())));
    }

    #[test]
    fn what_is_wrong_is_said() {
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
}
