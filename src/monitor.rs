//! The monitor `udp-echo monitor`: probes many targets for ever and serves the figures to Prometheus.
//!
//! - [`MonitorConfig`], [`TargetSettings`]: the settings, checked once by the command line.
//! - `targets`: resolves names, and gives the engine the addresses to probe.
//! - `engine`: the probing thread. `measurement`: one address, with its `schedule` and the directions
//!   of its `loss`.
//! - [`figures`]: what is counted for one address of a target, and [`buckets`] for its times.
//!   `recent`: its counts of the last minutes. `board`: the series of all addresses.
//! - [`MonitorMetrics`]: the figures as metrics. `status`: health and the status page.
//! - `endpoint`: `/probe`, a single run.
//! - `supervise`: starts and stops all of them.

mod board;
pub mod buckets;
mod config;
mod endpoint;
mod engine;
pub mod figures;
mod loss;
mod measurement;
mod metrics;
pub mod recent;
mod schedule;
mod status;
mod supervise;
mod targets;

pub use config::{MonitorConfig, ProbeEndpoint, TargetSettings};
pub use metrics::MonitorMetrics;
pub use supervise::{MonitorError, run};

/// The most addresses of all targets together.
pub const MAX_ADDRESSES: usize = 10_000;
