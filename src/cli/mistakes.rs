//! Mistakes on the command line whose error text by clap would mislead.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::environment;
use crate::address::HostPort;

/// Replaces the error by a clearer one, if there is one. `subcommand` is the selected one, if any.
pub(super) fn explained(
    error: clap::Error,
    subcommand: Option<&str>,
    arguments: &[OsString],
) -> clap::Error {
    let kinds = [
        ErrorKind::UnknownArgument,
        ErrorKind::TooManyValues,
        ErrorKind::ArgumentConflict,
        ErrorKind::InvalidSubcommand,
        ErrorKind::ValueValidation,
    ];
    if !kinds.contains(&error.kind()) {
        return error;
    }
    let mut command = super::command();
    command.build();
    let active = subcommand.and_then(|name| command.find_subcommand(name));
    let active = active.unwrap_or(&command);
    let words: Vec<_> = arguments
        .iter()
        .skip(1)
        .map(|argument| argument.to_string_lossy())
        .take_while(|word| word != "--")
        .collect();
    let refused = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(refused)) => Some(refused.as_str()),
        _ => None,
    };
    let message = words.iter().enumerate().find_map(|(index, word)| {
        if subcommand.is_none() && ["-v", "--verbose"].contains(&word.as_ref()) {
            let advice = "--log debug logs each datagram";
            return Some(format!("unexpected argument '{word}' found; {advice}"));
        }
        if subcommand.is_some() && index > 0 && refused == Some(word.as_ref()) {
            return port_apart(&words[index - 1], word);
        }
        let next = words.get(index + 1).map(AsRef::as_ref);
        flag_with_value(active, subcommand.is_some(), word, next)
    });
    match message {
        Some(message) => active.clone().error(error.kind(), message),
        None => error,
    }
}

/// An error with the usage of the client.
pub(super) fn of_probe(kind: ErrorKind, message: String) -> clap::Error {
    let mut command = super::command();
    command.build();
    match command.find_subcommand_mut("probe") {
        Some(probe) => probe.error(kind, message),
        None => clap::Error::raw(kind, message),
    }
}

/// The error of a port that is apart from its host, as for netcat.
fn port_apart(host: &str, port: &str) -> Option<String> {
    let port: u16 = port.parse().ok()?;
    let target = HostPort::parse_with_default(host, port).ok()?;
    Some(format!(
        "unexpected argument '{port}' found; expected HOST:PORT, such as {target}"
    ))
}

/// The error of a flag that has a value.
fn flag_with_value(
    command: &Command,
    has_targets: bool,
    argument: &str,
    next: Option<&str>,
) -> Option<String> {
    let (name, value) = match argument.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (argument, None),
    };
    let long = name.strip_prefix("--")?;
    let flag = command
        .get_arguments()
        .find(|flag| flag.get_long() == Some(long) && !flag.get_action().takes_values())?;
    // The next word of the client may be its target.
    let follows = |word: &&str| {
        if has_targets {
            ["true", "false"].contains(word)
        } else {
            !word.starts_with('-') && command.find_subcommand(word).is_none()
        }
    };
    let value = value.or_else(|| next.filter(follows))?;
    let remedy = if ["false", "no", "off", "0"].contains(&value) {
        format!("remove {name} to turn it off")
    } else {
        format!("remove '{value}'")
    };
    let variable = environment::names(flag).into_iter().next();
    let variable = variable.map(|variable| format!("; only {variable} has a value"));
    Some(format!(
        "cannot use '{value}' with {name}: it takes no value; {remedy}{}",
        variable.unwrap_or_default()
    ))
}
