//! The targets: resolves their names, again and again, and gives the engine the addresses to probe.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tracing::{info, warn};

use super::MAX_ADDRESSES;
use super::board::Board;
use super::config::TargetSettings;
use super::engine::Command;
use super::figures::Series;
use super::measurement::{Measurement, connect_options};
use crate::address::{Family, is_one_host};
use crate::probe::random;
use crate::throttle::Throttle;
use crate::udp::{self, Socket};

/// How often a name is resolved.
const RESOLVE: Duration = Duration::from_secs(30);
/// How often the name of a silent target is resolved.
const RESOLVE_SILENT: Duration = Duration::from_secs(5);
/// The most names that are resolved at once: each takes a thread, for seconds if no server answers.
const RESOLVERS: usize = 16;

/// All targets.
pub(super) struct Targets {
    board: Arc<Board>,
    engine: Sender<Command>,
    all: BTreeMap<String, Target>,
    /// The number of addresses that are probed.
    addresses: usize,
    next_id: u64,
    /// The number of the next version of a target: an answer for an older one is ignored.
    next_version: u64,
    resolvers: Arc<Semaphore>,
    answers: mpsc::UnboundedSender<Answer>,
    full: Throttle,
    started: Instant,
}

/// A target.
struct Target {
    settings: Arc<TargetSettings>,
    version: u64,
    probed: BTreeMap<SocketAddr, Probed>,
    /// Whether the name was resolved at the last attempt. `None` before the first.
    resolved: Option<bool>,
    /// When the last attempt began.
    asked: Option<Instant>,
    is_asking: bool,
    /// Replies received when the silence was checked last, and since when there has been none.
    answered: Option<u64>,
    silent_since: Option<Instant>,
}

/// An address that is probed.
struct Probed {
    id: u64,
    series: Series,
}

/// The addresses of a name.
pub(super) struct Answer {
    name: String,
    version: u64,
    found: Result<Vec<SocketAddr>, String>,
}

impl Targets {
    /// Begins without a target. Answers about names are sent to `answers`, for [`Self::answered`].
    pub(super) fn new(
        board: Arc<Board>,
        engine: Sender<Command>,
        answers: mpsc::UnboundedSender<Answer>,
        now: Instant,
    ) -> Self {
        Self {
            board,
            engine,
            all: BTreeMap::new(),
            addresses: 0,
            next_id: 0,
            next_version: 0,
            resolvers: Arc::new(Semaphore::new(RESOLVERS)),
            answers,
            full: Throttle::default(),
            started: now,
        }
    }

    /// Each target, and whether its name was resolved at the last attempt.
    pub(super) fn resolved(&self) -> Vec<(Arc<str>, bool)> {
        let targets = self.all.values();
        targets
            .map(|target| {
                let name = target.settings.name.as_str().into();
                (name, target.resolved == Some(true))
            })
            .collect()
    }

    /// Replaces the targets. Those with equal settings are not touched. Must be called on the runtime.
    pub(super) fn replace(&mut self, all: Vec<TargetSettings>, now: Instant) {
        let mut before = std::mem::take(&mut self.all);
        let mut changed = Vec::new();
        for settings in all {
            let name = settings.name.clone();
            match before.remove(&name) {
                Some(target) if *target.settings == settings => {
                    self.all.insert(name, target);
                }
                old => {
                    changed.push(name.clone());
                    self.next_version += 1;
                    let settings = Arc::new(settings);
                    let mut target = Target::new(Arc::clone(&settings), self.next_version);
                    // Until the name is resolved again, its addresses are those that it had.
                    let known = old.as_ref().map(|old| old.addresses_for(&settings));
                    if known.as_ref().is_some_and(|known| !known.is_empty()) {
                        target.resolved = old.as_ref().and_then(|old| old.resolved);
                    }
                    self.all.insert(name, target);
                    // Their places among the addresses are free for the new ones.
                    if let Some(old) = old {
                        self.end(old, now);
                    }
                    for address in known.unwrap_or_default() {
                        self.begin(&settings, address, now);
                    }
                }
            }
        }
        for old in before.into_values() {
            self.end(old, now);
        }
        for name in changed {
            self.resolve(&name, now);
        }
    }

    /// Resolves names whose time has come. Must be called on the runtime.
    pub(super) fn tick(&mut self, now: Instant) {
        self.board.remove_old(now);
        let due = self.all.iter_mut();
        let due: Vec<_> = due
            .filter_map(|(name, target)| target.is_due(now).then(|| name.clone()))
            .collect();
        for name in due {
            self.resolve(&name, now);
        }
    }

    /// Resolves a target's name, at once if it is an address.
    fn resolve(&mut self, name: &str, now: Instant) {
        let Some(target) = self.all.get_mut(name) else {
            return;
        };
        target.asked = Some(now);
        let (name, version) = (name.to_owned(), target.version);
        let settings = Arc::clone(&target.settings);
        if !settings.address.needs_resolver() {
            let found = addresses(&settings, &[]);
            self.answered(
                Answer {
                    name,
                    version,
                    found,
                },
                now,
            );
            return;
        }
        target.is_asking = true;
        let probed: Vec<_> = target.probed.keys().copied().collect();
        let (answers, resolvers) = (self.answers.clone(), Arc::clone(&self.resolvers));
        tokio::spawn(async move {
            let Ok(_permit) = resolvers.acquire().await else {
                return;
            };
            let found = tokio::task::spawn_blocking(move || addresses(&settings, &probed)).await;
            let found = found.unwrap_or_else(|error| Err(error.to_string()));
            // The receiver is gone at the end of the process.
            let _ = answers.send(Answer {
                name,
                version,
                found,
            });
        });
    }

    /// Probes the addresses that were found, and no others. If the name does not resolve, the addresses
    /// stay. Returns whether [`Self::resolved`] has changed.
    pub(super) fn answered(&mut self, answer: Answer, now: Instant) -> bool {
        let Some(target) = self.all.get_mut(&answer.name) else {
            return false;
        };
        if target.version != answer.version {
            return false;
        }
        target.is_asking = false;
        let was_resolved = target.resolved;
        target.resolved = Some(answer.found.is_ok());
        let has_changed = target.resolved != was_resolved;
        let name = &answer.name;
        let found = match answer.found {
            Ok(found) => found,
            Err(error) => {
                if was_resolved != Some(false) {
                    warn!("target {name:?}: {error}; retrying every 5 s");
                }
                return has_changed;
            }
        };
        if was_resolved == Some(false) {
            info!("target {name:?}: its name resolves again");
        }
        let gone: Vec<_> = target.probed.keys().copied().collect();
        let mut ended = Vec::new();
        for address in gone.iter().filter(|address| !found.contains(address)) {
            ended.extend(target.probed.remove(address));
        }
        let fresh: Vec<_> = found
            .into_iter()
            .filter(|address| !target.probed.contains_key(address))
            .collect();
        let settings = Arc::clone(&target.settings);
        for probed in ended {
            self.end_probed(&probed, now);
        }
        for address in fresh {
            self.begin(&settings, address, now);
        }
        has_changed
    }

    fn begin(&mut self, settings: &Arc<TargetSettings>, address: SocketAddr, now: Instant) {
        let shown = udp::named_here(address);
        if self.addresses >= MAX_ADDRESSES {
            if let Some(more) = self.full.pass(now.saturating_duration_since(self.started)) {
                warn!(
                    "cannot probe {shown} of target {:?}: there are {MAX_ADDRESSES} addresses \
                     already; use fewer targets or all_addresses = false{more}",
                    settings.name
                );
            }
            return;
        }
        let series = self.board.begin(settings, &shown);
        self.next_id += 1;
        let id = self.next_id;
        let measurement = Measurement::new(id, settings, address, series.clone(), random());
        // The engine is gone at the end of the process.
        let _ = self.engine.send(Command::Add(Box::new(measurement)));
        if let Some(target) = self.all.get_mut(&settings.name) {
            target.probed.insert(address, Probed { id, series });
            self.addresses += 1;
        }
    }

    fn end(&mut self, target: Target, now: Instant) {
        for probed in target.probed.into_values() {
            self.end_probed(&probed, now);
        }
    }

    fn end_probed(&mut self, probed: &Probed, now: Instant) {
        self.addresses -= 1;
        let _ = self.engine.send(Command::Stop(probed.id));
        self.board.end(&probed.series, now);
    }
}

impl Target {
    fn new(settings: Arc<TargetSettings>, version: u64) -> Self {
        Self {
            settings,
            version,
            probed: BTreeMap::new(),
            resolved: None,
            asked: None,
            is_asking: false,
            answered: None,
            silent_since: None,
        }
    }

    /// The addresses that are also right with other settings: those of the same name.
    fn addresses_for(&self, settings: &TargetSettings) -> Vec<SocketAddr> {
        let of_name = |settings: &TargetSettings| {
            let source = settings.source.clone();
            (
                settings.address.clone(),
                settings.family,
                settings.all_addresses,
                source,
            )
        };
        if of_name(&self.settings) == of_name(settings) {
            self.probed.keys().copied().collect()
        } else {
            Vec::new()
        }
    }

    /// Whether to resolve the name now.
    fn is_due(&mut self, now: Instant) -> bool {
        if !self.settings.address.needs_resolver() || self.is_asking {
            return false;
        }
        let is_silent = self.is_silent(now);
        let every = if is_silent || self.resolved == Some(false) {
            RESOLVE_SILENT
        } else {
            RESOLVE
        };
        let asked = self.asked;
        asked.is_none_or(|asked| now.saturating_duration_since(asked) >= every)
    }

    /// Whether requests of the target have had no reply for longer than they may take.
    fn is_silent(&mut self, now: Instant) -> bool {
        let received = self.probed.values().map(|probed| {
            let figures = probed.series.figures.lock();
            figures.unwrap_or_else(PoisonError::into_inner).received
        });
        let received = received.sum();
        let last = self.answered.replace(received);
        if last != Some(received) {
            self.silent_since = Some(now);
        }
        let patience = self.settings.wait + self.settings.interval * 2;
        let since = self.silent_since.unwrap_or(now);
        now.saturating_duration_since(since) > patience
    }
}

/// The error of a name without an address that can be probed.
const NOT_ONE_HOST: &str = "its addresses are multicast, broadcast or unspecified";

/// Returns the addresses to probe: all of them, or one. That is one of `probed`, if the name still has
/// it, else the first one that this host has a route to.
fn addresses(settings: &TargetSettings, probed: &[SocketAddr]) -> Result<Vec<SocketAddr>, String> {
    let source = settings.source.as_ref().and_then(|source| source.address);
    let family = source.map_or(settings.family, Family::of);
    let found = settings.address.resolve_all(family);
    let mut found = found.map_err(|error| error.to_string())?;
    found.retain(|address| is_one_host(address.ip()));
    if found.is_empty() {
        return Err(NOT_ONE_HOST.into());
    }
    if settings.all_addresses {
        found.sort_unstable();
        found.dedup();
        return Ok(found);
    }
    let first = found.iter().find(|address| probed.contains(address));
    let options = connect_options(settings);
    let with_route = || {
        found
            .iter()
            .find(|found| Socket::connect(**found, &options).is_ok())
    };
    let one = first
        .or_else(|| (found.len() > 1).then(with_route)?)
        .or(found.first());
    Ok(one.copied().into_iter().collect())
}

#[cfg(test)]
mod tests;
