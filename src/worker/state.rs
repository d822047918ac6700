//! The state that workers share and publish.

use std::array;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::metrics::{Counts, ErrorCounts, SharedMoment};
use crate::throttle::Throttle;

/// The state that all workers of a daemon share. On the datagram path, each worker writes only its
/// own counts and state.
#[derive(Debug)]
pub struct Shared {
    /// Makes the workers stop.
    pub stop: AtomicBool,
    /// The zero of every [`SharedMoment`].
    pub epoch: Instant,
    /// The counters of each worker.
    pub counts: Box<[Arc<Counts>]>,
    /// The state of each worker.
    pub states: Box<[State]>,
    /// Whether the first decode error was logged.
    pub warned_of_decode_errors: AtomicBool,
    /// Limits the rate of warnings.
    pub warnings: Warnings,
}

impl Shared {
    /// The state of one worker per element of `counts`.
    pub fn new(epoch: Instant, counts: Box<[Arc<Counts>]>) -> Self {
        Self {
            stop: AtomicBool::new(false),
            epoch,
            states: counts.iter().map(|_| State::default()).collect(),
            counts,
            warned_of_decode_errors: AtomicBool::new(false),
            warnings: Warnings::default(),
        }
    }
}

/// The state of a worker. Only its thread writes it, so it has cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct State {
    /// The last heartbeat.
    pub progress: SharedMoment,
    /// The deadline of the next heartbeat, which can be a receive timeout away.
    pub due: SharedMoment,
    /// When the socket became idle. Refused datagrams do not count.
    pub idle_since: SharedMoment,
}

/// Throttles of the workers' warnings, by errno name (see [`ErrorCounts::count`]).
#[derive(Debug)]
pub struct Warnings {
    /// Warnings of failed receives.
    pub receive: [Throttle; ErrorCounts::NAMES],
    /// Warnings of failed sends.
    pub send: [Throttle; ErrorCounts::NAMES],
}

impl Default for Warnings {
    fn default() -> Self {
        Self {
            receive: array::from_fn(|_| Throttle::default()),
            send: array::from_fn(|_| Throttle::default()),
        }
    }
}
