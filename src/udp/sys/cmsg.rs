//! Control messages (cmsg(3)): the destination of a datagram, the source of its reply, and more.
//!
//! They are read and written as bytes, without pointers. A message is a header with a length (of
//! header and data), a level and a type, then the data. Header and data are padded to the size of a
//! `usize` (`CMSG_ALIGN`, include/linux/socket.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libc::c_int;

/// Holds the control messages of one datagram: `IP_PKTINFO`, `IPV6_PKTINFO`, `SO_TIMESTAMPNS`,
/// `UDP_GRO`, TTL and TOS; and some that another process enabled before it passed in the socket.
pub(in crate::udp) const CONTROL_BYTES: usize =
    space(12) + space(20) + space(16) + 3 * space(4) + 128;
/// Holds the control messages of a reply: the larger of the two packet infos, traffic class and
/// `UDP_SEGMENT`.
pub(in crate::udp) const REPLY_BYTES: usize = space(20) + space(4) + SEGMENT_BYTES;
/// The size of a `UDP_SEGMENT` message.
pub(in crate::udp) const SEGMENT_BYTES: usize = space(2);

/// Control memory with the alignment of a message header.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(in crate::udp) struct Control<const BYTES: usize>(pub(in crate::udp) [u8; BYTES]);

const HEADER: usize = size_of::<usize>() + 2 * size_of::<c_int>();
/// The index of the loopback interface in every network namespace (`LOOPBACK_IFINDEX`,
/// include/net/flow.h).
pub(super) const LOOPBACK: u32 = 1;

/// Packet info of a received datagram: `IP_PKTINFO` (ip(7)) or `IPV6_PKTINFO` (RFC 3542).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketInfo {
    /// The destination address of the IP header.
    pub destination: IpAddr,
    /// Whether the destination is a broadcast or multicast address.
    pub broadcast_or_multicast: bool,
    /// The index of the incoming interface.
    pub interface: u32,
}

/// The values of a datagram's control messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::udp) struct ControlMessages {
    pub(in crate::udp) info: Option<PacketInfo>,
    /// The kernel's receive timestamp, since 1970.
    pub(in crate::udp) received_at: Option<Duration>,
    /// The segment size of a GRO batch, in bytes.
    pub(in crate::udp) segment: Option<usize>,
    /// `IP_TTL` (ip(7)) or `IPV6_HOPLIMIT` (RFC 3542).
    pub(in crate::udp) ttl: Option<u8>,
    /// `IP_TOS` (ip(7)) or `IPV6_TCLASS` (RFC 3542).
    pub(in crate::udp) traffic_class: Option<u8>,
}

impl ControlMessages {
    pub(in crate::udp) fn parse(control: &[u8]) -> Self {
        let mut parsed = Self::default();
        let mut v4 = None;
        for (level, kind, data) in messages(control) {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => v4 = PacketInfo::v4(data),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => parsed.info = PacketInfo::v6(data),
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => parsed.received_at = time(data),
                (libc::SOL_UDP, libc::UDP_GRO) => parsed.segment = segment(data),
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    parsed.ttl = byte(data);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    parsed.traffic_class = byte(data);
                }
                _ => {}
            }
        }
        // On an IPv6 socket, an IPv4 datagram has both. Only IP_PKTINFO shows a directed broadcast.
        parsed.info = v4.or(parsed.info);
        parsed
    }
}

/// Parses `struct timespec`: seconds, nanoseconds.
fn time(data: &[u8]) -> Option<Duration> {
    let (seconds, rest) = data.split_first_chunk()?;
    let (nanoseconds, _) = rest.split_first_chunk()?;
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).ok()?;
    let nanoseconds = u32::try_from(i64::from_ne_bytes(*nanoseconds)).ok()?;
    Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanoseconds.into()))
}

/// Parses a byte of an IP header: an `int`, or for `IP_TOS` one byte (`ip_cmsg_recv_tos`,
/// `net/ipv4/ip_sockglue.c`).
fn byte(data: &[u8]) -> Option<u8> {
    match data {
        [byte] => Some(*byte),
        data => u8::try_from(c_int::from_ne_bytes(*data.first_chunk()?)).ok(),
    }
}

/// Parses a segment size: an `int` (`udp_cmsg_recv`, include/linux/udp.h).
fn segment(data: &[u8]) -> Option<usize> {
    let (size, _) = data.split_first_chunk()?;
    let size = usize::try_from(c_int::from_ne_bytes(*size)).ok()?;
    (size > 0).then_some(size)
}

/// Appends a `UDP_SEGMENT` message (udp(7)) to the first `length` bytes of `out`: the kernel splits
/// the payload into datagrams of `segment` bytes. Returns the new length.
pub(in crate::udp) fn write_segment(
    segment: u16,
    length: usize,
    out: &mut [u8; REPLY_BYTES],
) -> usize {
    let out = &mut out[length..];
    length
        + write(
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            &segment.to_ne_bytes(),
            out,
        )
}

/// Appends an `IP_TOS` (ip(7)) or `IPV6_TCLASS` (RFC 3542) message to the first `length` bytes of
/// `out`. Returns the new length.
pub(in crate::udp) fn write_traffic_class(
    class: u8,
    ipv6_peer: bool,
    length: usize,
    out: &mut [u8; REPLY_BYTES],
) -> usize {
    let (level, kind) = if ipv6_peer {
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
    } else {
        (libc::IPPROTO_IP, libc::IP_TOS)
    };
    let data = c_int::from(class).to_ne_bytes();
    length + write(level, kind, &data, &mut out[length..])
}

impl PacketInfo {
    /// Whether the datagram came over the loopback interface, and so from this host.
    pub fn over_loopback(&self) -> bool {
        self.interface == LOOPBACK
    }

    /// Parses `struct in_pktinfo`: interface, local address, destination. The local address is the
    /// source that a reply would have; it differs from a broadcast or multicast destination.
    fn v4(data: &[u8]) -> Option<Self> {
        let (interface, rest) = data.split_first_chunk()?;
        let (local, rest) = rest.split_first_chunk::<4>()?;
        let (destination, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            destination: Ipv4Addr::from(*destination).into(),
            broadcast_or_multicast: local != destination,
            interface: u32::from_ne_bytes(*interface),
        })
    }

    /// Parses `struct in6_pktinfo`: destination, interface.
    fn v6(data: &[u8]) -> Option<Self> {
        let (destination, rest) = data.split_first_chunk::<16>()?;
        let (interface, _) = rest.split_first_chunk()?;
        let destination = Ipv6Addr::from(*destination).to_canonical();
        Some(Self {
            destination,
            broadcast_or_multicast: destination.is_multicast(),
            interface: u32::from_ne_bytes(*interface),
        })
    }

    /// Writes the packet info that makes the destination the source of the reply. Returns its
    /// length: 0 if the destination is a broadcast or multicast address, which cannot be a source.
    pub(in crate::udp) fn write_reply(
        &self,
        ipv6_socket: bool,
        out: &mut [u8; REPLY_BYTES],
    ) -> usize {
        if self.broadcast_or_multicast {
            return 0;
        }
        match self.destination {
            IpAddr::V4(source) if !ipv6_socket => {
                let mut data = [0; 12];
                data[4..8].copy_from_slice(&source.octets());
                write(libc::IPPROTO_IP, libc::IP_PKTINFO, &data, out)
            }
            source => {
                let source = match source {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                // For other addresses, the route decides the outgoing interface.
                let interface = if source.is_unicast_link_local() {
                    self.interface
                } else {
                    0
                };
                let mut data = [0; 20];
                data[..16].copy_from_slice(&source.octets());
                data[16..].copy_from_slice(&interface.to_ne_bytes());
                write(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data, out)
            }
        }
    }
}

/// Iterates over the level, type and data of each message, up to the first incomplete one.
pub(in crate::udp) fn messages(mut control: &[u8]) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
    std::iter::from_fn(move || {
        let (length, rest) = control.split_first_chunk()?;
        let (level, rest) = rest.split_first_chunk()?;
        let (kind, _) = rest.split_first_chunk()?;
        let length = usize::from_ne_bytes(*length);
        let data = control.get(HEADER..length)?;
        control = control.get(aligned(length)..).unwrap_or_default();
        Some((
            c_int::from_ne_bytes(*level),
            c_int::from_ne_bytes(*kind),
            data,
        ))
    })
}

/// Writes one message and returns its size with padding.
fn write(level: c_int, kind: c_int, data: &[u8], out: &mut [u8]) -> usize {
    let length = HEADER + data.len();
    let (header, rest) = out.split_at_mut(HEADER);
    let (size, numbers) = header.split_at_mut(size_of::<usize>());
    size.copy_from_slice(&length.to_ne_bytes());
    numbers[..4].copy_from_slice(&level.to_ne_bytes());
    numbers[4..].copy_from_slice(&kind.to_ne_bytes());
    rest[..data.len()].copy_from_slice(data);
    space(data.len())
}

/// `CMSG_SPACE` (cmsg(3)).
const fn space(data: usize) -> usize {
    HEADER + aligned(data)
}

/// `CMSG_ALIGN` (cmsg(3)). Returns `length` itself on overflow.
const fn aligned(length: usize) -> usize {
    match length.checked_next_multiple_of(size_of::<usize>()) {
        Some(aligned) => aligned,
        None => length,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_message_sizes_match_the_c_macros() {
        assert_eq!(HEADER, size_of::<libc::cmsghdr>());
        assert_eq!(space(12), 32);
        assert_eq!(REPLY_BYTES, 40 + 24 + 24);
    }

    #[test]
    fn reply_has_the_requests_destination_as_its_source() {
        for (destination, ipv6_socket) in [
            ("127.0.0.2", false),
            ("127.0.0.2", true),
            ("2001:db8::1", true),
            ("fe80::1", true),
        ] {
            let info = PacketInfo {
                destination: destination.parse().unwrap(),
                broadcast_or_multicast: false,
                interface: 7,
            };
            let mut out = [0; REPLY_BYTES];
            let length = info.write_reply(ipv6_socket, &mut out);
            let (level, kind, data) = messages(&out[..length]).next().unwrap();
            if ipv6_socket {
                assert_eq!((level, kind), (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO));
                let written = PacketInfo::v6(data).unwrap();
                assert_eq!(written.destination, info.destination);
                let zoned = destination.starts_with("fe80");
                assert_eq!(written.interface, if zoned { 7 } else { 0 });
            } else {
                assert_eq!((level, kind), (libc::IPPROTO_IP, libc::IP_PKTINFO));
                assert_eq!(data, [0, 0, 0, 0, 127, 0, 0, 2, 0, 0, 0, 0]);
            }
        }
    }

    #[test]
    fn multicast_address_is_never_the_source_of_a_reply() {
        let info = PacketInfo {
            destination: "224.0.0.1".parse().unwrap(),
            broadcast_or_multicast: true,
            interface: 2,
        };
        assert_eq!(info.write_reply(false, &mut [0; REPLY_BYTES]), 0);
    }

    #[test]
    fn ipv4_packet_info_is_used_when_a_datagram_has_both() {
        let mut v6 = [0; REPLY_BYTES];
        let mapped = "::ffff:10.0.0.255".parse::<Ipv6Addr>().unwrap().octets();
        let mut data = [0; 20];
        data[..16].copy_from_slice(&mapped);
        let v6_length = write(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data, &mut v6);
        let mut v4 = [0; REPLY_BYTES];
        let data = [2, 0, 0, 0, 10, 0, 0, 1, 10, 0, 0, 255];
        let v4_length = write(libc::IPPROTO_IP, libc::IP_PKTINFO, &data, &mut v4);
        let (v4, v6) = (&v4[..v4_length], &v6[..v6_length]);
        for control in [[v4, v6].concat(), [v6, v4].concat()] {
            let info = ControlMessages::parse(&control).info.unwrap();
            assert!(info.broadcast_or_multicast, "a directed broadcast");
            assert_eq!(info.destination, "10.0.0.255".parse::<IpAddr>().unwrap());
        }
    }

    /// Known messages with data of about the right size, and arbitrary ones.
    fn message() -> impl Strategy<Value = (c_int, c_int, Vec<u8>)> {
        let known = prop::sample::select(vec![
            (libc::IPPROTO_IP, libc::IP_PKTINFO, 12),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20),
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, 16),
            (libc::SOL_UDP, libc::UDP_GRO, 4),
        ]);
        let other = (any::<c_int>(), any::<c_int>(), 0_usize..24);
        let header = prop_oneof![4 => known, 1 => other];
        let exact = prop_oneof![3 => Just(0), 1 => -3_isize..4];
        (header, exact).prop_flat_map(|((level, kind, size), more)| {
            let size = size.saturating_add_signed(more);
            let any = prop::collection::vec(any::<u8>(), size);
            let data = prop_oneof![3 => any, 1 => Just(vec![0; size])];
            data.prop_map(move |data| (level, kind, data))
        })
    }

    /// Encodes messages like the kernel.
    fn written(messages: &[(c_int, c_int, Vec<u8>)]) -> Vec<u8> {
        let mut control = vec![];
        for (level, kind, data) in messages {
            let start = control.len();
            control.resize(start + space(data.len()), 0);
            write(*level, *kind, data, &mut control[start..]);
        }
        control
    }

    /// Checks the values that any input parses to.
    fn check(parsed: ControlMessages) -> Result<(), TestCaseError> {
        prop_assert!(
            parsed
                .segment
                .is_none_or(|size| (1..1 << 31).contains(&size))
        );
        if let Some(info) = parsed.info {
            prop_assert_eq!(info.destination, info.destination.to_canonical());
            let mut out = [0; REPLY_BYTES];
            let length = info.write_reply(true, &mut out);
            prop_assert!(length <= REPLY_BYTES - SEGMENT_BYTES);
            prop_assert_eq!(
                messages(&out[..length]).count(),
                usize::from(!info.broadcast_or_multicast)
            );
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn cmsg_parser_accepts_any_bytes(control in prop::collection::vec(any::<u8>(), 0..160)) {
            check(ControlMessages::parse(&control))?;
        }

        #[test]
        fn cmsg_parser_accepts_any_messages_and_finds_each(
            sent in prop::collection::vec(message(), 0..6)
        ) {
            let control = written(&sent);
            let found = messages(&control).map(|(level, kind, data)| (level, kind, data.to_vec()));
            prop_assert!(found.eq(sent.iter().cloned()));
            check(ControlMessages::parse(&control))?;
        }

        #[test]
        fn cmsg_parser_accepts_any_damaged_messages(
            sent in prop::collection::vec(message(), 1..6),
            end in any::<prop::sample::Index>(),
            corruption in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut control = written(&sent);
            for (at, byte) in corruption {
                *at.get_mut(&mut control) = byte;
            }
            check(ControlMessages::parse(&control[..end.index(control.len() + 1)]))?;
        }
    }
}
