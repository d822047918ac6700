//! The record: 22 bytes in network byte order, without padding.
//!
//! The layout is Python's `struct` format `! I 2s Q 2h f`, as the original recipe
//! decodes it:
//!
//! | bytes | field | type |
//! |---|---|---|
//! | 0..4 | `id` | u32 |
//! | 4..6 | `tag` | 2 bytes |
//! | 6..14 | `stamp` | u64 |
//! | 14..16, 16..18 | `pair` | 2 × i16 |
//! | 18..22 | `value` | f32, IEEE 754 |
//!
//! The recipe gives the fields no meaning; their names here only tell them apart.

use std::fmt::{self, Write as _};

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
    /// Bytes 18..22, `f`. Every bit pattern is kept, those that are not a number too.
    pub value: f32,
}

/// Fewer bytes than a record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record has {} bytes, this datagram {got}", Record::BYTES)]
pub struct TooShort {
    /// How many bytes there were.
    pub got: usize,
}

impl Record {
    /// The size of a record on the wire, in bytes.
    pub const BYTES: usize = 22;

    /// Decodes the first 22 bytes; what follows them is not looked at.
    ///
    /// # Errors
    /// [`TooShort`] when there are fewer than 22 bytes, and only then.
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

    /// The record as it goes on the wire.
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

/// The tuple as the original recipe's log shows it: `(1, b'ab', 2, -3, 4, 1.5)`.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "({}, {}, {}, {}, {}, {})",
            self.id,
            PythonBytes(&self.tag),
            self.stamp,
            self.pair[0],
            self.pair[1],
            PythonFloat(self.value.into()),
        )
    }
}

/// Bytes as Python's `repr` has them, and so the recipe's log: `b'ab\x00'`.
#[derive(Debug, Clone, Copy)]
pub struct PythonBytes<'a>(pub &'a [u8]);

impl fmt::Display for PythonBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |byte| self.0.contains(&byte);
        let quote = if has(b'\'') && !has(b'"') { '"' } else { '\'' };
        write!(f, "b{quote}")?;
        for &byte in self.0 {
            match byte {
                // Only the quote that it stands in is escaped.
                b'\'' | b'"' if char::from(byte) != quote => f.write_char(byte.into())?,
                _ => write!(f, "{}", byte.escape_ascii())?,
            }
        }
        f.write_char(quote)
    }
}

/// A number as Python's `repr` has it: with the fewest digits that tell it from all others.
struct PythonFloat(f64);

impl fmt::Display for PythonFloat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = *self;
        if value.is_nan() {
            return f.write_str("nan");
        }
        let shortest = format!("{value:e}");
        let Some((digits, exponent)) = shortest.split_once('e') else {
            // It is infinite.
            return f.write_str(&shortest);
        };
        let exponent: i32 = exponent.parse().map_err(|_| fmt::Error)?;
        let fraction = digits.split_once('.').map_or(0, |(_, digits)| digits.len());
        // Where two of so many digits are as near to the number, Python takes the even one, as
        // Rust does when it is told how many. At a power of two that may be another number.
        let even = format!("{value:.fraction$e}");
        let digits = match even.split_once('e') {
            Some((digits, _)) if even.parse() == Ok(value) => digits,
            _ => digits,
        };
        if !(-4..16).contains(&exponent) {
            return write!(f, "{digits}e{exponent:+03}");
        }
        let (sign, digits) = match digits.strip_prefix('-') {
            Some(digits) => ("-", digits.replace('.', "")),
            None => ("", digits.replace('.', "")),
        };
        let Ok(last) = usize::try_from(exponent) else {
            let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
            return write!(f, "{sign}0.{zeros}{digits}");
        };
        let digits = format!("{digits:0<width$}", width = last + 2);
        let (whole, fraction) = digits.split_at(last + 1);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `struct.pack('! I 2s Q 2h f', 0x01020304, b'ab', 0x05060708090a0b0c, -2, 32767, 1.5)` gives.
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
    fn bytes_packed_by_python_decode_to_their_fields_and_back() {
        assert_eq!(Record::decode(&PACKED), Ok(unpacked()));
        assert_eq!(unpacked().encode(), PACKED);
    }

    #[test]
    fn the_display_is_the_tuple_of_the_recipes_log() {
        assert_eq!(
            unpacked().to_string(),
            "(16909060, b'ab', 361984551142689548, -2, 32767, 1.5)"
        );
    }

    proptest! {
        #[test]
        fn decoding_is_total_and_keeps_every_bit(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
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
    fn every_length_up_to_the_largest_datagram_is_handled() {
        let bytes = vec![0xff; 65507];
        for length in 0..=bytes.len() {
            assert_eq!(Record::decode(&bytes[..length]).is_ok(), length >= 22);
        }
    }
}
