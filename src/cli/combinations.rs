//! Combinations of options that cannot work.

use std::num::NonZeroU32;

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::{Args, MaybeTimeout, Workers};
use crate::daemon::KernelPath;
use crate::reflect::{End, Mode};

impl Args {
    /// Rejects options that contradict each other.
    pub(super) fn check_combinations(&self) -> Result<(), clap::Error> {
        let conflict = self.conflict().or_else(|| self.listen_conflict());
        match conflict {
            None => Ok(()),
            Some(message) => Err(Self::command().error(ErrorKind::ArgumentConflict, message)),
        }
    }

    fn conflict(&self) -> Option<String> {
        let mode = self.given.with("mode", self.mode.name());
        if self.mode == Mode::Lockstep {
            if self.workers != Workers::Number(NonZeroU32::MIN) {
                let workers = self.given.name_of("workers");
                return Some(format!(
                    "cannot use {workers} with {mode}: that mode has one worker; remove {workers}"
                ));
            }
            if self.listen.len() != 1 {
                return Some(format!(
                    "cannot use {mode} on several addresses: that mode has one socket; keep one \
                     address in {}",
                    self.given.name_of("listen")
                ));
            }
        }
        if self.timeout == MaybeTimeout(None) && self.exit_on.contains(&End::Timeout) {
            return Some(format!(
                "cannot use {} with {}: no timeout would ever pass; set {} to a time",
                self.given.with("exit_on", "timeout"),
                self.given.with("timeout", "none"),
                self.given.name_of("timeout")
            ));
        }
        if self.kernel_echo != KernelPath::Off
            && let Some(conflict) = self.conflict_of_kernel_path()
        {
            return Some(conflict);
        }
        let never = [(End::Empty, "empty"), (End::DecodeError, "decode-error")];
        let never = never.iter().find(|(end, _)| self.exit_on.contains(end));
        match never {
            Some((_, end)) if matches!(self.mode, Mode::Echo | Mode::Stamp) => Some(format!(
                "cannot use {} with {mode}: that mode never exits on it; remove {end}",
                self.given.with("exit_on", end)
            )),
            _ => None,
        }
    }

    /// The first option that the programs of the kernel path cannot serve.
    fn conflict_of_kernel_path(&self) -> Option<String> {
        let own = self
            .given
            .with("kernel_echo", &super::in_force::name(&self.kernel_echo));
        if self.mode != Mode::Echo {
            let mode = self.given.with("mode", self.mode.name());
            return Some(format!(
                "cannot use {own} with {mode}: the kernel path only echoes; use --mode echo"
            ));
        }
        if let Some(wildcard) = self.listen.iter().find(|listen| listen.is_wildcard()) {
            return Some(format!(
                "cannot use {own} on {wildcard}: the kernel path needs concrete addresses; name \
                 them in {}",
                self.given.name_of("listen")
            ));
        }
        let others = [
            (
                "rate_limit",
                self.rate_limit.is_some(),
                "does not limit rates",
            ),
            (
                "rate_limit_total",
                self.rate_limit_total.is_some(),
                "does not limit rates",
            ),
            ("timestamps", self.timestamps, "measures no residence time"),
            (
                "exit_on",
                self.exit_on.contains(&End::Timeout),
                "does not reset the idle time",
            ),
            ("log", self.log.shows_each_datagram(), "logs no datagrams"),
        ];
        let (field, _, reason) = others.into_iter().find(|(_, is_set, _)| *is_set)?;
        let other = self.given.name_of(field);
        Some(format!(
            "cannot use {own} with {other}: the kernel path {reason}; remove one of the two"
        ))
    }

    fn listen_conflict(&self) -> Option<String> {
        let option = self.given.name_of("listen");
        let addresses = self.listen.iter().enumerate();
        let mut pairs = addresses.flat_map(|(index, address)| {
            let earlier = self.listen[..index].iter();
            earlier.map(move |other| (other, address))
        });
        pairs.find_map(|(one, other)| {
            if one.clashes_with(other) {
                return Some(format!(
                    "cannot listen on {one} twice: only one socket can have the port; remove one of \
                     the two from {option}"
                ));
            }
            let (wide, narrow) = one.wider_and_narrower(other)?;
            // With SO_REUSEADDR, a concrete address takes its datagrams from the wildcard address.
            let can_work = self.reuse_address && !narrow.is_wildcard();
            (!can_work).then(|| {
                format!(
                    "cannot listen on both {one} and {other}: they overlap, {wide} includes \
                     {narrow}; remove {narrow} from {option}"
                )
            })
        })
    }
}
