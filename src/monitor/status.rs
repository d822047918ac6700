//! The state of the running monitor: health, readiness, the status page and the status line.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::MonitorMetrics;
use super::board::Board;
use super::engine::EngineState;
use super::figures::{Series, Snapshot};
use super::recent::PERIOD;
use super::targets::Targets;
use crate::http::Site;
use crate::metrics::{Clocks, Metrics};
use crate::service::{AwakeClock, clocks, now, today};
use crate::status_page::monitor::{self as page, MonitorFacts};

/// The probing thread is stalled if its loop has not turned for this long on the [`AwakeClock`].
const STALLED: Duration = Duration::from_secs(2);

/// The state of the running monitor.
pub(super) struct MonitorStatus {
    options: Vec<(String, String)>,
    metrics_listen: Option<String>,
    shown: Arc<Shown>,
    state: Arc<EngineState>,
    metrics: MonitorMetrics,
    ready: AtomicBool,
    awake: AwakeClock,
    /// The last number of turns of the engine, and when it was seen first.
    turns: Mutex<(u64, Duration)>,
    /// When the period of the counts of the last minutes ends.
    period_end: Mutex<Instant>,
}

/// The sources of a scrape beside the engine's figures.
struct Shown {
    board: Arc<Board>,
    targets: Mutex<Vec<(Arc<str>, bool)>>,
    reload_succeeded: AtomicBool,
}

impl MonitorStatus {
    /// Registers the metrics of the board and of the engine.
    pub(super) fn new(
        options: Vec<(String, String)>,
        metrics_listen: Option<String>,
        board: Arc<Board>,
        state: Arc<EngineState>,
        dropped_log_lines: Arc<AtomicU64>,
        started: Clocks,
    ) -> prometheus::Result<Self> {
        let shown = Arc::new(Shown {
            board,
            targets: Mutex::default(),
            reload_succeeded: AtomicBool::new(true),
        });
        let (source, engine) = (Arc::clone(&shown), Arc::clone(&state));
        let snapshot = Arc::new(move || source.snapshot(&engine));
        Ok(Self {
            options,
            metrics_listen,
            shown,
            state,
            metrics: MonitorMetrics::new(snapshot, dropped_log_lines, started, clocks)?,
            ready: AtomicBool::new(false),
            awake: AwakeClock::new(now()),
            turns: Mutex::default(),
            period_end: Mutex::new(now() + PERIOD),
        })
    }

    /// Shows the targets as they are now.
    pub(super) fn show(&self, targets: &Targets) {
        *lock(&self.shown.targets) = targets.resolved();
    }

    /// Notes whether a reload succeeded.
    pub(super) fn reloaded(&self, succeeded: bool) {
        self.shown.reload_succeeded.store(succeeded, Relaxed);
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    pub(super) fn uptime(&self) -> Duration {
        self.metrics.uptime()
    }

    /// Advances the awake clock, and ends a period if it is time.
    pub(super) fn beat(&self) {
        let _ = self.healthy();
        let now = now();
        let mut end = lock(&self.period_end);
        if now >= *end {
            *end = now + PERIOD;
            for series in self.shown.board.series() {
                series.end_period();
            }
        }
    }

    /// The line that `systemctl status` shows.
    pub(super) fn line(&self) -> String {
        let targets = lock(&self.shown.targets).clone();
        let unresolved = targets.iter().filter(|(_, resolved)| !resolved).count();
        let series = self.shown.board.series();
        let (sent, lost) = series.iter().fold((0, 0), |(sent, lost), series| {
            let figures = lock(&series.figures);
            (sent + figures.sent, lost + figures.lost)
        });
        let number = |number: usize, one: &str, many: &str| match number {
            1 => format!("1 {one}"),
            number => format!("{number} {many}"),
        };
        // Writing to a String cannot fail.
        let mut line = format!("probing {}", number(targets.len(), "target", "targets"));
        if unresolved > 0 {
            let _ = write!(line, " ({unresolved} not resolved)");
        }
        if let Some(address) = &self.metrics_listen {
            let _ = write!(line, ", metrics on {address}");
        }
        let _ = write!(line, "; {sent} sent, {lost} lost");
        line
    }
}

impl Shown {
    fn snapshot(&self, engine: &EngineState) -> Snapshot {
        let series: Vec<Series> = self.board.series();
        Snapshot {
            targets: lock(&self.targets).clone(),
            series,
            engine: lock(&engine.figures).clone(),
            reload_succeeded: self.reload_succeeded.load(Relaxed),
        }
    }
}

impl Site for MonitorStatus {
    fn metrics(&self) -> Result<(&'static str, String), String> {
        let text = self.metrics.text().map_err(|error| error.to_string())?;
        Ok((Metrics::CONTENT_TYPE, text))
    }

    fn metrics_are_slow(&self) -> bool {
        true
    }

    fn healthy(&self) -> Result<(), String> {
        let awake = self.awake.read(now());
        let turns = self.state.turns.load(Relaxed);
        let mut seen = lock(&self.turns);
        if seen.0 != turns {
            *seen = (turns, awake);
        }
        let still = awake.saturating_sub(seen.1);
        if still > STALLED {
            let seconds = still.as_secs_f64();
            return Err(format!(
                "the probing thread made no progress for {seconds:.1} s"
            ));
        }
        Ok(())
    }

    fn ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    fn page(&self, nonce: &str) -> String {
        page::page(nonce, &self.page_main())
    }

    fn page_main(&self) -> String {
        let facts = MonitorFacts {
            uptime: self.uptime(),
            health: self.healthy(),
            ready: self.ready(),
            snapshot: &self.metrics.snapshot(),
            today: today(),
            options: &self.options,
        };
        page::main(&facts)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
