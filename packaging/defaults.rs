//! `/etc/default/udp-echo`, the options of the service.

use clap::{Arg, Command};

/// The options that cannot work under the units: the sockets of systemd replace them.
const REPLACED: [&str; 4] = ["listen", "workers", "reuse_address", "metrics_listen"];

/// The options of the monitor that its unit sets itself.
const SET_BY_UNIT: [&str; 1] = ["config"];

/// Every option that works under the units, explained and commented out.
pub(crate) fn file(command: &Command) -> String {
    let mut text = String::from(
        "# Options of udp-echo.service and udp-echo-monitor.service: remove the # before a variable\n\
         # to set it, then run `systemctl restart udp-echo` or `systemctl restart udp-echo-monitor`.\n\
         # An empty variable counts as unset.\n\
         #\n\
         # Addresses, ports and the receive buffer are set on the sockets that systemd opens, not\n\
         # here: `systemctl edit udp-echo.socket` (ListenDatagram=, ReceiveBuffer=) or\n\
         # `systemctl edit udp-echo-metrics.socket`, then `systemctl restart` of the same socket.\n",
    );
    options(command, &REPLACED, &mut text);
    if let Some(monitor) = command.find_subcommand("monitor") {
        text.push_str(
            "\n# The options of udp-echo-monitor.service follow. Its targets are in\n\
             # /etc/udp-echo/monitor.toml.\n",
        );
        options(monitor, &SET_BY_UNIT, &mut text);
    }
    text
}

/// Appends the options of a command, except some.
fn options(command: &Command, except: &[&str], text: &mut String) {
    for argument in command.get_arguments() {
        let Some(variable) = argument.get_env() else {
            continue;
        };
        if except.contains(&argument.get_id().as_str()) {
            continue;
        }
        text.push('\n');
        for line in explanation(argument).lines() {
            text.push_str(&wrapped(line));
        }
        let value = argument.get_default_values().first();
        let value = value.map_or("".into(), |value| value.to_string_lossy());
        text.extend(["#", &variable.to_string_lossy(), "=", &value, "\n"]);
    }
}

/// The long help without the variable and the default value, which follow in the file.
fn explanation(argument: &Arg) -> String {
    let help = argument.get_long_help().map(ToString::to_string);
    let help = help.unwrap_or_default();
    match help.rsplit_once("\n\n[env: ") {
        Some((text, rest)) => {
            let default = rest.split_once("] [default: ").map(|(_, default)| default);
            match default.filter(|_| argument.get_default_values().is_empty()) {
                Some(default) => format!("{text}\nDefault: {}.", default.trim_end_matches(']')),
                None => text.to_owned(),
            }
        }
        None => help,
    }
}

/// A line as comment lines of at most 98 columns.
fn wrapped(line: &str) -> String {
    let mut text = String::from("#");
    let mut width = 1;
    for word in line.split_whitespace() {
        if width + 1 + word.len() > 98 {
            text.push_str("\n#");
            width = 1;
        }
        text.push(' ');
        text.push_str(word);
        width += 1 + word.len();
    }
    text + "\n"
}
