//! Signals to the client.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use crate::runtime;

/// Counts signals to the client.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub(super) stops: AtomicU32,
    reports: AtomicU32,
}

impl Signals {
    /// Returns the number of signals to stop: SIGINT and SIGTERM.
    pub(super) fn stops(&self) -> u32 {
        self.stops.load(Relaxed)
    }

    /// Ends the run at once, as two signals to stop do.
    pub(crate) fn end(&self) {
        self.stops.store(2, Relaxed);
    }

    /// Returns the number of signals to print figures: SIGQUIT.
    pub(super) fn reports(&self) -> u32 {
        self.reports.load(Relaxed)
    }

    /// Starts a thread that counts signals.
    ///
    /// # Errors
    /// Fails if the thread or its runtime cannot start.
    pub(super) fn count() -> io::Result<Arc<Self>> {
        let signals = Arc::new(Self::default());
        let runtime = runtime::new()?;
        let entered = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut quit = signal(SignalKind::quit())?;
        drop(entered);
        let counted = Arc::clone(&signals);
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    loop {
                        let (came, count) = tokio::select! {
                            came = interrupt.recv() => (came, &counted.stops),
                            came = terminate.recv() => (came, &counted.stops),
                            came = quit.recv() => (came, &counted.reports),
                        };
                        if came.is_none() {
                            return;
                        }
                        count.fetch_add(1, Relaxed);
                    }
                });
            })?;
        Ok(signals)
    }
}
