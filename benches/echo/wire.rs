//! The wire format, and the receive buffer of all servers.

/// The receive buffer that every server requests, in bytes, like the packaged service.
pub const RECEIVE_BUFFER: i32 = 4 << 20;

/// The first byte of a request, which the server echoes.
pub const REQUEST: u8 = b'E';

/// A record for the exchange mode. Plain loops know it by its first byte.
pub const RECORD: &[u8; 22] = b"R\0\0\0ab\0\0\0\0\0\0\0\x02\xff\xfd\0\x04\x3f\xc0\0\0";

/// The length of a request's header in bytes; the rest is padding.
pub const HEADER: usize = 16;

/// The offset at which a reply of STAMP has the header of its request: the sequence number, T1 and
/// the error estimate of the sender.
pub const IN_STAMP_REPLY: usize = 24;

/// The header of a request: its place among a flow's datagrams in flight, and the sequence number
/// in this place. For STAMP, the first 4 bytes are the sequence number `number` of the flow.
pub fn request(place: u32, sequence: u64, number: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&(number as u32).to_be_bytes());
    bytes[0] = REQUEST;
    bytes[4..8].copy_from_slice(&place.to_le_bytes());
    bytes[8..].copy_from_slice(&sequence.to_le_bytes());
    bytes
}

/// The place and the sequence number of a reply to a [`request`].
pub fn reply(bytes: [u8; HEADER]) -> Option<(usize, u64)> {
    let [kind, _, _, _, p0, p1, p2, p3, sequence @ ..] = bytes;
    let place = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
    (kind == REQUEST).then_some((place, u64::from_le_bytes(sequence)))
}
