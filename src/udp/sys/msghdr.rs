//! Message headers, the structures that they point to, and socket addresses.
#![expect(
    unsafe_code,
    reason = "a message header of zeros has no other constructor"
)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr;

use libc::{c_int, iovec, mmsghdr, sockaddr_in, sockaddr_in6};

pub(in crate::udp) const NO_NAME: sockaddr_in6 = sockaddr_in6 {
    sin6_family: 0,
    sin6_port: 0,
    sin6_flowinfo: 0,
    sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
    sin6_scope_id: 0,
};
pub(in crate::udp) const NO_BYTES: iovec = iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};
// SAFETY: null pointers and zeros are a valid message header.
pub(in crate::udp) const NO_MESSAGE: mmsghdr = unsafe { std::mem::zeroed() };

// A sockaddr_in6 can hold a sockaddr_in: both begin with family and port, and the IPv4 address is
// where the flow label is.
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(sockaddr_in, sin_port) == offset_of!(sockaddr_in6, sin6_port));
    assert!(offset_of!(sockaddr_in, sin_addr) == offset_of!(sockaddr_in6, sin6_flowinfo));
};

/// The address that the kernel wrote. An IPv4-mapped address becomes an IPv4 address.
pub(in crate::udp) fn address(name: &sockaddr_in6) -> SocketAddr {
    let port = u16::from_be(name.sin6_port);
    if c_int::from(name.sin6_family) == libc::AF_INET {
        return (Ipv4Addr::from(name.sin6_flowinfo.to_ne_bytes()), port).into();
    }
    let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
    match address.to_ipv4_mapped() {
        Some(v4) => (v4, port).into(),
        None => SocketAddrV6::new(address, port, 0, name.sin6_scope_id).into(),
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "address families are small"
)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sockaddr_parser_accepts_any_bytes_but_ipv4_mapped(
            family in prop_oneof![
                Just(libc::AF_INET as libc::sa_family_t),
                Just(libc::AF_INET6 as libc::sa_family_t),
                any::<libc::sa_family_t>()
            ],
            mapped in any::<bool>(), port: u16, flow: u32, scope: u32, mut bytes: [u8; 16],
        ) {
            if mapped {
                bytes[..12].copy_from_slice(b"\0\0\0\0\0\0\0\0\0\0\xff\xff");
            }
            let name = sockaddr_in6 {
                sin6_family: family,
                sin6_port: port.to_be(),
                sin6_flowinfo: flow,
                sin6_addr: libc::in6_addr { s6_addr: bytes },
                sin6_scope_id: scope,
            };
            let address = address(&name);
            prop_assert_eq!(address.port(), port);
            prop_assert_eq!(address.ip(), address.ip().to_canonical());
            prop_assert_eq!(address.is_ipv4(), mapped || c_int::from(family) == libc::AF_INET);
        }
    }

    #[test]
    fn one_structure_holds_addresses_of_both_families() {
        let mut name = NO_NAME;
        name.sin6_port = 9999_u16.to_be();
        name.sin6_family = libc::AF_INET as libc::sa_family_t;
        name.sin6_flowinfo = u32::from_ne_bytes([127, 0, 0, 2]);
        assert_eq!(address(&name), "127.0.0.2:9999".parse().unwrap());
        name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        name.sin6_flowinfo = 12345;
        name.sin6_addr.s6_addr = "fe80::1".parse::<Ipv6Addr>().unwrap().octets();
        name.sin6_scope_id = 3;
        assert_eq!(address(&name), "[fe80::1%3]:9999".parse().unwrap());
        name.sin6_addr.s6_addr = "::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(address(&name), "10.0.0.1:9999".parse().unwrap());
        assert_eq!(offset_of!(sockaddr_in, sin_family), 0);
    }
}
