//! The state of the running daemon: health, readiness, the status page and the status line.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::http::Site;
use crate::metrics::{Metrics, MetricsSummary};
use crate::reflect::Mode;
use crate::service::{AwakeClock, now};
use crate::status_page::{self, Facts, History};
use crate::udp::{self, Socket};
use crate::worker::Shared;

/// A busy worker is stalled if its loop has not turned for this long on the supervisor's
/// [`AwakeClock`].
const STALLED: Duration = Duration::from_secs(2);

/// A worker that has had work to do since `progress`.
#[derive(Debug, Clone, Copy)]
struct Busy {
    /// When the work was first seen, on the [`AwakeClock`].
    since: Duration,
    /// The worker's last turn of its loop.
    progress: Instant,
}

/// The state of the running daemon.
pub(super) struct Status {
    mode: Mode,
    /// The options in force, for the page.
    options: Vec<(String, String)>,
    sockets: Vec<Arc<Socket>>,
    /// The address of each worker's socket.
    pub(super) listen: Vec<String>,
    pub(super) metrics_listen: Option<String>,
    pub(super) metrics: Metrics,
    pub(super) shared: Arc<Shared>,
    pub(super) ready: AtomicBool,
    awake: AwakeClock,
    /// Each worker, if it is busy.
    busy: Mutex<Vec<Option<Busy>>>,
    history: History,
}

impl Status {
    pub(super) fn new(
        mode: Mode,
        options: Vec<(String, String)>,
        sockets: &[Arc<Socket>],
        metrics_listen: Option<String>,
        metrics: Metrics,
        shared: &Arc<Shared>,
    ) -> Self {
        let listen = sockets
            .iter()
            .map(|socket| udp::named(socket.address(), &**socket));
        Self {
            mode,
            options,
            listen: listen.collect(),
            metrics_listen,
            metrics,
            shared: Arc::clone(shared),
            ready: AtomicBool::new(false),
            awake: AwakeClock::new(now()),
            busy: Mutex::new(vec![None; sockets.len()]),
            sockets: sockets.to_vec(),
            history: History::default(),
        }
    }

    pub(super) fn since_epoch(&self) -> Duration {
        now().saturating_duration_since(self.shared.epoch)
    }

    /// Whether every worker has begun its loop.
    pub(super) fn all_started(&self) -> bool {
        let Shared { epoch, states, .. } = &*self.shared;
        let mut progress = states.iter().map(|state| state.progress.get(*epoch));
        progress.all(|progress| progress.is_some())
    }

    pub(super) fn summary(&self) -> String {
        let summary = self.metrics.summary();
        let MetricsSummary {
            received,
            echoed,
            decoded,
            drops,
            ..
        } = summary;
        let of_mode = match (self.mode, summary.stamp.sessions.sessions) {
            (Mode::Stamp, 1) => "1 session".to_owned(),
            (Mode::Stamp, sessions) => format!("{sessions} sessions"),
            _ => format!("{decoded} decoded"),
        };
        format!("{received} received, {echoed} echoed, {of_mode}, {drops} dropped by the kernel")
    }

    fn distinct_addresses(&self) -> String {
        let mut addresses = self.listen.clone();
        addresses.dedup();
        addresses.join(", ")
    }

    /// Advances the awake clock, checks the workers and adds a sample to the history. Returns the
    /// sample.
    pub(super) fn beat(&self) -> MetricsSummary {
        let _ = self.healthy();
        let sample = self.metrics.summary();
        self.history.add(now(), &sample);
        sample
    }

    /// The line that `systemctl status` shows.
    pub(super) fn line(&self) -> String {
        let mut status = format!("{} on {}", self.mode.name(), self.distinct_addresses());
        if let Some(address) = &self.metrics_listen {
            let _ = write!(status, ", metrics on {address}");
        }
        status + "; " + &self.summary()
    }

    /// Whether a worker has work to do: its next turn is overdue, or its socket holds a datagram. A
    /// worker that blocks in a receive has none.
    fn is_busy(&self, index: usize, now: Instant) -> bool {
        let due = self.shared.states[index].due.get(self.shared.epoch);
        let waits = || matches!(self.sockets[index].queue_and_drops(), Ok((1.., _)));
        due.is_none_or(|due| due < now) || waits()
    }
}

impl Site for Status {
    fn metrics(&self) -> Result<(&'static str, String), String> {
        let text = self.metrics.text().map_err(|error| error.to_string())?;
        Ok((Metrics::CONTENT_TYPE, text))
    }

    fn healthy(&self) -> Result<(), String> {
        let now = now();
        let awake = self.awake.read(now);
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let stalled = busy.iter_mut().enumerate().filter_map(|(index, busy)| {
            let Shared { epoch, states, .. } = &*self.shared;
            let progress = states[index].progress.get(*epoch).unwrap_or(*epoch);
            let seen = busy.filter(|seen| seen.progress == progress);
            let since = seen.map_or(awake, |seen| seen.since);
            *busy = self.is_busy(index, now).then_some(Busy { since, progress });
            let is_stalled = busy.is_some() && awake.saturating_sub(since) > STALLED;
            is_stalled.then(|| {
                let listen = &self.listen[index];
                let seconds = now.saturating_duration_since(progress).as_secs_f64();
                format!("worker {index} on {listen} made no progress for {seconds:.1} s")
            })
        });
        let stalled: Vec<_> = stalled.collect();
        if stalled.is_empty() {
            Ok(())
        } else {
            Err(stalled.join("; "))
        }
    }

    fn ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    fn page(&self, nonce: &str) -> String {
        status_page::page(nonce, &self.listen[0], &self.page_main())
    }

    fn page_main(&self) -> String {
        let kernel_path = self.metrics.kernel_path();
        let facts = Facts {
            mode: self.mode,
            addresses: &self.distinct_addresses(),
            uptime: self.metrics.uptime(),
            health: self.healthy(),
            ready: self.ready(),
            summary: self.metrics.summary(),
            last_datagram: self.metrics.since_last_datagram(),
            clock_error: self.metrics.clock_error(),
            sockets: &self.metrics.sockets(),
            kernel_path: kernel_path.as_deref(),
            options: &self.options,
        };
        status_page::main(&facts, &self.history)
    }
}
