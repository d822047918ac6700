//! The runtime: one thread for HTTP, signals and timers.

use std::io;
use std::os::unix::net::UnixStream;

use tokio::runtime::{Builder, Runtime};

/// Makes one.
///
/// # Errors
/// When the system has not what it takes.
pub(crate) fn new() -> io::Result<Runtime> {
    // tokio 1.54 panics where it cannot have the pair of sockets that signals wake it by. With
    // that, a runtime opens six descriptors: so many have to be there.
    drop([
        UnixStream::pair()?,
        UnixStream::pair()?,
        UnixStream::pair()?,
    ]);
    Builder::new_current_thread().enable_all().build()
}
