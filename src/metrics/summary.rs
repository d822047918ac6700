//! The figures of the status page and the status line: sums over all workers, and the sockets.

use std::time::Duration;

use super::{
    Count, ErrorCounts, KernelMetrics, Metrics, MetricsSources, StampCounts, WorkerMetrics,
};
use crate::metrics::SocketReading;
use crate::reflect::Refusal;
use crate::reflect::stamp::{
    ErrorEstimate, SessionTotals, StampTotals, TlvFault, TlvKind, TlvTotals, UplinkTotals,
};

/// Sums over all workers, for the status page and the status line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is a metric, described in FAMILIES")]
pub struct MetricsSummary {
    pub received: u64,
    pub received_bytes: u64,
    pub echoed: u64,
    pub echoed_bytes: u64,
    pub decoded: u64,
    pub decode_errors: u64,
    pub empty: u64,
    /// By [`Refusal`].
    pub refused: [u64; Refusal::ALL.len()],
    /// In the order of [`ErrorCounts::names`].
    pub send_errors: [u64; ErrorCounts::NAMES],
    pub truncated: u64,
    pub drops: u64,
    pub peers: u64,
    /// All 0 in other modes than STAMP.
    pub stamp: StampTotals,
}

impl MetricsSummary {
    /// The datagrams refused for any reason.
    pub fn refused(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// The replies that could not be sent for any reason.
    pub fn send_errors(&self) -> u64 {
        self.send_errors.iter().sum()
    }
}

/// A socket, for the status page.
#[derive(Debug, Clone)]
pub struct SocketState {
    /// The address that the socket is bound to.
    pub listen: String,
    /// The worker's number.
    pub worker: String,
    /// The requested receive and send buffer sizes, in bytes.
    pub requested: [Option<usize>; 2],
    /// The kernel's figures; `None` if they cannot be read.
    pub reading: Option<SocketReading>,
}

/// The kernel path of an address on an interface, for the status page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelState {
    /// The name of the interface.
    pub interface: String,
    /// The address that the program answers for.
    pub listen: String,
    /// Whether the program is attached.
    pub is_active: bool,
    /// The datagrams that it echoed.
    pub echoed: u64,
    /// The datagrams that it passed to the socket.
    pub passed: u64,
}

impl Metrics {
    /// The kernel path of every address on every interface; `None` if it is off.
    pub fn kernel_path(&self) -> Option<Vec<KernelState>> {
        self.sources.read_kernel();
        self.sources.kernel.as_ref().map(KernelMetrics::states)
    }

    /// Every socket, for the status page.
    pub fn sockets(&self) -> Vec<SocketState> {
        let workers = self.sources.workers.iter();
        let state = |worker: &WorkerMetrics| SocketState {
            listen: worker.listen.clone(),
            worker: worker.worker.clone(),
            requested: worker.requested,
            reading: (worker.read_socket)().ok(),
        };
        workers.map(state).collect()
    }

    /// Sums over all workers.
    pub fn summary(&self) -> MetricsSummary {
        let sources = &self.sources;
        sources.read_kernel();
        let workers = sources.workers.iter();
        let readings = workers.filter_map(|worker| (worker.read_socket)().ok());
        MetricsSummary {
            received: sources.sum(|counts| counts.received.get()),
            received_bytes: sources.sum(|counts| counts.received_bytes.get()),
            echoed: sources.sum(|counts| counts.echoed.get()),
            echoed_bytes: sources.sum(|counts| counts.echoed_bytes.get()),
            decoded: sources.sum(|counts| counts.decoded.get()),
            decode_errors: sources.sum(|counts| counts.decode_errors.get()),
            empty: sources.sum(|counts| counts.empty.get()),
            refused: Refusal::ALL
                .map(|refusal| sources.sum(|counts| counts.refused[refusal as usize].get())),
            send_errors: std::array::from_fn(|index| {
                sources.sum(|counts| counts.send_errors.get(index))
            }),
            truncated: sources.sum(|counts| counts.truncated.get()),
            drops: readings.map(|reading| reading.drops).sum(),
            peers: sources.sum(|counts| counts.peers.get()),
            stamp: stamp(sources),
        }
    }

    /// The error estimate that STAMP replies have now; `None` in other modes.
    pub fn clock_error(&self) -> Option<ErrorEstimate> {
        self.sources.clock_error()
    }

    /// The time since the last datagram, without suspends; `None` before the first.
    pub fn since_last_datagram(&self) -> Option<Duration> {
        self.sources.read_kernel();
        let last = self.sources.last_arrival()?;
        let now = (self.sources.clocks)().monotonic;
        Some(now.saturating_duration_since(last))
    }
}

/// Sums over all workers of what only STAMP mode counts.
fn stamp(sources: &MetricsSources) -> StampTotals {
    let sum = |count: fn(&StampCounts) -> &Count| sources.sum(|counts| count(&counts.stamp).get());
    StampTotals {
        sessions: SessionTotals {
            sessions: sum(|stamp| &stamp.sessions),
            unkept: sum(|stamp| &stamp.unkept),
            reset: sum(|stamp| &stamp.reset),
            uplink: UplinkTotals {
                lost: sum(|stamp| &stamp.lost),
                reordered: sum(|stamp| &stamp.reordered),
                duplicates: sum(|stamp| &stamp.duplicates),
            },
        },
        tlvs: TlvTotals {
            kinds: TlvKind::ALL
                .map(|kind| sources.sum(|counts| counts.stamp.tlvs[kind as usize].get())),
            faults: TlvFault::ALL
                .map(|fault| sources.sum(|counts| counts.stamp.tlv_faults[fault as usize].get())),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;
    use crate::metrics::{Counts, testing};
    use crate::worker::StampClock;

    #[test]
    fn summary_adds_the_workers_by_reason_and_errno() {
        let worker = |times: u64| {
            let counts = Counts::default();
            counts.received_bytes.add(100 * times);
            counts.echoed_bytes.add(10 * times);
            counts.refused[Refusal::RateLimit as usize].add(times);
            let error = io::Error::from_raw_os_error(libc::EPERM);
            for _ in 0..times {
                counts.send_errors.count(&error);
            }
            worker_of(times, counts)
        };
        let metrics = Metrics::new(testing::sources(vec![worker(1), worker(2)]));
        let summary = metrics.unwrap().summary();
        assert_eq!([summary.received_bytes, summary.echoed_bytes], [300, 30]);
        assert_eq!(
            (summary.refused, summary.refused()),
            ([0, 0, 0, 3, 0, 0, 0], 3)
        );
        let errors = ErrorCounts::names().zip(summary.send_errors);
        let errors: Vec<_> = errors.filter(|(_, count)| *count > 0).collect();
        assert_eq!((errors, summary.send_errors()), (vec![("EPERM", 3)], 3));
    }

    #[test]
    fn summary_adds_the_stamp_totals_of_the_workers() {
        let totals = |times: u64| StampTotals {
            sessions: SessionTotals {
                sessions: times,
                unkept: 2 * times,
                reset: 3 * times,
                uplink: UplinkTotals {
                    lost: 4 * times,
                    reordered: 5 * times,
                    duplicates: 6 * times,
                },
            },
            tlvs: TlvTotals {
                kinds: [7, 8, 9, 10, 11, 12].map(|kind| kind * times),
                faults: [13, 14, 15].map(|fault| fault * times),
            },
        };
        let worker = |times: u64| {
            let counts = Counts::default();
            counts.stamp.set(&totals(times));
            worker_of(times, counts)
        };
        let mut sources = testing::sources(vec![worker(1), worker(20)]);
        sources.stamp_clock = Some(StampClock::NotSynchronized);
        let metrics = Metrics::new(sources).unwrap();
        assert_eq!(metrics.summary().stamp, totals(21));
        assert_eq!(metrics.clock_error(), Some(ErrorEstimate::UNKNOWN));
        let metrics = Metrics::new(testing::sources(Vec::new())).unwrap();
        assert_eq!(metrics.clock_error(), None);
    }

    fn worker_of(number: u64, counts: Counts) -> WorkerMetrics {
        WorkerMetrics {
            listen: String::new(),
            worker: number.to_string(),
            counts: Arc::new(counts),
            requested: [None; 2],
            read_socket: Box::new(|| Err(io::ErrorKind::Other.into())),
        }
    }
}
