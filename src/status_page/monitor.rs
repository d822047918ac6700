//! The status page of the monitor.

mod losses;

use std::cmp::Ordering;
use std::fmt::Write;
use std::sync::PoisonError;
use std::time::Duration;

use super::facts::{bad_unless_0, write_health};
use super::format::{ago, grouped, short_time};
use super::tables::{escaped, write_options};
use crate::monitor::figures::{Series, Snapshot};
use crate::probe::Percent;
use losses::Sample;
pub(crate) use losses::{LossHistory, SAMPLE_PERIOD};

/// The most rows of the table of targets.
const ROWS: usize = 200;

/// The content of the monitor's page, apart from the history.
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
    let note = "losses and round-trip times are those of the last 5 minutes, or less after a start";
    super::frame(nonce, "monitor", "the monitor", note, main)
}

/// The content of the page's `main` element.
pub(crate) fn main(facts: &MonitorFacts<'_>, losses: &LossHistory) -> String {
    let mut rows = rows(facts, losses);
    rows.sort_by(Row::worst_first);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_main(&mut out, facts, &rows);
    out
}

/// The state of an address, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
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

    /// The attribute that highlights a fault.
    fn class(self) -> &'static str {
        bad_unless_0(u64::from(self <= Self::Silent))
    }
}

/// A row of the table: an address, or a target without one.
#[derive(Debug)]
struct Row<'a> {
    target: &'a str,
    address: &'a str,
    mode: &'static str,
    state: State,
    sent: u64,
    /// The counts of the last minutes, and of the whole time.
    recent: Sample,
    all: Sample,
    /// The time since the last reply.
    last_reply: Option<Duration>,
}

impl Row<'_> {
    fn worst_first(&self, other: &Self) -> Ordering {
        // Compares two fractions.
        let by_loss = |a: Sample, b: Sample| {
            let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
            product(b.lost, a.finished().max(1)).cmp(&product(a.lost, b.finished().max(1)))
        };
        self.state
            .cmp(&other.state)
            .then_with(|| by_loss(self.recent, other.recent))
            .then_with(|| by_loss(self.all, other.all))
            .then_with(|| (self.target, self.address).cmp(&(other.target, other.address)))
    }
}

fn rows<'a>(facts: &MonitorFacts<'a>, losses: &LossHistory) -> Vec<Row<'a>> {
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
            let is_resolved = !unresolved.contains(&*series.target);
            row(series, is_resolved, facts.today, losses)
        })
        .collect();
    rows.extend(without.into_iter().map(|target| Row {
        target,
        address: "",
        mode: "",
        state: State::NotResolved,
        sent: 0,
        recent: Sample::default(),
        all: Sample::default(),
        last_reply: None,
    }));
    rows
}

fn row<'a>(
    series: &'a Series,
    is_resolved: bool,
    today: Duration,
    losses: &LossHistory,
) -> Row<'a> {
    let figures = series.figures.lock();
    let figures = figures.unwrap_or_else(PoisonError::into_inner);
    let all = Sample::of(&figures);
    let [newest, recent] = losses.recent(series, all);
    // The shortest time in which a request was answered or lost decides.
    let mut known = [newest, recent, all].into_iter();
    let known = known.find(|sample| sample.finished() > 0);
    let state = match known {
        _ if !is_resolved => State::NotResolved,
        None => State::Starting,
        Some(Sample { received: 0, .. }) => State::Silent,
        Some(_) => State::Answering,
    };
    let last = (figures.last_reply > Duration::ZERO).then_some(figures.last_reply);
    Row {
        target: &series.target,
        address: &series.address,
        mode: series.mode.name(),
        state,
        sent: figures.sent,
        recent,
        all,
        last_reply: last.map(|last| today.saturating_sub(last)),
    }
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

/// Writes the table of targets. The state and the loss come early: a phone shows the first columns.
fn write_targets(out: &mut String, rows: &[Row<'_>]) -> std::fmt::Result {
    out.push_str(
        "<h2 id=\"targets\">Targets</h2>\n<div class=\"wide\" role=\"region\" \
         aria-labelledby=\"targets\" tabindex=\"0\"><table aria-labelledby=\"targets\">\n\
         <tr><th scope=\"col\">target<th scope=\"col\">state<th scope=\"col\">loss\
         <th scope=\"col\">round trip<th scope=\"col\">last reply<th scope=\"col\">sent\
         <th scope=\"col\">lost<th scope=\"col\">loss since start<th scope=\"col\">address\
         <th scope=\"col\">mode\n",
    );
    let none = || "–".to_owned();
    let loss = |sample: Sample| match sample.finished() {
        0 => none(),
        finished => escaped(&Percent(sample.lost, finished).to_string()),
    };
    for row in rows.iter().take(ROWS) {
        writeln!(
            out,
            "<tr><th scope=\"row\">{}<td{}>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
            escaped(row.target),
            row.state.class(),
            row.state.name(),
            loss(row.recent),
            row.recent.mean_rtt().map_or_else(none, short_time),
            row.last_reply.map_or_else(none, ago),
            grouped(row.sent),
            grouped(row.all.lost),
            loss(row.all),
            escaped(row.address),
            row.mode,
        )?;
    }
    out.push_str("</table></div>\n");
    match rows.len().saturating_sub(ROWS) {
        0 => Ok(()),
        hidden => writeln!(
            out,
            "<p class=\"dim\">{} more with less loss {} not shown. \
             <a href=\"/metrics\">/metrics</a> has all.</p>",
            grouped(hidden as u64),
            if hidden == 1 { "is" } else { "are" },
        ),
    }
}

#[cfg(test)]
mod tests;
