//! Values of the client's options: types and parsers.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::address::HostPort;
use crate::cli::dscp::whole;
use crate::cli::values::{duration, size};
use crate::probe::pace::Frequency;
use crate::udp::{Fragmentation, Source};
use clap::ValueEnum;

/// The port of a reflector in modes other than stamp.
const DEFAULT_PORT: u16 = 9999;

/// The address to send to; its port is not 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    text: String,
    host_port: HostPort,
}

impl Target {
    /// The host and the port.
    pub fn host_port(&self) -> &HostPort {
        &self.host_port
    }

    /// The text that was parsed.
    pub(in crate::cli) fn text(&self) -> &str {
        &self.text
    }

    /// Uses another port where the text has none.
    pub(in crate::cli) fn use_port(&mut self, port: u16) {
        // The text was parsed before.
        if let Ok(host_port) = HostPort::parse_with_default(&self.text, port) {
            self.host_port = host_port;
        }
    }
}

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
        let target = HostPort::parse_with_default(text, DEFAULT_PORT);
        let target = target.map_err(|error| error.to_string())?;
        if target.port() == 0 {
            return Err("cannot send to port 0: it is reserved; use 1 to 65535".into());
        }
        Ok(Self {
            text: text.into(),
            host_port: target,
        })
    }
}

pub(in crate::cli) fn time(text: &str) -> Result<Duration, &'static str> {
    /// Added to any instant, this does not overflow.
    const MOST: Duration = Duration::from_hours(24 * 366);
    duration(text)
        .filter(|time| !time.is_zero() && *time <= MOST)
        .ok_or("expected seconds (5, 0.25) or a time with a unit (250ms, 1m), more than 0 and at most 366 days")
}

/// Parses requests per second, fractions too.
pub(super) fn rate(text: &str) -> Result<Frequency, &'static str> {
    /// Number of decimals, so that count and time are exact.
    const DECIMALS: usize = 6;
    const MOST: u64 = 10_000_000;
    let frequency = || {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = [whole, fraction].concat();
        let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
        if !is_number || fraction.len() > DECIMALS {
            return None;
        }
        let count: u64 = digits.parse().ok()?;
        let time = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
        let common = greatest_common_divisor(count, time);
        let (count, time) = (count / common, time / common);
        // Times like those of --interval.
        let in_range = count > 0 && count <= MOST.saturating_mul(time);
        Some(Frequency {
            count: u32::try_from(count).ok().filter(|_| in_range)?,
            time: Duration::from_secs(time),
        })
    };
    frequency().ok_or("expected a number, more than 0 and at most 10000000, with up to 6 decimals")
}

fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    match other {
        0 => one.max(1),
        _ => greatest_common_divisor(other, one % other),
    }
}

/// Parses the size of a request. Only STAMP has requests below 16 bytes.
pub(in crate::cli) fn request_size(text: &str) -> Result<u16, &'static str> {
    size(14..=65507)(text).map_err(|_| REQUEST_SIZE)
}

/// The sizes of requests.
pub(in crate::cli) const REQUEST_SIZE: &str =
    "expected 16 to 65507 bytes (14 to 65507 in stamp mode), or a size with a unit (1KiB)";

pub(super) fn percent(text: &str) -> Result<f64, &'static str> {
    text.parse()
        .ok()
        .filter(|percent| *percent > 0.0 && *percent <= 100.0)
        .ok_or("expected a percentage, more than 0 and at most 100")
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

/// Parses an address, an interface, or a link-local address with its interface.
pub(in crate::cli) fn source(text: &str) -> Result<Source, &'static str> {
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
    fn rates_are_exact_with_fractions() {
        for (text, count, seconds) in [
            ("1", 1, 1),
            ("0.5", 1, 2),
            ("1.5", 3, 2),
            ("2.50", 5, 2),
            ("0.3", 3, 10),
            ("10000000", 10_000_000, 1),
            ("0.000001", 1, 1_000_000),
            (".5", 1, 2),
        ] {
            let time = Duration::from_secs(seconds);
            assert_eq!(rate(text), Ok(Frequency { count, time }), "{text}");
        }
        for wrong in [
            "0",
            "0.0",
            "-1",
            "+1",
            "10000001",
            "1e3",
            "1k",
            ".",
            "",
            "0.0000001",
        ] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tos_byte_has_no_ecn_bits() {
        assert_eq!(
            [tos("0xb8"), tos("184"), tos("0")],
            [Ok(184), Ok(184), Ok(0)]
        );
        for wrong in ["0xb9", "3", "256", "0x100", "EF", "+4", ""] {
            assert!(tos(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn source_is_an_address_or_an_interface_or_both() {
        let parsed = |text| {
            let source = source(text).unwrap();
            (source.address.map(|ip| ip.to_string()), source.interface)
        };
        let [v4, link_local, name] =
            ["192.0.2.1", "fe80::1", "eth0"].map(|text| Some(text.to_owned()));
        assert_eq!(parsed("192.0.2.1"), (v4.clone(), None));
        assert_eq!(parsed("::ffff:192.0.2.1"), (v4, None));
        assert_eq!(parsed("eth0"), (None, name.clone()));
        assert_eq!(parsed("fe80::1%eth0"), (link_local, name));
        for wrong in ["", "192.0.2.1:9", "a/b", "sixteen-bytes-...", "fe80::1%"] {
            assert!(source(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn max_loss_accepts_above_0_and_at_most_100() {
        assert_eq!(percent("0.5"), Ok(0.5));
        for wrong in ["0", "100.1", "-1", "nan", "inf", "much"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
