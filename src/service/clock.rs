//! The clocks of a service.

use std::time::{Duration, Instant, SystemTime};

use crate::metrics::Clocks;
use crate::udp::since_boot;

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the supervisor")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Reads all clocks at one moment. If the thread loses its CPU between two readings, reads them
/// again, up to ten times.
pub(crate) fn clocks() -> Clocks {
    closest(now, || (since_boot(), time_of_day()))
}

fn closest(now: impl Fn() -> Instant, others: impl Fn() -> (Duration, SystemTime)) -> Clocks {
    const CLOSE: Duration = Duration::from_micros(100);
    let read = || {
        let (before, (since_boot, today), after) = (now(), others(), now());
        let clocks = Clocks {
            monotonic: before,
            since_boot,
            today,
        };
        (after.saturating_duration_since(before), clocks)
    };
    let mut best = read();
    for _ in 0..10 {
        if best.0 < CLOSE {
            break;
        }
        let next = read();
        if next.0 < best.0 {
            best = next;
        }
    }
    best.1
}

/// The time of day, since the UNIX epoch.
pub(crate) fn today() -> Duration {
    let today = time_of_day().duration_since(SystemTime::UNIX_EPOCH);
    today.unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "this is the supervisor")]
fn time_of_day() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn clocks_agree_after_a_pause_between_two_readings() {
        let (instant, day) = (now(), time_of_day());
        let time = Cell::new(Duration::ZERO);
        let readings = Cell::new(0);
        // The thread stops for one second before each of the first three readings.
        let pause = || {
            readings.set(readings.get() + 1);
            let long = [0, 1_000_000][usize::from(readings.get() < 4)];
            time.set(time.get() + Duration::from_micros(10 + long));
        };
        let clocks = closest(
            || {
                pause();
                instant + time.get()
            },
            || {
                pause();
                (time.get(), day + time.get())
            },
        );
        let late = clocks.monotonic - instant + Duration::from_micros(10);
        assert_eq!(clocks.today.duration_since(day).unwrap(), late);
        assert_eq!(clocks.since_boot, late);
    }
}
