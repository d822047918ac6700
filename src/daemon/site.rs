//! The running daemon, as people and machines see it.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::awake::Awake;
use super::now;
use super::page::{self, Facts, History};
use crate::exchange::Mode;
use crate::http::Site;
use crate::metrics::Metrics;
use crate::worker::Shared;

/// A worker that has not gone round for so long, while the supervisor did, makes no progress.
const STALLED: Duration = Duration::from_secs(2);

/// The running daemon, as people and machines see it.
pub(super) struct Daemon {
    pub(super) mode: Mode,
    /// The address of each worker's socket.
    pub(super) listen: Vec<String>,
    pub(super) metrics_listen: Option<String>,
    pub(super) metrics: Metrics,
    pub(super) shared: Arc<Shared>,
    pub(super) ready: AtomicBool,
    pub(super) awake: Awake,
    pub(super) history: History,
}

impl Daemon {
    /// Whether every worker has begun its loop.
    pub(super) fn all_started(&self) -> bool {
        let Shared { epoch, counts, .. } = &*self.shared;
        counts
            .iter()
            .all(|counts| counts.progress.get(*epoch).is_some())
    }

    pub(super) fn summary(&self) -> String {
        let summary = self.metrics.summary();
        format!(
            "{} received, {} echoed, {} decoded, {} dropped by the kernel",
            summary.received, summary.echoed, summary.decoded, summary.drops
        )
    }

    fn distinct_addresses(&self) -> String {
        let mut addresses = self.listen.clone();
        addresses.dedup();
        addresses.join(", ")
    }

    /// To be told often that the supervisor is running.
    pub(super) fn is_awake(&self) {
        self.awake.look(now());
    }

    /// Remembers what is counted now.
    pub(super) fn sample(&self) {
        self.history.add(now(), self.metrics.summary());
    }

    /// One line for `systemctl status`.
    pub(super) fn status(&self) -> String {
        let mut status = format!("{} on {}", mode_name(self.mode), self.distinct_addresses());
        if let Some(address) = &self.metrics_listen {
            let _ = write!(status, ", metrics on {address}");
        }
        status + "; " + &self.summary()
    }
}

impl Site for Daemon {
    fn metrics(&self) -> Result<(&'static str, String), String> {
        let text = self.metrics.text().map_err(|error| error.to_string())?;
        Ok((Metrics::CONTENT_TYPE, text))
    }

    fn healthy(&self) -> Result<(), String> {
        let Shared { epoch, counts, .. } = &*self.shared;
        let now = now();
        let awake = self.awake.look(now);
        let stalled: Vec<_> = counts
            .iter()
            .enumerate()
            .filter_map(|(index, counts)| {
                let last = counts.progress.get(*epoch).unwrap_or(*epoch);
                let since = now.saturating_duration_since(last.max(awake));
                (since > STALLED).then(|| {
                    format!(
                        "worker {index} on {} made no progress for {:.1} s",
                        self.listen[index],
                        since.as_secs_f64()
                    )
                })
            })
            .collect();
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
        page::page(nonce, &self.listen[0], &self.page_main())
    }

    fn page_main(&self) -> String {
        let facts = Facts {
            mode: mode_name(self.mode),
            addresses: &self.distinct_addresses(),
            uptime: self.metrics.uptime(),
            health: self.healthy(),
            ready: self.ready(),
            summary: self.metrics.summary(),
            sockets: &self.metrics.sockets(),
        };
        page::main(&facts, &self.history)
    }
}

/// A mode's name on the command line.
pub(super) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Exchange => "exchange",
        Mode::Lockstep => "lockstep",
        Mode::Echo => "echo",
    }
}
