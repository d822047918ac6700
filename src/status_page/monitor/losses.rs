//! The losses of the last minutes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::monitor::figures::{Figures, Series, Snapshot};

/// The time between samples.
pub(crate) const SAMPLE_PERIOD: Duration = Duration::from_secs(30);
/// The number of samples kept: five minutes.
const SAMPLES: usize = 10;

/// The counts of one address at one time, or between two times.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) received: u64,
    pub(super) lost: u64,
    /// Sum of the round-trip times in seconds.
    rtt: f64,
}

impl Sample {
    pub(super) fn of(figures: &Figures) -> Self {
        Self {
            received: figures.received,
            lost: figures.lost,
            rtt: figures.rtt.sum(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            received: self.received.saturating_sub(before.received),
            lost: self.lost.saturating_sub(before.lost),
            rtt: self.rtt - before.rtt,
        }
    }

    /// The number of requests that are no longer in flight.
    pub(super) fn finished(self) -> u64 {
        self.received + self.lost
    }

    /// The mean round-trip time in seconds.
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    pub(super) fn mean_rtt(self) -> Option<f64> {
        (self.received > 0).then(|| self.rtt / self.received as f64)
    }
}

/// The counts of every address, by target and address.
type Samples = HashMap<(Arc<str>, Arc<str>), Sample>;

/// Samples of every address over the last five minutes.
#[derive(Debug, Default)]
pub(crate) struct LossHistory(Mutex<VecDeque<Samples>>);

impl LossHistory {
    /// Adds a sample. Called once per [`SAMPLE_PERIOD`].
    pub(crate) fn add(&self, snapshot: &Snapshot) {
        let read = |series: &Series| {
            let figures = series.figures.lock();
            let figures = figures.unwrap_or_else(PoisonError::into_inner);
            (key(series), Sample::of(&figures))
        };
        let all = snapshot.series.iter().map(read).collect();
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(all);
    }

    /// The counts of an address: since the last sample but one, and since the oldest sample.
    pub(super) fn recent(&self, series: &Series, now: Sample) -> [Sample; 2] {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(series);
        [samples.iter().nth_back(1), samples.front()].map(|before| {
            // An address that a sample lacks had no counts then.
            let before = before.and_then(|before| before.get(&key));
            now.since(before.copied().unwrap_or_default())
        })
    }
}

fn key(series: &Series) -> (Arc<str>, Arc<str>) {
    (Arc::clone(&series.target), Arc::clone(&series.address))
}
