//! Every metric, declared once.
//!
//! Each worker counts in memory of its own ([`Counts`]); a scrape adds the workers up.

mod counts;
mod process;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Registry, TextEncoder};

pub use counts::{Batches, Count, Counts, Errors, Moment};

/// What the kernel says of a socket when asked.
#[derive(Debug, Clone, Copy)]
pub struct SocketReading {
    /// `SO_RCVBUF` and `SO_SNDBUF` in bytes.
    pub buffers: [usize; 2],
    /// Memory of what waits to be received, in bytes.
    pub receive_queue: u32,
    /// Datagrams dropped since the daemon took the socket.
    pub drops: u64,
}

/// A worker and its socket, as the metrics see them.
pub struct WorkerMetrics {
    /// The `listen` label: the address that the socket is bound to.
    pub listen: String,
    /// The `worker` label.
    pub worker: String,
    /// What the worker counts.
    pub counts: Arc<Counts>,
    /// The buffer sizes asked for, receive and send, in bytes.
    pub requested: [Option<usize>; 2],
    /// Asks the kernel.
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

/// All that the metrics are read from.
#[derive(Debug)]
pub struct Sources {
    /// One for each socket.
    pub workers: Vec<WorkerMetrics>,
    /// Asks for the system's limits on receive and send buffers, in bytes.
    pub read_limits: fn() -> [Option<usize>; 2],
    /// The instant that every [`Moment`] counts from, and the time of day it was.
    pub epoch: (Instant, SystemTime),
    /// Reads the clock.
    pub now: fn() -> (Instant, SystemTime),
    /// When the last datagram came that a scrape saw, and the time of day it was. Begins empty.
    pub last: Mutex<Option<(Instant, f64)>>,
}

/// A few sums, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is a metric, described in FAMILIES")]
pub struct Summary {
    pub received: u64,
    pub echoed: u64,
    pub decoded: u64,
    pub drops: u64,
    pub peers: u64,
}

/// The daemon's metrics.
#[derive(Debug)]
pub struct Metrics {
    sources: Arc<Sources>,
    registry: Registry,
}

impl Metrics {
    /// The Content-Type of [`Self::text`].
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Metrics read from `sources`.
    ///
    /// # Errors
    /// When two metrics are of one name.
    pub fn new(sources: Sources) -> prometheus::Result<Self> {
        let sources = Arc::new(sources);
        let registry = Registry::new();
        let describe = |family: &Family| {
            let labels = std::collections::HashMap::new();
            Desc::new(family.name.into(), family.help.into(), Vec::new(), labels)
        };
        registry.register(Box::new(All {
            descriptions: FAMILIES.iter().map(describe).collect::<Result<_, _>>()?,
            sources: Arc::clone(&sources),
        }))?;
        registry.register(Box::new(process::Process::new(sources.epoch.1)?))?;
        Ok(Self { sources, registry })
    }

    /// All metrics in the Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// When a metric has no valid name.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// A few sums, for people.
    pub fn summary(&self) -> Summary {
        let sources = &self.sources;
        Summary {
            received: sources.sum(|counts| counts.received.get()),
            echoed: sources.sum(|counts| counts.echoed.get()),
            decoded: sources.sum(|counts| counts.decoded.get()),
            drops: sources
                .workers
                .iter()
                .filter_map(|worker| (worker.read_socket)().ok())
                .map(|reading| reading.drops)
                .sum(),
            peers: sources.sum(|counts| counts.peers.get()),
        }
    }
}

struct All {
    descriptions: Vec<Desc>,
    sources: Arc<Sources>,
}

impl Collector for All {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let families = FAMILIES.iter();
        families.map(|family| family.read(&self.sources)).collect()
    }
}

/// One metric: its declaration and how it is read.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    read: fn(&Sources, &mut Series),
}

impl Family {
    fn read(&self, sources: &Sources) -> MetricFamily {
        let mut series = Series {
            kind: self.kind,
            metrics: Vec::new(),
        };
        (self.read)(sources, &mut series);
        family(self.name, self.help, self.kind, series.metrics)
    }
}

/// The series of one metric, as they are read.
struct Series {
    kind: MetricType,
    metrics: Vec<Metric>,
}

impl Series {
    #[expect(
        clippy::cast_precision_loss,
        reason = "Prometheus has no other numbers; exact to 2^53"
    )]
    fn add(&mut self, labels: &[(&str, &str)], value: u64) {
        self.metrics.push(metric(self.kind, labels, value as f64));
    }

    /// One for each socket, of those that have the value.
    fn add_sockets(
        &mut self,
        sources: &Sources,
        value: impl Fn(&WorkerMetrics, Option<SocketReading>) -> Option<u64>,
    ) {
        for worker in &sources.workers {
            let labels = [
                ("listen", worker.listen.as_str()),
                ("worker", worker.worker.as_str()),
            ];
            if let Some(value) = value(worker, (worker.read_socket)().ok()) {
                self.add(&labels, value);
            }
        }
    }

    fn add_errors(&mut self, sources: &Sources, errors: fn(&Counts) -> &Errors) {
        for (index, name) in Errors::names().enumerate() {
            let count = sources.sum(|counts| errors(counts).get(index));
            self.add(&[("error", name)], count);
        }
    }
}

impl Sources {
    fn sum(&self, count: impl Fn(&Counts) -> u64) -> u64 {
        self.workers
            .iter()
            .map(|worker| count(&worker.counts))
            .sum()
    }

    /// The time of day when the last datagram came, in seconds since 1970; 0 if none did. The
    /// loop reads no time of day: it is worked out here, once for each last datagram, so that it
    /// stands still when none comes.
    fn last_datagram(&self) -> f64 {
        let moments = self.workers.iter();
        let last = moments.filter_map(|worker| worker.counts.last_datagram.get(self.epoch.0));
        let Some(last) = last.max() else {
            return 0.0;
        };
        let mut known = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((instant, time)) = *known
            && instant == last
        {
            return time;
        }
        let (now, today) = (self.now)();
        let time = today
            .checked_sub(now.saturating_duration_since(last))
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(0.0, |since| since.as_secs_f64());
        *known = Some((last, time));
        time
    }
}

use MetricType::{COUNTER, GAUGE, HISTOGRAM};

const FAMILIES: &[Family] = &[
    Family {
        name: "udp_echo_datagrams_received_total",
        help: "Datagrams received, whatever became of them.",
        kind: COUNTER,
        read: |sources, series| series.add(&[], sources.sum(|c| c.received.get())),
    },
    Family {
        name: "udp_echo_received_bytes_total",
        help: "Payload bytes of the datagrams received, before any cut.",
        kind: COUNTER,
        read: |sources, series| series.add(&[], sources.sum(|c| c.received_bytes.get())),
    },
    Family {
        name: "udp_echo_datagrams_echoed_total",
        help: "Datagrams sent back.",
        kind: COUNTER,
        read: |sources, series| series.add(&[], sources.sum(|c| c.echoed.get())),
    },
    Family {
        name: "udp_echo_echoed_bytes_total",
        help: "Payload bytes of the datagrams sent back.",
        kind: COUNTER,
        read: |sources, series| series.add(&[], sources.sum(|c| c.echoed_bytes.get())),
    },
    Family {
        name: "udp_echo_records_decoded_total",
        help: "Records decoded.",
        kind: COUNTER,
        read: |sources, series| series.add(&[], sources.sum(|c| c.decoded.get())),
    },
    Family {
        name: "udp_echo_decode_errors_total",
        help: "Datagrams that were to be a record and were shorter than 22 bytes.",
        kind: COUNTER,
        read: |sources, series| series.add(&[], sources.sum(|c| c.decode_errors.get())),
    },
    Family {
        name: "udp_echo_datagrams_empty_total",
        help: "Empty datagrams that were not echoed.",
        kind: COUNTER,
        read: |sources, series| series.add(&[], sources.sum(|c| c.empty.get())),
    },
    Family {
        name: "udp_echo_datagrams_truncated_total",
        help: "Echo datagrams longer than the most that is echoed. They are counted by what \
               became of them too.",
        kind: COUNTER,
        read: |sources, series| series.add(&[], sources.sum(|c| c.truncated.get())),
    },
    Family {
        name: "udp_echo_datagrams_refused_total",
        help: "Datagrams that were refused, by the rule that refused them.",
        kind: COUNTER,
        read: |sources, series| {
            let mut add = |reason, count| series.add(&[("reason", reason)], count);
            add("source_port", sources.sum(|c| c.refused_source_port.get()));
            add("own_address", sources.sum(|c| c.refused_own_address.get()));
            add("destination", sources.sum(|c| c.refused_destination.get()));
        },
    },
    Family {
        name: "udp_echo_timeouts_total",
        help: "Timeouts: records that did not come in time, and times that a socket was quiet \
               for the whole timeout while it waited for nothing but an echo datagram.",
        kind: COUNTER,
        read: |sources, series| {
            let quiet = sources.sum(|c| c.quiet_timeouts.get());
            let records = sources.sum(|c| c.record_timeouts.get());
            series.add(&[("waiting_for", "echo")], quiet);
            series.add(&[("waiting_for", "record")], records);
        },
    },
    Family {
        name: "udp_echo_receive_errors_total",
        help: "Receive calls that failed, by the name of the error.",
        kind: COUNTER,
        read: |sources, series| series.add_errors(sources, |c| &c.receive_errors),
    },
    Family {
        name: "udp_echo_send_errors_total",
        help: "Replies that could not be sent, by the name of the error.",
        kind: COUNTER,
        read: |sources, series| series.add_errors(sources, |c| &c.send_errors),
    },
    Family {
        name: "udp_echo_peers",
        help: "Peers that owe a record.",
        kind: GAUGE,
        read: |sources, series| series.add(&[], sources.sum(|c| c.peers.get())),
    },
    Family {
        name: "udp_echo_peers_evicted_total",
        help: "Peers that owed a record and were forgotten because the table was full.",
        kind: COUNTER,
        read: |sources, series| series.add(&[], sources.sum(|c| c.evicted.get())),
    },
    Family {
        name: "udp_echo_socket_receive_buffer_bytes",
        help: "The socket's receive buffer, as the kernel counts it (SO_RCVBUF).",
        kind: GAUGE,
        read: |sources, series| {
            series.add_sockets(sources, |_, socket| Some(socket?.buffers[0] as u64));
        },
    },
    Family {
        name: "udp_echo_socket_send_buffer_bytes",
        help: "The socket's send buffer, as the kernel counts it (SO_SNDBUF).",
        kind: GAUGE,
        read: |sources, series| {
            series.add_sockets(sources, |_, socket| Some(socket?.buffers[1] as u64));
        },
    },
    Family {
        name: "udp_echo_socket_receive_buffer_requested_bytes",
        help: "The receive buffer asked for. The kernel doubles what it is asked for.",
        kind: GAUGE,
        read: |sources, series| {
            series.add_sockets(sources, |worker, _| worker.requested[0].map(|n| n as u64));
        },
    },
    Family {
        name: "udp_echo_socket_send_buffer_requested_bytes",
        help: "The send buffer asked for. The kernel doubles what it is asked for.",
        kind: GAUGE,
        read: |sources, series| {
            series.add_sockets(sources, |worker, _| worker.requested[1].map(|n| n as u64));
        },
    },
    Family {
        name: "udp_echo_receive_buffer_limit_bytes",
        help: "The largest receive buffer the system lets anybody ask for (net.core.rmem_max).",
        kind: GAUGE,
        read: |sources, series| {
            if let Some(limit) = (sources.read_limits)()[0] {
                series.add(&[], limit as u64);
            }
        },
    },
    Family {
        name: "udp_echo_send_buffer_limit_bytes",
        help: "The largest send buffer the system lets anybody ask for (net.core.wmem_max).",
        kind: GAUGE,
        read: |sources, series| {
            if let Some(limit) = (sources.read_limits)()[1] {
                series.add(&[], limit as u64);
            }
        },
    },
    Family {
        name: "udp_echo_socket_receive_queue_bytes",
        help: "Memory of the datagrams that wait in the socket's receive buffer, as the kernel \
               counts it.",
        kind: GAUGE,
        read: |sources, series| {
            series.add_sockets(sources, |_, socket| Some(socket?.receive_queue.into()));
        },
    },
    Family {
        name: "udp_echo_socket_drops_total",
        help: "Datagrams that the kernel dropped because the socket's receive buffer was full.",
        kind: COUNTER,
        read: |sources, series| series.add_sockets(sources, |_, socket| Some(socket?.drops)),
    },
    Family {
        name: "udp_echo_batch_datagrams",
        help: "Datagrams that one receive call gave.",
        kind: HISTOGRAM,
        read: |sources, series| {
            let mut cumulative = 0;
            let mut buckets = Vec::new();
            for (index, bound) in Batches::BOUNDS.into_iter().enumerate() {
                cumulative += sources.sum(|c| c.batches.bucket(index));
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound.into());
                bucket.set_cumulative_count(cumulative);
                buckets.push(bucket);
            }
            series
                .metrics
                .push(histogram(buckets, sources.sum(|c| c.batches.datagrams())));
        },
    },
    Family {
        name: "udp_echo_last_datagram_timestamp_seconds",
        help: "When the last datagram was received, in seconds since 1970; 0 if none was.",
        kind: GAUGE,
        read: |sources, series| {
            let time = sources.last_datagram();
            series.metrics.push(metric(GAUGE, &[], time));
        },
    },
    Family {
        name: "udp_echo_build_info",
        help: "Which build this is. Always 1.",
        kind: GAUGE,
        read: |_, series| {
            let labels = [
                ("version", env!("CARGO_PKG_VERSION")),
                ("revision", env!("UDP_ECHO_REVISION")),
                ("rustc", env!("UDP_ECHO_RUSTC")),
            ];
            series.add(&labels, 1);
        },
    },
];

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
    if kind == COUNTER {
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

#[expect(clippy::cast_precision_loss, reason = "exact to 2^53")]
fn histogram(buckets: Vec<Bucket>, sum: u64) -> Metric {
    let mut histogram = Histogram::default();
    histogram.set_sample_count(buckets.last().map_or(0, Bucket::cumulative_count));
    histogram.set_sample_sum(sum as f64);
    histogram.set_bucket(buckets);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    metric
}
