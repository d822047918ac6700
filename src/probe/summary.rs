//! The summary as text.

use std::fmt::{self, Display, Formatter};

use super::finished::Finished;
use super::format::{Milliseconds, Percent, counted};
use super::rtt::Rtts;

/// The text at the end of a run.
pub(super) struct Summary<'a> {
    /// The run.
    pub finished: &'a Finished<'a>,
    /// Columns of the terminal, if there is one.
    pub columns: Option<usize>,
}

/// Minimum number of replies for a histogram.
const MIN_REPLIES: u64 = 10;

/// Maximum number of bars of a histogram.
const BARS: u32 = 8;

/// Length of the longest bar in characters: as on a wide terminal, and at least.
const BAR: usize = 40;
const SHORT_BAR: usize = 8;

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Finished {
            config,
            address,
            outcome,
            ..
        } = self.finished;
        let totals = outcome.tally.totals();
        writeln!(f, "--- {} ---", config.shown_target(address))?;
        write!(
            f,
            "{} sent, {} received, {} lost ({})",
            totals.sent,
            totals.received,
            totals.lost(),
            Percent(totals.lost(), totals.sent),
        )?;
        for (count, text) in [
            (totals.duplicates, counted(totals.duplicates, "duplicate")),
            (
                totals.reordered,
                format!("{} out of order", totals.reordered),
            ),
            (totals.corrupted, format!("{} corrupted", totals.corrupted)),
            (
                outcome.notes.records_sent,
                counted(outcome.notes.records_sent, "record"),
            ),
        ] {
            if count > 0 {
                write!(f, ", {text}")?;
            }
        }
        write!(f, " in {:.1} s", outcome.time.as_secs_f64())?;
        self.times(f)?;
        for finding in self.finished.findings() {
            write!(f, "\n{}", finding.sentence)?;
            if !finding.rows.is_empty() {
                f.write_str(":")?;
            }
            for row in finding.rows {
                write!(f, "\n  {row}")?;
            }
        }
        Ok(())
    }
}

impl Summary<'_> {
    fn times(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let round_trips = &self.finished.outcome.round_trips;
        let Some(summary) = round_trips.rtts.summary() else {
            return Ok(());
        };
        let [min, mean, max, stddev, p50, p90, p99] = [
            summary.min,
            summary.mean,
            summary.max,
            summary.stddev,
            summary.p50,
            summary.p90,
            summary.p99,
        ]
        .map(Milliseconds);
        write!(
            f,
            "\nround trip in ms: min {min}, mean {mean}, max {max}, stddev {stddev}\
             \n                  p50 {p50}, p90 {p90}, p99 {p99}"
        )?;
        if let Some(jitter) = round_trips.jitter.mean() {
            write!(f, ", jitter {}", Milliseconds(jitter))?;
        }
        if let Some(directions) = self.finished.directions() {
            write!(f, "{directions}")?;
        }
        self.bars(f, &round_trips.rtts)
    }

    fn bars(&self, f: &mut Formatter<'_>, rtts: &Rtts) -> fmt::Result {
        if rtts.count() < MIN_REPLIES {
            return Ok(());
        }
        let bars = rtts.bars(BARS);
        let most = bars.iter().map(|bar| bar.count).max().unwrap_or(1).max(1);
        let time = |time| Milliseconds(time).to_string();
        let digits = bars.iter().map(|bar| time(bar.to).len()).max().unwrap_or(0);
        let beside = format!("  {0:digits$} to {0:digits$} || {most}", "").len();
        let free = self
            .columns
            .map_or(BAR, |columns| columns.saturating_sub(beside));
        let width = free.clamp(SHORT_BAR, BAR);
        for bar in bars {
            // A single reply is visible, too.
            let length = (bar.count * width as u64).div_ceil(most);
            let drawn = "#".repeat(usize::try_from(length).unwrap_or_default());
            let [from, to] = [bar.from, bar.to].map(time);
            let count = bar.count;
            write!(
                f,
                "\n  {from:>digits$} to {to:>digits$} |{drawn:width$}| {count}"
            )?;
        }
        Ok(())
    }
}
