//! The command line: flags, environment variables, help.

mod control;
mod probe;
mod values;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use probe::{MetricsUrl, ProbeArgs, Target};
pub use values::{LogFormat, MaybeTimeout, MetricsListen, Offload, Workers};

use crate::address::HostPort;
use crate::reflect::{BUCKETS, BYTES_PER_PEER, End, ExitOn, LEAK, Mode, Rate};
use crate::telemetry;
use crate::{daemon, udp};
use values::{Trimmed, buffer_size, busy_poll, rate, timeout};

/// A UDP reflector: sends datagrams back, decodes records, counts everything.
///
/// In the default mode every second datagram of a peer is a 22-byte record that is decoded and
/// not echoed, as in the original recipe. For a plain reflector use --mode echo.
///
/// Each option has an environment variable; an empty one counts as unset.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "udp-echo",
    version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("UDP_ECHO_REVISION"), ")"),
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = "Exit status: 0 asked to stop, 1 could not go on, 2 wrong usage."
)]
pub struct Args {
    /// Where to receive datagrams; repeatable, or a list with commas
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "localhost:9999",
        long_help = "Where to receive datagrams; repeatable, or a list with commas\n\n\
                     A name resolves to its IPv4 address first. No host, or *, is every IPv4 \
                     address, [::] is every address of both families. Port 0 lets the kernel \
                     choose."
    )]
    pub listen: Vec<HostPort>,

    /// What happens to a datagram
    #[arg(long, value_enum, default_value = "exchange")]
    pub mode: Mode,

    /// How long to wait for a record or a datagram: seconds (5, 0.25), with a unit (250ms),
    /// or none to wait for ever
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = timeout,
        default_value = "5s"
    )]
    pub timeout: MaybeTimeout,

    /// Cut echo datagrams to this many bytes, 1 to 65507
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u16).range(1..=65507),
        default_value = "1024"
    )]
    pub max_datagram: u16,

    /// Ask for a receive buffer of this size (4MiB, 4194304) [default: the kernel's]
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = buffer_size
    )]
    pub recv_buffer: Option<usize>,

    /// Ask for a send buffer of this size [default: the kernel's]
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = buffer_size
    )]
    pub send_buffer: Option<usize>,

    /// How many threads, each with its own socket on the same address, or auto for one a CPU;
    /// a peer stays with one of them
    #[arg(long, value_name = "N", default_value = "1")]
    pub workers: Workers,

    /// How long a worker polls for the next datagram before it sleeps: replies come sooner, and
    /// each worker takes a whole CPU while datagrams come and for this long after
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = busy_poll,
        default_value = "0"
    )]
    pub busy_poll: Duration,

    /// Whether the kernel may hand over and take bursts as one (UDP GRO and GSO).
    #[arg(
        long,
        value_enum,
        default_value = "auto",
        help = "Receive and send bursts as one, where the kernel can (UDP GRO and GSO): far less \
                CPU a datagram",
        long_help = "Receive and send bursts as one, where the kernel can (UDP GRO and GSO): far \
                     less CPU a datagram. What comes of each datagram is the same, but for one \
                     figure: a burst that the kernel drops for want of room counts as one in \
                     socket_drops_total, however many datagrams it has"
    )]
    pub offload: Offload,

    /// How many peers may owe a record at once, per worker; then the longest-owing is forgotten
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=16_777_216),
        default_value = "65536",
        long_help = format!(
            "How many peers may owe a record at once, 1 to 16777216, per worker; then the \
             longest-owing is forgotten. Each takes at most {BYTES_PER_PEER} bytes"
        )
    )]
    pub max_peers: u32,

    /// Stop as the original recipe does, on any of these; a list with commas [default: nothing]
    #[arg(long, value_parser = Trimmed::<End>::new(), value_name = "LIST", value_delimiter = ',')]
    pub exit_on: Vec<End>,

    /// Whether others may take over the port.
    #[arg(
        long,
        help = "Set SO_REUSEADDR, as the original recipe does [default: off]",
        long_help = "Set SO_REUSEADDR, as the original recipe does. On Linux this lets any other \
                     process that sets it too take over the port, unseen [default: off]",
        value_parser = BoolishValueParser::new()
    )]
    pub reuse_address: bool,

    /// Whether the kernel says when it received each datagram.
    #[arg(
        long,
        help = "Have the kernel say when it received each datagram, for the metric \
                residence_seconds [default: off]",
        value_parser = BoolishValueParser::new()
    )]
    pub timestamps: bool,

    /// Refuse datagrams from lower source ports: those of services that might answer the reply.
    /// Port 0 always is refused, and in echo mode the listening ports are too
    #[arg(long, value_name = "N", default_value = "1024")]
    pub min_source_port: u16,

    /// Refuse datagrams above so many a second from one source address, or IPv6 network of 64
    /// bits [default: off]
    #[arg(
        long,
        value_name = "N",
        value_parser = rate,
        long_help = format!(
            "Refuse datagrams above so many a second from one source address, or IPv6 network of \
             64 bits; 1 to {}. A second's worth may come at once. Sources share {BUCKETS} budgets, \
             and one datagram in {LEAK} above the limit is let through at random, so that nobody \
             who forges a source can silence it altogether [default: off]",
            Rate::MOST
        )
    )]
    pub rate_limit: Option<Rate>,

    /// Refuse datagrams above so many a second from all sources [default: off]
    #[arg(
        long,
        value_name = "N",
        value_parser = rate
    )]
    pub rate_limit_total: Option<Rate>,

    /// Where to serve metrics, health and the status page over HTTP, or none
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9862")]
    pub metrics_listen: MetricsListen,

    /// What to log: error, warn, info, debug (each datagram), trace, off or a filter
    #[arg(long, value_name = "LEVEL-OR-FILTER", default_value = "info")]
    pub log: telemetry::Filter,

    /// How to log
    #[arg(long, value_enum, default_value = "auto")]
    pub log_format: LogFormat,

    /// What to do, if not to serve.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The options that sockets passed in replace and that were set: see [`daemon::Config::given`].
    #[arg(skip)]
    pub given: Vec<(&'static str, String)>,
}

/// What else the program does.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    #[allow(missing_docs, reason = "what is written here would replace the help")]
    Probe(ProbeArgs),
}

impl Args {
    /// Parses the command line `arguments`, the program's name first, and the environment.
    ///
    /// # Errors
    /// What to print, and the status to exit with: 0 for help and version, 2 for wrong usage.
    pub fn parse_from_environment(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let probes = arguments.get(1).is_some_and(|word| word == PROBE);
        let command = command()
            // What is set for the daemon is nothing to the client, right or wrong.
            .mut_args(|argument| prepared(argument, !probes))
            .mut_subcommand(PROBE, |probe| {
                probe.mut_args(|argument| prepared(argument, probes))
            });
        if let Some(message) = control::refused(&command, &arguments) {
            return Err(Self::command().error(ErrorKind::InvalidValue, message));
        }
        let matches = command.try_get_matches_from(arguments)?;
        let mut args = Self::from_arg_matches(&matches)?;
        args.given = ["listen", "metrics_listen", "workers"]
            .into_iter()
            .filter_map(|id| match matches.value_source(id)? {
                ValueSource::DefaultValue => None,
                ValueSource::EnvVariable => Some((id, format!("UDP_ECHO_{}", id.to_uppercase()))),
                _ => Some((id, format!("--{}", id.replace('_', "-")))),
            })
            .collect();
        if let (Some(Command::Probe(probe)), Some((_, matches))) =
            (&mut args.command, matches.subcommand())
        {
            probe.choose_frequency(matches)?;
        }
        args.check()
    }

    /// What no single option can tell.
    fn check(self) -> Result<Self, clap::Error> {
        let conflict =
            |message: String| Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        if self.mode == Mode::Lockstep {
            if self.workers != Workers::Number(NonZeroU32::MIN) {
                return conflict("--mode lockstep has one worker: leave out --workers".into());
            }
            if self.listen.len() != 1 {
                return conflict("--mode lockstep has one --listen address".into());
            }
        }
        if self.timeout == MaybeTimeout(None) && self.exit_on.contains(&End::Timeout) {
            return conflict("--exit-on timeout needs a --timeout other than none".into());
        }
        for (index, address) in self.listen.iter().enumerate() {
            let earlier = &self.listen[..index];
            if earlier.iter().any(|other| address.clashes_with(other)) {
                return conflict(format!("--listen {address} is given twice"));
            }
        }
        Ok(self)
    }

    /// What the daemon is to do.
    pub fn config(&self) -> daemon::Config {
        daemon::Config {
            listen: self.listen.clone(),
            workers: self.workers.number(),
            metrics_listen: self.metrics_listen.0.clone(),
            given: self.given.clone(),
            mode: self.mode,
            timeout: self.timeout.0,
            max_datagram: self.max_datagram,
            max_peers: NonZeroU32::new(self.max_peers).unwrap_or(NonZeroU32::MIN),
            exit_on: self.exit_on(),
            min_source_port: self.min_source_port,
            rate_limits: [self.rate_limit, self.rate_limit_total],
            busy_poll: self.busy_poll,
            socket: udp::SocketOptions {
                receive_buffer: self.recv_buffer,
                send_buffer: self.send_buffer,
                reuse_address: self.reuse_address,
                timestamps: self.timestamps,
                offload: self.offload(),
            },
        }
    }

    /// What `--exit-on` names.
    fn exit_on(&self) -> ExitOn {
        ExitOn {
            timeout: self.exit_on.contains(&End::Timeout),
            empty: self.exit_on.contains(&End::Empty),
            decode_error: self.exit_on.contains(&End::DecodeError),
        }
    }

    /// Whether bursts are received and sent as one: never where what one datagram does to the
    /// whole socket matters to the next.
    fn offload(&self) -> bool {
        let ExitOn {
            empty,
            decode_error,
            ..
        } = self.exit_on();
        let one_by_one = self.mode == Mode::Lockstep || empty || decode_error;
        self.offload == Offload::Auto && !one_by_one
    }

    /// How the log is written; `None` is for the daemon to find out.
    pub fn log_format(&self) -> Option<telemetry::Format> {
        match self.log_format {
            LogFormat::Auto => None,
            LogFormat::Journald => Some(telemetry::Format::Journald),
            LogFormat::Text => Some(telemetry::Format::Text),
            LogFormat::Json => Some(telemetry::Format::Json),
        }
    }
}

/// The client's name on the command line.
const PROBE: &str = "probe";

/// All options, each with an environment variable of its name.
pub fn command() -> clap::Command {
    Args::command()
        .mut_args(with_variable)
        .mut_subcommand(PROBE, |probe| probe.mut_args(with_variable))
}

fn with_variable(argument: Arg) -> Arg {
    let Some(name) = argument.get_long() else {
        return argument;
    };
    let name = name.to_uppercase().replace('-', "_");
    argument
        .env(format!("UDP_ECHO_{name}"))
        .hide_env_values(true)
}

/// An option as the command line and the environment are read. Its variable counts only if the
/// environment is for it and it is not empty.
fn prepared(argument: Arg, has_environment: bool) -> Arg {
    let value = argument.get_env().and_then(std::env::var_os);
    // A negative number is a wrong value then, and not an option that nobody knows.
    let negative = argument.get_action().takes_values();
    let argument = argument.allow_negative_numbers(negative);
    if !has_environment || value.is_some_and(|value| value.is_empty()) {
        argument.env(Resettable::Reset)
    } else {
        argument
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_its_environment_variable_and_its_default_in_the_help() {
        let command = command().term_width(1000);
        command.clone().debug_assert();
        let probe = command.find_subcommand(PROBE).unwrap().clone();
        for command in [command, probe.term_width(1000)] {
            assert_variables_and_defaults(command);
        }
    }

    fn assert_variables_and_defaults(mut command: clap::Command) {
        let help = command.render_help().to_string();
        for argument in command.get_arguments() {
            let Some(name) = argument
                .get_long()
                .filter(|name| !["help", "version"].contains(name))
            else {
                continue;
            };
            let variable = format!("UDP_ECHO_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env(), Some(variable.as_ref()), "--{name}");
            let about = &help[help.find(&format!("--{name}")).unwrap()..];
            let about = about.find("\n      --").map_or(about, |end| &about[..end]);
            assert!(about.contains("[default: "), "--{name}: {about}");
        }
    }
}
