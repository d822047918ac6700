//! Times of day that follow a clock step.

use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use super::MetricsSources;

/// A reading of every clock.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// `CLOCK_MONOTONIC`: stands still while the machine is suspended.
    pub monotonic: Instant,
    /// `CLOCK_BOOTTIME`: goes on while the machine is suspended.
    pub since_boot: Duration,
    /// `CLOCK_REALTIME`: the time of day, which can be set at any time.
    pub today: SystemTime,
}

impl Clocks {
    /// The time since `started`, suspends included.
    pub fn uptime(&self, started: Self) -> Duration {
        self.since_boot.saturating_sub(started.since_boot)
    }

    /// The time of day `ago`, by the clock as it is set now, in seconds since the UNIX epoch; 0 if
    /// that is before the epoch.
    pub(super) fn time_of_day(&self, ago: Duration) -> f64 {
        let time = self.today.checked_sub(ago);
        time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(0.0, |since| since.as_secs_f64())
    }
}

impl MetricsSources {
    /// The arrival of the last datagram.
    pub(super) fn last_arrival(&self) -> Option<Instant> {
        let epoch = self.started.monotonic;
        let all = self.all_counts();
        all.filter_map(|(_, counts)| counts.last_datagram.get(epoch))
            .max()
    }

    /// The arrival of the last datagram, in seconds since the UNIX epoch; 0 before the first. The
    /// workers read only the monotonic clock. While no datagram comes, the value changes only if
    /// the clock is set.
    pub(super) fn last_datagram(&self) -> f64 {
        let Some(last) = self.last_arrival() else {
            return 0.0;
        };
        let now = (self.clocks)();
        let time = now.time_of_day(now.monotonic.saturating_duration_since(last));
        let mut known = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let time = match *known {
            Some((instant, shown)) if instant == last => steady(shown, time),
            _ => time,
        };
        *known = Some((last, time));
        time
    }
}

/// Returns `shown`, or `time` if the clock was set since `shown` was computed: a past time must not
/// move by the inaccuracy of reading two clocks.
pub(super) fn steady(shown: f64, time: f64) -> f64 {
    const STEP: f64 = 1.0;
    if (time - shown).abs() < STEP {
        shown
    } else {
        time
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;
    use std::sync::{Arc, LazyLock};

    use super::*;
    use crate::metrics::{Counts, Metrics, MetricsSources, WorkerMetrics, testing};

    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    static BOOT: LazyLock<Instant> = LazyLock::new(Instant::now);

    thread_local! {
        static SINCE_BOOT: Cell<Duration> = const { Cell::new(Duration::from_secs(20)) };
        /// The clock's lead over that of a board without a battery, which boots in 1970.
        static AHEAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    fn clocks() -> Clocks {
        let since_boot = SINCE_BOOT.get();
        Clocks {
            monotonic: *BOOT + since_boot,
            since_boot,
            today: SystemTime::UNIX_EPOCH + since_boot + AHEAD.get(),
        }
    }

    fn advance(time: Duration) {
        SINCE_BOOT.set(SINCE_BOOT.get() + time);
    }

    #[test]
    fn shown_time_follows_a_step_of_a_second() {
        for (time, expected) in [(9.001, 10.0), (10.999, 10.0), (9.0, 9.0), (11.0, 11.0)] {
            assert!((steady(10.0, time) - expected).abs() < 1e-9, "{time}");
        }
    }

    #[test]
    fn start_and_last_datagram_times_follow_a_clock_step() {
        let [counts, other] = [(); 2].map(|()| Arc::new(Counts::default()));
        let worker = |counts| WorkerMetrics {
            listen: String::new(),
            worker: String::new(),
            counts: Arc::clone(counts),
            requested: [None; 2],
            read_socket: Box::new(|| Err(io::ErrorKind::Other.into())),
        };
        let metrics = Metrics::new(MetricsSources {
            started: clocks(),
            clocks,
            ..testing::sources(vec![worker(&counts), worker(&other)])
        });
        let metrics = metrics.unwrap();
        let shown = || {
            let text = metrics.text().unwrap();
            let value = |name: &str| -> u64 {
                let value = text.lines().find_map(|line| line.strip_prefix(name));
                value.unwrap().trim().parse().expect("a whole number")
            };
            [
                value("process_start_time_seconds "),
                value("udp_echo_last_datagram_timestamp_seconds "),
            ]
        };
        assert_eq!(metrics.since_last_datagram(), None);
        let epoch = clocks().monotonic;
        advance(Duration::from_secs(4));
        other.last_datagram.set(epoch, clocks().monotonic);
        advance(Duration::from_secs(1));
        counts.last_datagram.set(epoch, clocks().monotonic);
        for ahead in [0, 1_700_000_000, 1_700_003_600, 3] {
            AHEAD.set(Duration::from_secs(ahead));
            assert_eq!(shown(), [ahead + 20, ahead + 25]);
            // Two clocks are not read at one moment: the shown times do not move.
            AHEAD.set(Duration::from_secs(ahead) + Duration::from_micros(20));
            advance(Duration::from_secs(1000));
            assert_eq!(shown(), [ahead + 20, ahead + 25]);
        }
        assert_eq!(metrics.uptime(), Duration::from_secs(4005));
        let ago = metrics.since_last_datagram();
        assert_eq!(ago, Some(Duration::from_secs(4000)));
    }
}
