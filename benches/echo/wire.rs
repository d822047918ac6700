//! What goes over the wire, and what both ends must agree on.

/// The receive buffer that every server asks for, in bytes: the one of the packaged service.
pub const RECEIVE_BUFFER: i32 = 4 << 20;

/// The first byte of a datagram that is to come back.
pub const REQUEST: u8 = b'E';

/// A record as the exchange mode decodes it. Its first byte tells plain loops that it is one.
pub const RECORD: &[u8; 22] = b"R\0\0\0ab\0\0\0\0\0\0\0\x02\xff\xfd\0\x04\x3f\xc0\0\0";

/// How many bytes of a request say which it is; the rest is padding.
pub const HEADER: usize = 16;

/// The first bytes of a request: which of a flow's places in flight it takes, and how many had
/// taken it before.
pub fn request(place: u32, sequence: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[0] = REQUEST;
    bytes[4..8].copy_from_slice(&place.to_le_bytes());
    bytes[8..].copy_from_slice(&sequence.to_le_bytes());
    bytes
}

/// The place and the sequence of a reply, if it is one to [`request`].
pub fn reply(bytes: [u8; HEADER]) -> Option<(usize, u64)> {
    let [kind, _, _, _, p0, p1, p2, p3, sequence @ ..] = bytes;
    let place = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
    (kind == REQUEST).then_some((place, u64::from_le_bytes(sequence)))
}
