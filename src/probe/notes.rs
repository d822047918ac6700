//! Errors and other events of a run, and their texts.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use crate::udp::{Icmp, Rejection};

/// The events of a run beside its requests and replies.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Errors of requests that were not delivered.
    pub errors: Errors,
    /// Records that could not be sent, by errno.
    pub unsent_records: BTreeMap<i32, u64>,
    /// Length of the longest truncated reply in bytes.
    pub truncated_to: Option<usize>,
    /// Datagrams that do not belong to this run.
    pub foreign: u64,
    /// Echoed records.
    pub records_echoed: u64,
    /// Records sent.
    pub records_sent: u64,
    /// Changes of this host's own address.
    pub address_changes: u64,
}

/// The number of undelivered requests for each error.
#[derive(Debug, Default)]
pub(super) struct Errors {
    kinds: BTreeMap<DeliveryError, u64>,
    other: u64,
}

impl Errors {
    /// Maximum number of kinds. ICMP errors may come from any number of addresses.
    pub(super) const MAX_KINDS: usize = 32;

    /// Counts a request. Returns whether its error is the first of a kind that is counted by itself.
    pub(super) fn add(&mut self, error: DeliveryError) -> bool {
        if self.kinds.len() == Self::MAX_KINDS && !self.kinds.contains_key(&error) {
            self.other += 1;
            return false;
        }
        let count = self.kinds.entry(error).or_default();
        *count += 1;
        *count == 1
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
    /// Returns the text for this error of a datagram to `target`.
    pub(super) fn describe(self, target: &str) -> String {
        let (errno, icmp, from) = match self {
            Self::Unsent(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                return format!("cannot send to {target}: {error}{}", hint(errno));
            }
            Self::Rejected { errno, icmp, from } => (errno, icmp, from),
        };
        let Some((cause, message)) = icmp.map(meaning) else {
            let error = io::Error::from_raw_os_error(errno);
            return format!("cannot reach {target}: {error}");
        };
        let from = from.map_or(String::new(), |from| format!(" from {from}"));
        format!("cannot reach {target}: {cause} ({message}{from})")
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

/// Returns the usual cause and the name of an ICMP error (RFC 792, RFC 1812, RFC 4443).
fn meaning(icmp: Icmp) -> (&'static str, String) {
    const NO_ROUTE: &str = "no route to it, or the host is down";
    const FIREWALL: &str = "a firewall rejects the datagrams";
    const TOO_LONG: &str = "the datagrams are too long for a link on the path";
    const UNREACHABLE: u8 = 3;
    const UNREACHABLE6: u8 = 1;
    let Icmp { v6, kind, code } = icmp;
    let (cause, name) = match (v6, kind, code) {
        (false, UNREACHABLE, 3) | (true, UNREACHABLE6, 4) => {
            ("the port is closed", "port unreachable")
        }
        (false, UNREACHABLE, 0) | (true, UNREACHABLE6, 0) => (NO_ROUTE, "network unreachable"),
        (false, UNREACHABLE, 1) => (NO_ROUTE, "host unreachable"),
        (true, UNREACHABLE6, 3) => (NO_ROUTE, "address unreachable"),
        (false, UNREACHABLE, 2) => ("the host does not accept UDP", "protocol unreachable"),
        (false, UNREACHABLE, 4) => (TOO_LONG, "fragmentation needed"),
        (true, 2, 0) => (TOO_LONG, "packet too big"),
        (false, UNREACHABLE, 9) => (FIREWALL, "network prohibited"),
        (false, UNREACHABLE, 10) => (FIREWALL, "host prohibited"),
        (false, UNREACHABLE, 13) | (true, UNREACHABLE6, 1) => {
            (FIREWALL, "administratively prohibited")
        }
        (true, UNREACHABLE6, 5) => (FIREWALL, "source address failed policy"),
        (true, UNREACHABLE6, 6) => (FIREWALL, "route rejected"),
        (false, 11, 1) | (true, 3, 1) => {
            ("a fragment was lost", "fragment reassembly time exceeded")
        }
        (false, 11, _) | (true, 3, _) => ("routing loop", "time to live exceeded"),
        _ => (NO_ROUTE, ""),
    };
    let protocol = if v6 { "ICMPv6" } else { "ICMP" };
    if name.is_empty() {
        return (cause, format!("{protocol} type {kind} code {code}"));
    }
    (cause, format!("{protocol} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(errno: i32, v6: bool, kind: u8, code: u8) -> String {
        let error = DeliveryError::Rejected {
            errno,
            icmp: Some(Icmp { v6, kind, code }),
            from: Some("192.0.2.7".parse().unwrap()),
        };
        error.describe("192.0.2.1:9")
    }

    #[test]
    fn errors_name_the_likely_cause_and_the_icmp_message() {
        assert_eq!(
            described(libc::ECONNREFUSED, false, 3, 3),
            "cannot reach 192.0.2.1:9: the port is closed (ICMP port unreachable from \
             192.0.2.7)"
        );
        assert_eq!(
            described(libc::EHOSTUNREACH, false, 3, 13),
            "cannot reach 192.0.2.1:9: a firewall rejects the datagrams (ICMP administratively \
             prohibited from 192.0.2.7)"
        );
        let firewall = described(libc::EACCES, true, 1, 1);
        assert!(firewall.contains("a firewall rejects the datagrams (ICMPv6"));
        assert!(described(libc::EHOSTUNREACH, false, 3, 1).contains("(ICMP host unreachable from"));
        assert!(described(libc::EHOSTUNREACH, false, 11, 0).contains(": routing loop (ICMP time"));
        let lost = described(libc::EHOSTUNREACH, false, 11, 1);
        assert!(lost.contains(": a fragment was lost (ICMP fragment reassembly time exceeded"));
        let no_udp = described(libc::ENOPROTOOPT, false, 3, 2);
        assert!(no_udp.contains(": the host does not accept UDP (ICMP protocol unreachable"));
        assert!(described(libc::EPROTO, false, 99, 7).contains("ICMP type 99 code 7"));
        assert_eq!(
            DeliveryError::Unsent(libc::EPERM).describe("192.0.2.1:9"),
            "cannot send to 192.0.2.1:9: Operation not permitted (os error 1); a firewall on \
             this host blocks it"
        );
    }
}
