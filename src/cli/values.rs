//! Values of options: their types, and how they are read.

use std::ffi::OsStr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use clap::{Arg, Command, ValueEnum};

use crate::address::{HostPort, ParseError};
use crate::reflect::{End, Mode, Rate, Timeout};

/// A timeout, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaybeTimeout(pub Option<Timeout>);

/// How many threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One for each CPU that the process may use.
    Auto,
    /// So many.
    Number(NonZeroU32),
}

/// Whether the kernel may hand over and take bursts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Offload {
    /// Where the kernel can, and where no datagram can end the daemon
    Auto,
    /// One datagram at a time
    Off,
}

/// Where to serve HTTP, if at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsListen(pub Option<HostPort>);

/// How to log, as the command line has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// The journal if standard error leads there, else text
    Auto,
    /// Native entries in the systemd journal
    Journald,
    /// Lines of text on standard error
    Text,
    /// Lines of JSON on standard error
    Json,
}

impl Workers {
    /// The number, at most this many.
    const MOST: u32 = 1024;

    /// How many threads that is on this machine.
    pub fn number(self) -> usize {
        match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, usize::from),
            Self::Number(number) => number.get() as usize,
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

impl FromStr for MetricsListen {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(None)),
            address => address.parse().map(Some).map(Self),
        }
    }
}

impl ValueEnum for Mode {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Exchange => "Per peer: a datagram is echoed, the next is a record and is decoded",
            Self::Lockstep => {
                "The original recipe's loop: one exchange for the whole socket, whoever sends"
            }
            Self::Echo => "RFC 862: every datagram is echoed",
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
            Self::Timeout => ("timeout", "No datagram for the whole timeout; status 0"),
            Self::Empty => (
                "empty",
                "An empty datagram where one to echo was due; status 0",
            ),
            Self::DecodeError => ("decode-error", "A record of less than 22 bytes; status 1"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

/// Parses one of a list, where a space may follow the comma.
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

/// Seconds, or a number with a unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
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
        .ok_or("expected more than 0 seconds (5, 0.25), a time with a unit (250ms, 1m), or none")
}

pub(super) fn busy_poll(text: &str) -> Result<Duration, &'static str> {
    duration(text).ok_or("expected seconds (0, 0.001) or a time with a unit (50us, 1ms)")
}

pub(super) fn rate(text: &str) -> Result<Rate, String> {
    text.parse()
        .ok()
        .and_then(Rate::new)
        .ok_or_else(|| format!("expected 1 to {} datagrams a second", Rate::MOST))
}

/// `setsockopt` takes an `int`, of which the kernel makes twice as much.
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
    fn durations_are_seconds_or_have_a_unit() {
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
    fn buffer_sizes_have_binary_and_decimal_units() {
        for (text, bytes) in [("4MiB", 4 << 20), ("4194304", 4 << 20), ("64K", 64000)] {
            assert_eq!(buffer_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["0", "-1", "2GiB", "many", ""] {
            assert!(buffer_size(wrong).is_err(), "{wrong}");
        }
    }
}
