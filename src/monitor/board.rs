//! The series of all addresses, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::MAX_ADDRESSES;
use super::config::TargetSettings;
use super::figures::{Figures, Series};

/// How long the series of an address stay after its last request.
const KEPT: Duration = Duration::from_mins(5);

/// The series by target and address. A series that is probed again goes on with its counts.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<BTreeMap<Labels, Entry>>);

/// Target and address.
type Labels = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Entry {
    series: Series,
    /// When the address was probed last; `None` while it is.
    ended: Option<Instant>,
}

impl Board {
    /// Returns the series of an address that is probed from now on. It takes the place of the series
    /// that ended first, if there are [`MAX_ADDRESSES`].
    pub(super) fn begin(&self, settings: &TargetSettings, address: &str) -> Series {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_ADDRESSES {
            let ended = entries.iter().filter(|(_, entry)| entry.ended.is_some());
            let oldest = ended.min_by_key(|(_, entry)| entry.ended);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                entries.remove(&oldest);
            }
        }
        let key: Labels = (settings.name.as_str().into(), address.into());
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
            series: Series {
                target: key.0,
                address: key.1,
                mode: settings.mode,
                flows: shown_flows(settings),
                figures: Arc::new(Mutex::new(Figures::new(settings.mode))),
                recent: Arc::default(),
            },
            ended: None,
        });
        entry.ended = None;
        entry.series.mode = settings.mode;
        entry.series.flows = shown_flows(settings);
        entry.series.clone()
    }

    /// Notes that an address is no longer probed.
    pub(super) fn end(&self, series: &Series, now: Instant) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(&series.target), Arc::clone(&series.address));
        if let Some(entry) = entries.get_mut(&key) {
            entry.ended = Some(now);
        }
    }

    /// Removes the series of addresses that have not been probed for five minutes.
    pub(super) fn remove_old(&self, now: Instant) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| {
            let ended = entry.ended;
            ended.is_none_or(|ended| now.saturating_duration_since(ended) < KEPT)
        });
    }

    /// Returns all series, in the order of their labels.
    pub(super) fn series(&self) -> Vec<Series> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values().map(|entry| entry.series.clone()).collect()
    }
}

/// The number of flows whose counts are served.
fn shown_flows(settings: &TargetSettings) -> usize {
    if settings.per_flow { settings.flows } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflect::Mode;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn series_stay_five_minutes_and_keep_their_counts() {
        let start = Instant::now();
        let board = Board::default();
        let settings = TargetSettings::example("a", "192.0.2.1:9", Mode::Echo);
        let series = board.begin(&settings, "192.0.2.1:9");
        series.figures.lock().unwrap().sent = 7;
        board.end(&series, start);
        board.remove_old(start + KEPT.mul_f64(0.99));
        let again = board.begin(&settings, "192.0.2.1:9");
        assert_eq!(again.figures.lock().unwrap().sent, 7);
        board.remove_old(start + KEPT * 2);
        assert_eq!(board.series().len(), 1);
        // Series that ended make place for others.
        for number in 0..MAX_ADDRESSES + 10 {
            let other = board.begin(&settings, &number.to_string());
            board.end(&other, start + KEPT * 2);
        }
        assert_eq!(board.series().len(), MAX_ADDRESSES);
        board.end(&again, start + KEPT * 2);
        board.remove_old(start + KEPT * 3);
        assert!(board.series().is_empty());
    }
}
