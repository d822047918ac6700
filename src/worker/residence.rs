//! Residence times of datagrams, measured by the time of day, which can be set.

use std::time::{Duration, Instant};

/// The tolerated difference between the two clocks. A datagram has its timestamp slightly before it
/// is in the socket.
const TOLERANCE: Duration = Duration::from_millis(100);

/// Bounds the time that datagrams can have waited, by the monotonic clock.
#[derive(Debug)]
pub(super) struct Waiting {
    /// All unanswered datagrams were received after this time.
    since: Instant,
}

impl Waiting {
    pub(super) fn new(since: Instant) -> Self {
        Self { since }
    }

    /// The socket was empty at some time after `then`.
    pub(super) fn was_empty_after(&mut self, then: Instant) {
        self.since = then;
    }

    /// The nanoseconds from `received_at` to `today`, both in time of day. `now` is the monotonic
    /// time at `today`. `None` if the time of day was set in between.
    pub(super) fn residence(
        &self,
        received_at: Duration,
        today: Duration,
        now: Instant,
    ) -> Option<u64> {
        let residence = today.checked_sub(received_at)?;
        let most = now.saturating_duration_since(self.since) + TOLERANCE;
        if residence > most {
            return None;
        }
        u64::try_from(residence.as_nanos()).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::thread;
    use std::time::SystemTime;

    use super::*;
    use crate::reflect::{ExitOn, Mode};
    use crate::worker::testing::{self, now};

    const HOUR: Duration = Duration::from_hours(1);
    const DECADES: Duration = Duration::from_secs(1_700_000_000);

    #[test]
    fn residence_is_left_out_when_the_clock_was_set() {
        let start = now();
        let mut waiting = Waiting::new(start);
        let second = Duration::from_secs(1);
        let later = start + second;
        let residence = |waiting: &Waiting, waited: Duration, step: Duration| {
            waiting.residence(DECADES, DECADES + waited + step, later)
        };
        assert_eq!(
            residence(&waiting, second, Duration::ZERO),
            Some(1_000_000_000)
        );
        for step in [second, HOUR, DECADES] {
            assert_eq!(residence(&waiting, second, step), None, "{step:?}");
        }
        // Set back.
        assert_eq!(waiting.residence(DECADES + HOUR, DECADES, later), None);
        waiting.was_empty_after(later);
        assert_eq!(residence(&waiting, second, Duration::ZERO), None);
        assert_eq!(
            residence(&waiting, TOLERANCE, Duration::ZERO),
            Some(100_000_000)
        );
    }

    /// The time of day is an hour ahead of the kernel's timestamps for the second reply, as if it
    /// had been set between receipt and reply.
    #[expect(clippy::disallowed_methods, reason = "a clock for the loop")]
    fn set_once() -> Duration {
        static REPLIES: AtomicU32 = AtomicU32::new(0);
        let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let ahead = if REPLIES.fetch_add(1, Relaxed) == 1 {
            HOUR
        } else {
            Duration::ZERO
        };
        today.unwrap() + ahead
    }

    #[test]
    fn worker_counts_no_residence_when_the_clock_was_set() {
        let socket = testing::socket(false);
        let address = socket.address();
        let (worker, shared) = testing::worker(socket, Mode::Echo, ExitOn::default(), set_once);
        let stop = Arc::clone(&shared);
        let client = thread::spawn(move || {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(address).unwrap();
            for _ in 0..3 {
                client.send(b"x").unwrap();
                client.recv(&mut [0]).unwrap();
            }
            stop.stop.store(true, Relaxed);
        });
        worker.run();
        client.join().unwrap();
        let residence = &shared.counts[0].residence.0;
        assert_eq!(residence.count_all(), 2);
        assert!(residence.sum() < 3_600_000_000_000, "{}", residence.sum());
    }
}
