//! Differentiated services code points (DSCP) on the command line.

/// Parses a differentiated services code point (RFC 2474): a number or a name.
pub(super) fn dscp(text: &str) -> Result<u8, &'static str> {
    const NAMES: [(&str, u8); 3] = [("EF", 46), ("LE", 1), ("VA", 44)];
    const EXPECTED: &str = "expected 0 to 63 or a name: CS0 to CS7, AF11 to AF43, EF, LE, VA";
    let text = text.to_ascii_uppercase();
    let named = NAMES.iter().find(|(name, _)| *name == text);
    let class = |prefix| {
        let digits = text.strip_prefix(prefix)?.as_bytes();
        Some(digits.iter().map(|digit| digit.wrapping_sub(b'0')))
    };
    let digits = |prefix| class(prefix).map(Iterator::collect::<Vec<_>>);
    match (named, digits("CS").as_deref(), digits("AF").as_deref()) {
        (Some((_, value)), _, _) => Ok(*value),
        (_, Some([class @ 0..=7]), _) => Ok(class * 8),
        (_, _, Some([class @ 1..=4, drop @ 1..=3])) => Ok(class * 8 + drop * 2),
        _ => whole(&text).filter(|value| *value <= 63).ok_or(EXPECTED),
    }
}

/// Parses a byte in decimal, or in hexadecimal after 0x.
pub(super) fn whole(text: &str) -> Option<u8> {
    let lower = text.to_ascii_lowercase();
    let (digits, base) = match lower.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (lower.as_str(), 10),
    };
    let digits = Some(digits).filter(|digits| !digits.starts_with('+'));
    digits.and_then(|digits| u8::from_str_radix(digits, base).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dscp_is_a_number_or_a_name_of_an_rfc() {
        for (text, value) in [
            ("0", 0),
            ("63", 63),
            ("0x2e", 46),
            ("EF", 46),
            ("ef", 46),
            ("CS0", 0),
            ("cs6", 48),
            ("AF11", 10),
            ("AF41", 34),
            ("AF43", 38),
            ("LE", 1),
            ("VA", 44),
        ] {
            assert_eq!(dscp(text), Ok(value), "{text}");
        }
        for wrong in [
            "64", "-1", "CS8", "CS", "AF14", "AF51", "AF01", "AF111", "BE", "",
        ] {
            assert!(dscp(wrong).is_err(), "{wrong}");
        }
    }
}
