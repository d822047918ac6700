//! The error estimate of the clock that STAMP packets carry.

use std::io;
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
    /// The present estimate: "not synchronized" where it cannot be read.
    pub fn read(self) -> ErrorEstimate {
        self.try_read().unwrap_or(ErrorEstimate::UNKNOWN)
    }

    /// The present estimate.
    ///
    /// # Errors
    /// If the kernel's state of the clock cannot be read.
    pub fn try_read(self) -> io::Result<ErrorEstimate> {
        match self {
            Self::Kernel => udp::clock_state()
                .map(|(is_synchronized, error)| ErrorEstimate::new(is_synchronized, error)),
            Self::NotSynchronized => Ok(ErrorEstimate::UNKNOWN),
            Self::Error(error) => Ok(ErrorEstimate::new(true, error)),
        }
    }
}
