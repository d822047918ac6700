//! Completes each option: its environment variable and its help texts.
//!
//! `-h` has one line per option; `--help` has the environment variable and the values too.

use clap::Arg;
use clap::builder::Resettable;

use super::environment;

/// Columns of all help texts, whatever the terminal's width.
pub(super) const WIDTH: usize = 80;

/// Completes an option's help: the short text ends with the default; the long text lists the
/// possible values, the environment variable and the default.
///
/// clap would add variable and values to the short text too, which then takes several lines.
///
/// `prefix` starts the names of the command's variables. `--check` is an action, as `--help` is, and
/// has no variable: in the service's options it would keep the service from starting. An option that
/// has only a letter sets the same as another one, and has no variable either.
pub(super) fn complete(argument: Arg, prefix: &str) -> Arg {
    let name = match (argument.get_long(), argument.get_short()) {
        (None, None) | (Some("check"), _) => return argument,
        (None, Some(_)) => return only_letter(argument),
        (Some(name), _) => name,
    };
    let variable = format!("{prefix}{}", name.to_uppercase().replace('-', "_"));
    let (summary, default) = summary_and_default(&argument);
    let long = long_text(&argument, &summary) + &format!("\n\n[env: {variable}]{default}");
    let has_value = argument.get_action().takes_values();
    argument
        .env(variable)
        .hide_env(true)
        .hide_default_value(has_value)
        .hide_possible_values(has_value)
        .help(summary + &default)
        .long_help(long)
}

/// Completes an option without a long name.
fn only_letter(argument: Arg) -> Arg {
    let (summary, default) = summary_and_default(&argument);
    let long = format!(
        "{}\n\n{}",
        long_text(&argument, &summary),
        default.trim_start()
    );
    argument.hide_possible_values(true).long_help(long)
}

/// The short text without the default, and the default in brackets.
fn summary_and_default(argument: &Arg) -> (String, String) {
    let short = argument.get_help().map(ToString::to_string);
    let short = short.unwrap_or_default();
    // An option without a default value names its default in the short text.
    let (summary, default) = match short.split_once(DEFAULT) {
        Some((summary, rest)) => (summary.to_owned(), rest.trim_end_matches(']').to_owned()),
        None => (short, default_values(argument)),
    };
    (summary, format!("{DEFAULT}{default}]"))
}

/// The long text with the possible values.
fn long_text(argument: &Arg, summary: &str) -> String {
    let text = argument.get_long_help().map(ToString::to_string);
    let mut text = text.unwrap_or_else(|| format!("{summary}."));
    // In a doc comment, the first paragraph is the short text.
    if let Some((first, rest)) = text.split_once("\n\n")
        && first.starts_with(summary)
    {
        text = rest.to_owned();
    }
    // A flag's values are those of its variable: true, false and their synonyms.
    if argument.get_action().takes_values() {
        for (index, value) in argument.get_possible_values().iter().enumerate() {
            let start = if index == 0 { "\n\n" } else { "\n" };
            let help = value.get_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            text.extend([start, "- ", value.get_name(), ": ", &help]);
        }
    }
    text
}

/// Selects the option's variable: none for the other command, else the first of its names that is
/// not empty.
pub(super) fn prepared(argument: Arg, has_environment: bool) -> Arg {
    // Else clap reports -1 as an unknown option instead of an invalid value.
    let negative = argument.get_long().is_some() && argument.get_action().takes_values();
    let argument = argument.allow_negative_numbers(negative);
    let variable = environment::names(&argument)
        .into_iter()
        .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        .filter(|_| has_environment);
    match variable {
        Some(name) => argument.env(name),
        None => argument.env(Resettable::Reset),
    }
}

/// Starts the default in the short text.
const DEFAULT: &str = " [default: ";

fn default_values(argument: &Arg) -> String {
    let values = argument.get_default_values().iter();
    let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
    values.join(",")
}
