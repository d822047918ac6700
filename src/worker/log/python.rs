//! Values formatted like Python's `repr`, as in the reference server's log.

use std::fmt::{self, Write as _};

use crate::record::Record;

/// A record as the tuple that Python's `struct` unpacks: `(1, b'ab', 2, -3, 4, 1.5)`.
#[derive(Debug, Clone, Copy)]
pub struct PythonRecord<'a>(pub &'a Record);

impl fmt::Display for PythonRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record {
            id,
            tag,
            stamp,
            pair: [first, second],
            value,
        } = self.0;
        let (tag, value) = (PythonBytes(tag), PythonFloat((*value).into()));
        write!(f, "({id}, {tag}, {stamp}, {first}, {second}, {value})")
    }
}

/// Bytes formatted like Python's `repr`: `b'ab\x00'`.
#[derive(Debug, Clone, Copy)]
pub struct PythonBytes<'a>(pub &'a [u8]);

impl fmt::Display for PythonBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |byte| self.0.contains(&byte);
        let quote = if has(b'\'') && !has(b'"') { '"' } else { '\'' };
        write!(f, "b{quote}")?;
        for &byte in self.0 {
            match byte {
                // Python escapes only the enclosing quote.
                b'\'' | b'"' if char::from(byte) != quote => f.write_char(byte.into())?,
                _ => write!(f, "{}", byte.escape_ascii())?,
            }
        }
        f.write_char(quote)
    }
}

/// A number formatted like Python's `repr`: with the fewest digits that identify it.
struct PythonFloat(f64);

impl fmt::Display for PythonFloat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = *self;
        if value.is_nan() {
            return f.write_str("nan");
        }
        let shortest = format!("{value:e}");
        let Some((digits, exponent)) = shortest.split_once('e') else {
            // Infinity has no exponent.
            return f.write_str(&shortest);
        };
        let exponent: i32 = exponent.parse().map_err(|_| fmt::Error)?;
        let fraction = digits.split_once('.').map_or(0, |(_, digits)| digits.len());
        // If two shortest numbers are equally near, Python takes the even one. Rust does so with a
        // given number of digits, but near a power of two the result can be another number.
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
    use super::*;

    #[test]
    fn record_is_shown_as_the_tuple_of_its_fields() {
        let record = Record {
            id: 0x0102_0304,
            tag: *b"ab",
            stamp: 0x0506_0708_090a_0b0c,
            pair: [-2, 32767],
            value: 1.5,
        };
        assert_eq!(
            PythonRecord(&record).to_string(),
            "(16909060, b'ab', 361984551142689548, -2, 32767, 1.5)"
        );
    }
}
