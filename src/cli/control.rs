//! Control characters on the command line, including those of Unicode.

use std::ffi::OsString;

use clap::Command;

use crate::telemetry::is_control;

/// Returns an error text if an argument or variable has a control character. No option needs one,
/// and clap prints it unescaped, where it could disguise itself on a terminal or in a log.
pub(super) fn refused(command: &Command, arguments: &[OsString]) -> Option<String> {
    let variables = command
        .get_arguments()
        .chain(command.get_subcommands().flat_map(Command::get_arguments))
        .filter_map(|argument| argument.get_env())
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
        .map(|(name, value)| (format!("the value of {}", name.display()), value));
    arguments
        .iter()
        .map(|argument| ("the argument".into(), argument.clone()))
        .chain(variables)
        .map(|(what, text)| (what, text.to_string_lossy().into_owned()))
        .find(|(_, text)| text.contains(is_control))
        // Debug output escapes the character.
        .map(|(what, text)| {
            format!(
                "cannot use {what} {text:?}: it has a control or separator character; remove it"
            )
        })
}
