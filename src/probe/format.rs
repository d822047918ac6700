//! Numbers and times in the output.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

/// Returns the number with its noun, in the plural except for 1.
pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A time in milliseconds with three decimals, without its unit.
pub(super) struct Milliseconds(pub Duration);

impl Display for Milliseconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0.as_secs_f64() * 1e3)
    }
}

/// A setting such as `1.5 ms` or `60 s`, exact to the nanosecond.
pub(super) struct Time(pub Duration);

impl Display for Time {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 104 days")]
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos() as f64;
        if nanoseconds < 1e9 {
            write!(f, "{} ms", nanoseconds / 1e6)
        } else {
            write!(f, "{} s", nanoseconds / 1e9)
        }
    }
}

/// A time in seconds with at most two decimals, without its unit.
pub(super) struct Seconds(pub Duration);

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", (self.0.as_secs_f64() * 1e2).round() / 1e2)
    }
}

/// Breaks lines of more than this many columns at spaces. A continued line is indented by two.
pub(super) fn wrapped(text: &str, columns: usize) -> String {
    let width = |text: &str| text.chars().count();
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        if width(line) <= columns {
            out.push_str(line);
            continue;
        }
        let words = line.trim_start();
        let indent = width(line) - width(words);
        let mut column = 0;
        for word in words.split(' ') {
            if column == 0 {
                out.push_str(&" ".repeat(indent));
                column = indent;
            } else if column + 1 + width(word) <= columns {
                out.push(' ');
                column += 1;
            } else {
                out.push('\n');
                out.push_str(&" ".repeat(indent + 2));
                column = indent + 2;
            }
            out.push_str(word);
            column += width(word);
        }
    }
    out
}

/// The percentage that the first number is of the second, with at most two decimals. Only none is
/// `0%`, and only all is `100%`.
pub(crate) struct Percent(pub u64, pub u64);

impl Display for Percent {
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(part, whole) = *self;
        let percent = part as f64 * 1e2 / whole.max(1) as f64;
        if part > 0 && percent < 0.01 {
            write!(f, "<0.01%")
        } else if part < whole {
            write!(f, "{}%", (percent * 1e2).round().min(9999.0) / 1e2)
        } else {
            write!(f, "{percent}%")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_two_decimals_at_most() {
        for (part, whole, text) in [
            (0, 0, "0%"),
            (0, 7, "0%"),
            (1, 10_001, "<0.01%"),
            (1, 10_000, "0.01%"),
            (99, 10_000, "0.99%"),
            (256, 1000, "25.6%"),
            (1, 3, "33.33%"),
            (99_999, 100_000, "99.99%"),
            (7, 7, "100%"),
        ] {
            assert_eq!(Percent(part, whole).to_string(), text);
        }
    }

    #[test]
    fn long_lines_are_broken_at_spaces_and_indented() {
        let text = "short  line\n  a long line of words\nunbreakable-word";
        let expected = "short  line\n  a long\n    line of\n    words\nunbreakable-word";
        assert_eq!(wrapped(text, 11), expected);
        for (text, columns, expected) in [
            ("aa bb", 5, "aa bb"),
            ("aa bb", 4, "aa\n  bb"),
            ("a b c d", 5, "a b c\n  d"),
            ("aaa bb c", 5, "aaa\n  bb\n  c"),
        ] {
            assert_eq!(wrapped(text, columns), expected);
        }
    }

    #[test]
    fn seconds_have_two_decimals_at_most() {
        for (milliseconds, text) in [(0, "0"), (10_000, "10"), (1546, "1.55"), (96, "0.1")] {
            let time = Duration::from_millis(milliseconds);
            assert_eq!(Seconds(time).to_string(), text);
        }
    }

    #[test]
    fn nouns_are_plural_except_for_one() {
        let shown = [0, 1, 2].map(|number| counted(number, "record"));
        assert_eq!(shown, ["0 records", "1 record", "2 records"]);
    }

    #[test]
    fn milliseconds_have_three_decimals() {
        for (nanoseconds, text) in [
            (0, "0.000"),
            (1_234_567, "1.235"),
            (90_500_000_000, "90500.000"),
        ] {
            assert_eq!(
                Milliseconds(Duration::from_nanos(nanoseconds)).to_string(),
                text
            );
        }
    }

    #[test]
    fn times_have_a_unit_and_no_trailing_zeros() {
        for (nanoseconds, text) in [
            (1_500_000, "1.5 ms"),
            (7_000_000, "7 ms"),
            (1, "0.000001 ms"),
            (1_000_000_000, "1 s"),
            (90_500_000_000, "90.5 s"),
        ] {
            assert_eq!(Time(Duration::from_nanos(nanoseconds)).to_string(), text);
        }
    }
}
