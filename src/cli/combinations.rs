//! Combinations of options that cannot work.

use std::num::NonZeroU32;

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::{Args, MaybeTimeout, Workers};
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
