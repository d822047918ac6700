//! The client `udp-echo probe`: sends requests to a reflector and measures the replies.
//!
//! - [`Config`]: the settings of a run.
//! - `wire`, `tally`, `rtt`, `exchange`, `pace`: the core, without a socket or a clock.
//! - `prober`, `clock`: the loop around the core, on one thread.
//! - `attribution`, `exposition`, `fetch`, `metrics_url`: where requests were lost, by the
//!   daemon's metrics.
//! - `summary`, `json`, `notes`, `format`, `screen`: the output.

mod attribution;
mod clock;
mod config;
pub mod exchange;
mod exposition;
mod fetch;
mod format;
mod json;
mod metrics_url;
mod notes;
pub(crate) mod pace;
mod prober;
mod rtt;
mod screen;
mod summary;
pub mod tally;
pub mod wire;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use crate::address::{Family, ResolveError};
use crate::{runtime, udp};
use attribution::{Attribution, ClientCounts};
pub use config::Config;
pub use metrics_url::MetricsUrl;
use prober::{Outcome, Prober};
use screen::Screen;
use summary::{Losses, Summary};

/// The reason why the client cannot measure.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The target's name cannot be resolved.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The target's address is a multicast address.
    #[error("cannot probe {0}: reflectors refuse multicast; use the address of one reflector")]
    Multicast(String),
    /// The run cannot start or continue.
    #[error(transparent)]
    Run(#[from] prober::RunError),
    /// The daemon's metrics cannot be read.
    #[error(transparent)]
    Metrics(#[from] fetch::FetchError),
    /// The signal handlers cannot be set up.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
    /// The output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

/// Runs the client and prints its output. Returns whether the loss is below `config.max_loss`.
///
/// # Errors
/// Fails if the client cannot measure or print.
pub fn run(config: &Config) -> Result<bool, ProbeError> {
    let source = config.source.as_ref().and_then(|source| source.address);
    let family = source.map_or(config.family, Family::of);
    let targets = config.target.resolve_all(family)?;
    // Each flow needs a socket. A limit that is still too low shows when they are opened.
    let _ = udp::raise_open_file_limit();
    let target = prober::first_with_a_route(config, &targets)?;
    let address = udp::named_here(target);
    if target.ip().is_multicast() {
        return Err(ProbeError::Multicast(address));
    }
    let mut screen = Screen::new();
    let url = config.metrics_url.as_ref();
    let before = url.map(|url| fetch::counters(url, None)).transpose()?;
    let stops = count_stops().map_err(ProbeError::Signals)?;
    let outcome = Prober::new(config, target, &address, random(), &mut screen, &stops)?.run()?;
    let losses = url
        .zip(before)
        .map(|(url, before)| match fetch::counters(url, Some(&stops)) {
            Ok(after) => Attribution::new(&before, &after, own(&outcome))
                .map_or(Losses::DaemonRestarted, Losses::Located),
            Err(error) => Losses::Unknown(error.to_string()),
        });
    let text = if config.json {
        json::object(&config.target, &outcome, losses.as_ref()).to_string()
    } else {
        let summary = Summary {
            config,
            address: &address,
            outcome: &outcome,
            losses: losses.as_ref(),
            columns: screen.columns(),
        };
        summary.to_string()
    };
    if !config.lines() {
        screen.clear_row();
    }
    screen.line(format_args!("{text}"));
    screen.end().map_err(ProbeError::Output)?;
    let totals = outcome.tally.totals();
    Ok(totals.sent == 0 || !totals.lost_at_least(config.max_loss))
}

fn random() -> u32 {
    let random = RandomState::new().build_hasher().finish();
    // All bits are equally random.
    u32::try_from(random & u64::from(u32::MAX)).unwrap_or_default()
}

/// Returns the client's counts in the terms of the daemon's metrics.
fn own(outcome: &Outcome) -> ClientCounts {
    let (totals, notes) = (outcome.tally.totals(), &outcome.notes);
    ClientCounts {
        lost: totals.lost(),
        sent: totals.sent + notes.records_sent,
        received: totals.received
            + totals.duplicates
            + totals.damaged
            + totals.too_late
            + notes.records_echoed
            + outcome.own_drops,
    }
}

/// Starts a thread that counts SIGINT and SIGTERM.
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
