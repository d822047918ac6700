//! The client's options of STAMP mode.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ValueEnum, ValueHint};

use super::values::REQUEST_SIZE;
use super::{ProbeArgs, mistakes};
use crate::cli::dscp::dscp;
use crate::cli::key_file::{self, UnusableKeyFile};
use crate::cli::values::path;
use crate::daemon::Given;
use crate::probe::stamp::{Padding, StampRequests};
use crate::probe::wire::HEADER_BYTES;
use crate::reflect::Mode;
use crate::reflect::stamp::{HmacKey, StampKeys};

/// The port of a STAMP reflector (RFC 8545).
pub(in crate::cli) const PORT: u16 = 862;

/// The options of STAMP mode.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "STAMP options")]
pub(super) struct ProbeStampArgs {
    /// Session identifier [default: 0]
    ///
    /// STAMP session identifier (SSID) of the requests: 0 to 65535, or in hexadecimal with 0x. All
    /// flows have the same.
    #[arg(long, value_name = "N", value_parser = ssid)]
    pub(super) ssid: Option<u16>,

    /// DSCP to ask the reflector for [default: none]
    ///
    /// Ask the reflector to send its replies with this DSCP, by a Class of Service TLV: 0 to 63, or
    /// a name such as EF. The reply says which DSCP the request arrived with.
    #[arg(long, value_name = "DSCP", value_parser = dscp)]
    pub(super) cos: Option<u8>,

    /// Key file of authenticated mode [default: none]
    ///
    /// Send authenticated requests and verify the replies. The file has one SSID KEY per line, as
    /// that of the daemon: see --stamp-key-file in udp-echo(8).
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        value_parser = path
    )]
    pub(super) key_file: Option<PathBuf>,

    /// Content of the padding [default: zero]
    ///
    /// Content of requests up to --size.
    #[arg(long, value_enum, value_name = "CONTENT")]
    pub(super) padding: Option<Padding>,
}

impl ValueEnum for Padding {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Zero, Self::Random, Self::Plain]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        let (name, help) = match self {
            Self::Zero => ("zero", "An Extra Padding TLV of zeros"),
            Self::Random => ("random", "An Extra Padding TLV of random bytes"),
            Self::Plain => (
                "plain",
                "Zeros without a TLV, as TWAMP-Light senders have them",
            ),
        };
        Some(clap::builder::PossibleValue::new(name).help(help))
    }
}

impl ProbeArgs {
    /// In STAMP mode, replaces the defaults of options that are not set. Rejects options of STAMP in
    /// other modes, and sizes that are not possible.
    pub(super) fn settle_stamp(&mut self, given: &Given) -> Result<(), clap::Error> {
        let usage = |message| Err(mistakes::of_probe(ErrorKind::ArgumentConflict, message));
        if self.mode != Mode::Stamp {
            let options = ["ssid", "cos", "key_file", "padding"];
            let mode = given.with("mode", self.mode.name());
            return match options.iter().find_map(|option| given.get(option)) {
                Some(option) => usage(format!(
                    "cannot use {option} with {mode}: it is for STAMP; add --mode stamp"
                )),
                None if usize::from(self.size) < HEADER_BYTES => usage(format!(
                    "cannot use {} with {mode}: {REQUEST_SIZE}",
                    given.with("size", &self.size.to_string())
                )),
                None => Ok(()),
            };
        }
        if let (Some(dscp), Some(Padding::Plain)) = (self.stamp.cos, self.stamp.padding) {
            return usage(format!(
                "cannot use {} with {}: padding after a TLV needs a header; use --padding zero",
                given.with("padding", "plain"),
                given.with("cos", &dscp.to_string()),
            ));
        }
        self.target.use_port(PORT);
        let requests = self.requests(None);
        if given.get("size").is_none() {
            let least = requests.least();
            self.size = u16::try_from(least).unwrap_or(u16::MAX);
        }
        let requests = self.requests(None);
        let size = given.with("size", &self.size.to_string());
        let without = [
            ("ssid", self.stamp.ssid.is_some()),
            (
                "padding",
                !matches!(self.stamp.padding, None | Some(Padding::Plain)),
            ),
        ];
        let without = without.iter().find(|(_, is_given)| *is_given);
        if let Some((option, _)) = without.filter(|_| requests.size < requests.base()) {
            let option = given.name_of(option);
            return usage(format!(
                "cannot use {option} with {size}: requests below {} bytes have none; remove one",
                requests.base()
            ));
        }
        let plain = self.stamp.cos.is_none().then_some("--padding plain");
        size_fault(&requests, plain)
            .map_or(Ok(()), |fault| usage(format!("cannot use {size}: {fault}")))
    }

    /// The requests of STAMP mode.
    ///
    /// # Errors
    /// If the key file cannot be used.
    pub(super) fn stamp_requests(&self) -> Result<Option<StampRequests>, UnusableKeyFile> {
        if self.mode != Mode::Stamp {
            return Ok(None);
        }
        let key = match &self.stamp.key_file {
            None => None,
            Some(file) => {
                let ssid = self.stamp.ssid.unwrap_or_default();
                Some(key_of(&key_file::read(file)?, file, ssid)?)
            }
        };
        Ok(Some(self.requests(key)))
    }

    fn requests(&self, key: Option<HmacKey>) -> StampRequests {
        let stamp = &self.stamp;
        StampRequests {
            size: self.size.into(),
            ssid: stamp.ssid.unwrap_or_default(),
            is_authenticated: stamp.key_file.is_some(),
            key,
            class_of_service: stamp.cos,
            padding: stamp.padding.unwrap_or_default(),
        }
    }
}

/// Says why requests cannot have their size. `without_header` is a setting that needs no header of
/// the padding.
pub(in crate::cli) fn size_fault(
    requests: &StampRequests,
    without_header: Option<&str>,
) -> Option<String> {
    let (least, other) = requests.check_size().err()?;
    let sizes = match without_header {
        _ if least == other => {
            return Some(format!("these requests have at least {least} bytes"));
        }
        Some(setting) => format!("{least}, at least {other}, or {setting}"),
        None => format!("{least} or at least {other}"),
    };
    Some(format!(
        "the header of the padding does not fit; use {sizes}"
    ))
}

/// The key of a session in the keys of a file.
///
/// # Errors
/// If the file has none for it.
pub(in crate::cli) fn key_of(
    keys: &StampKeys,
    file: &Path,
    ssid: u16,
) -> Result<HmacKey, UnusableKeyFile> {
    let key = keys.get(ssid).cloned();
    key.ok_or_else(|| UnusableKeyFile::NoKey(file.to_owned(), ssid))
}

pub(in crate::cli) fn ssid(text: &str) -> Result<u16, &'static str> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let digits = Some(digits).filter(|digits| !digits.starts_with('+'));
    digits
        .and_then(|digits| u16::from_str_radix(digits, radix).ok())
        .ok_or("expected 0 to 65535, or 0x0 to 0xffff")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssid_is_decimal_or_hexadecimal() {
        for (text, number) in [("0", 0), ("65535", 65535), ("0x1234", 0x1234)] {
            assert_eq!(ssid(text), Ok(number), "{text}");
        }
        for wrong in ["65536", "-1", "+1", "0x", "x", ""] {
            assert!(ssid(wrong).is_err(), "{wrong}");
        }
    }
}
