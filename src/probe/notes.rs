//! What else was seen of a run, and how it is said.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;

use crate::udp::{Icmp, Rejection};

/// What there is to say beside the figures.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// What kept requests from getting there.
    pub errors: Errors,
    /// Records that this host would not send, by the number of the error.
    pub unsent_records: BTreeMap<i32, u64>,
    /// The longest reply that was only a beginning, in bytes.
    pub cut_to: Option<usize>,
    /// Datagrams that came and are not of this run.
    pub foreign: u64,
    /// Records that came back.
    pub records_back: u64,
    /// Records that were sent.
    pub records_sent: u64,
}

/// How many requests each error kept from getting there.
#[derive(Debug, Default)]
pub(super) struct Errors {
    kinds: BTreeMap<Trouble, u64>,
    other: u64,
}

impl Errors {
    /// How many kinds are counted apart: ICMP errors may come from any number of addresses.
    pub(super) const MOST: usize = 32;

    /// Counts a request. Says whether its error is the first of a kind that is counted apart.
    pub(super) fn add(&mut self, error: Trouble) -> bool {
        if self.kinds.len() == Self::MOST && !self.kinds.contains_key(&error) {
            self.other += 1;
            return false;
        }
        let count = self.kinds.entry(error).or_default();
        *count += 1;
        *count == 1
    }

    /// The kinds that are counted apart.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (Trouble, u64)> {
        self.kinds.iter().map(|(error, count)| (*error, *count))
    }

    /// How many requests had an error of a further kind.
    pub(super) fn other(&self) -> u64 {
        self.other
    }
}

/// What kept requests from getting there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// Somebody on the way said so.
    Rejected {
        /// What the kernel makes of it.
        errno: i32,
        /// The message.
        icmp: Option<Icmp>,
        /// Who.
        from: Option<IpAddr>,
    },
    /// This host would not send them.
    Unsent(i32),
}

impl From<&Rejection> for Trouble {
    fn from(rejection: &Rejection) -> Self {
        Self::Rejected {
            errno: rejection.errno,
            icmp: rejection.icmp,
            from: rejection.from,
        }
    }
}

impl Trouble {
    /// In words, of requests to `target`.
    pub(super) fn told(self, target: &str) -> impl fmt::Display {
        Told(self, target)
    }
}

struct Told<'a>(Trouble, &'a str);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(trouble, target) = self;
        match trouble {
            Trouble::Unsent(errno) => {
                let error = io::Error::from_raw_os_error(*errno);
                write!(f, "cannot send to {target}: {error}{}", hint(*errno))
            }
            Trouble::Rejected { errno, icmp, from } => {
                let message = icmp.map(words);
                match message {
                    Some((true, message)) => {
                        write!(f, "nobody listens on {target} ({message}")?;
                    }
                    Some((false, message)) => {
                        write!(f, "{target} cannot be reached: {} (", plain(&message))?;
                        write!(f, "{message}")?;
                    }
                    None => {
                        let error = io::Error::from_raw_os_error(*errno);
                        return write!(f, "{target} cannot be reached: {error}");
                    }
                }
                match from {
                    Some(from) => write!(f, " from {from})"),
                    None => write!(f, ")"),
                }
            }
        }
    }
}

/// What an operator can do about an error of a send.
fn hint(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "; a firewall of this host forbids it",
        libc::EACCES => "; a broadcast address, or a route of this host that prohibits it",
        libc::EMSGSIZE => "; longer than what can be sent there",
        libc::ENOBUFS => "; the interface drops it, mostly as more is sent than it can send",
        libc::ENETUNREACH => "; `ip route get` shows the way",
        _ => "",
    }
}

/// Whether nobody listens, and the name of the message (RFC 792, RFC 1812, RFC 4443).
fn words(icmp: Icmp) -> (bool, String) {
    const UNREACHABLE: u8 = 3;
    const UNREACHABLE6: u8 = 1;
    let Icmp { v6, kind, code } = icmp;
    let name = if v6 { "ICMPv6" } else { "ICMP" };
    let text = match (v6, kind, code) {
        (false, UNREACHABLE, 3) | (true, UNREACHABLE6, 4) => {
            return (true, format!("{name} port unreachable"));
        }
        (false, UNREACHABLE, 0) | (true, UNREACHABLE6, 0) => "network unreachable",
        (false, UNREACHABLE, 1) => "host unreachable",
        (true, UNREACHABLE6, 3) => "address unreachable",
        (false, UNREACHABLE, 2) => "protocol unreachable",
        (false, UNREACHABLE, 4) => "fragmentation needed",
        (true, 2, 0) => "packet too big",
        (false, UNREACHABLE, 9) => "network prohibited",
        (false, UNREACHABLE, 10) => "host prohibited",
        (false, UNREACHABLE, 13) | (true, UNREACHABLE6, 1) => "administratively prohibited",
        (true, UNREACHABLE6, 5) => "source address failed policy",
        (true, UNREACHABLE6, 6) => "route rejected",
        (false, 11, _) | (true, 3, _) => "time to live exceeded",
        _ => return (false, format!("{name} type {kind} code {code}")),
    };
    (false, format!("{name} {text}"))
}

/// What such a message mostly means.
fn plain(message: &str) -> &'static str {
    let has = |text| message.contains(text);
    if has("prohibited") || has("rejected") || has("policy") {
        "a firewall rejects it"
    } else if has("exceeded") {
        "the packets go in a circle"
    } else if has("fragmentation") || has("too big") {
        "too long for a link on the way"
    } else {
        "a router or the host itself says that there is no way"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errno: i32, v6: bool, kind: u8, code: u8) -> String {
        let trouble = Trouble::Rejected {
            errno,
            icmp: Some(Icmp { v6, kind, code }),
            from: Some("192.0.2.7".parse().unwrap()),
        };
        trouble.told("192.0.2.1:9").to_string()
    }

    #[test]
    fn what_came_of_it_is_said_so_that_a_person_understands() {
        assert_eq!(
            told(libc::ECONNREFUSED, false, 3, 3),
            "nobody listens on 192.0.2.1:9 (ICMP port unreachable from 192.0.2.7)"
        );
        assert_eq!(
            told(libc::EHOSTUNREACH, false, 3, 13),
            "192.0.2.1:9 cannot be reached: a firewall rejects it (ICMP administratively \
             prohibited from 192.0.2.7)"
        );
        assert!(told(libc::EACCES, true, 1, 1).contains("a firewall rejects it (ICMPv6"));
        assert!(told(libc::EHOSTUNREACH, false, 3, 1).contains("(ICMP host unreachable from"));
        assert!(told(libc::EPROTO, false, 99, 7).contains("ICMP type 99 code 7"));
        let unsent = Trouble::Unsent(libc::EPERM).told("192.0.2.1:9");
        assert_eq!(
            unsent.to_string(),
            "cannot send to 192.0.2.1:9: Operation not permitted (os error 1); a firewall of \
             this host forbids it"
        );
    }
}
