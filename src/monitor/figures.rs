//! The figures that the monitor serves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::buckets::Buckets;
use super::recent::{Counts, PERIODS, RecentCounts};
use crate::metrics::ErrorCounts;
use crate::probe::ICMP_KINDS;
use crate::reflect::Mode;

/// The counts of one address of a target. They never fall while the series exists.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Requests sent, failed sends included.
    pub sent: u64,
    /// Requests answered within the time to wait.
    pub received: u64,
    /// Requests without a reply in that time.
    pub lost: u64,
    /// Further replies to a request that was already answered.
    pub duplicates: u64,
    /// First replies that arrived after the reply to a later request of their flow.
    pub reordered: u64,
    /// Replies that differ from their request.
    pub corrupted: u64,
    /// Failed sends by errno name.
    pub send_errors: BTreeMap<&'static str, u64>,
    /// ICMP errors about requests by kind.
    pub icmp_errors: BTreeMap<&'static str, u64>,
    /// Round-trip times.
    pub rtt: Buckets,
    /// Differences of the round-trip times of consecutive requests of a flow, without sign.
    pub jitter: Buckets,
    /// TTL or hop limit of the last reply.
    pub reply_ttl: Option<u8>,
    /// Arrival of the last reply since 1970, or 0.
    pub last_reply: Duration,
    /// The counts of each flow.
    pub flows: Vec<FlowFigures>,
    /// The figures of STAMP mode.
    pub stamp: Option<Box<OneWayFigures>>,
}

/// The counts of one flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowFigures {
    /// Requests sent.
    pub sent: u64,
    /// Requests lost.
    pub lost: u64,
}

/// The figures of STAMP mode.
#[derive(Debug, Clone)]
pub struct OneWayFigures {
    /// T2 − T1.
    pub forward_delay: Buckets,
    /// T4 − T3.
    pub backward_delay: Buckets,
    /// Difference of the forward delays of consecutive requests of a flow.
    pub forward_variation: Buckets,
    /// Difference of the backward delays.
    pub backward_variation: Buckets,
    /// Requests lost on the way there, on the way back, and in a direction that cannot be known.
    pub forward_lost: u64,
    /// See `forward_lost`.
    pub backward_lost: u64,
    /// See `forward_lost`.
    pub unknown_lost: u64,
}

impl Figures {
    /// The figures of an address to which nothing was sent yet.
    pub fn new(mode: Mode) -> Self {
        Self {
            sent: 0,
            received: 0,
            lost: 0,
            duplicates: 0,
            reordered: 0,
            corrupted: 0,
            send_errors: ErrorCounts::names().map(|name| (name, 0)).collect(),
            icmp_errors: ICMP_KINDS.iter().map(|kind| (*kind, 0)).collect(),
            rtt: Buckets::of_times(),
            jitter: Buckets::of_times(),
            reply_ttl: None,
            last_reply: Duration::ZERO,
            flows: Vec::new(),
            stamp: (mode == Mode::Stamp).then(Box::default),
        }
    }

    /// Requests that may still get a reply in time.
    pub fn in_flight(&self) -> u64 {
        self.sent - self.received - self.lost
    }
}

impl Default for OneWayFigures {
    fn default() -> Self {
        let [
            forward_delay,
            backward_delay,
            forward_variation,
            backward_variation,
        ] = [(); 4].map(|()| Buckets::of_signed_times());
        Self {
            forward_delay,
            backward_delay,
            forward_variation,
            backward_variation,
            forward_lost: 0,
            backward_lost: 0,
            unknown_lost: 0,
        }
    }
}

/// The series of one address of a target.
#[derive(Debug, Clone)]
pub struct Series {
    /// The label `target`.
    pub target: Arc<str>,
    /// The label `address`.
    pub address: Arc<str>,
    /// The mode of the target.
    pub mode: Mode,
    /// The number of flows whose counts are served, or 0.
    pub flows: usize,
    /// The figures. The engine changes them under this lock, so each reading is consistent.
    pub figures: Arc<Mutex<Figures>>,
    /// The counts of the last minutes.
    pub recent: Arc<RecentCounts>,
}

impl Series {
    /// Ends a period of the counts of the last minutes.
    pub(crate) fn end_period(&self) {
        self.recent.end_period(|| self.counts());
    }

    /// The counts of the last periods, oldest first. The last one is under way.
    pub(crate) fn periods(&self) -> [Counts; PERIODS] {
        self.recent.periods(|| self.counts())
    }

    fn counts(&self) -> Counts {
        Counts::of(&self.figures.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All that one scrape shows.
#[derive(Debug)]
pub struct Snapshot {
    /// Each target, and whether its name was resolved at the last attempt.
    pub targets: Vec<(Arc<str>, bool)>,
    /// The series of all addresses.
    pub series: Vec<Series>,
    /// The monitor's own figures.
    pub engine: EngineFigures,
    /// Whether the last reload of the configuration succeeded; true before the first.
    pub reload_succeeded: bool,
}

/// The figures of the monitor itself.
#[derive(Debug, Clone)]
pub struct EngineFigures {
    /// Datagrams that the kernel dropped because a socket's receive buffer was full.
    pub socket_drops: u64,
    /// Requests that were due and are never sent because the process did not run or was too slow.
    pub not_sent: u64,
    /// Time from when a request was due until it was sent.
    pub schedule_delay: Buckets,
}

impl Default for EngineFigures {
    fn default() -> Self {
        Self {
            socket_drops: 0,
            not_sent: 0,
            schedule_delay: Buckets::of_times(),
        }
    }
}
