//! The options of STAMP mode.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::PossibleValue;
use clap::{ValueEnum, ValueHint};

use super::dscp::dscp;
use super::in_force::{list, maybe, name, time};
use super::values::{duration, path, size};
use crate::reflect::Timeout;
use crate::reflect::stamp::{DscpSet, ReplyDscp, StampKeys, StampSequence, StampSettings};
use crate::worker::StampClock;

/// The default of `--listen` in STAMP mode: `twamp-test`, the port of STAMP (RFC 8545, RFC 8762).
pub(super) const LISTEN: &str = "localhost:862";

/// The default of `--max-datagram` in STAMP mode: a reply is as long as its request.
pub(super) const MAX_DATAGRAM: u16 = 65507;

/// The options of STAMP mode. Other modes ignore them.
#[expect(clippy::doc_markdown, reason = "help texts have no backticks")]
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "STAMP options")]
pub struct StampArgs {
    /// Numbering of replies
    ///
    /// Sequence numbers of STAMP replies. With a counter of its own for each session, a sender can
    /// tell loss on the way there from loss on the way back. A session is a sender's address and
    /// port, the address that it sends to, and the SSID. --max-peers limits the sessions.
    #[arg(long, value_enum, value_name = "HOW", default_value = "stateful")]
    pub stamp_sequence: StampSequence,

    /// End sessions idle this long
    ///
    /// End a STAMP session that was idle for this long: seconds (900) or a time with a unit (15m).
    /// Its next reply has number 0. A session whose sender starts again at 0 starts again, too.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = session_timeout,
        default_value = "15m"
    )]
    pub stamp_session_timeout: Timeout,

    /// Refuse shorter requests
    ///
    /// Refuse STAMP requests shorter than this, 14 to 65507 bytes. The reply to a request of 14 to
    /// 43 bytes has 44 bytes. With 44, no reply is longer than its request.
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = size(14..=65507),
        default_value = "14"
    )]
    pub stamp_min_request: u16,

    /// Key file [default: none]
    ///
    /// Answer only STAMP requests with a valid HMAC. The file has one SSID KEY per line: the SSID
    /// in decimal, in hexadecimal with 0x, or * for every other SSID; the key of 16 to 64 bytes in
    /// hexadecimal. A # starts a comment. The file is refused if other users have any permission on
    /// it or if its group may write it. A file of LoadCredential= is accepted.
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        value_parser = path
    )]
    pub stamp_key_file: Option<PathBuf>,

    /// Clock error to report
    ///
    /// Error estimate of the clock in STAMP replies: auto for the kernel's state of the clock, none
    /// for "not synchronized", or the largest error of a synchronized clock: seconds (0.001) or a
    /// time with a unit (1ms).
    #[arg(
        long,
        value_name = "SOURCE",
        value_parser = clock,
        default_value = "auto"
    )]
    pub stamp_clock: StampClock,

    /// DSCP of replies
    ///
    /// DSCP of STAMP replies: copy for the DSCP of the request, 0 to 63, or a name such as EF.
    #[arg(
        long,
        value_name = "DSCP",
        value_parser = reply_dscp,
        default_value = "copy"
    )]
    pub stamp_dscp: ReplyDscp,

    /// DSCPs to allow on request [default: none]
    ///
    /// DSCPs that the Class of Service TLV of a STAMP request may choose for the reply, besides the
    /// DSCP of the request: numbers from 0 to 63, names such as EF, AF11 or CS6, and ranges such as
    /// 10-14, separated by commas.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = dscp_range
    )]
    pub stamp_allow_dscp: Vec<DscpRange>,
}

/// The first and the last DSCP of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DscpRange(u8, u8);

impl StampArgs {
    /// The settings with the keys of the key file.
    pub(super) fn settings(&self, keys: Option<Arc<StampKeys>>) -> StampSettings {
        let mut allowed_dscp = DscpSet::default();
        for DscpRange(first, last) in &self.stamp_allow_dscp {
            (*first..=*last).for_each(|dscp| allowed_dscp.insert(dscp));
        }
        StampSettings {
            sequence: self.stamp_sequence,
            session_timeout: self.stamp_session_timeout,
            min_request: self.stamp_min_request.into(),
            keys,
            dscp: self.stamp_dscp,
            allowed_dscp,
        }
    }

    /// The options with their values in force, in the order of `--help`.
    pub(super) fn in_force(&self) -> [(&'static str, String); 7] {
        let key_file = self.stamp_key_file.as_ref();
        let clock = match self.stamp_clock {
            StampClock::Kernel => "auto".to_owned(),
            StampClock::NotSynchronized => "none".to_owned(),
            StampClock::Error(error) => time(error),
        };
        let dscp = match self.stamp_dscp {
            ReplyDscp::Copy => "copy".to_owned(),
            ReplyDscp::Fixed(dscp) => dscp.to_string(),
        };
        let allowed = self.stamp_allow_dscp.iter().map(ToString::to_string);
        [
            ("STAMP_SEQUENCE", name(&self.stamp_sequence)),
            (
                "STAMP_SESSION_TIMEOUT",
                time(self.stamp_session_timeout.get()),
            ),
            ("STAMP_MIN_REQUEST", self.stamp_min_request.to_string()),
            ("STAMP_KEY_FILE", maybe(key_file.map(|file| file.display()))),
            ("STAMP_CLOCK", clock),
            ("STAMP_DSCP", dscp),
            ("STAMP_ALLOW_DSCP", list(allowed)),
        ]
    }
}

impl ValueEnum for StampSequence {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Stateful, Self::Stateless]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::Stateful => ("stateful", "A counter from 0 for each session"),
            Self::Stateless => ("stateless", "The number of each request"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

fn session_timeout(text: &str) -> Result<Timeout, &'static str> {
    duration(text)
        .and_then(Timeout::new)
        .ok_or("expected seconds (900), more than 0, or a time with a unit (15m)")
}

fn clock(text: &str) -> Result<StampClock, &'static str> {
    match text {
        "auto" => Ok(StampClock::Kernel),
        "none" => Ok(StampClock::NotSynchronized),
        text => duration(text)
            .map(StampClock::Error)
            .ok_or("expected auto, none, seconds (0.001) or a time with a unit (1ms)"),
    }
}

fn reply_dscp(text: &str) -> Result<ReplyDscp, &'static str> {
    match text {
        "copy" => Ok(ReplyDscp::Copy),
        text => dscp(text)
            .map(ReplyDscp::Fixed)
            .map_err(|_| "expected copy, 0 to 63, or a name such as EF"),
    }
}

/// A DSCP, or a range of them. Spaces may follow the commas of a list.
fn dscp_range(text: &str) -> Result<DscpRange, &'static str> {
    let text = text.trim();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (dscp(first), dscp(last)) {
        (Ok(first), Ok(last)) if first <= last => Ok(DscpRange(first, last)),
        _ => Err("expected 0 to 63, a name such as EF or AF11, or a range such as 10-14"),
    }
}

impl fmt::Display for DscpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(first, last) if first == last => write!(f, "{first}"),
            Self(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dscps_are_numbers_names_or_ranges() {
        for (text, range) in [
            ("46", Some((46, 46))),
            ("EF", Some((46, 46))),
            (" af11", Some((10, 10))),
            ("10-14", Some((10, 14))),
            ("cs6-cs7", Some((48, 56))),
            ("64", None),
            ("14-10", None),
            ("-1", None),
            ("", None),
            ("ef-", None),
        ] {
            let range = range.map(|(first, last)| DscpRange(first, last));
            assert_eq!(dscp_range(text).ok(), range, "{text}");
        }
        assert_eq!(reply_dscp("copy"), Ok(ReplyDscp::Copy));
        assert_eq!(reply_dscp("0"), Ok(ReplyDscp::Fixed(0)));
    }

    #[test]
    fn clock_is_auto_none_or_an_error() {
        let millisecond = StampClock::Error(Duration::from_millis(1));
        for (text, expected) in [
            ("auto", Some(StampClock::Kernel)),
            ("none", Some(StampClock::NotSynchronized)),
            ("1ms", Some(millisecond)),
            ("0.001", Some(millisecond)),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(clock(text).ok(), expected, "{text}");
        }
    }
}
