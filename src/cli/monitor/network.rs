//! Networks in CIDR notation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: its first address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Bits of an IPv6 address before the IPv4 address that is mapped in it.
const MAPPED: u8 = 96;

impl Network {
    /// The first address and the length of the prefix.
    pub(super) fn parts(&self) -> (IpAddr, u8) {
        (self.address, self.prefix)
    }

    /// The network with an address.
    fn with(address: IpAddr, prefix: u8) -> Self {
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix));
                Ipv4Addr::from_bits(address.to_bits() & mask.unwrap_or(0)).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix));
                Ipv6Addr::from_bits(address.to_bits() & mask.unwrap_or(0)).into()
            }
        };
        Self { address, prefix }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // In a list, a space can follow the comma.
        let text = text.trim();
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| {
            "expected a network such as 192.0.2.0/24 or 2001:db8::/32, or an address".to_owned()
        })?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(prefix) => Some(prefix)
                .filter(|prefix| prefix.bytes().all(|digit| digit.is_ascii_digit()))
                .and_then(|prefix| prefix.parse().ok())
                .filter(|prefix| *prefix <= most)
                .ok_or_else(|| format!("expected a prefix length of 0 to {most}"))?,
        };
        let network = Self::with(address, prefix);
        if network.address != address {
            return Err(format!(
                "the address has bits after its prefix; the network is {network}"
            ));
        }
        Ok(match address.to_canonical() {
            // Bits 81 to 96 of a mapped address are set, so its prefix has at least 96 bits.
            mapped @ IpAddr::V4(_) if address.is_ipv6() => Self {
                address: mapped,
                prefix: prefix.saturating_sub(MAPPED),
            },
            _ => network,
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_is_an_address_and_a_prefix_length() {
        for (text, shown) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.1", "192.0.2.1/32"),
            (" 0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
        ] {
            let network = text.parse::<Network>().map(|network| network.to_string());
            assert_eq!(network, Ok(shown.into()), "{text}");
        }
    }

    #[test]
    fn network_error_names_the_fault() {
        let bits =
            |network| format!("the address has bits after its prefix; the network is {network}");
        let expected = "expected a network such as ";
        let length = |most| format!("expected a prefix length of 0 to {most}");
        for (text, said) in [
            ("192.0.2.1/24", bits("192.0.2.0/24")),
            ("2001:db8::1/32", bits("2001:db8::/32")),
            ("::ffff:192.0.2.0/90", bits("::ffc0:0:0/90")),
            ("1.2.3.4/0", bits("0.0.0.0/0")),
            ("192.0.2.0/33", length(32)),
            ("::/129", length(128)),
            ("192.0.2.0/+24", length(32)),
            ("192.0.2.0/", length(32)),
            ("reflector", expected.into()),
            ("192.0.2/24", expected.into()),
            ("", expected.into()),
        ] {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.starts_with(&said), "{text}: {error}");
        }
    }
}
