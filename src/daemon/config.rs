//! The daemon's settings, checked before it opens anything.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::address::HostPort;
use crate::reflect::stamp::StampSettings;
use crate::reflect::{Admission, ExitOn, LEAK, Limits, Mode, Rate, ReflectorSettings, Timeout};
use crate::udp;
use crate::worker::StampClock;

/// The settings that were set: the field's name, and the option or environment variable that set it.
#[derive(Debug, Clone, Default)]
pub struct Given(pub Vec<(String, String)>);

impl Given {
    /// The option or variable that set the field, if one did.
    pub fn get(&self, field: &str) -> Option<&str> {
        let given = self.0.iter().find(|(given, _)| given == field);
        given.map(|(_, name)| name.as_str())
    }

    /// The option or variable that set the field, else its option.
    pub fn name_of(&self, field: &str) -> String {
        let option = || format!("--{}", field.replace('_', "-"));
        self.get(field).map_or_else(option, str::to_owned)
    }

    /// The setting as it was written: `--mode echo` or `UDP_ECHO_MODE=echo`.
    pub fn with(&self, field: &str, value: &str) -> String {
        let name = self.name_of(field);
        let separator = if name.starts_with("--") { ' ' } else { '=' };
        format!("{name}{separator}{value}")
    }
}

/// Whether to use the programs of the kernel path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KernelPath {
    /// Never
    Off,
    /// If they have the same settings; else warn and use the socket
    Auto,
    /// As auto, but do not start without them
    Require,
}

/// The daemon's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses that receive datagrams, unless sockets are passed in.
    pub listen: Vec<HostPort>,
    /// The number of workers per address, unless sockets are passed in.
    pub workers: usize,
    /// The address that serves HTTP, if any, unless a socket is passed in.
    pub metrics_listen: Option<HostPort>,
    /// The settings that were set.
    pub given: Given,
    /// Every option as an environment variable: name and value in force.
    pub options: Vec<(String, String)>,
    /// The protocol that decides about each datagram.
    pub mode: Mode,
    /// The longest wait for a datagram; `None` waits for ever.
    pub timeout: Option<Timeout>,
    /// The longest echo in bytes; longer datagrams are cut.
    pub max_datagram: u16,
    /// The most peers that may owe a record at once, per worker.
    pub max_peers: NonZeroU32,
    /// The events that end the daemon.
    pub exit_on: ExitOn,
    /// The lowest source port that is answered.
    pub min_source_port: u16,
    /// The datagrams answered per second, per source and in total.
    pub rate_limits: [Option<Rate>; 2],
    /// Whether to use the programs of the kernel path.
    pub kernel_echo: KernelPath,
    /// The folder of their pins.
    pub pins: PathBuf,
    /// How long a worker polls before it sleeps.
    pub busy_poll: Duration,
    /// The settings of STAMP mode.
    pub stamp: StampSettings,
    /// Where the error estimate of STAMP mode comes from.
    pub stamp_clock: StampClock,
    /// The options of every UDP socket.
    pub socket: udp::SocketOptions,
}

impl Config {
    /// The labels of the metric `config_info`, written as `--check` prints the options.
    pub(super) fn info(&self) -> Vec<(&'static str, String)> {
        let value = |variable: &str| {
            let option = self.options.iter().find(|(name, _)| name == variable);
            option.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        vec![
            ("mode", value("UDP_ECHO_MODE")),
            ("timeout", value("UDP_ECHO_TIMEOUT")),
            ("offload", value("UDP_ECHO_OFFLOAD")),
            ("kernel_echo", value("UDP_ECHO_KERNEL_ECHO")),
        ]
    }

    /// The options except those of the `replaced` fields.
    pub(super) fn in_force(&self, replaced: &[&str]) -> Vec<(String, String)> {
        let names: Vec<_> = replaced
            .iter()
            .map(|field| format!("UDP_ECHO_{}", field.to_uppercase()))
            .collect();
        let options = self.options.iter();
        let in_force = options.filter(|(name, _)| !names.contains(name));
        in_force.cloned().collect()
    }

    /// The settings of every worker's reflector. `own` are the addresses of all sockets.
    pub(super) fn settings(
        &self,
        own: impl IntoIterator<Item = SocketAddr>,
        epoch: Instant,
    ) -> ReflectorSettings {
        let [each, total] = self.rate_limits;
        let limits = each
            .or(total)
            .map(|_| Arc::new(Limits::new(epoch, LEAK, each, total)));
        ReflectorSettings {
            mode: self.mode,
            timeout: self.timeout,
            max_datagram: self.max_datagram.into(),
            max_peers: self.max_peers,
            exit_on: self.exit_on,
            admission: Admission::new(self.min_source_port, own),
            limits,
            stamp: self.stamp.clone(),
        }
    }
}
