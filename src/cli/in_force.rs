//! The options in force, as `--check` prints them.

use std::fmt::Display;
use std::time::Duration;

use clap::ValueEnum;

use super::{Args, Offload, environment};
use crate::udp::BufferSize;

impl Args {
    /// Each option's variable and the value in force, in the order of `--help`. The variables set
    /// the same options again; an empty value is a default that has no text.
    pub fn in_force(&self) -> Vec<(String, String)> {
        let Self {
            listen,
            mode,
            timeout,
            exit_on,
            metrics_listen,
            ..
        } = self;
        let timeout = timeout.0.map(|timeout| time(timeout.get()));
        let metrics_listen = metrics_listen.0.as_ref().map(ToString::to_string);
        let none = || "none".to_owned();
        let offload = if self.offload() {
            Offload::Auto
        } else {
            Offload::Off
        };
        let general = [
            ("LISTEN", list(listen.iter().map(ToString::to_string))),
            ("MODE", mode.name().to_owned()),
            ("TIMEOUT", timeout.unwrap_or_else(none)),
            ("MAX_DATAGRAM", self.max_datagram.to_string()),
            ("RECV_BUFFER", buffer(self.recv_buffer)),
            ("SEND_BUFFER", maybe(self.send_buffer)),
            ("WORKERS", self.workers.to_string()),
            ("BUSY_POLL", time(self.busy_poll)),
            ("KERNEL_ECHO", name(&self.kernel_echo)),
            ("PINS", self.pins.display().to_string()),
            ("OFFLOAD", name(&offload)),
            ("MAX_PEERS", self.max_peers.to_string()),
            ("EXIT_ON", list(exit_on.iter().map(name))),
            ("REUSE_ADDRESS", self.reuse_address.to_string()),
            ("TIMESTAMPS", self.timestamps.to_string()),
            ("MIN_SOURCE_PORT", self.min_source_port.to_string()),
            ("RATE_LIMIT", maybe(self.rate_limit)),
            ("RATE_LIMIT_TOTAL", maybe(self.rate_limit_total)),
            ("METRICS_LISTEN", metrics_listen.unwrap_or_else(none)),
            ("LOG", self.log.to_string()),
            ("LOG_FORMAT", name(&self.log_format)),
        ];
        let all = general.into_iter().chain(self.stamp.in_force());
        all.map(|(option, value)| (format!("{}{option}", environment::DAEMON), value))
            .collect()
    }
}

pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

fn buffer(size: BufferSize) -> String {
    match size {
        BufferSize::Default => String::new(),
        BufferSize::Auto => "auto".to_owned(),
        BufferSize::Bytes(bytes) => bytes.to_string(),
    }
}

pub(super) fn maybe(value: Option<impl Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

pub(super) fn name(value: &impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

/// A time without spaces, which a shell would need quotes for: `0`, `5s`, `1m30s`.
pub(super) fn time(time: Duration) -> String {
    if time.is_zero() {
        return "0".into();
    }
    humantime::format_duration(time)
        .to_string()
        .replace(' ', "")
}
