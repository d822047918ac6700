//! Errors and other events of a run, and their texts.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::IpAddr;

use crate::metrics::errno_name;
use crate::udp::{Icmp, Rejection};

/// The events of a run beside its requests and replies.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Errors of requests that were not delivered.
    pub errors: Errors,
    /// Records that could not be sent, by errno.
    pub unsent_records: BTreeMap<i32, u64>,
    /// Lengths of the shortest and the longest truncated reply in bytes.
    pub truncated: Option<(usize, usize)>,
    /// Replies that are as long as their request.
    pub whole_replies: u64,
    /// Datagrams that do not belong to this run.
    pub foreign: u64,
    /// Echoed records.
    pub records_echoed: u64,
    /// Records sent.
    pub records_sent: u64,
    /// Changes of this host's own address.
    pub address_changes: u64,
}

impl Notes {
    /// Notes a reply that was truncated to this many bytes.
    pub(super) fn truncated(&mut self, length: usize) {
        let (shortest, longest) = self.truncated.unwrap_or((length, length));
        self.truncated = Some((shortest.min(length), longest.max(length)));
    }
}

/// The number of undelivered requests for each error.
#[derive(Debug, Default)]
pub(super) struct Errors {
    kinds: BTreeMap<DeliveryError, u64>,
    other: u64,
}

impl Errors {
    /// Maximum number of kinds, without that of all others. ICMP errors may come from any number of
    /// addresses.
    pub(super) const MAX_KINDS: usize = 31;

    /// Counts a request.
    pub(super) fn add(&mut self, error: DeliveryError) {
        if self.kinds.len() == Self::MAX_KINDS && !self.kinds.contains_key(&error) {
            self.other += 1;
        } else {
            *self.kinds.entry(error).or_default() += 1;
        }
    }

    /// Returns the kinds of errors and their counts.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (DeliveryError, u64)> {
        self.kinds.iter().map(|(error, count)| (*error, *count))
    }

    /// Returns the number of requests with an error of a further kind.
    pub(super) fn other(&self) -> u64 {
        self.other
    }
}

/// The reason why a request or a record was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DeliveryError {
    /// The kernel reported an error about a datagram that was sent.
    Rejected {
        /// The errno that the kernel derived from the ICMP error.
        errno: i32,
        /// The ICMP error, if the kernel has it.
        icmp: Option<Icmp>,
        /// Sender of the ICMP error.
        from: Option<IpAddr>,
    },
    /// The send failed with this errno.
    Unsent(i32),
}

impl From<&Rejection> for DeliveryError {
    fn from(rejection: &Rejection) -> Self {
        Self::Rejected {
            errno: rejection.errno,
            icmp: rejection.icmp,
            from: rejection.from,
        }
    }
}

impl DeliveryError {
    /// Returns the text for this error of a datagram to `target`, with its likely cause.
    pub(super) fn explain(self, target: IpAddr) -> String {
        match self {
            Self::Unsent(errno) => format!("{self}{}", hint(errno)),
            Self::Rejected {
                icmp: Some(icmp),
                from,
                ..
            } => match Meaning::of(icmp, from == Some(target)).cause {
                Some(cause) => format!("{cause} ({self})"),
                None => self.to_string(),
            },
            Self::Rejected { icmp: None, .. } => self.to_string(),
        }
    }

    /// Returns its kind in JSON.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Rejected {
                icmp: Some(icmp), ..
            } => Meaning::of(icmp, true).kind,
            Self::Rejected { errno, .. } | Self::Unsent(errno) => errno_name(errno),
        }
    }

    /// Returns the sender of the ICMP error.
    pub(super) fn from(self) -> Option<IpAddr> {
        match self {
            Self::Rejected { from, .. } => from,
            Self::Unsent(_) => None,
        }
    }
}

/// Without a cause: `ICMP port unreachable from 192.0.2.1`.
impl Display for DeliveryError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (icmp, from) = match *self {
            Self::Rejected {
                icmp: Some(icmp),
                from,
                ..
            } => (icmp, from),
            Self::Rejected { errno, .. } => {
                return io::Error::from_raw_os_error(errno).fmt(f);
            }
            Self::Unsent(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                return write!(f, "cannot send: {error}");
            }
        };
        let protocol = if icmp.v6 { "ICMPv6" } else { "ICMP" };
        match Meaning::of(icmp, true).name {
            "" => write!(f, "{protocol} type {} code {}", icmp.kind, icmp.code)?,
            name => write!(f, "{protocol} {name}")?,
        }
        from.map_or(Ok(()), |from| write!(f, " from {from}"))
    }
}

/// Returns what to do about an error of a send (send(2), udp(7)).
fn hint(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "; a firewall on this host blocks it",
        libc::EACCES => "; it is a broadcast address, or a route on this host prohibits it",
        libc::EMSGSIZE => "; use a smaller --size",
        libc::ENOBUFS => "; the queue of the network interface is full, use a lower --rate",
        libc::ENETUNREACH => "; check the route with `ip route get`",
        _ => "",
    }
}

/// The kinds of ICMP errors in JSON and in metrics.
pub(crate) const ICMP_KINDS: [&str; 7] = [
    "icmp_port_unreachable",
    "icmp_host_unreachable",
    "icmp_net_unreachable",
    "icmp_prohibited",
    "icmp_too_big",
    "icmp_ttl_exceeded",
    "icmp_other",
];

/// Returns the kind of an ICMP error, one of [`ICMP_KINDS`].
pub(crate) fn icmp_kind(icmp: Icmp) -> &'static str {
    Meaning::of(icmp, true).kind
}

/// The meaning of an ICMP error (RFC 792, RFC 1812, RFC 4443).
struct Meaning {
    /// Kind in JSON.
    kind: &'static str,
    /// Usual cause, if there is one.
    cause: Option<&'static str>,
    /// Name, or empty.
    name: &'static str,
}

impl Meaning {
    /// Returns the meaning of an ICMP error that comes from the target, or from another host.
    fn of(icmp: Icmp, is_from_target: bool) -> Self {
        const NO_ROUTE: &str = "no route to it, or the host is down";
        const FIREWALL: &str = "a firewall rejects the datagrams";
        const TOO_LONG: &str = "the datagrams are too long for a link on the path";
        const TOO_FAR: &str = "a routing loop, or the TTL is too low";
        const UNREACHABLE: u8 = 3;
        const UNREACHABLE6: u8 = 1;
        // Only the target itself knows its ports.
        let closed = if is_from_target {
            "the port is closed"
        } else {
            FIREWALL
        };
        let Icmp { v6, kind, code } = icmp;
        let (kind, cause, name) = match (v6, kind, code) {
            (false, UNREACHABLE, 3) | (true, UNREACHABLE6, 4) => {
                ("icmp_port_unreachable", closed, "port unreachable")
            }
            (false, UNREACHABLE, 0) | (true, UNREACHABLE6, 0) => {
                ("icmp_net_unreachable", NO_ROUTE, "network unreachable")
            }
            (false, UNREACHABLE, 1) => ("icmp_host_unreachable", NO_ROUTE, "host unreachable"),
            (true, UNREACHABLE6, 3) => ("icmp_host_unreachable", NO_ROUTE, "address unreachable"),
            (false, UNREACHABLE, 2) => (
                "icmp_other",
                "the host does not accept UDP",
                "protocol unreachable",
            ),
            (false, UNREACHABLE, 4) => ("icmp_too_big", TOO_LONG, "fragmentation needed"),
            (true, 2, 0) => ("icmp_too_big", TOO_LONG, "packet too big"),
            (false, UNREACHABLE, 9) => ("icmp_prohibited", FIREWALL, "network prohibited"),
            (false, UNREACHABLE, 10) => ("icmp_prohibited", FIREWALL, "host prohibited"),
            (false, UNREACHABLE, 13) | (true, UNREACHABLE6, 1) => {
                ("icmp_prohibited", FIREWALL, "administratively prohibited")
            }
            (true, UNREACHABLE6, 5) => {
                ("icmp_prohibited", FIREWALL, "source address failed policy")
            }
            (true, UNREACHABLE6, 6) => ("icmp_prohibited", FIREWALL, "route rejected"),
            (false, 11, 0) | (true, 3, 0) => {
                ("icmp_ttl_exceeded", TOO_FAR, "time to live exceeded")
            }
            (false, 11, 1) | (true, 3, 1) => (
                "icmp_other",
                "a fragment was lost",
                "fragment reassembly time exceeded",
            ),
            _ => ("icmp_other", "", ""),
        };
        Self {
            kind,
            cause: (!cause.is_empty()).then_some(cause),
            name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "192.0.2.7";

    fn error(v6: bool, kind: u8, code: u8, from: &str) -> DeliveryError {
        DeliveryError::Rejected {
            errno: libc::EHOSTUNREACH,
            icmp: Some(Icmp { v6, kind, code }),
            from: Some(from.parse().unwrap()),
        }
    }

    #[test]
    fn errors_name_the_likely_cause_and_the_icmp_message() {
        let router = "192.0.2.1";
        for (v6, kind, code, from, text) in [
            (
                false,
                3,
                3,
                TARGET,
                "the port is closed (ICMP port unreachable from 192.0.2.7)",
            ),
            // A router does not know which ports are open.
            (
                false,
                3,
                3,
                router,
                "a firewall rejects the datagrams (ICMP port unreachable from 192.0.2.1)",
            ),
            (
                false,
                3,
                13,
                router,
                "a firewall rejects the datagrams (ICMP administratively prohibited from 192.0.2.1)",
            ),
            (
                false,
                3,
                1,
                router,
                "no route to it, or the host is down (ICMP host unreachable from 192.0.2.1)",
            ),
            (
                false,
                11,
                0,
                router,
                "a routing loop, or the TTL is too low (ICMP time to live exceeded from 192.0.2.1)",
            ),
            (
                false,
                11,
                1,
                TARGET,
                "a fragment was lost (ICMP fragment reassembly time exceeded from 192.0.2.7)",
            ),
            (false, 99, 7, router, "ICMP type 99 code 7 from 192.0.2.1"),
        ] {
            let error = error(v6, kind, code, from);
            assert_eq!(error.explain(TARGET.parse().unwrap()), text);
        }
        let firewall = error(true, 1, 1, "fd77::1").explain(TARGET.parse().unwrap());
        assert!(firewall.starts_with("a firewall rejects the datagrams (ICMPv6 admin"));
        assert_eq!(
            DeliveryError::Unsent(libc::EPERM).explain(TARGET.parse().unwrap()),
            "cannot send: Operation not permitted (os error 1); a firewall on this host blocks it"
        );
    }

    #[test]
    fn error_kinds_are_those_of_the_contract() {
        for (v6, kind, code, name) in [
            (false, 3, 3, "icmp_port_unreachable"),
            (true, 1, 4, "icmp_port_unreachable"),
            (false, 3, 1, "icmp_host_unreachable"),
            (true, 1, 3, "icmp_host_unreachable"),
            (false, 3, 0, "icmp_net_unreachable"),
            (true, 1, 0, "icmp_net_unreachable"),
            (false, 3, 9, "icmp_prohibited"),
            (false, 3, 10, "icmp_prohibited"),
            (false, 3, 13, "icmp_prohibited"),
            (true, 1, 1, "icmp_prohibited"),
            (false, 3, 4, "icmp_too_big"),
            (true, 2, 0, "icmp_too_big"),
            (false, 11, 0, "icmp_ttl_exceeded"),
            (true, 3, 0, "icmp_ttl_exceeded"),
            (false, 12, 0, "icmp_other"),
        ] {
            assert_eq!(error(v6, kind, code, TARGET).kind(), name, "{kind} {code}");
        }
        assert_eq!(DeliveryError::Unsent(libc::EPERM).kind(), "EPERM");
        assert_eq!(DeliveryError::Unsent(libc::EDOM).kind(), "other");
    }
}
