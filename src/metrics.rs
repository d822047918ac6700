//! The metrics, each declared once in `catalogue`.
//!
//! Each worker counts in its own memory ([`Counts`]); a scrape sums the workers up.

mod catalogue;
mod clocks;
mod counts;
mod kernel;
mod process;
mod stamp;
mod summary;
#[cfg(test)]
mod testing;

use std::fmt;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    self, Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Registry, TextEncoder};

use crate::reflect::stamp::ErrorEstimate;
use crate::worker::StampClock;
pub use clocks::Clocks;
use clocks::steady;
pub(crate) use counts::errno_name;
pub use counts::{Count, Counts, ErrorCounts, Histogram, SharedMoment, StampCounts};
pub use kernel::KernelMetrics;
pub(crate) use process::Process;
pub use summary::{KernelState, MetricsSummary, SocketState};

/// The labels of `build_info`.
pub(crate) const BUILD: [(&str, &str); 3] = [
    ("version", env!("CARGO_PKG_VERSION")),
    ("revision", env!("BUILD_REVISION")),
    ("rustc", env!("BUILD_RUSTC")),
];

/// The kernel's figures of a socket (`SO_MEMINFO`, socket(7)).
#[derive(Debug, Clone, Copy)]
pub struct SocketReading {
    /// `SO_RCVBUF` and `SO_SNDBUF` in bytes.
    pub buffers: [usize; 2],
    /// The memory of the queued datagrams, in bytes.
    pub receive_queue: u32,
    /// Datagrams dropped since the daemon opened or adopted the socket.
    pub drops: u64,
}

/// The sources of the metrics of one worker.
pub struct WorkerMetrics {
    /// The `listen` label: the address that the socket is bound to.
    pub listen: String,
    /// The `worker` label: 0 to N−1 for each address.
    pub worker: String,
    /// The worker's counters.
    pub counts: Arc<Counts>,
    /// The requested receive and send buffer sizes, in bytes.
    pub requested: [Option<usize>; 2],
    /// Reads the socket's figures from the kernel.
    pub read_socket: Box<dyn Fn() -> io::Result<SocketReading> + Send + Sync>,
}

impl fmt::Debug for WorkerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerMetrics")
            .field("listen", &self.listen)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

/// The sources of all metrics.
#[derive(Debug)]
pub struct MetricsSources {
    /// One per socket.
    pub workers: Vec<WorkerMetrics>,
    /// The programs of the kernel path, if the daemon uses them.
    pub kernel: Option<KernelMetrics>,
    /// Whether the kernel timestamps received datagrams.
    pub timestamps: bool,
    /// The clock of STAMP packets, if the daemon reflects them.
    pub stamp_clock: Option<StampClock>,
    /// The labels of `config_info`.
    pub config_info: Vec<(&'static str, String)>,
    /// The number of dropped log lines.
    pub dropped_log_lines: Arc<AtomicU64>,
    /// Reads the system's limits on receive and send buffers, in bytes.
    pub read_limits: fn() -> [Option<usize>; 2],
    /// The start of the daemon, from which every [`SharedMoment`] counts.
    pub started: Clocks,
    /// Reads the clocks.
    pub clocks: fn() -> Clocks,
    /// The last datagram that a scrape has shown, and its time of day. Initially empty.
    pub last: Mutex<Option<(Instant, f64)>>,
}

/// The daemon's metrics.
#[derive(Debug)]
pub struct Metrics {
    sources: Arc<MetricsSources>,
    registry: Registry,
}

impl Metrics {
    /// The Content-Type of [`Self::text`].
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Registers all metrics.
    ///
    /// # Errors
    /// If two metrics have the same name.
    pub fn new(sources: MetricsSources) -> prometheus::Result<Self> {
        let sources = Arc::new(sources);
        let registry = Registry::new();
        let describe = |family: &Family| {
            let labels = std::collections::HashMap::new();
            Desc::new(family.name.into(), family.help.into(), Vec::new(), labels)
        };
        registry.register(Box::new(All {
            descriptions: families().map(describe).collect::<Result<_, _>>()?,
            sources: Arc::clone(&sources),
        }))?;
        registry.register(Box::new(Process::new(sources.started, sources.clocks)?))?;
        Ok(Self { sources, registry })
    }

    /// All metrics in the Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// If a metric has no valid name.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// The time since the start of the daemon, suspends included.
    pub fn uptime(&self) -> Duration {
        (self.sources.clocks)().uptime(self.sources.started)
    }
}

struct All {
    descriptions: Vec<Desc>,
    sources: Arc<MetricsSources>,
}

impl Collector for All {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // One reading per socket: all its figures are of one moment.
        let workers = self.sources.workers.iter();
        let scrape = Scrape {
            sources: &self.sources,
            listens: {
                self.sources.read_kernel();
                self.sources.listens()
            },
            sockets: workers.map(|worker| (worker.read_socket)().ok()).collect(),
            limits: (self.sources.read_limits)(),
            clock_error: self.sources.clock_error(),
        };
        families().map(|family| family.read(&scrape)).collect()
    }
}

/// The values that one scrape reads.
struct Scrape<'a> {
    sources: &'a MetricsSources,
    /// Each `listen` address, and the counters of its workers.
    listens: Vec<(&'a str, Vec<&'a Counts>)>,
    /// The kernel's figures of each worker's socket.
    sockets: Vec<Option<SocketReading>>,
    limits: [Option<usize>; 2],
    /// In STAMP mode.
    clock_error: Option<ErrorEstimate>,
}

impl Scrape<'_> {
    fn sum(&self, count: impl Fn(&Counts) -> u64) -> u64 {
        self.sources.sum(count)
    }
}

/// A metric: its declaration and the function that reads it.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    read: fn(&Scrape<'_>, &mut Series),
}

impl Family {
    fn read(&self, scrape: &Scrape<'_>) -> MetricFamily {
        let mut series = Series {
            kind: self.kind,
            metrics: Vec::new(),
        };
        (self.read)(scrape, &mut series);
        family(self.name, self.help, self.kind, series.metrics)
    }
}

/// All metrics of the catalogues.
fn families() -> impl Iterator<Item = &'static Family> {
    catalogue::FAMILIES
        .iter()
        .chain(kernel::FAMILIES)
        .chain(stamp::FAMILIES)
}

/// The series of one metric.
struct Series {
    kind: MetricType,
    metrics: Vec<Metric>,
}

impl Series {
    #[expect(
        clippy::cast_precision_loss,
        reason = "Prometheus has only floats; exact to 2^53"
    )]
    fn add(&mut self, labels: &[(&str, &str)], value: u64) {
        self.metrics.push(metric(self.kind, labels, value as f64));
    }

    /// Adds one series per `listen` address: the sum over its workers.
    fn add_listens(
        &mut self,
        scrape: &Scrape<'_>,
        labels: &[(&str, &str)],
        count: impl Fn(&Counts) -> u64,
    ) {
        for (listen, workers) in &scrape.listens {
            let mut all = vec![("listen", *listen)];
            all.extend(labels);
            self.add(&all, workers.iter().map(|counts| count(counts)).sum());
        }
    }

    /// Adds the sum over all workers, in STAMP mode.
    fn add_stamp(
        &mut self,
        scrape: &Scrape<'_>,
        labels: &[(&str, &str)],
        count: impl Fn(&StampCounts) -> u64,
    ) {
        if scrape.sources.stamp_clock.is_some() {
            self.add(labels, scrape.sum(|counts| count(&counts.stamp)));
        }
    }

    /// Adds one series per socket that has the value.
    fn add_sockets(
        &mut self,
        scrape: &Scrape<'_>,
        value: impl Fn(&WorkerMetrics, Option<SocketReading>) -> Option<u64>,
    ) {
        for (worker, socket) in scrape.sources.workers.iter().zip(&scrape.sockets) {
            let labels = [
                ("listen", worker.listen.as_str()),
                ("worker", worker.worker.as_str()),
            ];
            if let Some(value) = value(worker, *socket) {
                self.add(&labels, value);
            }
        }
    }

    /// Adds the sum of the workers' histograms, with every value divided by `scale`.
    #[expect(clippy::cast_precision_loss, reason = "exact to 2^53")]
    fn add_histogram<const BUCKETS: usize>(
        &mut self,
        scrape: &Scrape<'_>,
        scale: f64,
        histogram: fn(&Counts) -> &Histogram<BUCKETS>,
    ) {
        let Some(worker) = scrape.sources.workers.first() else {
            return;
        };
        let bounds = histogram(&worker.counts).bounds();
        let count = |index| scrape.sum(|counts| histogram(counts).bucket(index));
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(bounds.len());
        for (index, bound) in bounds.iter().enumerate() {
            cumulative += count(index);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / scale);
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        let mut data = proto::Histogram::default();
        data.set_sample_count(cumulative + count(bounds.len()));
        data.set_sample_sum(scrape.sum(|counts| histogram(counts).sum()) as f64 / scale);
        data.set_bucket(buckets);
        let mut metric = Metric::default();
        metric.set_histogram(data);
        self.metrics.push(metric);
    }

    fn add_errors(&mut self, scrape: &Scrape<'_>, errors: fn(&Counts) -> &ErrorCounts) {
        for (index, name) in ErrorCounts::names().enumerate() {
            self.add_listens(scrape, &[("error", name)], |counts| {
                errors(counts).get(index)
            });
        }
    }
}

impl MetricsSources {
    /// The counts of every worker and of every program, each with its `listen` address.
    fn all_counts(&self) -> impl Iterator<Item = (&str, &Counts)> {
        let workers = self.workers.iter();
        let workers = workers.map(|worker| (worker.listen.as_str(), &*worker.counts));
        workers.chain(self.kernel.iter().flat_map(KernelMetrics::counts))
    }

    /// Reads the counts of the programs.
    fn read_kernel(&self) {
        if let Some(kernel) = &self.kernel {
            kernel.read(self.started.monotonic, (self.clocks)().monotonic);
        }
    }

    /// The workers' counters by `listen` address, in the order of the addresses.
    fn listens(&self) -> Vec<(&str, Vec<&Counts>)> {
        let mut listens: Vec<(&str, Vec<&Counts>)> = Vec::new();
        for (listen, counts) in self.all_counts() {
            match listens.iter_mut().find(|(known, _)| *known == listen) {
                Some((_, all)) => all.push(counts),
                None => listens.push((listen, vec![counts])),
            }
        }
        listens
    }

    fn sum(&self, count: impl Fn(&Counts) -> u64) -> u64 {
        let all = self.all_counts();
        all.fold(0, |sum, (_, counts)| sum.saturating_add(count(counts)))
    }

    /// The error estimate that STAMP replies have now; `None` in other modes.
    fn clock_error(&self) -> Option<ErrorEstimate> {
        self.stamp_clock.map(StampClock::read)
    }
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn metric(kind: MetricType, labels: &[(&str, &str)], value: f64) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*value).into());
        pair
    };
    let mut metric = Metric::from_label(labels.iter().map(pair).collect());
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}
