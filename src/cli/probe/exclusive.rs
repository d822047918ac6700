//! Options of the client that exclude each other.

use clap::error::ErrorKind;

use super::ProbeArgs;
use crate::address::Family;
use crate::cli::mistakes;
use crate::daemon::Given;

/// Two options, by their fields, and the reason why they exclude each other.
const PAIRS: [(&str, &str, &str); 6] = [
    ("rate", "interval", "both set how often to send"),
    ("ipv4", "ipv6", "no address is of both families"),
    ("dscp", "tos", "both set the DSCP"),
    ("df", "path_mtu", "both set whether requests are fragmented"),
    ("json_lines", "json", "both set the form of the output"),
    (
        "json_lines",
        "quiet",
        "one prints each event, the other none",
    ),
];

impl ProbeArgs {
    /// Settles options that exclude each other: one on the command line overrides the variable of
    /// the other.
    ///
    /// # Errors
    /// If both are on the command line, or both in the environment.
    pub(in crate::cli) fn settle(&mut self, given: &Given) -> Result<(), clap::Error> {
        for (one, other, reason) in PAIRS {
            let set = |field| given.get(field).filter(|_| self.has_effect(field));
            let (Some(first), Some(second)) = (set(one), set(other)) else {
                continue;
            };
            let is_option = [first, second].map(|name| name.starts_with('-'));
            if is_option[0] == is_option[1] {
                return Err(mistakes::of_probe(
                    ErrorKind::ArgumentConflict,
                    format!("cannot use {first} with {second}: {reason}; remove one"),
                ));
            }
            self.unset(if is_option[0] { other } else { one });
        }
        self.check_source(given)?;
        self.settle_stamp(given)
    }

    /// Whether the field is more than a flag that is off.
    fn has_effect(&self, field: &str) -> bool {
        match field {
            "ipv4" => self.ipv4,
            "ipv6" => self.ipv6,
            "df" => self.df,
            "quiet" => self.quiet,
            "json" => self.json,
            "json_lines" => self.json_lines,
            _ => true,
        }
    }

    /// Undoes what a variable set. Without `--rate`, `--interval` is in force.
    fn unset(&mut self, field: &str) {
        match field {
            "rate" => self.rate = None,
            "ipv4" => self.ipv4 = false,
            "ipv6" => self.ipv6 = false,
            "dscp" => self.dscp = None,
            "df" => self.df = false,
            "quiet" => self.quiet = false,
            "json" => self.json = false,
            "json_lines" => self.json_lines = false,
            _ => {}
        }
    }

    /// Rejects a source address of the other family.
    fn check_source(&self, given: &Given) -> Result<(), clap::Error> {
        let address = self.source.as_ref().and_then(|source| source.address);
        let Some(address) = address.filter(|_| self.ipv4 || self.ipv6) else {
            return Ok(());
        };
        let family = if self.ipv4 { "ipv4" } else { "ipv6" };
        if Family::of(address) == self.family() {
            return Ok(());
        }
        let source = given.with("source", &address.to_string());
        let message = format!(
            "cannot use {source} with {}: it is an address of the other family; remove one",
            given.name_of(family)
        );
        Err(mistakes::of_probe(ErrorKind::ArgumentConflict, message))
    }
}
