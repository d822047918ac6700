//! The metrics of the monitor, each declared once in `catalogue`.

mod catalogue;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use prometheus::TextEncoder;
use prometheus::core::Collector;

use super::figures::{Figures, OneWayFigures, Series, Snapshot};
use crate::metrics::{Clocks, Process};
use text::{Samples, labels};

/// The metrics of the monitor.
pub struct MonitorMetrics {
    snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
    dropped_log_lines: Arc<AtomicU64>,
    started: Clocks,
    clocks: fn() -> Clocks,
    process: Process,
}

impl fmt::Debug for MonitorMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorMetrics")
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl MonitorMetrics {
    /// The metrics of a process that started at `started`. Each scrape calls `snapshot` once.
    ///
    /// # Errors
    /// If a metric has no valid name.
    pub fn new(
        snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
        dropped_log_lines: Arc<AtomicU64>,
        started: Clocks,
        clocks: fn() -> Clocks,
    ) -> prometheus::Result<Self> {
        Ok(Self {
            snapshot,
            dropped_log_lines,
            started,
            clocks,
            process: Process::new(started, clocks)?,
        })
    }

    /// All metrics in the Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// If a metric has no valid name.
    pub fn text(&self) -> prometheus::Result<String> {
        let scrape = Scrape::new((self.snapshot)(), &self.dropped_log_lines);
        let mut out = String::new();
        for family in catalogue::FAMILIES {
            let mut samples = Samples::of(&mut out, family.name, family.help, family.kind);
            (family.read)(&scrape, &mut samples);
        }
        TextEncoder::new().encode_utf8(&self.process.collect(), &mut out)?;
        Ok(out)
    }

    /// The figures of this moment.
    pub fn snapshot(&self) -> Snapshot {
        (self.snapshot)()
    }

    /// The time since the start of the monitor, suspends included.
    pub fn uptime(&self) -> Duration {
        (self.clocks)().uptime(self.started)
    }
}

/// A metric: its declaration and the function that writes its samples.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    read: fn(&Scrape<'_>, &mut Samples<'_>),
}

/// The values that one scrape reads.
struct Scrape<'a> {
    snapshot: Snapshot,
    addresses: Vec<Address>,
    dropped_log_lines: &'a AtomicU64,
}

/// The series of one address of a target.
struct Address {
    /// The labels `target` and `address`.
    labels: String,
    mode: &'static str,
    flows: usize,
    figures: Figures,
}

impl<'a> Scrape<'a> {
    fn new(mut snapshot: Snapshot, dropped_log_lines: &'a AtomicU64) -> Self {
        let read = |series: Series| Address {
            labels: labels(&[("target", &series.target), ("address", &series.address)]),
            mode: series.mode.name(),
            flows: series.flows,
            // One copy under one lock: all figures of an address are of one moment.
            figures: series
                .figures
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        };
        Self {
            addresses: std::mem::take(&mut snapshot.series)
                .into_iter()
                .map(read)
                .collect(),
            snapshot,
            dropped_log_lines,
        }
    }

    /// The addresses that have figures of STAMP mode.
    fn stamp(&self) -> impl Iterator<Item = (&str, &OneWayFigures)> {
        self.addresses.iter().filter_map(|address| {
            let figures = address.figures.stamp.as_deref()?;
            Some((address.labels.as_str(), figures))
        })
    }
}

impl Samples<'_> {
    /// Adds one sample per address.
    fn add_each(&mut self, scrape: &Scrape<'_>, value: impl Fn(&Figures) -> u64) {
        for Address {
            labels, figures, ..
        } in &scrape.addresses
        {
            self.add(labels, value(figures));
        }
    }
}
