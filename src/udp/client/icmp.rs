//! ICMP errors about sent datagrams, from a socket's error queue (`IP_RECVERR`, ip(7)).
#![expect(
    unsafe_code,
    reason = "recvmsg works on structures that point into each other"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, iovec, msghdr};

use crate::udp::Socket;
use crate::udp::sys::cmsg::{Control, messages};
use crate::udp::sys::msghdr::NO_MESSAGE;

/// The most bytes kept of the rejected datagram.
const KEPT_BYTES: usize = 64;
/// Holds an extended error, the address of its sender and a timestamp.
const CONTROL_BYTES: usize = 256;

/// An entry of the error queue: a sent datagram was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// The errno that the kernel derives from it.
    pub(crate) errno: i32,
    /// The ICMP message; `None` if a send failed on this host, which also returned the error.
    pub(crate) icmp: Option<Icmp>,
    /// The sender of the ICMP message.
    pub(crate) from: Option<IpAddr>,
    /// The first bytes of the rejected datagram, as quoted in the ICMP message.
    pub(crate) bytes: Vec<u8>,
}

/// The type and code of an ICMP message (RFC 792, RFC 4443).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Icmp {
    /// Whether it is `ICMPv6`.
    pub(crate) v6: bool,
    /// The type.
    pub(crate) kind: u8,
    /// The code.
    pub(crate) code: u8,
}

impl Socket {
    /// Takes the next entry from the error queue.
    pub(crate) fn take_rejection(&self) -> Option<Rejection> {
        let mut bytes = [0_u8; KEPT_BYTES];
        let mut control = Control([0; CONTROL_BYTES]);
        let mut iovec = iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: KEPT_BYTES,
        };
        let mut message: msghdr = NO_MESSAGE.msg_hdr;
        message.msg_iov = &raw mut iovec;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = CONTROL_BYTES;
        // SAFETY: the message points to control memory and an iovec, the iovec to bytes, all of
        // the sizes they say. All of them outlive the call.
        let length = unsafe {
            libc::recvmsg(
                self.as_fd().as_raw_fd(),
                &raw mut message,
                libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
            )
        };
        let length = usize::try_from(length).ok()?.min(KEPT_BYTES);
        let control = &control.0[..message.msg_controllen.min(CONTROL_BYTES)];
        let mut rejection = parse(control).unwrap_or_else(|| Rejection {
            errno: 0,
            icmp: None,
            from: None,
            bytes: Vec::new(),
        });
        rejection.bytes = bytes[..length].into();
        Some(rejection)
    }
}

/// Parses `struct sock_extended_err` and the `struct sockaddr_in` or `sockaddr_in6` after it
/// (include/uapi/linux/errqueue.h).
fn parse(control: &[u8]) -> Option<Rejection> {
    const ORIGIN_ICMP: u8 = 2;
    const ORIGIN_ICMP6: u8 = 3;
    const AFTER: usize = 16;
    let (_, _, data) = messages(control).find(|(level, kind, _)| {
        [
            (libc::IPPROTO_IP, libc::IP_RECVERR),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        ]
        .contains(&(*level, *kind))
    })?;
    let (errno, rest) = data.split_first_chunk()?;
    let (&[origin, kind, code, _], _) = rest.split_first_chunk()?;
    let icmp = [ORIGIN_ICMP, ORIGIN_ICMP6]
        .contains(&origin)
        .then_some(Icmp {
            v6: origin == ORIGIN_ICMP6,
            kind,
            code,
        });
    Some(Rejection {
        errno: i32::from_ne_bytes(*errno),
        icmp,
        from: data.get(AFTER..).and_then(address),
        bytes: Vec::new(),
    })
}

/// Parses family and port, then the IPv4 address, or the flow label and the IPv6 address.
fn address(name: &[u8]) -> Option<IpAddr> {
    let (family, rest) = name.split_first_chunk()?;
    let rest = rest.get(2..)?;
    match c_int::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => Some(Ipv4Addr::from(*rest.first_chunk::<4>()?).into()),
        libc::AF_INET6 => {
            let bytes = rest.get(4..)?.first_chunk::<16>()?;
            Some(Ipv6Addr::from(*bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::skipped;
    use crate::udp::ConnectOptions;

    #[test]
    fn rejection_quotes_the_datagram_when_the_port_is_closed() {
        for host in ["127.0.0.1", "::1"] {
            let host: IpAddr = host.parse().unwrap();
            let Ok(kept) = std::net::UdpSocket::bind((host, 0)) else {
                assert!(host.is_ipv6());
                skipped!("no IPv6: the part about {host}");
                continue;
            };
            // Connected to itself, it reserves the port and receives nothing from other sockets.
            let peer = kept.local_addr().unwrap();
            kept.connect(peer).unwrap();
            let socket = Socket::connect(peer, &ConnectOptions::default()).unwrap();
            assert_eq!(socket.take_rejection(), None);
            socket.send(b"anybody there?").unwrap();
            let v6 = host.is_ipv6();
            let (kind, code) = if v6 { (1, 4) } else { (3, 3) };
            let expected = Rejection {
                errno: libc::ECONNREFUSED,
                icmp: Some(Icmp { v6, kind, code }),
                from: Some(host),
                bytes: b"anybody there?".into(),
            };
            assert_eq!(socket.take_rejection(), Some(expected));
            assert_eq!(socket.take_rejection(), None);
            socket.send(b"reported already").unwrap();
        }
    }

    proptest! {
        #[test]
        fn rejection_parser_accepts_any_bytes(v6: bool, length in 0_usize..80, mut control in prop::collection::vec(any::<u8>(), 16..120)) {
            let (level, kind) = if v6 { (41_i32, 25_i32) } else { (0, 11) };
            control[..8].copy_from_slice(&length.to_ne_bytes());
            control[8..12].copy_from_slice(&level.to_ne_bytes());
            control[12..16].copy_from_slice(&kind.to_ne_bytes());
            let _ = parse(&control);
        }
    }
}
