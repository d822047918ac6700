//! Signals, intervals and clocks for the supervisors of the daemon and the monitor.

mod clock;
mod pause;

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{self, MissedTickBehavior};

pub(crate) use clock::{clocks, now, today};
pub(crate) use pause::{AwakeClock, BEAT};

/// The signals that a service handles.
pub(crate) struct Signals {
    pub(crate) terminate: Signal,
    pub(crate) interrupt: Signal,
    pub(crate) hang_up: Signal,
}

impl Signals {
    /// Installs the handlers. Must be called on the runtime.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// Waits for SIGTERM or SIGINT and returns its name.
pub(crate) async fn stop_signal(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// The time between two heartbeats: less than half of the allowed time, so that one may be late.
pub(crate) fn heartbeat(allowed: Duration) -> Duration {
    (allowed * 2 / 5).max(Duration::from_millis(1))
}

/// An interval that does not catch up on missed ticks.
pub(crate) fn interval(period: Duration) -> time::Interval {
    let mut interval = time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits for the next tick, or for ever without an interval.
pub(crate) async fn tick(interval: &mut Option<time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_in_time_when_one_is_late() {
        for milliseconds in [3, 100, 10_000, 60_000] {
            let allowed = Duration::from_millis(milliseconds);
            assert!(2 * heartbeat(allowed) < allowed, "{allowed:?}");
        }
    }
}
