//! The client: sends requests to a reflector and counts what comes back.
//!
//! - [`Config`]: what a run is to do.
//! - `wire`, `tally`, `rtt`, `turns`, `pace`: the core. What is sent and when, what came
//!   and what that means; no socket, no clock.
//! - `prober`, `clock`: the loop around it, on one plain thread.
//! - `attribution`, `exposition`, `fetch`: where the missing were lost, by the daemon's metrics.
//! - `summary`, `json`, `notes`, `screen`: how it is told.

mod attribution;
mod clock;
mod config;
mod exposition;
mod fetch;
mod json;
mod notes;
pub(crate) mod pace;
mod prober;
mod rtt;
mod screen;
mod summary;
pub mod tally;
pub mod turns;
pub mod wire;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use crate::address::ResolveError;
use crate::{runtime, udp};
use attribution::{Attribution, Own};
pub use config::Config;
use prober::{Outcome, Prober};
use screen::Screen;
use summary::{Summary, Where};

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The target's name stands for no address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The run could not begin or go on.
    #[error(transparent)]
    Run(#[from] prober::RunError),
    /// The daemon's metrics cannot be read.
    #[error(transparent)]
    Metrics(#[from] fetch::FetchError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
    /// What was seen cannot be told.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

/// Measures as `config` says, and tells it on standard output. Says whether less was lost
/// than is too much.
///
/// # Errors
/// When nothing can be measured.
pub fn run(config: &Config) -> Result<bool, ProbeError> {
    let target = config.target.resolve()?;
    let address = udp::named_here(target);
    let mut screen = Screen::new();
    let url = config.metrics_url.as_ref();
    let before = url.map(|url| fetch::counters(url, None)).transpose()?;
    // A flow is a socket. If it cannot be had, that will show.
    let _ = udp::raise_open_file_limit();
    let stops = count_stops().map_err(ProbeError::Signals)?;
    let outcome = Prober::new(config, target, &address, random(), &mut screen, &stops)?.run()?;
    let whereabouts =
        url.zip(before)
            .map(|(url, before)| match fetch::counters(url, Some(&stops)) {
                Ok(after) => Attribution::new(&before, &after, own(&outcome))
                    .map_or(Where::StartedAnew, Where::Known),
                Err(error) => Where::Unknown(error.to_string()),
            });
    let text = if config.json {
        json::object(&config.target, &outcome, whereabouts.as_ref()).to_string()
    } else {
        let summary = Summary {
            config,
            address: &address,
            outcome: &outcome,
            whereabouts: whereabouts.as_ref(),
            columns: screen.columns(),
        };
        summary.to_string()
    };
    if !config.lines() {
        screen.wipe();
    }
    screen.line(format_args!("{text}"));
    screen.end().map_err(ProbeError::Output)?;
    let totals = outcome.tally.totals();
    Ok(totals.sent == 0 || !totals.lost_at_least(config.max_loss))
}

fn random() -> u32 {
    let random = RandomState::new().build_hasher().finish();
    // The low half is as random as all of it.
    u32::try_from(random & u64::from(u32::MAX)).unwrap_or_default()
}

/// What the client itself counted, as the daemon's metrics are to have it.
fn own(outcome: &Outcome) -> Own {
    let (totals, notes) = (outcome.tally.totals(), &outcome.notes);
    Own {
        lost: totals.lost(),
        sent: totals.sent + notes.records_sent,
        came: totals.received
            + totals.duplicates
            + totals.damaged
            + totals.too_late
            + notes.records_back
            + outcome.own_drops,
    }
}

/// Counts SIGINT and SIGTERM, on a thread of its own.
fn count_stops() -> io::Result<Arc<AtomicU32>> {
    let stops = Arc::new(AtomicU32::new(0));
    let runtime = runtime::new()?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    drop(entered);
    let counted = Arc::clone(&stops);
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    let came = tokio::select! {
                        came = interrupt.recv() => came,
                        came = terminate.recv() => came,
                    };
                    if came.is_none() {
                        return;
                    }
                    counted.fetch_add(1, Relaxed);
                }
            });
        })?;
    Ok(stops)
}
