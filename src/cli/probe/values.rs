//! Values of the client's options: types and parsers.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use crate::address::HostPort;
use crate::cli::values::duration;
use crate::udp::{Fragmentation, Source};

/// The address to send to; its port is not 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(pub HostPort);

/// Whether routers, and this host, may fragment requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PathMtu {
    /// Never fragment, not even on this host
    Do,
    /// Fragment on this host, by the path MTU
    Want,
    /// Let routers fragment: never set the DF bit
    Dont,
}

impl From<PathMtu> for Fragmentation {
    fn from(value: PathMtu) -> Self {
        match value {
            PathMtu::Do => Self::Never,
            PathMtu::Want => Self::Local,
            PathMtu::Dont => Self::Anywhere,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let target = text
            .parse::<HostPort>()
            .map_err(|error| error.to_string())?;
        if target.port() == 0 {
            return Err("cannot send to port 0: it is reserved; use 1 to 65535".into());
        }
        Ok(Self(target))
    }
}

pub(super) fn time(text: &str) -> Result<Duration, &'static str> {
    /// Added to any instant, this does not overflow.
    const MOST: Duration = Duration::from_hours(24 * 366);
    duration(text)
        .filter(|time| !time.is_zero() && *time <= MOST)
        .ok_or("expected seconds (5, 0.25) or a time with a unit (250ms, 1m), more than 0 and at most 366 days")
}

pub(super) fn percent(text: &str) -> Result<f64, &'static str> {
    text.parse()
        .ok()
        .filter(|percent| *percent > 0.0 && *percent <= 100.0)
        .ok_or("expected a percentage, more than 0 and at most 100")
}

/// Parses a differentiated services code point (RFC 2474): a number or a name.
pub(super) fn dscp(text: &str) -> Result<u8, &'static str> {
    const NAMES: [(&str, u8); 3] = [("EF", 46), ("LE", 1), ("VA", 44)];
    const EXPECTED: &str = "expected 0 to 63 or a name: CS0 to CS7, AF11 to AF43, EF, LE, VA";
    let text = text.to_ascii_uppercase();
    let named = NAMES.iter().find(|(name, _)| *name == text);
    let class = |prefix| {
        let digits = text.strip_prefix(prefix)?.as_bytes();
        Some(digits.iter().map(|digit| digit.wrapping_sub(b'0')))
    };
    let digits = |prefix| class(prefix).map(Iterator::collect::<Vec<_>>);
    match (named, digits("CS").as_deref(), digits("AF").as_deref()) {
        (Some((_, value)), _, _) => Ok(*value),
        (_, Some([class @ 0..=7]), _) => Ok(class * 8),
        (_, _, Some([class @ 1..=4, drop @ 1..=3])) => Ok(class * 8 + drop * 2),
        _ => whole(&text).filter(|value| *value <= 63).ok_or(EXPECTED),
    }
}

/// Parses a TOS byte whose ECN bits are 0.
pub(super) fn tos(text: &str) -> Result<u8, &'static str> {
    let value = whole(text).ok_or("expected a TOS byte, 0 to 255 or 0x0 to 0xff")?;
    if value % 4 == 0 {
        Ok(value)
    } else {
        Err("the last two bits are ECN (RFC 3168) and must be 0")
    }
}

/// Parses a byte in decimal, or in hexadecimal after 0x.
fn whole(text: &str) -> Option<u8> {
    let lower = text.to_ascii_lowercase();
    let (digits, base) = match lower.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (lower.as_str(), 10),
    };
    let digits = Some(digits).filter(|digits| !digits.starts_with('+'));
    digits.and_then(|digits| u8::from_str_radix(digits, base).ok())
}

/// Parses an address, an interface, or a link-local address with its interface.
pub(super) fn source(text: &str) -> Result<Source, &'static str> {
    /// Length of an interface's name, from the kernel's `IFNAMSIZ`.
    const NAME_BYTES: usize = 15;
    let interface = |name: &str| {
        let valid = (1..=NAME_BYTES).contains(&name.len()) && !name.contains(['/', ':', ' ']);
        valid.then(|| name.to_owned())
    };
    let (address, zone) = match text.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (text, None),
    };
    let source = match (address.parse::<IpAddr>(), zone) {
        (Ok(address), None) => Some(Source {
            address: Some(address.to_canonical()),
            interface: None,
        }),
        (Ok(address), Some(zone)) => interface(zone).map(|name| Source {
            address: Some(address),
            interface: Some(name),
        }),
        (Err(_), _) => interface(text).map(|name| Source {
            address: None,
            interface: Some(name),
        }),
    };
    source.ok_or("expected an address without port, or an interface, as `ip address` shows them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_loss_accepts_above_0_and_at_most_100() {
        assert_eq!(percent("0.5"), Ok(0.5));
        for wrong in ["0", "100.1", "-1", "nan", "inf", "much"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
