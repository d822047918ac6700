//! STAMP packets, and a sender that sees the IP header of the replies.

use std::net::{SocketAddr, UdpSocket};

use socket2::SockRef;
use udp_echo::reflect::stamp::HmacKey;
use udp_echo::udp::{Batch, BufferSize, RecvMeta, Socket, SocketOptions, Wait};

use super::{DEADLINE, uninterrupted};

/// T1 and the error estimate of all requests.
pub const T1: u64 = 0xeeb2_4258_5827_0bbf;
pub const ERROR: u16 = 0x3fff;

/// The offsets of the fields in a reply.
pub struct Fields {
    pub t3: usize,
    pub error: usize,
    pub ssid: usize,
    pub t2: usize,
    pub request_sequence: usize,
    pub t1: usize,
    pub request_error: usize,
    pub ttl: usize,
    pub size: usize,
}

pub const OPEN: Fields = Fields {
    t3: 4,
    error: 12,
    ssid: 14,
    t2: 16,
    request_sequence: 24,
    t1: 28,
    request_error: 36,
    ttl: 40,
    size: 44,
};

pub const SIGNED: Fields = Fields {
    t3: 16,
    error: 24,
    ssid: 26,
    t2: 32,
    request_sequence: 48,
    t1: 64,
    request_error: 72,
    ttl: 80,
    size: 112,
};

/// An open request of 44 bytes.
pub fn open(sequence: u32, ssid: u16) -> Vec<u8> {
    request(&OPEN, sequence, ssid)
}

/// An authenticated request of 112 bytes.
pub fn signed(key: &HmacKey, sequence: u32, ssid: u16) -> Vec<u8> {
    let mut packet = request(&SIGNED, sequence, ssid);
    let hmac = key.sign(&[&packet[..96]]);
    packet[96..].copy_from_slice(&hmac);
    packet
}

fn request(fields: &Fields, sequence: u32, ssid: u16) -> Vec<u8> {
    let mut packet = vec![0; fields.size];
    packet[..4].copy_from_slice(&sequence.to_be_bytes());
    packet[fields.t3..fields.error].copy_from_slice(&T1.to_be_bytes());
    packet[fields.error..fields.ssid].copy_from_slice(&ERROR.to_be_bytes());
    packet[fields.ssid..fields.ssid + 2].copy_from_slice(&ssid.to_be_bytes());
    packet
}

/// A TLV as senders send it, with the flag U.
pub fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[0x80, kind], &length[..], value].concat()
}

/// The number of 4 bytes at an offset.
pub fn number(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(packet[at..at + 4].try_into().unwrap())
}

/// The number of 2 bytes at an offset.
pub fn short(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(packet[at..at + 2].try_into().unwrap())
}

/// A connected sender that sees the IP header of the replies.
pub struct Sender {
    pub socket: UdpSocket,
    receiver: Socket,
    batch: Batch,
}

impl Sender {
    /// A sender with a TTL and a TOS byte or traffic class.
    pub fn new(to: SocketAddr, ttl: u8, traffic_class: u32) -> Self {
        let options = SocketOptions {
            receive_buffer: BufferSize::Default,
            send_buffer: BufferSize::Default,
            reuse_address: false,
            timestamps: true,
            offload: false,
            ip_header: true,
        };
        let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(local).unwrap();
        let receiver = Socket::adopt(socket.try_clone().unwrap().into(), &options).unwrap();
        receiver.set_receive_timeout(Some(DEADLINE)).unwrap();
        socket.connect(to).unwrap();
        // After the receiver has set the options, TTL 255 among them.
        let sender = SockRef::from(&socket);
        if to.is_ipv4() {
            sender.set_ttl_v4(ttl.into()).unwrap();
            sender.set_tos_v4(traffic_class).unwrap();
        } else {
            sender.set_unicast_hops_v6(ttl.into()).unwrap();
            sender.set_tclass_v6(traffic_class).unwrap();
        }
        let batch = Batch::new(1, 65536, &receiver);
        Self {
            socket,
            receiver,
            batch,
        }
    }

    /// Sends a request. Returns the reply and the kernel's data about it.
    pub fn ask(&mut self, request: &[u8]) -> (Vec<u8>, RecvMeta) {
        self.socket.send(request).unwrap();
        let receive = || self.batch.receive(&self.receiver, Wait::Block, 1);
        assert_eq!(uninterrupted(receive).unwrap(), 1);
        let meta = self.batch.meta(0);
        (self.batch.bytes(0).to_vec(), meta)
    }
}
