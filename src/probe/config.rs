//! The settings of a run, checked once by the command line.

use std::time::Duration;

use super::MetricsUrl;
use super::pace::Frequency;
use super::stamp::StampRequests;
use crate::address::{Family, HostPort};
use crate::reflect::Mode;
use crate::udp::{IpOptions, Source};

/// The settings of a run.
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
#[derive(Debug, Clone)]
pub struct Config {
    /// Host and port of the reflector.
    pub target: HostPort,
    /// Mode of the reflector.
    pub mode: Mode,
    /// Number of requests, or `None` for no limit.
    pub count: Option<u64>,
    /// How long to send, or `None` for no limit.
    pub duration: Option<Duration>,
    /// Rate of the requests.
    pub frequency: Frequency,
    /// Length of a request in bytes, at least [`HEADER_BYTES`](super::wire::HEADER_BYTES).
    pub size: usize,
    /// Longest time to wait for a reply.
    pub wait: Duration,
    /// Number of source ports, at least 1.
    pub flows: usize,
    /// Lost requests in percent from which on [`run`](super::run) returns `false`.
    pub max_loss: f64,
    /// URL of the daemon's metrics, which show where requests were lost.
    pub metrics_url: Option<MetricsUrl>,
    /// Address family of the target.
    pub family: Family,
    /// Address or interface to send from; `None` leaves it to the route.
    pub source: Option<Source>,
    /// IP header of the requests.
    pub ip: IpOptions,
    /// Time between lines of figures; `None` prints none.
    pub report: Option<Duration>,
    /// Requests in STAMP mode.
    pub stamp: Option<StampRequests>,
    /// Print only the summary.
    pub quiet: bool,
    /// Print only the summary, as a JSON object.
    pub json: bool,
    /// Print a JSON object for each event, and the summary as the last one.
    pub json_lines: bool,
    /// Print the time before each line.
    pub timestamps: bool,
}

impl Config {
    /// Returns the target as given, and its address if that is another text.
    pub(super) fn shown_target(&self, address: &str) -> String {
        let target = self.target.to_string();
        if target == address {
            target
        } else {
            format!("{target} ({address})")
        }
    }

    /// Whether to print a line of text for each event.
    pub(super) fn lines(&self) -> bool {
        !self.quiet && !self.json && !self.json_lines
    }

    /// Returns settings for tests of other modules.
    #[cfg(test)]
    pub(super) fn example(target: &str, mode: Mode) -> Self {
        Self {
            target: target.parse().unwrap(),
            mode,
            count: None,
            duration: None,
            frequency: Frequency {
                count: 1,
                time: Duration::from_secs(1),
            },
            size: 64,
            wait: Duration::from_secs(1),
            flows: 1,
            max_loss: 100.0,
            metrics_url: None,
            family: Family::Any,
            source: None,
            ip: IpOptions::default(),
            report: None,
            stamp: None,
            quiet: true,
            json: false,
            json_lines: false,
            timestamps: false,
        }
    }
}
