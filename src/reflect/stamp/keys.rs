//! The keys of authenticated mode, and the text of a key file.

use std::collections::BTreeMap;
use std::fmt;

use super::hmac::HmacKey;

/// The keys by SSID.
#[derive(Debug, Clone)]
pub struct StampKeys {
    by_ssid: BTreeMap<u16, HmacKey>,
    /// The key of every other SSID.
    other: Option<HmacKey>,
}

/// A key file that cannot be used. Shows nothing of the line but its number: in a line with the
/// fields in the wrong order, any word can be the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// A line with an error.
    #[error("line {line}: {fault}")]
    Line {
        /// The number of the line, from 1.
        line: usize,
        /// The error.
        fault: KeyFault,
    },
    /// No line has a key.
    #[error("no key: write one `SSID KEY` per line")]
    NoKey,
}

/// The error of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFault {
    /// There are not two fields.
    Fields,
    /// The SSID is invalid.
    Ssid,
    /// The key has a character that is no hexadecimal digit.
    Digit,
    /// The key has a wrong length.
    Length,
    /// An earlier line has the SSID.
    Duplicate {
        /// The number of that line.
        first: usize,
    },
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields => f.write_str("expected two fields, SSID and KEY"),
            Self::Ssid => f.write_str("the SSID is not 0 to 65535, 0x0 to 0xffff or *"),
            Self::Digit => f.write_str("the key has a character that is not a hexadecimal digit"),
            Self::Length => {
                f.write_str("the key is not 16 to 64 bytes, which are 32 to 128 digits")
            }
            Self::Duplicate { first } => write!(f, "line {first} already has a key for this SSID"),
        }
    }
}

impl StampKeys {
    /// Parses the text of a key file: one `SSID KEY` per line, and comments from `#` to the end of
    /// a line. The SSID is decimal, hexadecimal with `0x`, or `*` for every SSID without a line.
    /// The key is 16 to 64 bytes in hexadecimal digits.
    ///
    /// # Errors
    /// The first line with an error, or that there is no key.
    pub fn parse(text: &[u8]) -> Result<Self, KeyFileError> {
        let mut seen = BTreeMap::new();
        let mut keys = Self {
            by_ssid: BTreeMap::new(),
            other: None,
        };
        for (line, text) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let at_line = |fault| KeyFileError::Line { line, fault };
            let Some((ssid, key)) = parse_line(text).map_err(at_line)? else {
                continue;
            };
            if let Some(first) = seen.insert(ssid, line) {
                return Err(at_line(KeyFault::Duplicate { first }));
            }
            match ssid {
                Some(ssid) => drop(keys.by_ssid.insert(ssid, key)),
                None => keys.other = Some(key),
            }
        }
        if seen.is_empty() {
            return Err(KeyFileError::NoKey);
        }
        Ok(keys)
    }

    /// The key for an SSID.
    pub fn get(&self, ssid: u16) -> Option<&HmacKey> {
        self.by_ssid.get(&ssid).or(self.other.as_ref())
    }
}

/// The SSID (`None` for `*`) and the key of a line; `None` if the line has none.
fn parse_line(line: &[u8]) -> Result<Option<(Option<u16>, HmacKey)>, KeyFault> {
    let end = line.iter().position(|byte| *byte == b'#');
    let line = &line[..end.unwrap_or(line.len())];
    let mut fields = line
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty());
    let Some(ssid) = fields.next() else {
        return Ok(None);
    };
    let key = fields.next().ok_or(KeyFault::Fields)?;
    if fields.next().is_some() {
        return Err(KeyFault::Fields);
    }
    let ssid = match ssid {
        b"*" => None,
        ssid => Some(parse_ssid(ssid).ok_or(KeyFault::Ssid)?),
    };
    Ok(Some((ssid, parse_key(key)?)))
}

fn parse_ssid(text: &[u8]) -> Option<u16> {
    let (digits, radix) = match text {
        [b'0', b'x' | b'X', digits @ ..] => (digits, 16),
        digits => (digits, 10),
    };
    // `from_ascii_radix` accepts a sign.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(str::from_utf8(digits).ok()?, radix).ok()
}

fn parse_key(text: &[u8]) -> Result<HmacKey, KeyFault> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    if text.iter().any(|byte| digit(byte).is_none()) {
        return Err(KeyFault::Digit);
    }
    if !text.len().is_multiple_of(2) || !(32..=128).contains(&text.len()) {
        return Err(KeyFault::Length);
    }
    let bytes = text.chunks(2).map(|pair| {
        let byte = pair
            .iter()
            .filter_map(digit)
            .fold(0, |byte, digit| byte << 4 | digit);
        u8::try_from(byte).unwrap_or_default()
    });
    HmacKey::new(&bytes.collect::<Vec<_>>()).ok_or(KeyFault::Length)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff";

    fn fault(text: &str) -> KeyFileError {
        StampKeys::parse(text.as_bytes()).unwrap_err()
    }

    fn at(line: usize, fault: KeyFault) -> KeyFileError {
        KeyFileError::Line { line, fault }
    }

    #[test]
    fn key_file_has_keys_by_ssid_and_one_for_the_rest() {
        let text = format!(
            "# keys\n\n 7\t{KEY} # seven\r\n0x1234 {KEY}{KEY}\n*  {}\n",
            "AA".repeat(64)
        );
        let keys = StampKeys::parse(text.as_bytes()).unwrap();
        let sign = |ssid| keys.get(ssid).unwrap().sign(&[b"x"]);
        let key = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes();
        assert_eq!(sign(7), HmacKey::new(&key).unwrap().sign(&[b"x"]));
        let double = [key, key].concat();
        assert_eq!(sign(0x1234), HmacKey::new(&double).unwrap().sign(&[b"x"]));
        let rest = HmacKey::new(&[0xaa; 64]).unwrap().sign(&[b"x"]);
        assert_eq!([sign(0), sign(65535)], [rest, rest]);
        let keys = StampKeys::parse(format!("65535 {KEY}").as_bytes()).unwrap();
        assert!(keys.get(65535).is_some() && keys.get(0).is_none());
    }

    #[test]
    fn key_file_error_names_line_and_cause() {
        assert_eq!(fault(""), KeyFileError::NoKey);
        assert_eq!(fault("# none\n"), KeyFileError::NoKey);
        let lines = |line: &str| fault(&format!("1 {KEY}\n{line}\n"));
        for (line, cause) in [
            ("7".to_owned(), KeyFault::Fields),
            (format!("7 {KEY} x"), KeyFault::Fields),
            (format!("65536 {KEY}"), KeyFault::Ssid),
            (format!("+7 {KEY}"), KeyFault::Ssid),
            (format!("0x {KEY}"), KeyFault::Ssid),
            (format!("ff {KEY}"), KeyFault::Ssid),
            (format!("{KEY} 7"), KeyFault::Ssid),
            (format!("7 {KEY}g0"), KeyFault::Digit),
            ("7 0011".to_owned(), KeyFault::Length),
            (format!("7 {KEY}0"), KeyFault::Length),
            (format!("7 {}", "00".repeat(65)), KeyFault::Length),
            (format!("0x1 {KEY}"), KeyFault::Duplicate { first: 1 }),
            (format!("*{KEY}"), KeyFault::Fields),
        ] {
            assert_eq!(lines(&line), at(2, cause), "{line}");
        }
        let twice = fault(&format!("* {KEY}\n\n* {KEY}"));
        assert_eq!(twice, at(3, KeyFault::Duplicate { first: 1 }));
        assert_eq!(
            twice.to_string(),
            "line 3: line 1 already has a key for this SSID"
        );
    }

    proptest! {
        #[test]
        fn key_file_parser_accepts_any_text_and_shows_no_key(
            parts in vec(
                prop_oneof![
                    select(vec!["1", "0x2", "*", " ", "\n", "#", "\t", KEY, "c0ffee", "x", "-"])
                        .prop_map(|part| part.as_bytes().to_vec()),
                    vec(any::<u8>(), 0..4),
                ],
                0..12,
            ),
        ) {
            match StampKeys::parse(&parts.concat()) {
                Ok(keys) => {
                    let shown = format!("{keys:?}");
                    prop_assert!(!shown.contains("c0ffee"));
                }
                Err(error) => {
                    let shown = format!("{error} {error:?}");
                    prop_assert!(!shown.contains("c0ffee") && !shown.contains("0011"));
                }
            }
        }
    }
}
