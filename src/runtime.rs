//! The Tokio runtime for HTTP, signals and timers.

use std::io;
use std::os::unix::net::UnixStream;

use tokio::runtime::{Builder, Runtime};

/// The most threads for work that blocks: the monitor resolves 16 names and answers 16 requests to
/// `/probe` at once, and renders its metrics. The limit of its service has to be above it (`TasksMax=`).
const BLOCKING_THREADS: usize = 40;

/// Builds the single-threaded Tokio runtime.
///
/// # Errors
/// If there are too few file descriptors.
pub(crate) fn new() -> io::Result<Runtime> {
    // Tokio 1.54 panics if it cannot open the socket pair for signals. Probe for the six
    // descriptors that a runtime opens.
    drop([
        UnixStream::pair()?,
        UnixStream::pair()?,
        UnixStream::pair()?,
    ]);
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
}
