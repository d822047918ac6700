//! The metrics of the kernel path.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::proto::MetricType::{COUNTER, GAUGE};

use super::{Counts, Family};
use crate::kernel_echo::KernelCounts;

/// Reads the counts of every address on every interface.
type ReadCounts = Box<dyn Fn() -> Vec<KernelCounts> + Send + Sync>;
/// Reads the names of the interfaces, and whether each has its program.
type ReadActive = Box<dyn Fn() -> Vec<(String, bool)> + Send + Sync>;

/// The programs of the kernel path. Their counts are read from the kernel at each scrape.
pub struct KernelMetrics {
    read_counts: ReadCounts,
    read_active: ReadActive,
    /// The `listen` label of each address on each interface, and its counts as they add to those of
    /// the workers.
    parts: Vec<(String, Counts)>,
    /// The last reading.
    last: Mutex<Vec<KernelCounts>>,
}

impl fmt::Debug for KernelMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelMetrics")
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl KernelMetrics {
    /// The sources of the figures, and the `listen` label of an address. Each reading has the same
    /// addresses and interfaces in the same order.
    pub fn new(
        read_counts: ReadCounts,
        read_active: ReadActive,
        label: impl Fn(SocketAddr) -> String,
    ) -> Self {
        let counts = read_counts();
        let parts = counts.iter();
        let parts = parts.map(|counts| (label(counts.listen), Counts::default()));
        Self {
            parts: parts.collect(),
            last: Mutex::new(counts),
            read_counts,
            read_active,
        }
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (&str, &Counts)> {
        self.parts
            .iter()
            .map(|(listen, counts)| (listen.as_str(), counts))
    }

    /// Reads the counts from the kernel. `epoch` is the start of the daemon.
    pub(super) fn read(&self, epoch: Instant, now: Instant) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (self.read_counts)();
        for ((_, counts), read) in self.parts.iter().zip(&*last) {
            counts.received.set(read.datagrams);
            counts.received_bytes.set(read.bytes);
            counts.echoed.set(read.datagrams);
            counts.echoed_bytes.set(read.bytes);
            if let Some(since) = read.since_last {
                let at = now.checked_sub(since).unwrap_or(epoch).max(epoch);
                counts.last_datagram.set(epoch, at);
            }
        }
    }

    /// Adds one series per address and interface.
    fn add(&self, series: &mut super::Series, count: impl Fn(&KernelCounts) -> u64) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for ((listen, _), read) in self.parts.iter().zip(&*last) {
            let labels = [("listen", listen.as_str()), ("interface", &read.interface)];
            series.add(&labels, count(read));
        }
    }
}

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "udp_echo_kernel_echo_datagrams_total",
        help: "Total datagrams echoed by the kernel path; they also count as received and echoed.",
        kind: COUNTER,
        read: |scrape, series| {
            if let Some(kernel) = &scrape.sources.kernel {
                kernel.add(series, |read| read.datagrams);
            }
        },
    },
    Family {
        name: "udp_echo_kernel_echo_bytes_total",
        help: "Total payload bytes echoed by the kernel path.",
        kind: COUNTER,
        read: |scrape, series| {
            if let Some(kernel) = &scrape.sources.kernel {
                kernel.add(series, |read| read.bytes);
            }
        },
    },
    Family {
        name: "udp_echo_kernel_echo_passed_total",
        help: "Total datagrams for --listen that the kernel path passed to the network stack.",
        kind: COUNTER,
        read: |scrape, series| {
            if let Some(kernel) = &scrape.sources.kernel {
                kernel.add(series, |read| read.passed);
            }
        },
    },
    Family {
        name: "udp_echo_kernel_echo_active",
        help: "Whether the program that this daemon uses is attached to the interface.",
        kind: GAUGE,
        read: |scrape, series| {
            if let Some(kernel) = &scrape.sources.kernel {
                for (interface, active) in (kernel.read_active)() {
                    series.add(&[("interface", &interface)], active.into());
                }
            }
        },
    },
];
