//! The command line of the monitor: `udp-echo monitor`.

mod document;
mod network;
mod settings;
mod targets;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Parser, ValueEnum, ValueHint};

use super::environment;
use super::in_force::{list, maybe, name};
use super::probe::Target;
use super::values::{LogFormat, MetricsListen, metrics_listen, path};
use crate::daemon::Given;
use crate::monitor::{MonitorConfig, ProbeEndpoint, TargetSettings};
use crate::telemetry;
use network::Network;
pub use targets::UnusableTargets;

/// Measure many targets continuously and serve the figures to Prometheus
///
/// Send requests to UDP reflectors until stopped, and serve loss, round-trip times and errors of
/// each target as metrics. Targets come from a TOML file and from the command line. SIGHUP reads
/// the file again; targets that did not change are not interrupted.
#[expect(clippy::doc_markdown, reason = "help texts have no backticks")]
#[derive(Debug, Clone, Parser)]
#[command(
    version = super::VERSION,
    display_name = "udp-echo",
    term_width = super::option::WIDTH,
    after_help = "Exit status:\n  \
                  0  stopped by a signal\n  \
                  1  cannot run\n  \
                  2  usage error, or an error in the file"
)]
pub struct MonitorArgs {
    /// Targets to add to those of the file
    #[arg(
        value_name = "TARGET",
        value_hint = ValueHint::Hostname,
        long_help = "Targets to add to those of the file, as HOST[:PORT], with its [defaults]. The \
                     port is 9999 if it is left out (stamp: 862). An IPv6 address with a port goes \
                     in brackets: 2001:db8::1, or [2001:db8::1]:9999."
    )]
    targets: Vec<Target>,

    /// File with the targets [default: none]
    ///
    /// TOML file with the targets and their settings. udp-echo-monitor(8) lists its keys.
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        value_parser = path
    )]
    config: Option<PathBuf>,

    /// Serve HTTP metrics
    ///
    /// HTTP address for metrics, health checks, the status page and /probe, or none for no HTTP.
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_parser = metrics_listen(9863),
        default_value = "127.0.0.1:9863"
    )]
    metrics_listen: MetricsListen,

    /// Serve /probe
    ///
    /// Serve /probe?target=HOST:PORT, which measures a target once per request, as the
    /// multi-target exporters of Prometheus do. A client of the HTTP port can then make this host
    /// send requests to any target; --probe-allow restricts them.
    #[arg(long, value_enum, value_name = "WHEN", default_value = "on")]
    probe_endpoint: Switch,

    /// Networks for /probe [default: all]
    ///
    /// Networks that the targets of /probe may be in, such as 192.0.2.0/24 or 2001:db8::/32,
    /// separated by commas. An address without a prefix length is that address only.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    probe_allow: Vec<Network>,

    /// Log level or filter
    ///
    /// A level (off, error, warn, info, debug or trace) or a filter such as udp_echo=debug.
    #[arg(long, value_name = "LEVEL-OR-FILTER", default_value = "info")]
    pub log: telemetry::Filter,

    /// Log format
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "auto")]
    log_format: LogFormat,

    /// Check options and file, print them and exit
    #[arg(
        long,
        long_help = "Check the options, the variables and the file, print the options and exit. No \
                     socket is opened and no name is resolved.\n\n\
                     If all are valid, each option in force is printed as a variable, defaults \
                     included, and the exit status is 0. Otherwise the error of a start is printed, \
                     and the exit status is 2."
    )]
    pub check: bool,

    /// The options that were set.
    #[arg(skip)]
    pub(super) given: Given,
}

/// Whether something is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Serve it
    On,
    /// Answer 404
    Off,
}

impl MonitorArgs {
    /// The settings of the process.
    pub fn config(&self) -> MonitorConfig {
        let allow = self.probe_allow.iter().map(Network::parts).collect();
        MonitorConfig {
            metrics_listen: self.metrics_listen.0.clone(),
            probe: (self.probe_endpoint == Switch::On).then_some(ProbeEndpoint { allow }),
            given: self.given.clone(),
            options: self.in_force(),
        }
    }

    /// Reads the targets of the file, with their keys, and of the command line.
    ///
    /// # Errors
    /// If the file or a target cannot be used, or if there is no target. The text is one line.
    pub fn targets(&self) -> Result<Vec<TargetSettings>, UnusableTargets> {
        targets::read(self.config.as_deref(), &self.targets)
    }

    /// Each option's variable and the value in force, in the order of `--help`.
    pub fn in_force(&self) -> Vec<(String, String)> {
        let metrics_listen = self.metrics_listen.0.as_ref().map(ToString::to_string);
        let prefix = environment::prefix("monitor", "");
        [
            (
                "CONFIG",
                maybe(self.config.as_ref().map(|file| file.display())),
            ),
            (
                "METRICS_LISTEN",
                metrics_listen.unwrap_or_else(|| "none".to_owned()),
            ),
            ("PROBE_ENDPOINT", name(&self.probe_endpoint)),
            (
                "PROBE_ALLOW",
                list(self.probe_allow.iter().map(ToString::to_string)),
            ),
            ("LOG", self.log.to_string()),
            ("LOG_FORMAT", name(&self.log_format)),
        ]
        .map(|(option, value)| (format!("{prefix}{option}"), value))
        .into()
    }

    /// The log format; `None` means that the monitor chooses.
    pub fn log_format(&self) -> Option<telemetry::Format> {
        self.log_format.chosen()
    }
}
