//! Shell completions. `clap_complete` offers file names for every value without a list, and no host
//! names in bash and fish; this module corrects both.

use std::io;

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
use clap_complete::{Shell, generate};

const NAME: &str = "udp-echo";

/// The file name and the text of each script.
pub(crate) fn scripts(command: Command) -> io::Result<Vec<(&'static str, String)>> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let command = command
        .mut_arg("log", |log| {
            log.value_parser(PossibleValuesParser::new(levels))
        })
        .mut_args(without_files)
        .mut_subcommands(|subcommand| subcommand.mut_args(without_files))
        .mut_subcommand("monitor", |monitor| {
            monitor.mut_arg("log", |log| {
                log.value_parser(PossibleValuesParser::new(levels))
            })
        });
    let script = |shell: Shell| {
        let mut script = Vec::new();
        generate(shell, &mut command.clone(), NAME, &mut script);
        String::from_utf8(script).map_err(io::Error::other)
    };
    Ok(vec![
        ("udp-echo.bash", bash(&script(Shell::Bash)?)?),
        ("_udp-echo", zsh(&script(Shell::Zsh)?)),
        ("udp-echo.fish", fish(&script(Shell::Fish)?)?),
    ])
}

/// Offers nothing for values that are neither files nor one of a list, such as addresses.
fn without_files(argument: Arg) -> Arg {
    let takes_values = argument.get_action().takes_values();
    let has_list = !argument.get_possible_values().is_empty();
    if takes_values && !has_list && argument.get_value_hint() == ValueHint::Unknown {
        argument.value_hint(ValueHint::Other)
    } else {
        argument
    }
}

/// The subcommands whose targets are hosts.
const CLIENTS: [&str; 2] = ["probe", "monitor"];

/// Offers host names for the targets of the clients, and no files where nothing else is known.
fn bash(script: &str) -> io::Result<String> {
    let script = script
        // clap_complete 4.6.11 writes the hyphen of the program's name in two ways, so that no
        // subcommand is found.
        .replace("udp__subcmd__echo", "udp__echo")
        .replace(" -o bashdefault -o default", "");
    let script = CLIENTS
        .iter()
        .try_fold(script, |script, client| with_hosts(&script, client));
    script.ok_or_else(|| io::Error::other("clap_complete writes another bash script"))
}

/// The bash script with host names for the targets of a client.
fn with_hosts(script: &str, client: &str) -> Option<String> {
    const END: &str = "\n            ;;\n";
    let title = format!("\n        udp__echo__subcmd__{client})\n");
    let (before, rest) = script.split_once(&title)?;
    let (block, after) = rest.split_once(END)?;
    let options = block.replace("${cur} == -* || ${COMP_CWORD} -eq 2", "${cur} == -*");
    let (start, end) = options.rsplit_once("compgen -W \"${opts}\"")?;
    Some(
        [
            before,
            &title,
            start,
            "compgen -A hostname",
            end,
            END,
            after,
        ]
        .concat(),
    )
}

/// Escapes the colon of `HOST:PORT`, which would end the description of the value.
fn zsh(script: &str) -> String {
    script.replace(":HOST:PORT:", ":HOST\\:PORT:")
}

/// Offers host names for the targets of the clients, no files, and values of the daemon's options.
fn fish(script: &str) -> io::Result<String> {
    const PARSE: &str = "argparse -s (__fish_udp_echo_global_optspecs) -- $cmd";
    const END: &str = " 2>/dev/null\n    or return\n";
    let (before, after) = script
        .split_once(&[PARSE, END].concat())
        .ok_or_else(|| io::Error::other("clap_complete writes another fish script"))?;
    let hosts = CLIENTS.map(|client| {
        format!(
            "complete -c udp-echo -n \"__fish_udp_echo_using_subcommand {client}\" \
             -a \"(__fish_print_hostnames)\"\n"
        )
    });
    let hosts = ["complete -c udp-echo -f\n", &hosts.concat()].concat();
    // argparse rejects an option without a value, which is the one to complete: then the script of
    // clap_complete 4.6.11 offers nothing.
    let retry = [" 2>/dev/null\n    or ", PARSE, "[1..-2]", END].concat();
    Ok([before, PARSE, &retry, after, &hosts].concat())
}
