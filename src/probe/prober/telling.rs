//! What the loop says while it runs.

use std::fmt::Arguments;
use std::time::Duration;

use super::Prober;
use crate::probe::Config;
use crate::probe::tally::Came;
use crate::probe::wire::Change;

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(1);

impl Prober<'_> {
    /// The first line.
    pub(super) fn tell_start(&mut self) {
        let Config {
            target,
            mode,
            frequency,
            size,
            flows,
            ..
        } = self.config;
        let every = match (frequency.count, frequency.time) {
            (1, time) => format!("one every {}", humantime::format_duration(time)),
            (count, _) => format!("{count} a second"),
        };
        let flows = match flows {
            1 => String::new(),
            flows => format!(", {flows} flows"),
        };
        let mode = mode.name();
        let address = self.address;
        self.tell(format_args!(
            "probing {target} ({address}) in {mode} mode: {size} bytes, {every}{flows}"
        ));
    }

    /// A line, unless nobody wants lines.
    pub(super) fn tell(&mut self, line: Arguments<'_>) {
        if self.config.lines() {
            self.screen.line(line);
        }
    }

    /// A line for a reply.
    pub(super) fn tell_reply(&mut self, sequence: u64, change: Change, length: usize, came: Came) {
        let (rtt, flow, remark) = match came {
            _ if !self.config.lines() => return,
            Came::Unknown => return,
            Came::First {
                rtt,
                flow,
                reordered,
            } => (rtt, flow, if reordered { " (out of order)" } else { "" }),
            Came::Again { rtt, flow } => (rtt, flow, " (duplicate)"),
        };
        let change = match change {
            Change::None => "",
            Change::Cut { .. } => " (cut)",
            Change::Other => " (corrupted)",
        };
        let target = self.address;
        let time = rtt.as_secs_f64() * 1e3;
        let flow = self.flow_name(flow);
        self.screen.line(format_args!(
            "{length} bytes from {target}: seq={sequence}{flow} time={time:.3} ms{change}{remark}"
        ));
    }

    /// A line for each request whose reply did not come in time.
    pub(super) fn tell_overdue(&mut self, now: Duration) {
        let Some(before) = now.checked_sub(self.config.wait) else {
            return;
        };
        if !self.config.lines() {
            return;
        }
        while let Some((sequence, flow)) = self.tally.overdue(before) {
            let flow = self.flow_name(flow);
            let wait = humantime::format_duration(self.config.wait);
            self.screen.line(format_args!(
                "no reply to seq={sequence}{flow} within {wait}"
            ));
        }
    }

    /// The line of progress, from time to time.
    pub(super) fn tell_progress(&mut self, now: Duration) {
        let shown = self.config.quiet && !self.config.json && self.screen.is_terminal();
        if !shown || now < self.last_progress + PROGRESS {
            return;
        }
        self.last_progress = now;
        let totals = self.tally.totals();
        let line = format!(
            "{} sent, {} received, {:.3} % not back, {:.0} s",
            totals.sent,
            totals.received,
            totals.loss_ratio() * 1e2,
            now.as_secs_f64(),
        );
        self.screen.progress(&line);
    }

    fn flow_name(&self, flow: usize) -> String {
        match self.flows.len() {
            1 => String::new(),
            _ => format!(" flow={}", flow + 1),
        }
    }
}
