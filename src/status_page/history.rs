//! Samples of the counters over the last five minutes.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::MetricsSummary;

/// The time between samples.
pub(crate) const PERIOD: Duration = Duration::from_secs(2);
/// The number of samples kept: five minutes.
const SAMPLES: u16 = 151;
/// The time span of a chart. Rates begin at the second sample.
pub(super) const WIDTH: Duration = PERIOD.saturating_mul(SAMPLES as u32 - 2);

/// Samples of the counters over the last five minutes.
#[derive(Debug, Default)]
pub(crate) struct History(Mutex<VecDeque<(Instant, MetricsSummary)>>);

impl History {
    /// Adds a sample and drops those that are too old.
    pub(crate) fn add(&self, now: Instant, summary: &MetricsSummary) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((at, _)) = samples.front()
            && now.duration_since(*at) > WIDTH + PERIOD
        {
            samples.pop_front();
        }
        samples.push_back((now, *summary));
    }

    pub(super) fn samples(&self) -> Vec<(Instant, MetricsSummary)> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().copied().collect()
    }
}

/// The growth of a counter per second from the first sample to the last.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(super) fn rate(
    samples: &[(Instant, MetricsSummary)],
    count: impl Fn(&MetricsSummary) -> u64,
) -> f64 {
    let (Some((start, first)), Some((end, last))) = (samples.first(), samples.last()) else {
        return 0.0;
    };
    let grown = count(last).saturating_sub(count(first)) as f64;
    let seconds = end.saturating_duration_since(*start).as_secs_f64();
    if seconds > 0.0 { grown / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn history_keeps_five_minutes_and_yields_rates() {
        let (history, start) = (History::default(), Instant::now());
        assert!(rate(&history.samples(), |sum| sum.received).abs() < 1e-9);
        for sample in 0..200 {
            let received = u64::from(sample) * 20;
            let summary = MetricsSummary {
                received,
                ..MetricsSummary::default()
            };
            history.add(start + sample * PERIOD, &summary);
        }
        let samples = history.samples();
        assert_eq!(samples.len(), usize::from(SAMPLES));
        assert_eq!(samples[150].0 - samples[0].0, Duration::from_mins(5));
        assert!((rate(&samples, |sum| sum.received) - 10.0).abs() < 1e-9);
        history.add(start + Duration::from_hours(1), &MetricsSummary::default());
        assert_eq!(history.samples().len(), 1, "old samples kept after a pause");
    }
}
