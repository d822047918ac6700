//! Values of options: types and parsers.

use std::ffi::OsStr;
use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use clap::{Arg, Command, ValueEnum};

use crate::address::{HostPort, ParseError};
use crate::reflect::{End, Mode, Rate, Timeout};
use crate::telemetry;
use crate::udp::BufferSize;

/// The timeout; `None` waits forever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaybeTimeout(pub Option<Timeout>);

/// Worker threads per address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One per CPU that the process may use.
    Auto,
    /// This many.
    Number(NonZeroU32),
}

/// Whether to use UDP GRO and GSO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Offload {
    /// Where the kernel supports them
    Auto,
    /// Never
    Off,
}

/// The HTTP address; `None` disables HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsListen(pub Option<HostPort>);

/// The log format as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// journald if standard error is the journal, else text
    Auto,
    /// Native entries in the systemd journal
    Journald,
    /// Lines of text on standard error
    Text,
    /// Lines of JSON on standard error
    Json,
}

impl Workers {
    const MOST: u32 = 1024;

    /// The number of threads on this machine.
    pub fn number(self) -> usize {
        match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, usize::from),
            Self::Number(number) => number.get() as usize,
        }
    }
}

impl LogFormat {
    pub(super) fn chosen(self) -> Option<telemetry::Format> {
        match self {
            Self::Auto => None,
            Self::Journald => Some(telemetry::Format::Journald),
            Self::Text => Some(telemetry::Format::Text),
            Self::Json => Some(telemetry::Format::Json),
        }
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse::<NonZeroU32>()
            .ok()
            .filter(|number| number.get() <= Self::MOST)
            .map(Self::Number)
            .ok_or_else(|| format!("expected 1 to {} or auto", Self::MOST))
    }
}

/// Returns the parser of the HTTP address. `port` is that of the example in its error.
pub(super) fn metrics_listen(
    port: u16,
) -> impl Fn(&str) -> Result<MetricsListen, String> + Clone + Send + Sync + 'static {
    move |text| {
        if text == "none" {
            return Ok(MetricsListen(None));
        }
        let address = text.parse().map(Some).map(MetricsListen);
        address.map_err(|error| match error {
            ParseError::NoPort => {
                let port = text.parse().unwrap_or(port);
                format!("expected HOST:PORT, such as 127.0.0.1:{port}, or none")
            }
            error => error.to_string(),
        })
    }
}

impl ValueEnum for Mode {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Exchange => "Per peer: echo a datagram, decode the next one as a record",
            Self::Lockstep => "One exchange for all peers together, as in the reference server",
            Self::Echo => "Echo every datagram (RFC 862)",
            Self::Stamp => "Answer STAMP and TWAMP-Light requests (RFC 8762)",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

impl ValueEnum for End {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Timeout, Self::Empty, Self::DecodeError]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::Timeout => (
                "timeout",
                "No datagram arrived for the whole --timeout; status 0",
            ),
            Self::Empty => (
                "empty",
                "An empty datagram arrived in place of one to echo; status 0",
            ),
            Self::DecodeError => (
                "decode-error",
                "A record was shorter than 22 bytes; status 1",
            ),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

/// Parses an item of a list, in which spaces may follow the commas.
#[derive(Debug, Clone)]
pub(super) struct Trimmed<E: ValueEnum + Clone + Send + Sync + 'static>(EnumValueParser<E>);

impl<E: ValueEnum + Clone + Send + Sync + 'static> Trimmed<E> {
    pub(super) fn new() -> Self {
        Self(EnumValueParser::new())
    }
}

impl<E: ValueEnum + Clone + Send + Sync + 'static> TypedValueParser for Trimmed<E> {
    type Value = E;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<E, clap::Error> {
        let trimmed = value.to_str().map_or(value, |text| text.trim().as_ref());
        self.0.parse_ref(command, argument, trimmed)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}

/// Returns the parser of a whole number in `range`. The errors of clap's own parser are those of
/// Rust: "invalid digit found in string".
pub(crate) fn number<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        text.parse()
            .ok()
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| match (range.start(), range.end()) {
                (least, &u64::MAX) => format!("expected a whole number, at least {least}"),
                (least, most) => format!("expected a whole number, {least} to {most}"),
            })
    }
}

/// Returns the parser of a size in bytes in `range`, with or without a unit.
pub(crate) fn size(
    range: RangeInclusive<u16>,
) -> impl Fn(&str) -> Result<u16, String> + Clone + Send + Sync + 'static {
    move |text| {
        let bytes = match text.parse() {
            Ok(bytes) => Some(bytes),
            // Without a unit, a fraction is no size.
            Err(_) if text.ends_with(|last: char| last.is_ascii_alphabetic()) => {
                text.parse::<ByteSize>().ok().map(|size| size.as_u64())
            }
            Err(_) => None,
        };
        bytes
            .and_then(|bytes| u16::try_from(bytes).ok())
            .filter(|bytes| range.contains(bytes))
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                format!("expected {least} to {most} bytes, or a size with a unit (1KiB)")
            })
    }
}

/// Parses the path of a file. As in all options and variables, only UTF-8 is accepted.
pub(super) fn path(text: &str) -> Result<PathBuf, &'static str> {
    if text.is_empty() {
        return Err("expected the path of a file");
    }
    Ok(text.into())
}

/// Parses seconds, or numbers with units.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if text.starts_with('-') {
        return None;
    }
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    }
}

pub(super) fn timeout(text: &str) -> Result<MaybeTimeout, &'static str> {
    if text == "none" {
        return Ok(MaybeTimeout(None));
    }
    duration(text)
        .and_then(Timeout::new)
        .map(|timeout| MaybeTimeout(Some(timeout)))
        .ok_or(
            "expected seconds (5, 0.25), more than 0, or a time with a unit (250ms, 1m), or none",
        )
}

pub(super) fn busy_poll(text: &str) -> Result<Duration, &'static str> {
    duration(text).ok_or("expected seconds (0, 0.001) or a time with a unit (50us, 1ms)")
}

pub(super) fn rate(text: &str) -> Result<Rate, String> {
    text.parse()
        .ok()
        .and_then(Rate::new)
        .ok_or_else(|| format!("expected 1 to {} datagrams per second", Rate::MOST))
}

/// A buffer size, or auto.
pub(super) fn receive_buffer(text: &str) -> Result<BufferSize, String> {
    if text == "auto" {
        return Ok(BufferSize::Auto);
    }
    let size = buffer_size(text).map(BufferSize::Bytes);
    size.map_err(|expected| format!("{expected}, or auto"))
}

/// In lockstep mode, auto keeps the kernel's default, as the reference server does.
pub(super) fn receive_buffer_in(mode: Mode, size: BufferSize) -> BufferSize {
    match size {
        BufferSize::Auto if mode == Mode::Lockstep => BufferSize::Default,
        size => size,
    }
}

/// `setsockopt` takes an `int`, and the kernel doubles it.
pub(super) fn buffer_size(text: &str) -> Result<usize, String> {
    const MOST: usize = i32::MAX as usize / 2;
    text.parse::<ByteSize>()
        .ok()
        .and_then(|size| usize::try_from(size.as_u64()).ok())
        .filter(|size| (1..=MOST).contains(size))
        .ok_or_else(|| format!("expected 1 to {MOST} bytes, such as 4194304, 4096KiB or 4MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_have_units() {
        for (text, milliseconds) in [("5", 5000), ("0.25", 250), ("250ms", 250), ("1m 1s", 61000)] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for wrong in [
            "soon",
            "",
            "-1",
            "-0",
            "nan",
            "inf",
            "1e300",
            "5 parsecs",
            "0",
            "0ms",
        ] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
        assert_eq!(timeout("none"), Ok(MaybeTimeout(None)));
    }

    #[test]
    fn datagram_sizes_accept_units_within_their_range() {
        let parse = size(16..=65507);
        for (text, bytes) in [("16", 16), ("1KiB", 1024), ("1.5KiB", 1536), ("60k", 60000)] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in ["15", "65508", "64KiB", "16.5", "-1", "1e3", "KiB", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn buffer_sizes_accept_binary_and_decimal_units() {
        for (text, bytes) in [("4MiB", 4 << 20), ("4194304", 4 << 20), ("64K", 64000)] {
            assert_eq!(buffer_size(text), Ok(bytes), "{text}");
            let size = Ok(BufferSize::Bytes(bytes));
            assert_eq!(receive_buffer(text), size, "{text}");
        }
        for wrong in ["0", "-1", "2GiB", "many", ""] {
            assert!(buffer_size(wrong).is_err(), "{wrong}");
            assert!(receive_buffer(wrong).is_err(), "{wrong}");
        }
        assert_eq!(receive_buffer("auto"), Ok(BufferSize::Auto));
        assert!(buffer_size("auto").is_err());
    }
}
