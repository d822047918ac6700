//! The record: 22 bytes in network byte order, without padding.
//!
//! The layout is the `struct` format `! I 2s Q 2h f` of Python, which the reference server decodes:
//!
//! | bytes | field | type |
//! |---|---|---|
//! | 0..4 | `id` | u32 |
//! | 4..6 | `tag` | 2 bytes |
//! | 6..14 | `stamp` | u64 |
//! | 14..16, 16..18 | `pair` | 2 × i16 |
//! | 18..22 | `value` | f32, IEEE 754 |
//!
//! The reference server gives the fields no meaning; the names only distinguish them.

/// One decoded record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Record {
    /// Bytes 0..4, `I`.
    pub id: u32,
    /// Bytes 4..6, `2s`.
    pub tag: [u8; 2],
    /// Bytes 6..14, `Q`.
    pub stamp: u64,
    /// Bytes 14..18, `2h`.
    pub pair: [i16; 2],
    /// Bytes 18..22, `f`. Every bit pattern is kept, NaNs too.
    pub value: f32,
}

/// The datagram is shorter than a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record has {} bytes, this datagram has {got}", Record::BYTES)]
pub struct TooShort {
    /// The length of the datagram, in bytes.
    pub got: usize,
}

impl Record {
    /// The size of a record on the wire, in bytes.
    pub const BYTES: usize = 22;

    /// Decodes the first 22 bytes and ignores the rest.
    ///
    /// # Errors
    /// [`TooShort`] if there are fewer than 22 bytes, and only then.
    pub fn decode(bytes: &[u8]) -> Result<Self, TooShort> {
        let short = TooShort { got: bytes.len() };
        let (id, rest) = bytes.split_first_chunk().ok_or(short)?;
        let (tag, rest) = rest.split_first_chunk().ok_or(short)?;
        let (stamp, rest) = rest.split_first_chunk().ok_or(short)?;
        let (first, rest) = rest.split_first_chunk().ok_or(short)?;
        let (second, rest) = rest.split_first_chunk().ok_or(short)?;
        let (value, _) = rest.split_first_chunk().ok_or(short)?;
        Ok(Self {
            id: u32::from_be_bytes(*id),
            tag: *tag,
            stamp: u64::from_be_bytes(*stamp),
            pair: [i16::from_be_bytes(*first), i16::from_be_bytes(*second)],
            value: f32::from_be_bytes(*value),
        })
    }

    /// Encodes the record for the wire.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.id.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.tag);
        bytes[6..14].copy_from_slice(&self.stamp.to_be_bytes());
        bytes[14..16].copy_from_slice(&self.pair[0].to_be_bytes());
        bytes[16..18].copy_from_slice(&self.pair[1].to_be_bytes());
        bytes[18..22].copy_from_slice(&self.value.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Python's `struct.pack('! I 2s Q 2h f', 0x01020304, b'ab', 0x05060708090a0b0c, -2, 32767, 1.5)`.
    const PACKED: [u8; 22] =
        *b"\x01\x02\x03\x04ab\x05\x06\x07\x08\x09\x0a\x0b\x0c\xff\xfe\x7f\xff\x3f\xc0\x00\x00";

    fn unpacked() -> Record {
        Record {
            id: 0x0102_0304,
            tag: *b"ab",
            stamp: 0x0506_0708_090a_0b0c,
            pair: [-2, 32767],
            value: 1.5,
        }
    }

    #[test]
    fn record_packed_by_python_decodes_and_encodes_back() {
        assert_eq!(Record::decode(&PACKED), Ok(unpacked()));
        assert_eq!(unpacked().encode(), PACKED);
    }

    proptest! {
        #[test]
        fn decode_accepts_any_bytes_and_keeps_every_bit(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            match Record::decode(&bytes) {
                Ok(record) => prop_assert_eq!(&record.encode()[..], &bytes[..22]),
                Err(short) => {
                    prop_assert!(bytes.len() < 22);
                    prop_assert_eq!(short.got, bytes.len());
                }
            }
        }
    }

    #[test]
    fn decode_handles_every_datagram_length() {
        let bytes = vec![0xff; 65507];
        for length in 0..=bytes.len() {
            assert_eq!(Record::decode(&bytes[..length]).is_ok(), length >= 22);
        }
    }
}
