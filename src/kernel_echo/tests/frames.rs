//! Frames with a datagram: plain ones, which the program answers, and odd ones.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::{LISTEN, MAC, MAX_DATAGRAM};

/// The least length of a frame, to which the hardware pads.
pub(super) const SHORTEST: usize = 60;

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// A frame by its parts.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) payload: Vec<u8>,
    pub(super) is_padded: bool,
    to_mac: [u8; 6],
    from_mac: [u8; 6],
    vlan: bool,
    /// Changes of fields that have one right value.
    ether_type: u16,
    version: u8,
    protocol: u8,
    total_length: u16,
    udp_length: u16,
    header_checksum: u16,
    /// IPv4 options, or an IPv6 extension header of this type.
    options: Option<u8>,
    fragment: u16,
    checksum: Checksum,
    /// Bytes after the datagram and the padding.
    trailer: usize,
    /// Bytes that are missing at the end.
    cut: usize,
    damage: Option<(usize, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Checksum {
    Right,
    Wrong,
    /// 0, for which there is no check. The payload is such that it is also the right sum.
    Zero,
    /// The sum of the pseudo header only, as a sender leaves it for the hardware.
    Unfinished,
}

/// The Internet checksum of RFC 1071 before it is inverted, by its definition.
pub(super) fn folded(words: impl IntoIterator<Item = u16>) -> u16 {
    words.into_iter().fold(0, |sum: u16, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

pub(super) fn words(bytes: &[u8]) -> impl Iterator<Item = u16> {
    let word = |pair: &[u8]| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
    bytes.chunks(2).map(word)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The pseudo header of the checksum of UDP.
pub(super) fn pseudo(from: IpAddr, to: IpAddr, length: u16) -> Vec<u16> {
    let addresses = [octets(from), octets(to)].concat();
    words(&addresses).chain([17, length]).collect()
}

impl Frame {
    /// A frame that the program answers, if the source and the length permit it.
    pub(super) fn plain(from: &str, to: &str, payload: Vec<u8>) -> Self {
        Self {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            payload,
            is_padded: false,
            to_mac: MAC,
            from_mac: PEER_MAC,
            vlan: false,
            ether_type: 0,
            version: 0,
            protocol: 0,
            total_length: 0,
            udp_length: 0,
            header_checksum: 0,
            options: None,
            fragment: 0x4000,
            checksum: Checksum::Right,
            trailer: 0,
            cut: 0,
            damage: None,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let length = u16::try_from(self.payload.len() + 8).unwrap();
        let length = length.wrapping_add(self.udp_length);
        let mut frame = [self.to_mac, self.from_mac].concat();
        if self.vlan {
            frame.extend([0x81, 0, 0, 5]);
        }
        frame.extend(self.ip_header());
        let udp = frame.len();
        for field in [self.from.port(), self.to.port(), length, 0] {
            frame.extend(field.to_be_bytes());
        }
        frame.extend(&self.payload);
        let padded = frame.len().max(SHORTEST);
        if self.is_padded || self.trailer > 0 {
            frame.resize(padded + self.trailer, 0xa5);
        }
        let end = frame.len().min(udp + usize::from(length));
        let pseudo = pseudo(self.from.ip(), self.to.ip(), length);
        let sum = |frame: &[u8]| folded(pseudo.iter().copied().chain(words(&frame[udp..end])));
        if self.checksum == Checksum::Zero && !self.payload.is_empty() && end >= udp + 10 {
            frame[udp + 8..udp + 10].fill(0);
            let fitting = !sum(&frame);
            frame[udp + 8..udp + 10].copy_from_slice(&fitting.to_be_bytes());
        }
        let right = match !sum(&frame[..end.max(udp)]) {
            0 => 0xffff,
            sum => sum,
        };
        let checksum = match self.checksum {
            Checksum::Right => right,
            Checksum::Wrong => right ^ 0x100,
            Checksum::Zero => 0,
            Checksum::Unfinished if folded(pseudo.iter().copied()) == right => right ^ 1,
            Checksum::Unfinished => folded(pseudo.iter().copied()),
        };
        frame[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
        // A frame has at least its Ethernet header.
        frame.truncate(frame.len().saturating_sub(self.cut).max(14));
        if let Some((at, bits)) = self.damage {
            let at = at % frame.len();
            frame[at] ^= bits;
        }
        frame
    }

    /// The type of the frame, and the IP header with its options or its extension header.
    fn ip_header(&self) -> Vec<u8> {
        let udp = self.payload.len() + 8;
        let total = |length: usize| {
            let length = u16::try_from(length).unwrap();
            length.wrapping_add(self.total_length).to_be_bytes()
        };
        let protocol = 0x11 ^ self.protocol;
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let options: &[u8] = self.options.map_or(&[], |_| &[1; 4]);
                let version = (0x45 + u8::from(!options.is_empty())) ^ self.version;
                let mut ip = vec![version, 0xb8];
                ip.extend(total(20 + options.len() + udp));
                ip.extend([1, 2]);
                ip.extend(self.fragment.to_be_bytes());
                ip.extend([33, protocol, 0, 0]);
                ip.extend([from.octets(), to.octets()].concat());
                ip.extend(options);
                let sum = !folded(words(&ip)) ^ self.header_checksum;
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                let ether_type = 0x0800 ^ self.ether_type;
                [&ether_type.to_be_bytes()[..], &ip].concat()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let (next, extension): (u8, &[u8]) = match (self.options, self.fragment) {
                    (Some(next), _) => (next, &[17, 0, 1, 4, 0, 0, 0, 0]),
                    (None, 0 | 0x4000) => (protocol, &[]),
                    (None, _) => (44, &[17, 0, 0, 1, 0, 0, 0, 7]),
                };
                let mut ip = vec![0x6b ^ self.version, 0x81, 2, 3];
                ip.extend(total(extension.len() + udp));
                ip.extend([next, 33]);
                ip.extend([from.octets(), to.octets()].concat());
                ip.extend(extension);
                let ether_type = 0x86dd ^ self.ether_type;
                [&ether_type.to_be_bytes()[..], &ip].concat()
            }
            _ => unreachable!("one family"),
        }
    }

    /// Replaces the source address by the one of the frame's family.
    fn set_source(&mut self, v4: &str, v6: &str) {
        let ip = if self.from.is_ipv4() { v4 } else { v6 };
        self.from.set_ip(ip.parse().unwrap());
    }

    fn set_destination(&mut self, v4: &str, v6: &str) {
        let ip = if self.to.is_ipv4() { v4 } else { v6 };
        self.to.set_ip(ip.parse().unwrap());
    }

    fn set_udp_length(&mut self, length: u16) {
        self.udp_length = length.wrapping_sub(u16::try_from(self.payload.len()).unwrap() + 8);
    }
}

/// Makes a frame odd, one way of several by a number.
type MakeOdd = fn(&mut Frame, u16);

fn one_of<T: Copy, const N: usize>(of: [T; N], number: u16) -> T {
    of[usize::from(number) % N]
}

/// The name of the kind that can be harmless. The program passes all frames that are odd in one other
/// way.
pub(super) const DAMAGED: &str = "a byte is damaged";

/// All ways in which a frame can be odd.
#[rustfmt::skip]
pub(super) const ODDITIES: &[(&str, MakeOdd)] = &[
    (DAMAGED, |f, n| f.damage = Some((usize::from(n >> 8), n.to_le_bytes()[0] | 1 << (n % 8)))),
    ("another type of frame", |f, n| f.ether_type = 1 << (n % 16)),
    ("a VLAN tag", |f, _| f.vlan = true),
    ("a unicast frame to another host", |f, n| f.to_mac[usize::from(n % 6)] ^= 4),
    ("a broadcast frame", |f, _| f.to_mac = [0xff; 6]),
    ("a multicast source of the frame", |f, n| {
        f.from_mac = one_of([[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [3, 0, 0, 0, 0, 9]], n);
    }),
    ("a frame from its destination", |f, _| f.from_mac = MAC),
    ("another IP version", |f, n| f.version = 0x10 << (n % 4)),
    ("another length of the IPv4 header, or IPv6 version", |f, n| {
        f.version = if f.from.is_ipv4() { one_of([1, 2, 3], n) } else { 0x20 };
    }),
    ("IPv4 options, or an IPv6 extension header", |f, n| f.options = Some(one_of([0, 43, 60], n))),
    ("a fragment", |f, n| f.fragment = one_of([0x2000, 1, 0x2001, 0x4001, 0x1fff], n)),
    ("a reserved flag of IPv4, or an IPv6 fragment", |f, _| f.fragment = 0x8000),
    ("another protocol", |f, n| f.protocol = 1 << (n % 8)),
    ("a wrong sum of the IPv4 header, or of IPv6", |f, n| {
        f.header_checksum = 1 << (n % 16);
        if !f.from.is_ipv4() { f.checksum = Checksum::Wrong; }
    }),
    ("a wrong IP length", |f, n| f.total_length = one_of([1, 8, 256, u16::MAX], n)),
    ("a wrong UDP length", |f, n| f.udp_length = one_of([1, 2, 8, 16, 0xffff, 0xfffe], n)),
    ("a UDP length below its header", |f, n| {
        let length = n % 8;
        f.set_udp_length(length);
        f.total_length = f.udp_length;
        if length == 6 {
            // The sum of these six bytes is right.
            let others = pseudo(f.from.ip(), f.to.ip(), 6).into_iter().chain([f.to.port(), 6]);
            f.from.set_port(!folded(others));
        }
    }),
    ("a wrong checksum", |f, _| f.checksum = Checksum::Wrong),
    ("no checksum", |f, _| f.checksum = Checksum::Zero),
    ("an unfinished checksum", |f, _| f.checksum = Checksum::Unfinished),
    ("an end that is missing", |f, n| {
        f.cut = usize::from(1 + n % 64);
        f.is_padded = false;
        // The checksum is right without the end.
        let left = f.payload.len().saturating_sub(f.cut);
        f.payload[left..].fill(0);
    }),
    ("bytes after the datagram", |f, n| f.trailer = usize::from(1 + n % 30)),
    ("a payload that is too long", |f, n| {
        f.payload.resize(MAX_DATAGRAM as usize + 1 + usize::from(n % 100), 7);
    }),
    ("a source port below the minimum", |f, n| f.from.set_port(n % 1024)),
    ("a listening port as the source", |f, n| f.from.set_port(one_of([9999, 7777], n))),
    ("its destination as the source", |f, _| f.from.set_ip(f.to.ip())),
    ("an unspecified source", |f, _| f.set_source("0.0.0.0", "::")),
    ("a source of this network", |f, _| f.set_source("0.1.2.3", "::192.0.2.7")),
    ("a loopback source", |f, _| f.set_source("127.0.0.1", "::1")),
    ("a multicast source", |f, n| f.set_source(one_of(["224.0.0.1", "239.1.2.3"], n), "ff02::1")),
    ("a broadcast or IPv4-mapped source", |f, _| f.set_source("255.255.255.255", "::ffff:192.0.2.7")),
    ("another destination", |f, n| {
        let mut ip = octets(f.to.ip());
        let at = usize::from(n) % ip.len();
        ip[at] ^= 2;
        f.to.set_ip(match <[u8; 4]>::try_from(&ip[..]) {
            Ok(ip) => ip.into(),
            Err(_) => <[u8; 16]>::try_from(&ip[..]).unwrap().into(),
        });
    }),
    ("a multicast destination", |f, _| f.set_destination("224.0.0.1", "ff02::1")),
    ("a broadcast or IPv4-mapped destination", |f, _| {
        f.set_destination("192.0.2.255", "::ffff:192.0.2.1");
    }),
    ("another destination port", |f, n| f.to.set_port(n | 1 << 15)),
    ("the destination of an unused entry", |f, _| {
        f.set_destination("0.0.0.0", "::");
        f.to.set_port(0);
        f.to_mac = [0; 6];
        f.payload.clear();
    }),
];

/// Plain frames, frames that are odd in one way, and frames that are odd in two ways; with the
/// numbers of the ways.
pub(super) fn frames() -> impl Strategy<Value = (Frame, Vec<usize>)> {
    let is_listening = |port: &u16| [9999, 7777].contains(port);
    let port = (1024..=u16::MAX).prop_filter("a listening port", move |port| !is_listening(port));
    let v4 = prop::sample::select(&["192.0.2.77", "1.0.0.1", "128.0.0.1", "223.255.255.254"][..]);
    let v6 = prop::sample::select(&["2001:db8::77", "fe80::7", "fd00::1"][..]);
    let length = prop_oneof![
        4 => 0..64_usize, 2 => 0..=MAX_DATAGRAM as usize,
        1 => MAX_DATAGRAM as usize - 9..=MAX_DATAGRAM as usize
    ];
    let payload = length.prop_flat_map(|length| prop::collection::vec(any::<u8>(), length));
    let count = prop_oneof![7 => Just(0_usize), 9 => Just(1), 4 => Just(2)];
    let odd = (0..ODDITIES.len(), any::<u16>());
    let odd = count.prop_flat_map(move |count| prop::collection::vec(odd.clone(), count));
    let number = 0..LISTEN.len();
    (number, v4, v6, port, payload, any::<[bool; 2]>(), odd).prop_map(
        |(number, v4, v6, port, payload, [is_padded, may_fragment], odd)| {
            let to: SocketAddr = LISTEN[number].parse().unwrap();
            let from: IpAddr = if to.is_ipv4() { v4 } else { v6 }.parse().unwrap();
            let from = SocketAddr::new(from, port).to_string();
            let mut frame = Frame::plain(&from, LISTEN[number], payload);
            frame.is_padded = is_padded;
            frame.fragment = if may_fragment { 0 } else { 0x4000 };
            for (kind, number) in &odd {
                ODDITIES[*kind].1(&mut frame, *number);
            }
            (frame, odd.into_iter().map(|(kind, _)| kind).collect())
        },
    )
}
