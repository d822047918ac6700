//! The summary as text.

use std::fmt::{self, Display, Formatter};

use super::Config;
use super::attribution::Attribution;
use super::format::{Milliseconds, Percent, counted};
use super::notes::DeliveryError;
use super::prober::Outcome;
use super::tally::{Flow, Totals};
use crate::reflect::Mode;

/// The text at the end of a run.
pub(super) struct Summary<'a> {
    /// The settings of the run.
    pub config: &'a Config,
    /// The target's address for output.
    pub address: &'a str,
    /// The result of the run.
    pub outcome: &'a Outcome,
    /// Where requests were lost, with `--metrics-url`.
    pub losses: Option<&'a Losses>,
    /// Columns of the terminal, if there is one.
    pub columns: Option<usize>,
}

/// Where requests were lost, by the daemon's metrics.
#[derive(Debug)]
pub(super) enum Losses {
    /// The metrics were read before and after the run.
    Located(Attribution),
    /// The daemon restarted during the run.
    DaemonRestarted,
    /// The metrics could not be read after the run, for this reason.
    Unknown(String),
}

/// Minimum number of replies for a histogram.
const MIN_REPLIES: u64 = 10;

/// Maximum number of bars of a histogram.
const BARS: u32 = 8;

/// Length of the longest bar in characters: as on a wide terminal, and at least.
const BAR: usize = 40;
const SHORT_BAR: usize = 8;

/// Maximum number of flows with a line each. With more, those without loss share one line.
const FLOWS: usize = 32;

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (config, outcome) = (self.config, self.outcome);
        let totals = outcome.tally.totals();
        if config.lines() {
            writeln!(f)?;
        }
        writeln!(f, "--- {} ({}) ---", config.target, self.address)?;
        write!(
            f,
            "{} sent, {} received, {} lost ({}), {}, {} out of order, {} corrupted",
            totals.sent,
            totals.received,
            totals.lost(),
            Percent(totals.lost(), totals.sent),
            counted(totals.duplicates, "duplicate"),
            totals.reordered,
            totals.corrupted,
        )?;
        if config.mode != Mode::Echo {
            write!(f, ", {}", counted(outcome.notes.records_sent, "record"))?;
        }
        write!(f, " in {:.1} s", outcome.time.as_secs_f64())?;
        self.times(f)?;
        self.flows(f)?;
        self.errors(f)?;
        self.hints(f)?;
        self.losses(f)
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

    /// Writes a line for each flow if only some lose requests, as on a broken path of several.
    fn flows(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let loses = |flow: &Flow| flow.received < flow.sent;
        let flows = self.outcome.tally.flows();
        let clean = flows.iter().filter(|flow| !loses(flow) && flow.sent > 0);
        let clean = clean.count();
        if clean == 0 || !flows.iter().any(loses) {
            return Ok(());
        }
        write!(f, "\nsome flows lose requests, others do not:")?;
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
            write!(f, "\n  the other {clean} flows lost none")?;
        }
        Ok(())
    }

    fn errors(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (notes, target) = (&self.outcome.notes, self.address);
        for (error, count) in notes.errors.kinds() {
            let requests = counted(count, "request");
            write!(f, "\n{requests}: {}", error.describe(target))?;
        }
        let other = notes.errors.other();
        if other > 0 {
            let requests = counted(other, "request");
            write!(f, "\n{requests}: other errors")?;
        }
        for (errno, count) in &notes.unsent_records {
            let error = DeliveryError::Unsent(*errno).describe(target);
            write!(f, "\n{}: {error}", counted(*count, "record"))?;
        }
        Ok(())
    }

    fn hints(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (config, outcome) = (self.config, self.outcome);
        let (totals, notes) = (outcome.tally.totals(), &outcome.notes);
        if let Some(length) = notes.truncated_to {
            let option = "--max-datagram of the daemon";
            write!(f, "\nreplies are truncated to {length} bytes: see {option}")?;
        }
        if outcome.is_plain {
            write!(f, "\nthe reflector echoes records, too: use --mode echo")?;
        }
        let why_not_sent = match config.mode {
            Mode::Echo => "this host was too slow",
            Mode::Lockstep => "the previous request still waited for its reply",
            Mode::Exchange => "every flow still waited for a reply, use more --flows",
        };
        for (is_shown, count, label, action) in [
            (
                !outcome.is_plain,
                outcome.echoed_records,
                "records echoed",
                "a daemon in exchange mode would decode them, for a plain reflector use --mode echo",
            ),
            (
                true,
                notes.foreign,
                "datagrams that are not replies",
                "check that the target is an echo server",
            ),
            (
                outcome.not_sent * 100 > totals.sent,
                outcome.not_sent,
                "requests due but not sent",
                why_not_sent,
            ),
            (
                true,
                totals.too_late,
                "replies too late to match their requests",
                "use a longer --wait",
            ),
            (
                true,
                notes.address_changes,
                "changes of this host's own address",
                "requests in flight at a change can be lost",
            ),
            (
                true,
                outcome.own_drops,
                "replies dropped by this host",
                "the client was too slow to receive them",
            ),
        ] {
            if is_shown && count > 0 {
                write!(f, "\n{label}: {count}; {action}")?;
            }
        }
        if config.mode == Mode::Echo && every_second_is_lost(totals, config.flows) {
            let action = "for a daemon in exchange mode use --mode exchange";
            write!(f, "\nevery second request is lost: {action}")?;
        }
        Ok(())
    }

    fn losses(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let lost = self.outcome.tally.totals().lost();
        let attribution = match self.losses {
            Some(Losses::Located(attribution)) if lost > 0 => attribution,
            Some(Losses::DaemonRestarted) if lost > 0 => {
                let why = "the daemon restarted during the run";
                return write!(f, "\nplace of loss unknown: {why}");
            }
            Some(Losses::Unknown(why)) if lost > 0 => {
                return write!(f, "\nplace of loss unknown: {why}");
            }
            _ => return Ok(()),
        };
        write!(
            f,
            "\nplace of loss, by the daemon's metrics: {} on the way there, {} dropped by its host, \
             {} refused by it, {} on the way back",
            attribution.uplink,
            attribution.server_drops,
            attribution.server_refused,
            attribution.downlink,
        )?;
        let rest = lost.saturating_sub(attribution.located());
        if rest > 0 {
            write!(f, ", {rest} late or decoded as records")?;
        }
        if attribution.unsent > 0 {
            let action = "check the firewall and the routes of its host";
            let datagrams = counted(attribution.unsent, "datagram");
            write!(f, "\nthe daemon failed to send {datagrams}: {action}")?;
        }
        if attribution.of_others > 0 {
            write!(
                f,
                "\nthese figures are not exact: the daemon also received {}, from other clients or \
                 duplicated by the network",
                counted(attribution.of_others, "further datagram"),
            )?;
        }
        Ok(())
    }
}

/// Whether half of the requests have a reply, and hardly ever two in a row.
fn every_second_is_lost(totals: &Totals, flows: usize) -> bool {
    totals.sent >= 4
        && totals.received.abs_diff(totals.lost()) <= flows as u64
        && totals.neighbours * 10 <= totals.received
}
