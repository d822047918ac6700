//! Environment variables: their names, unknown ones, and errors that name them.

use std::collections::BTreeSet;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::Args;
use crate::daemon::Given;

/// Starts the names of the daemon's variables, and so those of all commands.
pub(super) const DAEMON: &str = "UDP_ECHO_";
/// Starts the names of the client's variables.
pub(super) const PROBE: &str = "UDP_ECHO_PROBE_";

/// The options of `attach` that have the daemon's variables.
const ATTACH_AND_DAEMON: [&str; 3] = ["listen", "max_datagram", "min_source_port"];

/// Starts the name of the variable of an option of a subcommand. `detach` has those of `attach`.
pub(super) fn prefix(subcommand: &str, option: &str) -> String {
    match subcommand {
        "attach" if ATTACH_AND_DAEMON.contains(&option) => DAEMON.to_owned(),
        "detach" => format!("{DAEMON}ATTACH_"),
        _ => format!("{DAEMON}{}_", subcommand.to_uppercase()),
    }
}

/// The variables of the client that also have a name without `PROBE_`, for older scripts.
const SHARED: [&str; 12] = [
    "MODE",
    "COUNT",
    "DURATION",
    "INTERVAL",
    "RATE",
    "SIZE",
    "WAIT",
    "FLOWS",
    "MAX_LOSS",
    "METRICS_URL",
    "QUIET",
    "JSON",
];

/// The names of the option's variable. The first one that is set counts.
pub(super) fn names(argument: &clap::Arg) -> Vec<String> {
    let Some(name) = argument.get_env().and_then(|name| name.to_str()) else {
        return Vec::new();
    };
    let shared = name
        .strip_prefix(PROBE)
        .filter(|rest| SHARED.contains(rest))
        .map(|rest| format!("{DAEMON}{rest}"));
    std::iter::once(name.to_owned()).chain(shared).collect()
}

/// The command without variables. An option that has its value from one is not required.
pub(super) fn without(command: &Command) -> Command {
    let reset = |argument: clap::Arg| {
        let is_required = argument.is_required_set() && argument.get_env().is_none();
        argument.env(Resettable::Reset).required(is_required)
    };
    let command = command.clone().mut_args(reset);
    command.mut_subcommands(|subcommand| subcommand.mut_args(reset))
}

/// The error with the name of the variable instead of the option's.
pub(super) fn named(error: clap::Error, command: &Command) -> clap::Error {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let long = option.split(' ').next().unwrap_or_default();
    let argument = command.get_arguments().find(|argument| {
        let name = argument.get_long();
        name.is_some() && name == long.strip_prefix("--")
    });
    let Some(variable) = argument.and_then(clap::Arg::get_env) else {
        return error;
    };
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = text.replacen(&format!(" for '{option}'"), "", 1);
    clap::Error::raw(error.kind(), format!("{}: {text}", variable.display()))
}

/// The options that were set.
pub(super) fn given(command: &Command, matches: &ArgMatches) -> Given {
    let arguments = command.get_arguments();
    let given = arguments.filter_map(|argument| {
        let id = argument.get_id().as_str();
        let name = match matches.value_source(id)? {
            ValueSource::DefaultValue => return None,
            ValueSource::EnvVariable => argument.get_env()?.to_str()?.to_owned(),
            _ => match (argument.get_long(), argument.get_short()) {
                (Some(long), _) => format!("--{long}"),
                (None, short) => format!("-{}", short?),
            },
        };
        Some((id.to_owned(), name))
    });
    Given(given.collect())
}

/// The variables that look like those of udp-echo, have a value and belong to no option.
pub(super) fn unknown(command: &Command) -> Vec<String> {
    let subcommands = command.get_subcommands();
    let known: BTreeSet<_> = command
        .get_arguments()
        .chain(subcommands.flat_map(Command::get_arguments))
        .flat_map(names)
        .collect();
    let unknown: BTreeSet<_> = std::env::vars_os()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .filter(|name| !known.contains(name))
        .filter(|name| {
            name.strip_prefix(DAEMON)
                .is_some_and(|rest| !of_kubernetes(rest))
        })
        .collect();
    unknown.into_iter().collect()
}

impl Args {
    /// A warning of variables that belong to no option.
    pub fn warning(&self) -> Option<String> {
        let (names, these) = match &self.unknown_variables[..] {
            [] => return None,
            [name] => (name.clone(), "it belongs"),
            names => (names.join(", "), "they belong"),
        };
        let mut helps: Vec<_> = self
            .unknown_variables
            .iter()
            .map(|name| help_for(name))
            .collect();
        helps.sort();
        helps.dedup();
        let name = if helps.len() > 1 { "name" } else { "names" };
        Some(format!(
            "ignoring {names}: {these} to no option; {} {name} the variables",
            helps.join(" and ")
        ))
    }
}

/// The command whose help names the variables that start as this one does.
fn help_for(variable: &str) -> String {
    let command = super::command();
    let mut names = command.get_subcommands().map(Command::get_name);
    match names.find(|name| variable.starts_with(&prefix(name, ""))) {
        Some(name) => format!("`udp-echo {name} --help`"),
        None => "`udp-echo --help`".to_owned(),
    }
}

/// Whether Kubernetes sets the variable for a Service whose name starts with udp-echo; `rest`
/// follows `UDP_ECHO_`.
fn of_kubernetes(rest: &str) -> bool {
    let words: Vec<_> = rest.split('_').collect();
    let is_protocol = |word: &str| ["TCP", "UDP", "SCTP"].contains(&word);
    let parts = ["PROTO", "PORT", "ADDR"];
    let (last, rest) = words.split_last().unwrap_or((&"", &[]));
    let address = if parts.contains(last) { rest } else { &words };
    words.ends_with(&["SERVICE", "HOST"])
        || words.windows(2).any(|pair| pair == ["SERVICE", "PORT"])
        || words.ends_with(&["PORT"])
        || matches!(address, [.., "PORT", port, protocol]
            if port.parse::<u16>().is_ok() && is_protocol(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubernetes_variables_are_recognized_by_name() {
        for name in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_DNS_UDP",
            "METRICS_SERVICE_HOST",
            "METRICS_SERVICE_PORT_HTTP",
            "PORT",
            "METRICS_PORT",
            "PORT_9999_UDP",
            "PORT_9999_UDP_PROTO",
            "METRICS_PORT_9862_TCP_PORT",
            "PORT_1_SCTP_ADDR",
        ] {
            assert!(of_kubernetes(name), "{name}");
        }
        for name in [
            "",
            "HOST",
            "PORTS",
            "XSERVICE_HOST",
            "PORT_X_UDP",
            "PORT_9_UDP_X",
            "MODES",
        ] {
            assert!(!of_kubernetes(name), "{name}");
        }
    }
}
