//! What others may see of a worker, and what all workers share.

use std::array;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::metrics::{Counts, ErrorCounts, SharedMoment};
use crate::throttle::Throttle;

/// What all workers of a daemon share. The datagram path writes none of it but each worker's own.
#[derive(Debug)]
pub struct Shared {
    /// Set when the workers are to stop.
    pub stop: AtomicBool,
    /// What [`SharedMoment`]s count from.
    pub epoch: Instant,
    /// What each worker counts.
    pub counts: Box<[Arc<Counts>]>,
    /// Where each worker is.
    pub states: Box<[State]>,
    /// Whether the first decode error was logged.
    pub warned_of_decode_errors: AtomicBool,
    /// What was warned of lately.
    pub warnings: Warnings,
}

impl Shared {
    /// For workers with these counts.
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

/// Where a worker is. Written by its thread alone; on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct State {
    /// When the loop last went round.
    pub progress: SharedMoment,
    /// When it is to go round again at the latest, if it waits in a receive.
    pub due: SharedMoment,
    /// Since when the socket has been quiet, refused datagrams aside.
    pub quiet_since: SharedMoment,
}

/// The workers' warnings, one a second of each kind. Touched only when something goes wrong.
#[derive(Debug)]
pub struct Warnings {
    /// Of receive calls, by the name of the error; see [`ErrorCounts::count`].
    pub receive: [Throttle; ErrorCounts::NAMES],
    /// Of replies, likewise.
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
