//! Warnings of datagrams that the kernel dropped or the daemon refused.

use std::array;
use std::time::Duration;

use tracing::{Level, info, warn};

use crate::metrics::MetricsSummary;
use crate::reflect::Refusal;
use crate::throttle::Throttle;

/// The least time between two warnings of the same kind.
const PERIOD: Duration = Duration::from_mins(1);

/// Warns of dropped and of refused datagrams, each at most once per minute and with the counts
/// since the last line.
#[derive(Debug, Default)]
pub(super) struct DiscardWarnings {
    drops: Reported<1>,
    refused: Reported<{ Refusal::ALL.len() }>,
}

/// Counters, and the values that the log has already shown.
#[derive(Debug)]
struct Reported<const COUNTERS: usize> {
    throttle: Throttle,
    shown: [u64; COUNTERS],
}

impl DiscardWarnings {
    /// Logs the datagrams discarded since the last line, unless that line is too recent. `now` is
    /// the time since an instant that is the same in every call.
    pub(super) fn log_if_due(&mut self, now: Duration, totals: &MetricsSummary) {
        self.log(now, totals, false);
    }

    /// Logs all datagrams discarded since the last line, when the daemon stops. Where a warning is
    /// not due, the line has the level INFO.
    pub(super) fn log_rest(&mut self, now: Duration, totals: &MetricsSummary) {
        self.log(now, totals, true);
    }

    fn log(&mut self, now: Duration, totals: &MetricsSummary, always: bool) {
        let since = self.drops.since();
        if let Some((level, [drops])) = self.drops.take(now, [totals.drops], always) {
            let text = format!(
                "datagrams dropped by the kernel since {since}: {drops}; the receive buffer was \
                 full: raise --recv-buffer and net.core.rmem_max (under systemd ReceiveBuffer= in \
                 udp-echo.socket), or use more --workers"
            );
            write(level, &text);
        }
        let since = self.refused.since();
        if let Some((level, counts)) = self.refused.take(now, totals.refused, always) {
            let counts = Refusal::ALL.into_iter().zip(counts);
            let counts: Vec<_> = counts
                .filter(|(_, count)| *count > 0)
                .map(|(refusal, count)| format!("{} {count} ({})", refusal.name(), advice(refusal)))
                .collect();
            let counts = counts.join(", ");
            let text = format!(
                "datagrams refused since {since}: {counts}; --log debug shows each with its source"
            );
            write(level, &text);
        }
    }
}

impl<const COUNTERS: usize> Default for Reported<COUNTERS> {
    fn default() -> Self {
        Self {
            throttle: Throttle::new(PERIOD),
            shown: [0; COUNTERS],
        }
    }
}

impl<const COUNTERS: usize> Reported<COUNTERS> {
    /// When the counts of the next line begin.
    fn since(&self) -> &'static str {
        if self.shown == [0; COUNTERS] {
            "the start"
        } else {
            "the last such line"
        }
    }

    /// The counts since the last line and the level of the next line. `None` if there are no such
    /// counts, or if a warning is not due and the line is not `always` wanted.
    fn take(
        &mut self,
        now: Duration,
        totals: [u64; COUNTERS],
        always: bool,
    ) -> Option<(Level, [u64; COUNTERS])> {
        let new = array::from_fn(|index| totals[index].saturating_sub(self.shown[index]));
        if new == [0; COUNTERS] {
            return None;
        }
        let level = match self.throttle.pass(now) {
            Some(_) => Level::WARN,
            None if always => Level::INFO,
            None => return None,
        };
        self.shown = totals;
        Some((level, new))
    }
}

/// How to have such datagrams answered.
fn advice(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::SourcePort => {
            "lower --min-source-port; port 0 and, in echo mode, the listening ports stay refused"
        }
        Refusal::OwnAddress => "forged sources or a routing loop: check filters and routes",
        Refusal::Destination => "broadcast or multicast: send to a unicast address",
        Refusal::RateLimit => "raise --rate-limit or --rate-limit-total",
        Refusal::TooShort => "no STAMP or TWAMP-Light requests: check the senders",
        Refusal::Reply => "another reflector answered: check for forged sources",
        Refusal::Integrity => "check that both sides have the same key for the SSID",
    }
}

fn write(level: Level, text: &str) {
    if level == Level::WARN {
        warn!("{text}");
    } else {
        info!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discards_are_reported_once_per_minute_and_never_lost() {
        let mut reported = Reported::<2>::default();
        assert_eq!(reported.since(), "the start");
        let mut take = |seconds, totals, always| {
            let now = Duration::from_secs(seconds);
            reported.take(now, totals, always)
        };
        assert_eq!(take(2, [0, 0], false), None);
        assert_eq!(take(4, [1, 0], false), Some((Level::WARN, [1, 0])));
        assert_eq!(take(6, [2, 5], false), None);
        assert_eq!(take(63, [3, 5], false), None);
        assert_eq!(take(64, [3, 6], false), Some((Level::WARN, [2, 6])));
        assert_eq!(take(65, [3, 7], false), None);
        assert_eq!(take(66, [3, 8], true), Some((Level::INFO, [0, 2])));
        assert_eq!(take(67, [3, 8], true), None);
        assert_eq!(take(200, [3, 8], true), None);
        assert_eq!(take(201, [4, 8], true), Some((Level::WARN, [1, 0])));
        assert_eq!(reported.since(), "the last such line");
    }
}
