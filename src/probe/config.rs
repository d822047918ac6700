//! What a client is to do: checked once, before anything is opened.

use std::time::Duration;

use hyper::Uri;

use super::pace::Frequency;
use crate::address::HostPort;
use crate::reflect::Mode;

/// What a client is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// The reflector.
    pub target: HostPort,
    /// What the reflector does.
    pub mode: Mode,
    /// How many requests, if there is an end to them.
    pub count: Option<u64>,
    /// For how long to send, if there is an end to it.
    pub duration: Option<Duration>,
    /// How often to send.
    pub frequency: Frequency,
    /// How long a request is, in bytes.
    pub size: usize,
    /// How long to wait for a reply.
    pub wait: Duration,
    /// From how many ports.
    pub flows: usize,
    /// How many of a hundred lost requests are too many.
    pub max_loss: f64,
    /// Where the daemon serves its metrics, if they are to be read.
    pub metrics_url: Option<Uri>,
    /// Whether only the summary is shown.
    pub quiet: bool,
    /// Whether only a JSON object is shown.
    pub json: bool,
}

impl Config {
    /// Whether each reply gets a line.
    pub(super) fn lines(&self) -> bool {
        !self.quiet && !self.json
    }
}
