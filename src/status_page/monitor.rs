//! The status page of the monitor.

mod trend;

use std::cmp::Ordering;
use std::fmt::Write;
use std::sync::PoisonError;
use std::time::Duration;

use super::facts::{bad_unless_0, write_health};
use super::format::{ago, grouped, rough_time};
use super::tables::{escaped, write_options};
use crate::monitor::buckets::Quantile;
use crate::monitor::figures::{Series, Snapshot};
use crate::monitor::recent::{Counts, PERIOD, PERIODS};
use crate::probe::Percent;
use trend::write_trend;

/// The most rows of the table of targets.
const ROWS: usize = 200;

/// The content of the monitor's page.
#[derive(Debug)]
pub(crate) struct MonitorFacts<'a> {
    pub(crate) uptime: Duration,
    /// The fault, if the monitor is unhealthy.
    pub(crate) health: Result<(), String>,
    pub(crate) ready: bool,
    pub(crate) snapshot: &'a Snapshot,
    /// The time of day since the UNIX epoch.
    pub(crate) today: Duration,
    /// The options in force: names and values.
    pub(crate) options: &'a [(String, String)],
}

/// The whole page. The browser applies only the style and script that carry the `nonce`.
pub(crate) fn page(nonce: &str, main: &str) -> String {
    let note = "in the first 5 minutes after a start, all figures are since the start";
    super::frame(nonce, "monitor", "the monitor", note, main)
}

/// The content of the page's `main` element.
pub(crate) fn main(facts: &MonitorFacts<'_>) -> String {
    let mut rows = rows(facts);
    rows.sort_by(Row::worst_first);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_main(&mut out, facts, &rows);
    out
}

/// The state of an address, the worst first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    #[default]
    NotResolved,
    Silent,
    Answering,
    /// No request is answered or lost yet.
    Starting,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::NotResolved => "not resolved",
            Self::Silent => "silent",
            Self::Answering => "answering",
            Self::Starting => "starting",
        }
    }
}

/// A row of the table: an address, or a target without one.
#[derive(Debug, Default)]
struct Row<'a> {
    target: &'a str,
    /// `None` for a target without an address.
    series: Option<&'a Series>,
    state: State,
    sent: u64,
    /// Requests lost, and requests answered or lost.
    lost: u64,
    finished: u64,
    /// The counts of the last minutes, and their 99th percentile.
    recent: Counts,
    p99: Option<Quantile>,
    /// The time since the last reply.
    last_reply: Option<Duration>,
}

impl Row<'_> {
    fn worst_first(&self, other: &Self) -> Ordering {
        // Compares two fractions.
        let by_loss = |a: Percent, b: Percent| {
            let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
            product(b.0, a.1.max(1)).cmp(&product(a.0, b.1.max(1)))
        };
        // Buckets instead of times: rows seldom change places.
        let bucket = |row: &Self| row.p99.map(|p99| p99.bucket);
        self.state
            .cmp(&other.state)
            .then_with(|| by_loss(loss_in(&self.recent), loss_in(&other.recent)))
            .then_with(|| bucket(other).cmp(&bucket(self)))
            .then_with(|| by_loss(self.loss(), other.loss()))
            .then_with(|| (self.target, self.address()).cmp(&(other.target, other.address())))
    }

    fn address(&self) -> &str {
        self.series.map_or("", |series| &series.address)
    }

    /// The loss since the start.
    fn loss(&self) -> Percent {
        Percent(self.lost, self.finished)
    }
}

fn rows<'a>(facts: &MonitorFacts<'a>) -> Vec<Row<'a>> {
    let Snapshot {
        targets, series, ..
    } = facts.snapshot;
    let unresolved = targets.iter().filter(|(_, resolved)| !resolved);
    let unresolved: std::collections::HashSet<&str> =
        unresolved.map(|(target, _)| &**target).collect();
    let mut without = unresolved.clone();
    let mut rows: Vec<_> = series
        .iter()
        .map(|series| {
            without.remove(&*series.target);
            row(series, !unresolved.contains(&*series.target), facts.today)
        })
        .collect();
    rows.extend(without.into_iter().map(|target| Row {
        target,
        ..Row::default()
    }));
    rows
}

fn row(series: &Series, is_resolved: bool, today: Duration) -> Row<'_> {
    let periods = series.periods();
    let recent = sum(&periods);
    let figures = series.figures.lock();
    let figures = figures.unwrap_or_else(PoisonError::into_inner);
    let [received, lost] = [figures.received, figures.lost];
    let last_reply = (figures.last_reply > Duration::ZERO).then_some(figures.last_reply);
    // The shortest time in which a request was answered or lost decides.
    let replies = [sum(&periods[PERIODS - 2..]), recent]
        .into_iter()
        .map(|counts| (counts.received(), counts.finished()))
        .chain([(received, received + lost)])
        .find(|(_, finished)| *finished > 0);
    let state = match replies {
        _ if !is_resolved => State::NotResolved,
        None => State::Starting,
        Some((0, _)) => State::Silent,
        Some(_) => State::Answering,
    };
    Row {
        target: &series.target,
        series: Some(series),
        state,
        sent: figures.sent,
        lost,
        finished: received + lost,
        p99: Quantile::of(0.99, &recent.rtts),
        recent,
        last_reply: last_reply.map(|last| today.saturating_sub(last)),
    }
}

fn loss_in(counts: &Counts) -> Percent {
    Percent(counts.lost.into(), counts.finished())
}

fn sum(periods: &[Counts]) -> Counts {
    let all = periods.iter().copied();
    all.fold(Counts::default(), Counts::and)
}

fn write_main(out: &mut String, facts: &MonitorFacts<'_>, rows: &[Row<'_>]) -> std::fmt::Result {
    let targets = facts.snapshot.targets.len();
    let what = format!(
        "monitor of {} {}",
        grouped(targets as u64),
        if targets == 1 { "target" } else { "targets" }
    );
    write_health(out, &what, facts.uptime, &facts.health, facts.ready)?;
    write_tiles(out, facts, rows)?;
    write_targets(out, rows)?;
    write_options(out, facts.options)
}

fn write_tiles(out: &mut String, facts: &MonitorFacts<'_>, rows: &[Row<'_>]) -> std::fmt::Result {
    let engine = &facts.snapshot.engine;
    let count = |state: State| rows.iter().filter(|row| row.state == state).count() as u64;
    let [answering, silent, not_resolved] =
        [State::Answering, State::Silent, State::NotResolved].map(count);
    out.push_str("<div class=\"tiles\">");
    for (class, value, label) in [
        ("", answering, "answering"),
        (bad_unless_0(silent), silent, "silent"),
        (bad_unless_0(not_resolved), not_resolved, "not resolved"),
        ("", rows.iter().map(|row| row.sent).sum(), "requests sent"),
        (
            bad_unless_0(engine.not_sent),
            engine.not_sent,
            "requests due but not sent",
        ),
        (
            bad_unless_0(engine.socket_drops),
            engine.socket_drops,
            "dropped by the kernel",
        ),
    ] {
        let value = grouped(value);
        write!(
            out,
            "<div class=\"tile\"><b{class}>{value}</b>{label}<span class=\"dim\"></span></div>"
        )?;
    }
    out.push_str("</div>\n");
    if !facts.snapshot.reload_succeeded {
        out.push_str(
            "<p class=\"bad\">The last reload of the configuration failed: the log names the \
             cause. The settings before it are in force.</p>\n",
        );
    }
    Ok(())
}

/// The head of the table. A phone shows the first columns, with the state below the target.
const HEAD: &str = "<thead><tr><th scope=\"col\" rowspan=\"2\">target\
    <th scope=\"col\" rowspan=\"2\" class=\"state\">state\
    <th scope=\"colgroup\" colspan=\"6\">last 5 minutes\
    <th scope=\"col\" rowspan=\"2\">last reply\
    <th scope=\"colgroup\" colspan=\"3\">since start\
    <th scope=\"col\" rowspan=\"2\">address<th scope=\"col\" rowspan=\"2\">mode\n\
    <tr><th scope=\"col\">loss<th scope=\"col\">p50<th scope=\"col\">p99<th scope=\"col\">trend\
    <th scope=\"col\">mean<th scope=\"col\">jitter<th scope=\"col\">sent<th scope=\"col\">lost<th scope=\"col\">loss\n\
    <tbody>";

fn write_targets(out: &mut String, rows: &[Row<'_>]) -> std::fmt::Result {
    write!(
        out,
        "<h2 id=\"targets\">Targets, the worst first</h2>\n<div class=\"wide\" role=\"region\" \
         aria-labelledby=\"targets\" tabindex=\"0\"><table aria-labelledby=\"targets\">\n{HEAD}"
    )?;
    for row in rows.iter().take(ROWS) {
        write_row(out, row)?;
    }
    out.push_str("</table></div>\n");
    if let hidden @ 1.. = rows.len().saturating_sub(ROWS) {
        writeln!(
            out,
            "<p class=\"dim\">{} more, none of them worse, {} not shown. \
             <a href=\"/metrics\">/metrics</a> has all.</p>",
            grouped(hidden as u64),
            if hidden == 1 { "is" } else { "are" },
        )?;
    }
    writeln!(
        out,
        "<p class=\"dim\">Trend: <span class=\"key loss\">loss in each {} s</span>, \
         <span class=\"key rtt\">mean round-trip time</span> from 0 to the maximum of the row. \
         p50 and p99 of the round-trip time are estimates from the histogram, as \
         <code>histogram_quantile</code> computes them. Jitter is the mean difference between \
         consecutive round-trip times.</p>",
        PERIOD.as_secs(),
    )
}

fn write_row(out: &mut String, row: &Row<'_>) -> std::fmt::Result {
    // One reading for all cells.
    let periods = row.series.map(Series::periods).unwrap_or_default();
    let recent = sum(&periods);
    let loss = |loss: Percent| match loss.1 {
        0 => "–".to_owned(),
        _ => escaped(&loss.to_string()),
    };
    let time = |seconds: Option<f64>| seconds.map_or("–".to_owned(), rough_time);
    let quantile = |part| Quantile::of(part, &recent.rtts).map(|quantile| quantile.seconds);
    let bad = if row.state <= State::Silent {
        " bad"
    } else {
        ""
    };
    let state = row.state.name();
    write!(
        out,
        "<tr><th scope=\"row\">{}<span class=\"state{bad}\">{state}</span>\
         <td class=\"state{bad}\">{state}<td{}>{}<td>{}<td>{}<td>",
        escaped(row.target),
        bad_unless_0(recent.lost.into()),
        loss(loss_in(&recent)),
        time(quantile(0.5)),
        time(quantile(0.99)),
    )?;
    write_trend(out, &periods)?;
    writeln!(
        out,
        "<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
        time(recent.mean_rtt()),
        time(recent.mean_jitter()),
        row.last_reply.map_or("–".to_owned(), ago),
        grouped(row.sent),
        grouped(row.lost),
        loss(row.loss()),
        escaped(row.address()),
        row.series.map_or("", |series| series.mode.name()),
    )
}

#[cfg(test)]
mod tests;
