//! Control messages: where a datagram was sent to, and from where its reply is to leave.
//!
//! They are read and written as bytes, so that no input can lead astray. A message is a header
//! of a length (that of header and data), a level and a type, then the data; both are padded to
//! the size of a `usize` (cmsg(3), `CMSG_ALIGN` in include/linux/socket.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libc::c_int;

/// Room for the control messages of one datagram: `IP_PKTINFO`, `IPV6_PKTINFO`,
/// `SO_TIMESTAMPNS`, `UDP_GRO`, TTL and TOS; and for a few that somebody else asked for before the
/// socket was handed over.
pub(in crate::udp) const CONTROL_BYTES: usize =
    space(12) + space(20) + space(16) + 3 * space(4) + 128;
/// The control messages of a reply: the larger of the two packet infos, and `UDP_SEGMENT`.
pub(in crate::udp) const REPLY_BYTES: usize = space(20) + SEGMENT_BYTES;
/// The latter alone.
pub(in crate::udp) const SEGMENT_BYTES: usize = space(2);

/// Control memory, aligned as its headers must be.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub(in crate::udp) struct Control<const BYTES: usize>(pub(in crate::udp) [u8; BYTES]);

const HEADER: usize = size_of::<usize>() + 2 * size_of::<c_int>();
/// `LOOPBACK_IFINDEX`, include/net/flow.h: the loopback interface is the first of every network
/// namespace.
pub(super) const LOOPBACK: u32 = 1;

/// What `IP_PKTINFO` (ip(7)) or `IPV6_PKTINFO` (RFC 3542) say of a datagram that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketInfo {
    /// The destination in its IP header.
    pub destination: IpAddr,
    /// Whether that is a broadcast or multicast address.
    pub group: bool,
    /// The index of the interface it came in by.
    pub interface: u32,
}

/// What the control messages of a datagram say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::udp) struct ControlMessages {
    pub(in crate::udp) info: Option<PacketInfo>,
    /// When the kernel received it, since 1970.
    pub(in crate::udp) received_at: Option<Duration>,
    /// The size in bytes of each datagram of a GRO batch but the last.
    pub(in crate::udp) segment: Option<usize>,
    /// `IP_TTL` (ip(7)) or `IPV6_HOPLIMIT` (RFC 3542).
    pub(in crate::udp) ttl: Option<u8>,
    /// `IP_TOS` (ip(7)) or `IPV6_TCLASS` (RFC 3542).
    pub(in crate::udp) traffic_class: Option<u8>,
}

impl ControlMessages {
    pub(in crate::udp) fn parse(control: &[u8]) -> Self {
        let mut said = Self::default();
        let mut v4 = None;
        for (level, kind, data) in messages(control) {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => v4 = PacketInfo::v4(data),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => said.info = PacketInfo::v6(data),
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => said.received_at = time(data),
                (libc::SOL_UDP, libc::UDP_GRO) => said.segment = segment(data),
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    said.ttl = byte(data);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    said.traffic_class = byte(data);
                }
                _ => {}
            }
        }
        // On an IPv6 socket an IPv4 datagram has both; this one says more.
        said.info = v4.or(said.info);
        said
    }
}

/// `struct timespec`: seconds, nanoseconds.
fn time(data: &[u8]) -> Option<Duration> {
    let (seconds, rest) = data.split_first_chunk()?;
    let (nanoseconds, _) = rest.split_first_chunk()?;
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).ok()?;
    let nanoseconds = u32::try_from(i64::from_ne_bytes(*nanoseconds)).ok()?;
    Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanoseconds.into()))
}

/// A byte of an IP header: an `int`, or for `IP_TOS` the byte itself (`ip_cmsg_recv_tos`,
/// `net/ipv4/ip_sockglue.c`).
fn byte(data: &[u8]) -> Option<u8> {
    match data {
        [byte] => Some(*byte),
        data => u8::try_from(c_int::from_ne_bytes(*data.first_chunk()?)).ok(),
    }
}

/// An `int` (`udp_cmsg_recv`, include/linux/udp.h).
fn segment(data: &[u8]) -> Option<usize> {
    let (size, _) = data.split_first_chunk()?;
    let size = usize::try_from(c_int::from_ne_bytes(*size)).ok()?;
    (size > 0).then_some(size)
}

/// Writes the control message that has the kernel cut a payload into datagrams of `segment`
/// bytes, the last of which may have fewer (`UDP_SEGMENT`, udp(7)), after the `length` bytes that
/// are there. Returns how many bytes there are then.
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

impl PacketInfo {
    /// Whether it came over the loopback interface, that is, from this host.
    pub fn looped(&self) -> bool {
        self.interface == LOOPBACK
    }

    /// `struct in_pktinfo`: interface, the address a reply would leave from, destination. The
    /// two addresses differ when the destination is not an address of this host.
    fn v4(data: &[u8]) -> Option<Self> {
        let (interface, rest) = data.split_first_chunk()?;
        let (local, rest) = rest.split_first_chunk::<4>()?;
        let (destination, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            destination: Ipv4Addr::from(*destination).into(),
            group: local != destination,
            interface: u32::from_ne_bytes(*interface),
        })
    }

    /// `struct in6_pktinfo`: destination, interface.
    fn v6(data: &[u8]) -> Option<Self> {
        let (destination, rest) = data.split_first_chunk::<16>()?;
        let (interface, _) = rest.split_first_chunk()?;
        let destination = Ipv6Addr::from(*destination).to_canonical();
        Some(Self {
            destination,
            group: destination.is_multicast(),
            interface: u32::from_ne_bytes(*interface),
        })
    }

    /// Writes the control message that makes a reply leave from the address that was asked.
    /// Returns its length, 0 when there is none: a group address can send nothing.
    pub(in crate::udp) fn write_reply(
        &self,
        ipv6_socket: bool,
        out: &mut [u8; REPLY_BYTES],
    ) -> usize {
        if self.group {
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
                // Elsewhere the route decides which interface a reply leaves by.
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

/// The level, type and data of each message, up to the first that is not whole.
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

/// Writes one message; returns how many bytes it takes.
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

/// `CMSG_SPACE`.
const fn space(data: usize) -> usize {
    HEADER + aligned(data)
}

/// `CMSG_ALIGN`; stays where it is when it would overflow.
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
    fn the_sizes_are_those_of_the_c_macros() {
        assert_eq!(HEADER, size_of::<libc::cmsghdr>());
        assert_eq!(space(12), 32);
        assert_eq!(REPLY_BYTES, 40 + 24);
    }

    #[test]
    fn a_reply_leaves_from_the_address_that_was_asked() {
        for (destination, ipv6_socket) in [
            ("127.0.0.2", false),
            ("127.0.0.2", true),
            ("2001:db8::1", true),
            ("fe80::1", true),
        ] {
            let info = PacketInfo {
                destination: destination.parse().unwrap(),
                group: false,
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
    fn a_group_address_is_never_a_replys_source() {
        let info = PacketInfo {
            destination: "224.0.0.1".parse().unwrap(),
            group: true,
            interface: 2,
        };
        assert_eq!(info.write_reply(false, &mut [0; REPLY_BYTES]), 0);
    }

    #[test]
    fn ipv4_info_says_more_than_ipv6_info_of_the_same_datagram() {
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
            assert!(info.group, "a directed broadcast");
            assert_eq!(info.destination, "10.0.0.255".parse::<IpAddr>().unwrap());
        }
    }

    /// The messages that are understood, with data of about the right size, and any other.
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

    /// Messages as the kernel writes them.
    fn written(messages: &[(c_int, c_int, Vec<u8>)]) -> Vec<u8> {
        let mut control = vec![];
        for (level, kind, data) in messages {
            let start = control.len();
            control.resize(start + space(data.len()), 0);
            write(*level, *kind, data, &mut control[start..]);
        }
        control
    }

    /// What holds whatever was parsed.
    fn check(said: ControlMessages) -> Result<(), TestCaseError> {
        prop_assert!(said.segment.is_none_or(|size| (1..1 << 31).contains(&size)));
        if let Some(info) = said.info {
            prop_assert_eq!(info.destination, info.destination.to_canonical());
            let mut out = [0; REPLY_BYTES];
            let length = info.write_reply(true, &mut out);
            prop_assert!(length <= REPLY_BYTES - SEGMENT_BYTES);
            prop_assert_eq!(messages(&out[..length]).count(), usize::from(!info.group));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_is_total(control in prop::collection::vec(any::<u8>(), 0..160)) {
            check(ControlMessages::parse(&control))?;
        }

        #[test]
        fn parsing_messages_is_total_and_finds_each(
            sent in prop::collection::vec(message(), 0..6)
        ) {
            let control = written(&sent);
            let found = messages(&control).map(|(level, kind, data)| (level, kind, data.to_vec()));
            prop_assert!(found.eq(sent.iter().cloned()));
            check(ControlMessages::parse(&control))?;
        }

        #[test]
        fn parsing_messages_that_are_cut_or_spoilt_is_total(
            sent in prop::collection::vec(message(), 1..6),
            end in any::<prop::sample::Index>(),
            spoilt in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut control = written(&sent);
            for (at, byte) in spoilt {
                *at.get_mut(&mut control) = byte;
            }
            check(ControlMessages::parse(&control[..end.index(control.len() + 1)]))?;
        }
    }
}
