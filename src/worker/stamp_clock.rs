//! The error estimate of the clock that STAMP packets carry.

use std::time::Duration;

use crate::reflect::stamp::ErrorEstimate;
use crate::udp;

/// Where the error estimate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StampClock {
    /// The kernel's state of the clock. Not synchronized if it cannot be read.
    Kernel,
    /// The clock is not synchronized.
    NotSynchronized,
    /// The clock is synchronized with at most this error.
    Error(Duration),
}

impl StampClock {
    /// The present estimate.
    pub fn read(self) -> ErrorEstimate {
        match self {
            Self::Kernel => match udp::clock_state() {
                Ok((is_synchronized, error)) => ErrorEstimate::new(is_synchronized, error),
                Err(_) => ErrorEstimate::UNKNOWN,
            },
            Self::NotSynchronized => ErrorEstimate::UNKNOWN,
            Self::Error(error) => ErrorEstimate::new(true, error),
        }
    }
}
