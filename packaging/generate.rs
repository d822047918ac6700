//! Writes what the package takes from the command line's own definition: the manual page, the
//! shell completions and /etc/default/udp-echo. `cargo run --example generate FOLDER`.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Arg, Command};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use udp_echo::cli;

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("usage: generate FOLDER"))?;
    fs::create_dir_all(&folder)?;
    let mut command = cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "udp-echo", &folder)?;
    }
    fs::write(folder.join("udp-echo.default"), defaults(&command))?;
    manual(command, fs::File::create(folder.join("udp-echo.8"))?)
}

/// What the options cannot say.
const SECTIONS: &str = r".SH EXIT STATUS
0 when asked to stop, 1 when it cannot go on, 2 on wrong usage. The probe: 0, 1 when too much was
lost (\fB\-\-max\-loss\fR) or it cannot go on, 2 on wrong usage.
.SH SIGNALS
SIGTERM and SIGINT: what was received is answered, then the daemon ends. SIGHUP does nothing:
options are read once. The probe prints its summary on both, after waiting for late replies; a
second one ends that wait.
.SH FILES
.TP
.I /etc/default/udp\-echo
The options of the service, as environment variables.
.TP
.I udp\-echo.socket
The address and port of the service: \fBsystemctl edit udp\-echo.socket\fR, then
\fBsystemctl restart udp\-echo.socket\fR.
.TP
.I udp\-echo\-metrics.socket
The address and port of its metrics.
.SH HTTP
.TP
.I /metrics
Metrics for Prometheus.
.TP
.I /\-/healthy
Status 200 while every worker makes progress, else 503.
.TP
.I /\-/ready
Status 200 once datagrams are answered.
.TP
.I /
A page for people.
.SH SEE ALSO
.BR udp (7),
.BR socket (7),
.BR systemd.socket (5),
RFC 862
";

fn manual(command: Command, mut file: impl Write) -> io::Result<()> {
    let probe = command.find_subcommand("probe").cloned();
    let probe = probe.ok_or_else(|| io::Error::other("there is no client"))?;
    // They have sections of their own.
    let command = command
        .after_help(None::<&str>)
        .mut_subcommand("probe", |probe| probe.hide(true));
    let man = Man::new(command)
        .section("8")
        .manual("System Manager's Manual");
    man.render(&mut file)?;
    write!(file, "{}", client(probe)?)?;
    file.write_all(SECTIONS.as_bytes())
}

/// The client's options, as sections after the daemon's.
fn client(probe: Command) -> io::Result<String> {
    let man = Man::new(probe.bin_name("udp-echo probe").name("udp-echo probe"));
    let mut page = Vec::new();
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let page = String::from_utf8(page).map_err(io::Error::other)?;
    Ok(["SYNOPSIS", "DESCRIPTION", "OPTIONS"]
        .into_iter()
        .fold(page, |page, name| {
            page.replace(&format!(".SH {name}\n"), &format!(".SH PROBE: {name}\n"))
        }))
}

/// Every option, explained and commented out.
fn defaults(command: &Command) -> String {
    let mut text = String::from(
        "# Options of udp-echo.service: take away the # in front of a variable to set it, then\n\
         # run `systemctl restart udp-echo`. An empty variable counts as unset.\n\
         #\n\
         # Addresses, ports and the receive buffer are not set here but on the sockets that systemd\n\
         # opens: `systemctl edit udp-echo.socket` (ListenDatagram=, ReceiveBuffer=), or\n\
         # udp-echo-metrics.socket, then `systemctl restart` of the same.\n",
    );
    for argument in command.get_arguments() {
        let Some(variable) = argument.get_env() else {
            continue;
        };
        text.push('\n');
        for line in explanation(argument).lines() {
            text.push_str(&wrapped(line));
        }
        let value = argument.get_default_values().first();
        let value = value.map_or("".into(), |value| value.to_string_lossy());
        text.extend(["#", &variable.to_string_lossy(), "=", &value, "\n"]);
    }
    text
}

fn explanation(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help());
    let mut text = help.map(ToString::to_string).unwrap_or_default();
    for value in argument.get_possible_values() {
        let help = value
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        if !help.is_empty() {
            text.extend(["\n", value.get_name(), ": ", &help]);
        }
    }
    text
}

/// A line as comment lines of a readable width.
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
