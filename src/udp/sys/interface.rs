//! Socket addresses with interface names: an interface index can change at a reboot.
#![expect(unsafe_code, reason = "ioctl takes a pointer")]

use std::ffi::{CStr, c_int};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;

use libc::{__c_anonymous_ifr_ifru, IFNAMSIZ, SIOCGIFNAME, ifreq};

/// Formats an address with the interface name from the network namespace of `socket`. A socket that
/// systemd passed in can be in another namespace than this process.
pub fn named(address: SocketAddr, socket: impl AsFd) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => match name(socket, v6.scope_id()) {
            Some(name) => format!("[{}%{name}]:{}", v6.ip(), v6.port()),
            None => address.to_string(),
        },
        _ => address.to_string(),
    }
}

/// Formats an address with the interface name from the network namespace of this process.
pub(crate) fn named_here(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => UnixDatagram::unbound().map_or_else(
            |_| address.to_string(),
            // SIOCGIFNAME works on a socket of any family.
            |socket| named(address, socket),
        ),
        _ => address.to_string(),
    }
}

/// The name of an interface (netdevice(7)), if it exists.
fn name(socket: impl AsFd, index: u32) -> Option<String> {
    let mut request = ifreq {
        ifr_name: [0; IFNAMSIZ],
        ifr_ifru: __c_anonymous_ifr_ifru {
            ifru_ifindex: c_int::try_from(index).ok()?,
        },
    };
    // SAFETY: the descriptor is borrowed, so open; the kernel reads and writes a structure of this
    // type, which outlives the call.
    let status = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCGIFNAME, &raw mut request) };
    let bytes = request.ifr_name.map(|byte| byte.to_ne_bytes()[0]);
    let name = CStr::from_bytes_until_nul(&bytes).ok()?.to_str().ok()?;
    // The kernel allows control characters in a name.
    (status == 0 && !name.contains(char::is_control)).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_shown_with_its_interface_name() {
        // Interface 1 is lo in every namespace.
        for (address, shown) in [
            ("[fe80::1%1]:9999", "[fe80::1%lo]:9999"),
            ("[ff02::1%1]:9", "[ff02::1%lo]:9"),
            // There is no such interface.
            ("[fe80::1%2147483647]:9999", "[fe80::1%2147483647]:9999"),
            ("[fe80::1%4294967295]:9999", "[fe80::1%4294967295]:9999"),
            ("[::1]:9999", "[::1]:9999"),
            ("192.0.2.1:9999", "192.0.2.1:9999"),
        ] {
            assert_eq!(named_here(address.parse().unwrap()), shown);
        }
    }
}
