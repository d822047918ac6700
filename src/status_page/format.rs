//! Numbers, sizes and times as the status page shows them.

use std::time::Duration;

use crate::monitor::buckets::Quantile;

/// Formats a rate: `0`, `3.3`, `12 346`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are neither negative nor too large"
)]
pub(super) fn shown(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 {
        format!("{rate:.1}")
    } else {
        grouped(rate.round() as u64)
    }
}

/// Formats a rate in bytes per second as bits per second: `832 bit/s`, `1.5 kbit/s`, `20 Mbit/s`.
pub(super) fn bit_rate(bytes: f64) -> String {
    let bits = bytes * 8.0;
    let (unit, name) = match bits {
        ..999.5 => return format!("{} bit/s", bits.round()),
        ..999_950.0 => (1e3, "kbit/s"),
        ..999_950_000.0 => (1e6, "Mbit/s"),
        _ => (1e9, "Gbit/s"),
    };
    let number = format!("{:.1}", bits / unit);
    format!("{} {name}", number.trim_end_matches(".0"))
}

/// Formats a size in bytes: `832 B`, `1.5 KiB`, `4 MiB`.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1024 => (1.0, "B"),
        1024..0x10_0000 => (1024.0, "KiB"),
        _ => (1_048_576.0, "MiB"),
    };
    let number = format!("{:.1}", bytes as f64 / unit);
    format!("{} {name}", number.trim_end_matches(".0"))
}

/// Formats a short time: `250 ns`, `1.5 ms`, `16 s`.
pub(super) fn short_time(seconds: f64) -> String {
    let (unit, name) = match seconds {
        ..999.5e-9 => (1e-9, "ns"),
        ..999.95e-6 => (1e-6, "µs"),
        ..999.95e-3 => (1e-3, "ms"),
        _ => (1.0, "s"),
    };
    let number = format!("{:.1}", seconds / unit);
    format!("{} {name}", number.trim_end_matches(".0"))
}

/// Formats an estimate with two digits: `150 µs`, `1.5 ms`, `> 10 s`.
pub(super) fn rough_time(seconds: f64) -> String {
    if seconds.is_infinite() {
        return format!("> {}", short_time(Quantile::MOST));
    }
    let digit = 10_f64.powf(seconds.abs().log10().floor() - 1.0);
    // No time has no digits.
    let rounded = if seconds == 0.0 {
        0.0
    } else {
        (seconds / digit).round() * digit
    };
    short_time(rounded)
}

/// Formats a number with spaces between its thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            // The narrow no-break space.
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Formats the time since an event: `now`, `5s ago`, `1h 3m ago`, `12days ago`.
pub(super) fn ago(since: Duration) -> String {
    let seconds = since.as_secs();
    if seconds == 0 {
        return "now".into();
    }
    let whole = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    let parts = if seconds < 86_400 { 2 } else { 1 };
    let parts: Vec<_> = whole.split(' ').take(parts).collect();
    parts.join(" ") + " ago"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_spaces_units_and_a_decimal_where_small() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1 000"),
            (1_234_567, "1 234 567"),
        ] {
            assert_eq!(grouped(number).replace('\u{202f}', " "), text);
        }
        for (rate, text) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (3.26, "3.3"),
            (9.96, "10"),
            (12345.6, "12 346"),
        ] {
            assert_eq!(shown(rate).replace('\u{202f}', " "), text);
        }
        for (bytes, text) in [
            (0, "0 B"),
            (832, "832 B"),
            (1664, "1.6 KiB"),
            (212_992, "208 KiB"),
            (4 << 20, "4 MiB"),
            (5 << 30, "5120 MiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (bytes, text) in [
            (0.0, "0 bit/s"),
            (0.5, "4 bit/s"),
            (124.9, "999 bit/s"),
            (125.0, "1 kbit/s"),
            (12_500.0, "100 kbit/s"),
            (124_999.0, "1 Mbit/s"),
            (190_000.0, "1.5 Mbit/s"),
            (150e6, "1.2 Gbit/s"),
        ] {
            assert_eq!(bit_rate(bytes), text);
        }
    }

    #[test]
    fn short_times_have_a_unit_and_a_decimal() {
        for (seconds, text) in [
            (2.3e-10, "0.2 ns"),
            (5e-8, "50 ns"),
            (1e-6, "1 µs"),
            (0.000_25, "250 µs"),
            (0.001_54, "1.5 ms"),
            (0.999_96, "1 s"),
            (16.0, "16 s"),
        ] {
            assert_eq!(short_time(seconds), text);
        }
    }

    #[test]
    fn estimates_have_two_digits() {
        for (seconds, text) in [
            (0.0, "0 ns"),
            (0.000_001_54, "1.5 µs"),
            (0.000_149_6, "150 µs"),
            (0.000_996, "1 ms"),
            (0.001_54, "1.5 ms"),
            (0.015_4, "15 ms"),
            (0.154, "150 ms"),
            (1.54, "1.5 s"),
            (10.0, "10 s"),
            (f64::INFINITY, "> 10 s"),
        ] {
            assert_eq!(rough_time(seconds), text);
        }
    }

    #[test]
    fn time_since_an_event_has_one_or_two_units() {
        for (milliseconds, text) in [
            (999, "now"),
            (1999, "1s ago"),
            (63_000, "1m 3s ago"),
            (3_600_000, "1h ago"),
            (7_265_000, "2h 1m ago"),
            (3 * 86_400_000 + 7_265_000, "3days ago"),
        ] {
            assert_eq!(ago(Duration::from_millis(milliseconds)), text);
        }
    }
}
