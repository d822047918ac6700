//! The monitor `udp-echo monitor`: probes many targets for ever and serves the figures to Prometheus.
//!
//! - [`MonitorConfig`], [`TargetSettings`]: the settings, checked once by the command line.
//! - [`figures`]: what is counted for one address of a target, and [`buckets`] for its times.
//! - [`MonitorMetrics`]: the figures as metrics.

pub mod buckets;
mod config;
mod engine;
pub mod figures;
mod loss;
mod measurement;
mod metrics;
mod schedule;

use crate::telemetry::Log;
pub use config::{MonitorConfig, ProbeEndpoint, TargetSettings};
pub use metrics::MonitorMetrics;

/// The most addresses of all targets together.
pub const MAX_ADDRESSES: usize = 10_000;

/// The reason why the monitor cannot run.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// A step of the start failed.
    #[error("cannot {action}: {cause}")]
    Start {
        /// What could not be done.
        action: &'static str,
        /// The error.
        #[source]
        cause: std::io::Error,
    },
}

/// Runs the monitor until SIGTERM or SIGINT. On SIGHUP, `reload` reads the targets again. Its error
/// is one line of text.
///
/// # Errors
/// If the monitor cannot start or cannot continue.
pub fn run(
    config: &MonitorConfig,
    targets: Vec<TargetSettings>,
    reload: &dyn Fn() -> Result<Vec<TargetSettings>, String>,
    log: &Log,
) -> Result<(), MonitorError> {
    let _ = (config, targets, reload, log);
    Err(MonitorError::Start {
        action: "probe",
        cause: std::io::ErrorKind::Unsupported.into(),
    })
}
