//! Datagrams with a forged source, which only root can send.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::IoSlice;

/// Bytes before the payload: the headers of IPv4 and UDP.
const HEADERS: usize = 28;
/// Datagrams per call.
const BATCH: usize = 64;

/// Sends datagrams with forged sources. Its sockets belong to the namespace that created them.
pub(crate) struct Spoofer {
    v4: Socket,
    v6: Socket,
}

impl Spoofer {
    pub(crate) fn new() -> Self {
        let raw = |domain| {
            // IPPROTO_RAW: packets come with their own IP header (raw(7), ipv6(7)).
            Socket::new(domain, Type::RAW, Some(Protocol::from(255))).expect("root may")
        };
        Self {
            v4: raw(Domain::IPV4),
            v6: raw(Domain::IPV6),
        }
    }

    /// Sends a datagram to `to` with the source `from`.
    pub(crate) fn send(&self, from: &str, to: &str, payload: &[u8]) {
        self.send_packet(&packet(from, to, payload), to);
    }

    /// Sends a datagram over IPv4 with a wrong UDP checksum.
    pub(super) fn send_corrupt(&self, from: &str, to: &str, payload: &[u8]) {
        let mut packet = packet(from, to, payload);
        packet[26..28].copy_from_slice(&[0xba, 0xd0]);
        self.send_packet(&packet, to);
    }

    fn send_packet(&self, packet: &[u8], to: &str) {
        let mut to: SocketAddr = to.parse().unwrap();
        // An IPv6 raw socket interprets the port as a protocol.
        to.set_port(0);
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let sent = socket.send_to(packet, &SockAddr::from(to)).unwrap();
        assert_eq!(sent, packet.len());
    }
}

fn packet(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    match (from.parse().unwrap(), to.parse().unwrap()) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => v4(from, to, payload),
        (SocketAddr::V6(from), SocketAddr::V6(to)) => v6(from, to, payload),
        _ => panic!("{from} and {to} are of different families"),
    }
}

/// The kernel fills in the length and checksum of the IP header; UDP needs none here.
fn v4(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(udp(from.port(), to.port(), payload));
    packet
}

fn v6(from: SocketAddrV6, to: SocketAddrV6, payload: &[u8]) -> Vec<u8> {
    let addresses = [from.ip().octets(), to.ip().octets()].concat();
    let mut udp = udp(from.port(), to.port(), payload);
    let length = u16::try_from(udp.len()).unwrap().to_be_bytes();
    // The checksum covers the pseudo-header (RFC 8200, 8.1) and the UDP packet.
    let pseudo = [&addresses[..], &[0, 0], &length, &[0, 0, 0, 17], &udp].concat();
    udp[6..8].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], 17, 64];
    packet.extend(addresses);
    packet.extend(udp);
    packet
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let header = [from, to, length, 0].map(u16::to_be_bytes);
    [header.as_flattened(), payload].concat()
}

/// The Internet checksum (RFC 1071). Never 0, which would mean no checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|two| {
        let low = two.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([two[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !u16::try_from(sum).unwrap() {
        0 => 0xffff,
        sum => sum,
    }
}

/// New sources in 100.0.0.0/8, in a scattered order, without a repetition in 2^32.
pub(super) struct Flood {
    spoofer: Spoofer,
    to: SocketAddrV4,
    packets: Vec<[u8; HEADERS + 1]>,
    pub(super) sent: u32,
}

impl Flood {
    pub(super) fn new(to: &str) -> Self {
        let to = to.parse().unwrap();
        let packet = v4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), to, b"x");
        Self {
            spoofer: Spoofer::new(),
            to,
            packets: vec![packet.try_into().unwrap(); BATCH],
            sent: 0,
        }
    }

    /// Sends at least `count` datagrams.
    pub(super) fn send(&mut self, count: u32) {
        let enough = self.sent + count;
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let to = [Some(SockaddrIn::from(self.to)); BATCH];
        while self.sent < enough {
            for packet in &mut self.packets {
                // With an odd factor no number repeats.
                let [high, b, c, d] = self.sent.wrapping_mul(0x9e37_79b1).to_be_bytes();
                packet[12..16].copy_from_slice(&[100, b, c, d]);
                packet[20..22].copy_from_slice(&(20_000 + u16::from(high)).to_be_bytes());
                self.sent += 1;
            }
            let slices: Vec<_> = self
                .packets
                .iter()
                .map(|packet| [IoSlice::new(packet)])
                .collect();
            let results = sendmmsg(
                self.spoofer.v4.as_raw_fd(),
                &mut headers,
                &slices,
                to,
                [],
                MsgFlags::empty(),
            );
            assert_eq!(results.unwrap().count(), BATCH);
        }
    }
}
