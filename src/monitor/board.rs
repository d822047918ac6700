//! The series of all addresses, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    /// Returns the series of an address that is probed from now on.
    pub(super) fn begin(&self, settings: &TargetSettings, address: &str) -> Series {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key: Labels = (settings.name.as_str().into(), address.into());
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
            series: Series {
                target: key.0,
                address: key.1,
                mode: settings.mode,
                per_flow: settings.per_flow,
                figures: Arc::new(Mutex::new(Figures::new(settings.mode))),
            },
            ended: None,
        });
        entry.ended = None;
        entry.series.mode = settings.mode;
        entry.series.per_flow = settings.per_flow;
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
        board.end(&again, start + KEPT * 2);
        board.remove_old(start + KEPT * 3);
        assert!(board.series().is_empty());
    }
}
