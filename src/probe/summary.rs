//! The summary, for people.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::Config;
use super::attribution::Attribution;
use super::notes::{Errors, Trouble};
use super::prober::Outcome;
use super::tally::{Flow, Totals};
use crate::reflect::Mode;

/// What is told at the end.
pub(super) struct Summary<'a> {
    /// How the run was to go.
    pub config: &'a Config,
    /// The target's address as it is shown.
    pub address: &'a str,
    /// What it has seen.
    pub outcome: &'a Outcome,
    /// Where the missing were lost, if that was to be found out.
    pub whereabouts: Option<&'a Where>,
    /// How long a row of the terminal is, if there is one.
    pub columns: Option<usize>,
}

/// Where the missing were lost, by the daemon's metrics.
#[derive(Debug)]
pub(super) enum Where {
    /// There.
    Known(Attribution),
    /// The daemon was started anew during the run.
    StartedAnew,
    /// Its metrics could not be read at the end, for this reason.
    Unknown(String),
}

/// From how many replies on their times are drawn.
const DRAWN: u64 = 10;

/// How many bars that takes at most, how long the longest one is, and how long it is at least
/// where a row of the terminal is short.
const BARS: u32 = 8;
const BAR: usize = 40;
const SHORT_BAR: usize = 8;

/// Up to how many flows each has its line; with more, those that lost nothing share one.
const FLOWS: usize = 32;

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            config, outcome, ..
        } = self;
        let (totals, notes) = (outcome.tally.totals(), &outcome.notes);
        if config.lines() {
            writeln!(f)?;
        }
        writeln!(f, "--- {} ({}) ---", config.target, self.address)?;
        write!(
            f,
            "{} sent, {} received, {} lost ({}), {} duplicate{}, {} out of order, {} corrupted",
            totals.sent,
            totals.received,
            totals.lost(),
            Percent(totals.lost(), totals.sent),
            totals.duplicates,
            plural(totals.duplicates),
            totals.reordered,
            totals.corrupted,
        )?;
        if config.mode != Mode::Echo {
            let records = notes.records_sent;
            write!(f, ", {records} record{}", plural(records))?;
        }
        write!(f, " in {:.1} s", outcome.time.as_secs_f64())?;
        self.times(f)?;
        self.flows(f)?;
        self.errors(f)?;
        self.hints(f)?;
        self.whereabouts(f)
    }
}

impl Summary<'_> {
    fn times(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rtts = self.outcome.tally.rtts();
        let Some(summary) = rtts.summary() else {
            return Ok(());
        };
        write!(f, "\nround trip in ms: ")?;
        for (name, time, end) in [
            ("min", summary.min, ", "),
            ("mean", summary.mean, ", "),
            ("p50", summary.p50, ", "),
            ("p90", summary.p90, ", "),
            ("p99", summary.p99, ", "),
            ("max", summary.max, ""),
        ] {
            write!(f, "{name} {}{end}", Milliseconds(time))?;
        }
        write!(f, " (standard deviation {})", Milliseconds(summary.stddev))?;
        if rtts.count() < DRAWN {
            return Ok(());
        }
        let bars = rtts.bars(BARS);
        let most = bars.iter().map(|bar| bar.count).max().unwrap_or(1).max(1);
        let time = |time| Milliseconds(time).to_string();
        let digits = bars.iter().map(|bar| time(bar.to).len()).max().unwrap_or(0);
        let beside = format!("  {0:digits$} to {0:digits$} || {most}", "").len();
        let room = self
            .columns
            .map_or(BAR, |columns| columns.saturating_sub(beside));
        let width = room.clamp(SHORT_BAR, BAR);
        for bar in bars {
            // Any at all are to be seen.
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

    /// A line for each flow when some lose and others do not: then they take other ways.
    fn flows(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let loses = |flow: &Flow| flow.received < flow.sent;
        let flows = self.outcome.tally.flows();
        let clean = flows.iter().filter(|flow| !loses(flow) && flow.sent > 0);
        let clean = clean.count();
        if clean == 0 || !flows.iter().any(loses) {
            return Ok(());
        }
        write!(f, "\nsome flows lose and others do not:")?;
        let all = flows.len() <= FLOWS;
        for (index, (flow, port)) in flows.iter().zip(&self.outcome.ports).enumerate() {
            if loses(flow) || (all && flow.sent > 0) {
                let lost = flow.sent - flow.received;
                write!(
                    f,
                    "\n  flow {}, from port {port}: {} sent, {lost} lost ({})",
                    index + 1,
                    flow.sent,
                    Percent(lost, flow.sent),
                )?;
            }
        }
        if !all {
            write!(f, "\n  the other {clean} flows lost nothing")?;
        }
        Ok(())
    }

    fn errors(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (notes, target) = (&self.outcome.notes, self.address);
        for (error, count) in notes.errors.kinds() {
            write!(f, "\n{count} of them: {}", error.told(target))?;
        }
        let other = notes.errors.other();
        if other > 0 {
            let most = Errors::MOST;
            write!(
                f,
                "\n{other} of them: other errors, after the first {most} kinds"
            )?;
        }
        for (errno, count) in &notes.unsent_records {
            let told = Trouble::Unsent(*errno).told(target);
            write!(f, "\n{count} record{}: {told}", plural(*count))?;
        }
        Ok(())
    }

    fn hints(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            config, outcome, ..
        } = self;
        let (totals, notes) = (outcome.tally.totals(), &outcome.notes);
        if let Some(length) = notes.cut_to {
            write!(
                f,
                "\nreplies are cut to {length} bytes: --max-datagram of the daemon"
            )?;
        }
        if outcome.is_plain {
            write!(
                f,
                "\nthe reflector echoes records too: it is a plain one, use --mode echo"
            )?;
        } else if outcome.echoed_records > 0 {
            write!(
                f,
                "\n{} of the records came back, which a daemon in exchange mode takes: if this is a \
                 plain reflector, use --mode echo",
                outcome.echoed_records
            )?;
        }
        if notes.foreign > 0 {
            write!(
                f,
                "\n{} datagrams came from there that are no replies: is it an echo server?",
                notes.foreign
            )?;
        }
        if config.mode == Mode::Echo && every_second_one_is_lost(totals, config.flows) {
            write!(
                f,
                "\nevery second one is lost: if the daemon is in exchange mode, use --mode exchange"
            )?;
        }
        if outcome.held_up * 100 > totals.sent {
            let why = match config.mode {
                Mode::Echo => "when this host had no time for them",
                Mode::Lockstep => "while one waited for its reply",
                Mode::Exchange => "while each flow waited for its reply: more --flows send more",
            };
            write!(
                f,
                "\nthe rate was not kept: {} requests were due {why}",
                outcome.held_up
            )?;
        }
        if totals.too_late > 0 {
            write!(
                f,
                "\n{} replies came too late to tell what they are: see --wait",
                totals.too_late
            )?;
        }
        if outcome.own_drops > 0 {
            write!(
                f,
                "\n{} datagrams were dropped here, as this host did not take them fast enough",
                outcome.own_drops
            )?;
        }
        Ok(())
    }

    fn whereabouts(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let lost = self.outcome.tally.totals().lost();
        let attribution = match self.whereabouts {
            Some(whereabouts) if lost > 0 => match whereabouts {
                Where::Known(attribution) => attribution,
                Where::StartedAnew => {
                    return write!(
                        f,
                        "\nwhere they were lost is not known: the daemon was started anew meanwhile"
                    );
                }
                Where::Unknown(why) => {
                    return write!(f, "\nwhere they were lost is not known: {why}");
                }
            },
            _ => return Ok(()),
        };
        write!(
            f,
            "\nof the {lost} lost, by the daemon's metrics: {} on the way there, {} dropped by its \
             host, {} refused by it, {} on the way back",
            attribution.uplink,
            attribution.server_drops,
            attribution.server_refused,
            attribution.downlink,
        )?;
        let rest = lost.saturating_sub(attribution.told());
        if rest > 0 {
            write!(
                f,
                ", {rest} not lost but not echoed: taken for records, or late"
            )?;
        }
        if attribution.unsent > 0 {
            write!(
                f,
                "\nthe daemon could not send {} datagrams: a firewall there, or no route",
                attribution.unsent
            )?;
        }
        if attribution.of_others > 0 {
            write!(
                f,
                "\nthese are not exact: the daemon got {} more than were sent from here, so others \
                 use it too, or the network duplicates",
                attribution.of_others
            )?;
        }
        Ok(())
    }
}

/// Whether that is what it looks like: half came, and never two in a row.
fn every_second_one_is_lost(totals: &Totals, flows: usize) -> bool {
    totals.sent >= 4
        && totals.received.abs_diff(totals.lost()) <= flows as u64
        && totals.neighbours * 10 <= totals.received
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// A time in milliseconds, to the microsecond.
struct Milliseconds(Duration);

impl Display for Milliseconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0.as_secs_f64() * 1e3)
    }
}

/// A part in a hundred. What is not all or nothing is never shown as such.
struct Percent(u64, u64);

impl Display for Percent {
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(part, whole) = *self;
        let percent = part as f64 * 1e2 / whole.max(1) as f64;
        if part == 0 {
            write!(f, "0 %")
        } else if part == whole {
            write!(f, "100 %")
        } else if percent < 0.01 {
            write!(f, "below 0.01 %")
        } else {
            write!(f, "{:.2} %", percent.min(99.99))
        }
    }
}
