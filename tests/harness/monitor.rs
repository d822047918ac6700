//! The metrics of a monitor, without a running one.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use udp_echo::metrics::Clocks;
use udp_echo::monitor::MonitorMetrics;
use udp_echo::monitor::figures::{EngineFigures, Figures, FlowFigures, Series, Snapshot};
use udp_echo::reflect::Mode;

/// The text of one target in STAMP mode that has every optional metric.
pub(crate) fn text() -> String {
    let metrics = MonitorMetrics::new(Arc::new(snapshot), Arc::default(), clocks(), clocks);
    metrics.unwrap().text().unwrap()
}

fn snapshot() -> Snapshot {
    let figures = Figures {
        reply_ttl: Some(64),
        flows: vec![FlowFigures::default(); 2],
        ..Figures::new(Mode::Stamp)
    };
    let series = Series {
        target: "reflector".into(),
        address: "192.0.2.1:862".into(),
        mode: Mode::Stamp,
        flows: 8,
        figures: Arc::new(Mutex::new(figures)),
        recent: Arc::default(),
    };
    Snapshot {
        targets: vec![(Arc::clone(&series.target), true)],
        series: vec![series],
        engine: EngineFigures::default(),
        reload_succeeded: true,
    }
}

fn clocks() -> Clocks {
    Clocks {
        monotonic: Instant::now(),
        since_boot: Duration::ZERO,
        today: SystemTime::UNIX_EPOCH,
    }
}
