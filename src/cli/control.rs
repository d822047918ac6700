//! Control characters on the command line, including those of Unicode.

use std::ffi::OsString;

use clap::Command;
use clap::error::ErrorKind;

use crate::telemetry::is_control;

/// Returns an error if an argument or variable has a control character, or a variable is not
/// UTF-8. No option needs a control character, and clap prints it unescaped, where it could disguise
/// itself on a terminal or in a log. Of a variable that is not UTF-8, clap does not give the name.
///
/// # Errors
/// If there is such an argument or variable.
pub(super) fn check(command: &Command, arguments: &[OsString]) -> Result<(), clap::Error> {
    refused(command, arguments).map_or(Ok(()), |message| {
        Err(command.clone().error(ErrorKind::InvalidValue, message))
    })
}

fn refused(command: &Command, arguments: &[OsString]) -> Option<String> {
    let arguments = arguments
        .iter()
        .map(|argument| ("the argument".into(), argument.clone(), false));
    let variables = command
        .get_arguments()
        .chain(command.get_subcommands().flat_map(Command::get_arguments))
        .filter_map(|argument| argument.get_env())
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
        .map(|(name, value)| (format!("the value of {}", name.display()), value, true));
    arguments
        .chain(variables)
        .find_map(|(what, text, is_variable)| {
            let shown = text.to_string_lossy();
            let fault = if shown.contains(is_control) {
                "it has a control or separator character; remove it"
            } else if is_variable && text.to_str().is_none() {
                "it is not UTF-8; correct it"
            } else {
                return None;
            };
            // Debug output escapes the character.
            Some(format!("cannot use {what} {shown:?}: {fault}"))
        })
}
