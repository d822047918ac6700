//! The command line: flags, environment variables, help.

mod control;
mod probe;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{BoolishValueParser, PossibleValue, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use probe::{MetricsUrl, ProbeArgs, Target};

use crate::address::HostPort;
use crate::exchange::{BUCKETS, BYTES_PER_PEER, End, ExitOn, LEAK, Mode, Rate, Timeout};
use crate::telemetry;

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
        env = "UDP_ECHO_LISTEN",
        hide_env_values = true,
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
    #[arg(
        long,
        env = "UDP_ECHO_MODE",
        hide_env_values = true,
        value_enum,
        default_value = "exchange"
    )]
    pub mode: Mode,

    /// How long to wait for a record or a datagram: seconds (5, 0.25), with a unit (250ms),
    /// or none to wait for ever
    #[arg(
        long,
        env = "UDP_ECHO_TIMEOUT",
        hide_env_values = true,
        value_name = "DURATION",
        value_parser = timeout,
        default_value = "5s"
    )]
    pub timeout: MaybeTimeout,

    /// Cut echo datagrams to this many bytes, 1 to 65507
    #[arg(
        long,
        env = "UDP_ECHO_MAX_DATAGRAM",
        hide_env_values = true,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u16).range(1..=65507),
        default_value = "1024"
    )]
    pub max_datagram: u16,

    /// Ask for a receive buffer of this size (4MiB, 4194304) [default: the kernel's]
    #[arg(
        long,
        env = "UDP_ECHO_RECV_BUFFER",
        hide_env_values = true,
        value_name = "BYTES",
        value_parser = buffer_size
    )]
    pub recv_buffer: Option<usize>,

    /// Ask for a send buffer of this size [default: the kernel's]
    #[arg(
        long,
        env = "UDP_ECHO_SEND_BUFFER",
        hide_env_values = true,
        value_name = "BYTES",
        value_parser = buffer_size
    )]
    pub send_buffer: Option<usize>,

    /// How many threads, each with its own socket on the same address, or auto for one a CPU;
    /// a peer stays with one of them
    #[arg(
        long,
        env = "UDP_ECHO_WORKERS",
        hide_env_values = true,
        value_name = "N",
        default_value = "1"
    )]
    pub workers: Workers,

    /// How long a worker polls for the next datagram before it sleeps: replies come sooner, and
    /// each worker takes a whole CPU while datagrams come and for this long after
    #[arg(
        long,
        env = "UDP_ECHO_BUSY_POLL",
        hide_env_values = true,
        value_name = "DURATION",
        value_parser = busy_poll,
        default_value = "0"
    )]
    pub busy_poll: Duration,

    /// Whether the kernel may hand over and take bursts as one (UDP GRO and GSO).
    #[arg(
        long,
        env = "UDP_ECHO_OFFLOAD",
        hide_env_values = true,
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
        env = "UDP_ECHO_MAX_PEERS",
        hide_env_values = true,
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
    #[arg(
        long,
        env = "UDP_ECHO_EXIT_ON",
        hide_env_values = true,
        value_enum,
        value_name = "LIST",
        value_delimiter = ','
    )]
    pub exit_on: Vec<End>,

    /// Whether others may take over the port.
    #[arg(
        long,
        help = "Set SO_REUSEADDR, as the original recipe does [default: off]",
        long_help = "Set SO_REUSEADDR, as the original recipe does. On Linux this lets any other \
                     process that sets it too take over the port, unseen [default: off]",
        env = "UDP_ECHO_REUSE_ADDRESS",
        hide_env_values = true,
        value_parser = BoolishValueParser::new()
    )]
    pub reuse_address: bool,

    /// Whether the kernel says when it received each datagram.
    #[arg(
        long,
        help = "Have the kernel say when it received each datagram, for the metric \
                residence_seconds [default: off]",
        env = "UDP_ECHO_TIMESTAMPS",
        hide_env_values = true,
        value_parser = BoolishValueParser::new()
    )]
    pub timestamps: bool,

    /// Refuse datagrams from lower source ports: those of services that might answer the reply.
    /// Port 0 always is refused, and in echo mode the listening ports are too
    #[arg(
        long,
        env = "UDP_ECHO_MIN_SOURCE_PORT",
        hide_env_values = true,
        value_name = "N",
        default_value = "1024"
    )]
    pub min_source_port: u16,

    /// Refuse datagrams above so many a second from one source address, or IPv6 network of 64
    /// bits [default: off]
    #[arg(
        long,
        env = "UDP_ECHO_RATE_LIMIT",
        hide_env_values = true,
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
        env = "UDP_ECHO_RATE_LIMIT_TOTAL",
        hide_env_values = true,
        value_name = "N",
        value_parser = rate
    )]
    pub rate_limit_total: Option<Rate>,

    /// Where to serve metrics, health and the status page over HTTP, or none
    #[arg(
        long,
        env = "UDP_ECHO_METRICS_LISTEN",
        hide_env_values = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9862"
    )]
    pub metrics_listen: MetricsListen,

    /// What to log: error, warn, info, debug (each datagram), trace, off or a filter
    #[arg(
        long,
        env = "UDP_ECHO_LOG",
        hide_env_values = true,
        value_name = "LEVEL-OR-FILTER",
        default_value = "info"
    )]
    pub log: telemetry::Filter,

    /// How to log
    #[arg(
        long,
        env = "UDP_ECHO_LOG_FORMAT",
        hide_env_values = true,
        value_enum,
        default_value = "auto"
    )]
    pub log_format: LogFormat,

    /// What to do, if not to serve.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Which of the options were given that sockets handed over replace.
    #[arg(skip)]
    pub given: Vec<&'static str>,
}

/// What else the program does.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    #[allow(missing_docs, reason = "what is written here would replace the help")]
    Probe(ProbeArgs),
}

/// A timeout, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaybeTimeout(pub Option<Timeout>);

/// How many threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One for each CPU that the process may use.
    Auto,
    /// So many.
    Number(NonZeroU32),
}

/// Whether the kernel may hand over and take bursts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Offload {
    /// Where the kernel can, and where no datagram can end the daemon
    Auto,
    /// One datagram at a time
    Off,
}

/// Where to serve HTTP, if at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsListen(pub Option<HostPort>);

/// How to log, as the command line has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// The journal if standard error leads there, else text
    Auto,
    /// Native entries in the systemd journal
    Journald,
    /// Lines of text on standard error
    Text,
    /// Lines of JSON on standard error
    Json,
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
        let command = Self::command()
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
            .filter(|id| matches.value_source(id) != Some(ValueSource::DefaultValue))
            .collect();
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

    /// What `--exit-on` names.
    pub fn exit_on(&self) -> ExitOn {
        ExitOn {
            timeout: self.exit_on.contains(&End::Timeout),
            empty: self.exit_on.contains(&End::Empty),
            decode_error: self.exit_on.contains(&End::DecodeError),
        }
    }

    /// Whether bursts are received and sent as one: never where what one datagram does to the
    /// whole socket matters to the next.
    pub fn offload(&self) -> bool {
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

impl Workers {
    /// The number, at most this many.
    const MOST: u32 = 1024;

    /// How many threads that is on this machine.
    pub fn number(self) -> usize {
        match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, usize::from),
            Self::Number(number) => number.get() as usize,
        }
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse::<NonZeroU32>()
            .ok()
            .filter(|number| number.get() <= Self::MOST)
            .map(Self::Number)
            .ok_or_else(|| format!("expected 1 to {} or auto", Self::MOST))
    }
}

impl FromStr for MetricsListen {
    type Err = crate::address::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(None)),
            address => address.parse().map(Some).map(Self),
        }
    }
}

impl ValueEnum for Mode {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Exchange, Self::Lockstep, Self::Echo]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::Exchange => (
                "exchange",
                "Per peer: a datagram is echoed, the next is a record and is decoded",
            ),
            Self::Lockstep => (
                "lockstep",
                "The original recipe's loop: one exchange for the whole socket, whoever sends",
            ),
            Self::Echo => ("echo", "RFC 862: every datagram is echoed"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

impl ValueEnum for End {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Timeout, Self::Empty, Self::DecodeError]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::Timeout => ("timeout", "No datagram for the whole timeout; status 0"),
            Self::Empty => (
                "empty",
                "An empty datagram where one to echo was due; status 0",
            ),
            Self::DecodeError => ("decode-error", "A record of less than 22 bytes; status 1"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

/// The client's name on the command line.
const PROBE: &str = "probe";

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

/// Seconds, or a number with a unit.
fn duration(text: &str) -> Option<Duration> {
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    }
}

fn timeout(text: &str) -> Result<MaybeTimeout, &'static str> {
    if text == "none" {
        return Ok(MaybeTimeout(None));
    }
    duration(text)
        .and_then(Timeout::new)
        .map(|timeout| MaybeTimeout(Some(timeout)))
        .ok_or("expected more than 0 seconds (5, 0.25), a time with a unit (250ms, 1m), or none")
}

fn busy_poll(text: &str) -> Result<Duration, &'static str> {
    duration(text).ok_or("expected seconds (0, 0.001) or a time with a unit (50us, 1ms)")
}

fn rate(text: &str) -> Result<Rate, String> {
    text.parse()
        .ok()
        .and_then(Rate::new)
        .ok_or_else(|| format!("expected 1 to {} datagrams a second", Rate::MOST))
}

/// `setsockopt` takes an `int`, of which the kernel makes twice as much.
fn buffer_size(text: &str) -> Result<usize, String> {
    const MOST: usize = i32::MAX as usize / 2;
    text.parse::<ByteSize>()
        .ok()
        .and_then(|size| usize::try_from(size.as_u64()).ok())
        .filter(|size| (1..=MOST).contains(size))
        .ok_or_else(|| format!("expected 1 to {MOST} bytes, such as 4194304, 4096KiB or 4MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_have_a_unit() {
        for (text, milliseconds) in [("5", 5000), ("0.25", 250), ("250ms", 250), ("1m 1s", 61000)] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for wrong in [
            "soon",
            "",
            "-1",
            "nan",
            "inf",
            "1e300",
            "5 parsecs",
            "0",
            "0ms",
        ] {
            assert!(timeout(wrong).is_err(), "{wrong}");
        }
        assert_eq!(timeout("none"), Ok(MaybeTimeout(None)));
    }

    #[test]
    fn buffer_sizes_have_binary_and_decimal_units() {
        for (text, bytes) in [("4MiB", 4 << 20), ("4194304", 4 << 20), ("64K", 64000)] {
            assert_eq!(buffer_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["0", "-1", "2GiB", "many", ""] {
            assert!(buffer_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_option_has_its_environment_variable_and_its_default_in_the_help() {
        let command = Args::command().term_width(1000);
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
