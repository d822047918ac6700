//! Metrics of given workers, for tests.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::{Clocks, MetricsSources, WorkerMetrics};

/// Returns the sources of the metrics of `workers`, at any time.
pub(super) fn sources(workers: Vec<WorkerMetrics>) -> MetricsSources {
    MetricsSources {
        workers,
        kernel: None,
        timestamps: false,
        stamp_clock: None,
        config_info: Vec::new(),
        dropped_log_lines: Arc::default(),
        read_limits: || [None; 2],
        started: clocks(),
        clocks,
        last: Mutex::default(),
    }
}

#[expect(clippy::disallowed_methods, reason = "any time will do")]
fn clocks() -> Clocks {
    Clocks {
        monotonic: Instant::now(),
        since_boot: Duration::ZERO,
        today: SystemTime::UNIX_EPOCH,
    }
}
