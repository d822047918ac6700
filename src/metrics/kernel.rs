//! The metrics of the kernel path.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::proto::MetricType::{COUNTER, GAUGE};

use super::{Counts, Family, KernelState};
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
    /// Without programs: they cannot be used.
    pub fn unused() -> Self {
        Self::new(Box::new(Vec::new), Box::new(Vec::new), |_| String::new())
    }

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
        let before = std::mem::replace(&mut *last, (self.read_counts)());
        for ((_, counts), (read, before)) in self.parts.iter().zip(last.iter().zip(before)) {
            counts.received.set(read.datagrams);
            counts.received_bytes.set(read.bytes);
            counts.echoed.set(read.datagrams);
            counts.echoed_bytes.set(read.bytes);
            // Two clocks are not read at one moment: the time changes only with an echo.
            if let Some(since) = read.since_last
                && read.last != before.last
            {
                let at = now.checked_sub(since).unwrap_or(epoch).max(epoch);
                counts.last_datagram.set(epoch, at);
            }
        }
    }

    /// Every address on every interface, by the last reading.
    pub(super) fn states(&self) -> Vec<KernelState> {
        let active = (self.read_active)();
        let is_active = |name: &str| {
            active
                .iter()
                .any(|(own, is_active)| own == name && *is_active)
        };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.parts.iter().zip(&*last);
        all.map(|((listen, _), read)| KernelState {
            interface: read.interface.clone(),
            listen: listen.clone(),
            is_active: is_active(&read.interface),
            echoed: read.datagrams,
            passed: read.passed,
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Metrics, MetricsSources, testing};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn time_of_the_last_echo_stays_without_echoes() {
        let epoch = Instant::now();
        let second = |number| epoch + Duration::from_secs(number);
        let [last, ago] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let [read_last, read_ago] = [&last, &ago].map(Arc::clone);
        let read_counts = move || {
            let last = read_last.load(Relaxed);
            vec![KernelCounts {
                listen: ([192, 0, 2, 1], 9).into(),
                interface: "eth0".into(),
                datagrams: last,
                bytes: 2 * last,
                passed: 3 * last,
                since_last: (last > 0).then(|| Duration::from_secs(read_ago.load(Relaxed))),
                last,
            }]
        };
        let read_active = Box::new(|| vec![("eth0".to_owned(), true)]);
        let metrics = KernelMetrics::new(Box::new(read_counts), read_active, |_| "own".into());
        let shown = || {
            metrics.read(epoch, second(100));
            let (_, counts) = metrics.counts().next().unwrap();
            counts.last_datagram.get(epoch)
        };
        assert_eq!(shown(), None);
        for (echo, since, expected) in [(1, 50, 50), (1, 51, 50), (2, 20, 80), (2, 19, 80)] {
            last.store(echo, Relaxed);
            ago.store(since, Relaxed);
            assert_eq!(shown(), Some(second(expected)));
        }
        let state = KernelState {
            interface: "eth0".into(),
            listen: "own".into(),
            is_active: true,
            echoed: 2,
            passed: 6,
        };
        assert_eq!(metrics.states(), [state]);
    }

    #[test]
    fn figures_of_a_scrape_are_of_one_reading() {
        let calls = AtomicU64::new(0);
        let read_counts = move || {
            let datagrams = calls.fetch_add(1, Relaxed);
            vec![KernelCounts {
                listen: ([192, 0, 2, 1], 9).into(),
                interface: "eth0".into(),
                datagrams,
                bytes: datagrams,
                passed: 0,
                since_last: Some(Duration::ZERO),
                last: datagrams,
            }]
        };
        let read_active = Box::new(|| vec![("eth0".to_owned(), true)]);
        let kernel = KernelMetrics::new(Box::new(read_counts), read_active, |_| "own".into());
        let metrics = Metrics::new(MetricsSources {
            kernel: Some(kernel),
            ..testing::sources(Vec::new())
        });
        let text = metrics.unwrap().text().unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().split_once(' ').unwrap().1
        };
        let received = value("udp_echo_datagrams_received_total{");
        assert_eq!(received, value("udp_echo_kernel_echo_datagrams_total{"));
        assert_eq!(received, value("udp_echo_kernel_echo_bytes_total{"));
    }
}
