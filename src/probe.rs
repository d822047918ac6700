//! The client `udp-echo probe`: sends requests to a reflector and measures the replies.
//!
//! - [`Config`]: the settings of a run.
//! - `wire`, `tally`, `rtt`, `exchange`, `pace`: the core, without a socket or a clock.
//! - `prober`, `flows`, `clock`: the loop around the core, on one thread, and its sockets.
//! - `once`: a run without output, for the monitor.
//! - `attribution`, `exposition`, `fetch`, `metrics_url`: where requests were lost, by the
//!   daemon's metrics.
//! - `stamp`: the core of STAMP mode. `directions` renders its figures.
//! - `event`: the events of a run. `output` prints each as `text` or `json` on the `screen`.
//! - `report`, `summary`, `findings`, `notes`, `format`: figures and sentences in the output.

mod attribution;
pub(crate) mod clock;
mod config;
mod directions;
mod event;
pub mod exchange;
mod exposition;
mod fetch;
mod findings;
mod finished;
pub(crate) mod flows;
mod format;
mod json;
mod metrics_url;
mod notes;
pub(crate) mod once;
mod output;
pub(crate) mod pace;
mod prober;
mod report;
pub mod rtt;
mod screen;
mod signals;
pub mod stamp;
mod summary;
pub mod tally;
mod text;
pub mod wire;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;

use crate::address::{Family, ResolveError};
use crate::udp;
use attribution::{Attribution, ClientCounts};
pub use config::Config;
use event::Event;
use finished::{Finished, Losses};
pub(crate) use format::Percent;
pub use metrics_url::MetricsUrl;
pub(crate) use notes::{ICMP_KINDS, icmp_kind};
use output::Output;
pub(crate) use prober::RunError;
use prober::{Outcome, Prober};
pub(crate) use signals::Signals;

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
    Run(#[from] RunError),
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
    if let Some(target) = targets.iter().find(|target| target.ip().is_multicast()) {
        return Err(ProbeError::Multicast(udp::named_here(*target)));
    }
    // Each flow needs a socket. A limit that is still too low shows when they are opened.
    let _ = udp::raise_open_file_limit();
    let target = prober::first_with_a_route(config, &targets)?;
    let address = udp::named_here(target);
    let mut output = Output::new(config, &address);
    let url = config.metrics_url.as_ref();
    let before = url.map(|url| fetch::counters(url, None)).transpose()?;
    let signals = Signals::count().map_err(ProbeError::Signals)?;
    let outcome = Prober::new(config, target, &address, random(), &mut output, &signals)?.run()?;
    let losses =
        url.zip(before).map(
            |(url, before)| match fetch::counters(url, Some(&signals.stops)) {
                Ok(after) => Attribution::new(&before, &after, own(&outcome))
                    .map_or(Losses::DaemonRestarted, Losses::Located),
                Err(error) => Losses::Unknown(error.to_string()),
            },
        );
    let finished = Finished {
        config,
        address: &address,
        target: target.ip().to_canonical(),
        outcome: &outcome,
        losses: losses.as_ref(),
    };
    output.event(outcome.ended, Event::Summary(&finished));
    output.end().map_err(ProbeError::Output)?;
    let totals = outcome.tally.totals();
    Ok(totals.sent == 0 || !totals.lost_at_least(config.max_loss))
}

/// A random number, which identifies the datagrams of a run.
pub(crate) fn random() -> u32 {
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
