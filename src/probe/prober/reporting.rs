//! Prints lines and progress while the loop runs.

use std::fmt::Arguments;
use std::time::Duration;

use super::Prober;
use super::receiving::Received;
use crate::probe::Config;
use crate::probe::format::{Percent, Time};
use crate::probe::tally::ReplyKind;
use crate::probe::wire::Change;

/// Time between updates of the progress line.
const PROGRESS: Duration = Duration::from_secs(1);

impl Prober<'_> {
    /// Prints the first line.
    pub(super) fn report_start(&mut self) {
        let Config {
            mode,
            frequency,
            size,
            flows,
            ..
        } = self.config;
        let every = match (frequency.count, frequency.time) {
            (1, time) => format!("one request every {}", Time(time)),
            (count, time) => {
                let rate = f64::from(count) / time.as_secs_f64();
                format!("{rate} requests per second")
            }
        };
        let flows = match flows {
            1 => String::new(),
            flows => format!(", {flows} flows"),
        };
        let mode = mode.name();
        let target = self.config.shown_target(self.address);
        self.report(format_args!(
            "probing {target} in {mode} mode: {size} bytes, {every}{flows}"
        ));
    }

    /// Prints a line, unless `--quiet` or `--json` is given.
    pub(super) fn report(&mut self, line: Arguments<'_>) {
        if self.config.lines() {
            self.screen.line(line);
        }
    }

    /// Prints a line for a reply.
    pub(super) fn report_reply(
        &mut self,
        sequence: u64,
        change: Change,
        received: Received,
        kind: ReplyKind,
    ) {
        let (rtt, flow, remark) = match kind {
            _ if !self.config.lines() => return,
            ReplyKind::Unknown => return,
            ReplyKind::First {
                rtt,
                flow,
                reordered,
            } => (rtt, flow, if reordered { " (out of order)" } else { "" }),
            ReplyKind::Duplicate { rtt, flow } => (rtt, flow, " (duplicate)"),
        };
        let change = match change {
            Change::None => "",
            Change::Truncated { .. } => " (truncated)",
            Change::Altered => " (corrupted)",
        };
        let Received { length, .. } = received;
        let target = self.address;
        let time = rtt.as_secs_f64() * 1e3;
        let flow = self.flow_name(flow);
        self.screen.line(format_args!(
            "{length} bytes from {target}: seq={sequence}{flow} time={time:.3} ms{change}{remark}"
        ));
    }

    /// Prints a line for each request whose reply did not arrive in time.
    pub(super) fn report_overdue(&mut self, now: Duration) {
        let before = now.checked_sub(self.config.wait);
        let Some(before) = before.filter(|_| self.config.lines()) else {
            return;
        };
        while let Some((sequence, flow)) = self.tally.overdue(before) {
            let flow = self.flow_name(flow);
            let wait = Time(self.config.wait);
            self.screen.line(format_args!(
                "no reply to seq={sequence}{flow} within {wait}"
            ));
        }
    }

    /// Updates the progress line of `--quiet` on a terminal, once per second.
    pub(super) fn show_progress(&mut self, now: Duration) {
        let shown = self.config.quiet && !self.config.json && self.screen.is_terminal();
        if !shown || now < self.last_progress + PROGRESS {
            return;
        }
        self.last_progress = now;
        let totals = self.tally.totals();
        let line = format!(
            "{} sent, {} received, {} lost or in flight, {:.0} s",
            totals.sent,
            totals.received,
            Percent(totals.lost(), totals.sent),
            now.as_secs_f64(),
        );
        self.screen.progress(&line);
    }

    fn flow_name(&self, flow: usize) -> String {
        match self.sockets.len() {
            1 => String::new(),
            _ => format!(" flow={}", flow + 1),
        }
    }
}
