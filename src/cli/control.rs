//! Control characters on the command line, also Unicode's.

use std::ffi::OsString;

use clap::Command;

use crate::telemetry::is_control;

/// Says which argument or variable has a control character in it. No option has a use for one,
/// and clap would show it as it is: on a terminal or in a log it could pass for something else.
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
        // Quoted, it is escaped.
        .map(|(what, text)| format!("{what} has a control or separator character: {text:?}"))
}
