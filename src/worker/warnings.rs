//! What goes wrong again and again.

use std::array;

use crate::metrics::Errors;
use crate::throttle::Throttle;

/// The workers' warnings, one a second of each kind. Touched only when something goes wrong.
#[derive(Debug)]
pub struct Warnings {
    /// Of receive calls, by the name of the error; see [`Errors::count`].
    pub receive: [Throttle; Errors::NAMES],
    /// Of replies, likewise.
    pub send: [Throttle; Errors::NAMES],
}

impl Default for Warnings {
    fn default() -> Self {
        Self {
            receive: array::from_fn(|_| Throttle::default()),
            send: array::from_fn(|_| Throttle::default()),
        }
    }
}
