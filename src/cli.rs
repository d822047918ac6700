//! The command line: options, environment variables, help. Over 400 lines: the help is half of it.

mod attach;
mod combinations;
mod control;
mod dscp;
mod environment;
mod in_force;
mod key_file;
mod mistakes;
mod monitor;
mod option;
mod probe;
mod regular_file;
mod secrets;
mod stamp;
pub(crate) mod values;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use attach::{AttachArgs, DetachArgs, UnusableAttach};
pub use key_file::UnusableKeyFile;
pub use monitor::{MonitorArgs, UnusableTargets};
pub use probe::{MetricsUrl, PathMtu, ProbeArgs, Target};
pub use stamp::StampArgs;
pub use values::{LogFormat, MaybeTimeout, MetricsListen, Offload, Workers};

use crate::address::HostPort;
use crate::daemon::Given;
use crate::daemon::KernelPath;
use crate::reflect::stamp::{BYTES_PER_SESSION, StampKeys};
use crate::reflect::{BUCKETS, BYTES_PER_PEER, End, ExitOn, LEAK, Mode, Rate};
use crate::telemetry;
use crate::{daemon, udp};
use values::{
    Trimmed, buffer_size, busy_poll, metrics_listen, number, rate, receive_buffer,
    receive_buffer_in, size, timeout,
};

/// The version of the program.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_REVISION"), ")");

/// UDP reflector: echoes datagrams, decodes records, counts everything
///
/// For a plain reflector (RFC 862), use --mode echo.
///
/// The default mode is the exchange of the reference server, the Python UDP server in timeout
/// mode that udp-echo started from (udp_server_ipv4_timeout.py of the Python Cookbook,
/// leven-cn/python-cookbook): one datagram is echoed, and the next one is a 22-byte record, which
/// is decoded and not echoed. Use --mode exchange to serve clients written for the reference
/// server, any number of them at once. Use --mode lockstep to reproduce its single loop exactly.
///
/// Each option but --check has an environment variable; an empty variable counts as unset. An
/// option on the command line overrides its variable.
#[expect(clippy::doc_markdown, reason = "help texts have no backticks")]
#[derive(Debug, Clone, Parser)]
#[command(
    name = "udp-echo",
    version = VERSION,
    term_width = option::WIDTH,
    args_conflicts_with_subcommands = true,
    after_help = "Exit status:\n  \
                  0  stopped by a signal, or by --exit-on timeout or empty\n  \
                  1  cannot run, or stopped by --exit-on decode-error\n  \
                  2  usage error"
)]
pub struct Args {
    /// UDP listen address
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "localhost:9999",
        long_help = "Address to receive datagrams on. Repeat the option or separate addresses \
                     with commas.\n\n\
                     A name resolves to its IPv4 address first. An empty host or * means every \
                     IPv4 address, [::] every address of both families. With port 0 the kernel \
                     chooses the port. Sockets passed in by systemd replace this option.\n\n\
                     In stamp mode the default is localhost:862."
    )]
    pub listen: Vec<HostPort>,

    /// How to answer datagrams
    #[arg(long, value_enum, default_value = "exchange")]
    pub mode: Mode,

    /// Record and idle timeout
    ///
    /// How long a peer may owe a record, and how long a socket may be idle: seconds (5, 0.25), a
    /// time with a unit (250ms), or none for no limit.
    ///
    /// A record that does not arrive in time expires: the timeout is counted, and the next
    /// datagram of that peer is echoed again. A socket that receives nothing for this long counts a
    /// timeout too. With --exit-on timeout, the daemon exits if no socket receives anything for
    /// this long.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = timeout,
        default_value = "5s"
    )]
    pub timeout: MaybeTimeout,

    /// Cut echo datagrams to BYTES
    ///
    /// Cut echo datagrams to this many bytes, 1 to 65507, or a size with a unit (1KiB). The
    /// reference server receives at most 1024. In stamp mode the default is 65507.
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = size(1..=65507),
        default_value = "1024"
    )]
    pub max_datagram: u16,

    /// Receive buffer size, or auto
    ///
    /// Size of each socket's receive buffer, in bytes or with a unit (4MiB). The kernel grants at
    /// most net.core.rmem_max; with CAP_NET_ADMIN that limit does not apply. The metric
    /// socket_receive_buffer_bytes shows twice the size granted.
    ///
    /// With auto, the daemon requests 4MiB if the buffer is smaller; in lockstep mode it keeps the
    /// buffer as it is.
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = receive_buffer,
        default_value = "auto"
    )]
    pub recv_buffer: udp::BufferSize,

    /// Send buffer size [default: the kernel's]
    ///
    /// Size of each socket's send buffer, in bytes or with a unit (4MiB). The kernel grants at most
    /// net.core.wmem_max; with CAP_NET_ADMIN that limit does not apply. The metric
    /// socket_send_buffer_bytes shows twice the size granted.
    #[arg(long, value_name = "BYTES", value_parser = buffer_size)]
    pub send_buffer: Option<usize>,

    /// Threads per address, or auto
    ///
    /// Worker threads per address, 1 to 1024, or auto for one per CPU. Each worker has its own
    /// socket. The kernel delivers all datagrams of a peer to the same worker.
    #[arg(long, value_name = "N", default_value = "1")]
    pub workers: Workers,

    /// Spin this long before sleeping
    ///
    /// How long a worker polls for the next datagram before it sleeps: seconds (0.001) or a time
    /// with a unit (50us). Polling lowers the latency; each worker then uses a whole CPU while
    /// datagrams arrive and for this long afterwards.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = busy_poll,
        default_value = "0"
    )]
    pub busy_poll: Duration,

    /// Use attached XDP programs
    ///
    /// Keep the programs of udp-echo attach answering: they echo datagrams in the network driver, and
    /// pass everything else to the socket. Their counts are part of the daemon's. Needs --mode echo,
    /// concrete addresses and the settings that the programs were attached with.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "off")]
    pub kernel_echo: KernelPath,

    /// Pin folder
    ///
    /// Folder with the pins of udp-echo attach, for --kernel-echo.
    #[arg(
        long,
        value_name = "DIR",
        value_hint = clap::ValueHint::DirPath,
        value_parser = values::path,
        default_value = crate::kernel_echo::PINS
    )]
    pub pins: std::path::PathBuf,

    /// Use UDP GRO and GSO
    ///
    /// Receive and send datagrams in batches with UDP GRO and GSO, which takes much less CPU time
    /// per datagram. Replies are the same as without. If the kernel drops a GRO batch,
    /// socket_drops_total counts one drop for all its datagrams.
    ///
    /// Always off in lockstep and stamp mode and with --exit-on empty or decode-error.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    pub offload: Offload,

    /// Peer table size per worker
    #[arg(
        long,
        value_name = "N",
        value_parser = number::<u32>(1..=16_777_216),
        default_value = "65536",
        long_help = format!(
            "Size of the table of peers that owe a record, per worker, 1 to 16777216. When the \
             table is full, the peer that has owed its record longest is evicted. Each peer takes \
             at most {BYTES_PER_PEER} bytes of memory.\n\n\
             In stamp mode, size of the table of sessions. When it is full, requests of new sessions \
             are answered without a session. Each session takes at most {BYTES_PER_SESSION} bytes."
        )
    )]
    pub max_peers: u32,

    /// Exit on these conditions [default: nothing]
    ///
    /// Exit on any of these conditions; separate them with commas. The reference server exits on
    /// all of them: --mode lockstep --exit-on timeout,empty,decode-error behaves exactly like it.
    #[arg(long, value_parser = Trimmed::<End>::new(), value_name = "LIST", value_delimiter = ',')]
    pub exit_on: Vec<End>,

    /// Set SO_REUSEADDR [default: off]
    ///
    /// Set SO_REUSEADDR, as the reference server does. On Linux, another process that also sets it
    /// can then take over the port, without an error on either side.
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub reuse_address: bool,

    /// Use kernel receive timestamps [default: off]
    ///
    /// Have the kernel timestamp each datagram on receipt, for the metric residence_seconds. In
    /// stamp mode this is on by default, for the receive timestamp in the replies.
    #[arg(long, value_parser = BoolishValueParser::new())]
    pub timestamps: bool,

    /// Refuse source ports below N
    ///
    /// Refuse datagrams from source ports below N, 0 to 65535: a service on such a port could
    /// answer the reply and start a loop. Port 0 is always refused. Echo mode also refuses a
    /// source port that equals a listening port: the sender may be another reflector. Stamp mode
    /// accepts source ports 862 and 863.
    #[arg(
        long,
        value_name = "N",
        value_parser = number::<u16>(0..=65535),
        default_value = "1024"
    )]
    pub min_source_port: u16,

    /// Max datagrams/s per source [default: off]
    #[arg(
        long,
        value_name = "N",
        value_parser = rate,
        long_help = format!(
            "Answer at most N datagrams per second from each source address (IPv6: each /64), 1 \
             to {}. Each limit is a token bucket, so N datagrams may arrive at once. There are \
             {BUCKETS} buckets; sources with the same hash share one.\n\n\
             Above the limit, one in {LEAK} datagrams is still answered, chosen at random: \
             otherwise a flood with a forged source address could silence that source completely.",
            Rate::MOST
        )
    )]
    pub rate_limit: Option<Rate>,

    /// Max datagrams/s in total [default: off]
    #[arg(
        long,
        value_name = "N",
        value_parser = rate,
        long_help = format!(
            "Answer at most N datagrams per second from all sources together, 1 to {}.",
            Rate::MOST
        )
    )]
    pub rate_limit_total: Option<Rate>,

    /// Serve HTTP metrics
    ///
    /// HTTP address for metrics, health checks and the status page, or none for no HTTP. A socket
    /// passed in by systemd replaces this option.
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_parser = metrics_listen(9862),
        default_value = "127.0.0.1:9862"
    )]
    pub metrics_listen: MetricsListen,

    /// Log level or filter
    ///
    /// A level (off, error, warn, info, debug or trace) or a filter such as udp_echo=debug. At
    /// level debug, each datagram is logged as the reference server logs it.
    #[arg(long, value_name = "LEVEL-OR-FILTER", default_value = "info")]
    pub log: telemetry::Filter,

    /// Log format
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,

    /// Check the options, print them and exit
    #[arg(
        long,
        long_help = "Check the options and variables, print them and exit. No socket is opened and \
                     no name is resolved.\n\n\
                     If all are valid, each option in force is printed as a variable, defaults \
                     included, and the exit status is 0. Otherwise the error of a start is printed, \
                     and the exit status is 2."
    )]
    pub check: bool,

    /// The options of STAMP mode.
    #[command(flatten)]
    pub stamp: StampArgs,

    /// The subcommand; without one the daemon serves.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The options that were set.
    #[arg(skip)]
    pub given: Given,

    /// The variables that belong to no option.
    #[arg(skip)]
    pub unknown_variables: Vec<String>,
}

/// The subcommands.
#[expect(clippy::large_enum_variant, reason = "a process has one")]
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    #[allow(
        missing_docs,
        reason = "a doc comment here would replace the subcommand's help"
    )]
    Probe(ProbeArgs),
    #[allow(missing_docs, reason = "as above")]
    Monitor(MonitorArgs),
    #[allow(missing_docs, reason = "as above")]
    Attach(AttachArgs),
    #[allow(missing_docs, reason = "as above")]
    Detach(DetachArgs),
}

impl Args {
    /// Parses the command line `arguments`, the program's name first, and the environment.
    ///
    /// # Errors
    /// The text to print and the exit status: 0 for help and version, 2 for a usage error.
    pub fn parse_from_environment(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        Self::parse(&arguments).map_err(|error| secrets::hidden(error, &arguments))
    }

    fn parse(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let command = command();
        let unknown_variables = environment::unknown(&command);
        let word = arguments.get(1).and_then(|word| word.to_str());
        let selected = word.filter(|name| command.find_subcommand(name).is_some());
        // Each command ignores the variables of the others, even invalid ones.
        let command = command
            .mut_args(|argument| option::prepared(argument, selected.is_none()))
            .mut_subcommands(|subcommand| {
                let is_selected = selected == Some(subcommand.get_name());
                subcommand.mut_args(|argument| option::prepared(argument, is_selected))
            });
        control::check(&command, arguments)?;
        let active = selected.and_then(|name| command.find_subcommand(name));
        let active = active.unwrap_or(&command);
        // Without variables first: every later error is that of a variable.
        environment::without(&command)
            .try_get_matches_from(arguments)
            .map_err(|error| mistakes::explained(error, selected, arguments))?;
        let matches = command
            .clone()
            .try_get_matches_from(arguments)
            .map_err(|error| environment::named(error, active))?;
        let mut args = Self::from_arg_matches(&matches)?;
        args.given = environment::given(&command, &matches);
        args.unknown_variables = unknown_variables;
        args.use_defaults_of_stamp();
        if let (Some(command), Some((_, matches))) = (&mut args.command, matches.subcommand()) {
            let given = environment::given(active, matches);
            match command {
                Command::Probe(probe) => probe.settle(&given)?,
                Command::Monitor(monitor) => monitor.given = given,
                Command::Attach(_) | Command::Detach(_) => {}
            }
        }
        args.check_combinations()?;
        Ok(args)
    }

    /// In STAMP mode, replaces the defaults of options that are not set.
    fn use_defaults_of_stamp(&mut self) {
        if self.mode != Mode::Stamp {
            return;
        }
        let is_given = |field| self.given.get(field).is_some();
        let [listen, max_datagram, timestamps] =
            ["listen", "max_datagram", "timestamps"].map(is_given);
        if !listen {
            self.listen = stamp::LISTEN.parse().into_iter().collect();
        }
        if !max_datagram {
            self.max_datagram = stamp::MAX_DATAGRAM;
        }
        self.timestamps |= !timestamps;
    }

    /// The daemon's settings.
    ///
    /// # Errors
    /// If the key file of STAMP mode cannot be used.
    pub fn config(&self) -> Result<daemon::Config, UnusableKeyFile> {
        Ok(daemon::Config {
            listen: self.listen.clone(),
            workers: self.workers.number(),
            metrics_listen: self.metrics_listen.0.clone(),
            given: self.given.clone(),
            options: self.in_force(),
            mode: self.mode,
            timeout: self.timeout.0,
            max_datagram: self.max_datagram,
            max_peers: NonZeroU32::new(self.max_peers).unwrap_or(NonZeroU32::MIN),
            exit_on: self.exit_on(),
            min_source_port: self.min_source_port,
            rate_limits: [self.rate_limit, self.rate_limit_total],
            busy_poll: self.busy_poll,
            kernel_echo: self.kernel_echo,
            pins: self.pins.clone(),
            stamp: self.stamp.settings(self.keys()?),
            stamp_clock: self.stamp.stamp_clock,
            socket: udp::SocketOptions {
                receive_buffer: receive_buffer_in(self.mode, self.recv_buffer),
                send_buffer: self.send_buffer.into(),
                reuse_address: self.reuse_address,
                timestamps: self.timestamps,
                offload: self.offload(),
                ip_header: self.mode == Mode::Stamp,
            },
        })
    }

    /// The keys of authenticated STAMP, if there is a file with them.
    fn keys(&self) -> Result<Option<Arc<StampKeys>>, UnusableKeyFile> {
        let file = self.stamp.stamp_key_file.as_ref();
        let file = file.filter(|_| self.mode == Mode::Stamp);
        let keys = file.map(|file| key_file::read(file)).transpose()?;
        Ok(keys.map(Arc::new))
    }

    /// The conditions of `--exit-on`.
    fn exit_on(&self) -> ExitOn {
        ExitOn {
            timeout: self.exit_on.contains(&End::Timeout),
            empty: self.exit_on.contains(&End::Empty),
            decode_error: self.exit_on.contains(&End::DecodeError),
        }
    }

    /// Whether to use GRO and GSO: never where one datagram can change what happens to the next
    /// one on the same socket, nor in STAMP mode, where each has its own timestamp and TTL.
    fn offload(&self) -> bool {
        let exit_on = self.exit_on();
        let by_mode = matches!(self.mode, Mode::Lockstep | Mode::Stamp);
        let one_by_one = by_mode || exit_on.empty || exit_on.decode_error;
        self.offload == Offload::Auto && !one_by_one
    }

    /// The log format; `None` means that the daemon chooses.
    pub fn log_format(&self) -> Option<telemetry::Format> {
        self.log_format.chosen()
    }
}

/// The command line, with each option's environment variable and complete help texts.
pub fn command() -> clap::Command {
    Args::command()
        .mut_args(|argument| option::complete(argument, environment::DAEMON))
        .mut_subcommands(|subcommand| {
            let name = subcommand.get_name().to_owned();
            subcommand.mut_args(|argument| {
                let prefix = environment::prefix(&name, argument.get_id().as_str());
                option::complete(argument, &prefix)
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_definition_passes_the_checks_of_clap() {
        command().debug_assert();
    }
}
