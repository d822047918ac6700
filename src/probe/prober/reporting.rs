//! Reports events while the loop runs.

use std::fmt::Arguments;
use std::time::Duration;

use super::Prober;
use super::receiving::Received;
use crate::probe::event::{Event, Reply, RequestName};
use crate::probe::format::Percent;
use crate::probe::notes::DeliveryError;
use crate::probe::report::Figures;
use crate::probe::tally::{Overdue, ReplyKind};
use crate::probe::wire::Change;

/// Time between updates of the progress line.
const PROGRESS: Duration = Duration::from_secs(1);

impl Prober<'_> {
    /// Reports an event that happened at `at`.
    pub(super) fn report(&mut self, at: Duration, event: Event<'_>) {
        if self.output.shows(&event) {
            self.output.event(self.clock.since_1970(at), event);
        }
    }

    /// Reports a sentence about an event that happens now.
    pub(super) fn note(&mut self, sentence: Arguments<'_>) {
        if self.config.lines() || self.config.json_lines {
            let now = self.clock.now();
            self.report(now, Event::Note(&sentence.to_string()));
        }
    }

    /// Reports a reply.
    pub(super) fn report_reply(
        &mut self,
        sequence: u64,
        change: Change,
        received: Received,
        kind: ReplyKind,
    ) {
        let (rtt, flow, is_reordered, is_duplicate) = match kind {
            ReplyKind::Unknown => return,
            ReplyKind::First {
                rtt,
                flow,
                reordered,
                ..
            } => (rtt, flow, reordered, false),
            ReplyKind::Duplicate { rtt, flow } => (rtt, flow, false, true),
        };
        let reply = Reply {
            request: self.name(sequence, flow),
            bytes: received.length,
            rtt,
            ttl: received.ttl,
            change,
            is_reordered,
            is_duplicate,
        };
        self.report(received.at, Event::Reply(reply));
    }

    /// Counts and reports an error about a request, if it is known by its number and flow.
    pub(super) fn count_error(&mut self, request: Option<(u64, usize)>, error: DeliveryError) {
        self.notes.errors.add(error);
        let request = request.map(|(sequence, flow)| self.name(sequence, flow));
        let now = self.clock.now();
        self.report(now, Event::Error { request, error });
    }

    /// Reports requests whose reply did not arrive in time.
    pub(super) fn report_overdue(&mut self, now: Duration) {
        let wait = self.config.wait;
        let Some(before) = now.checked_sub(wait) else {
            return;
        };
        while let Some(overdue) = self.tally.overdue(before) {
            self.report_loss(now, overdue, Some(wait));
        }
    }

    /// Reports the requests that have no reply at the end of the run.
    pub(super) fn report_losses(&mut self, now: Duration) {
        self.report_overdue(now);
        while let Some(overdue) = self.tally.overdue(Duration::MAX) {
            self.report_loss(now, overdue, None);
        }
        if let Some(run) = self.tally.end_losses() {
            self.report_loss(now, run, None);
        }
    }

    fn report_loss(&mut self, now: Duration, overdue: Overdue, within: Option<Duration>) {
        let event = match overdue {
            Overdue::Request {
                sequence,
                flow,
                is_first,
            } => Event::Lost {
                request: self.name(sequence, flow),
                within,
                is_first,
            },
            Overdue::Run { first, last } => Event::LostRun { first, last },
        };
        self.report(now, event);
    }

    /// Reports the figures of an interval that has ended, and those that a signal asks for.
    pub(super) fn report_figures(&mut self, now: Duration) {
        let intervals = self.intervals.as_mut();
        if let Some(figures) = intervals.and_then(|intervals| intervals.next(&self.tally, now)) {
            self.report(now, Event::Report(&figures));
        }
        let asked = self.signals.reports();
        if asked != self.reports {
            self.reports = asked;
            let figures = Figures::of_run(&self.tally, &self.round_trips, now);
            self.report(now, Event::Report(&figures));
        }
    }

    /// Updates the progress line of `--quiet` on a terminal, once per second.
    pub(super) fn show_progress(&mut self, now: Duration) {
        if !self.output.has_progress() || now < self.last_progress + PROGRESS {
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
        self.output.progress(&line);
    }

    fn name(&self, sequence: u64, flow: usize) -> RequestName {
        RequestName {
            sequence,
            flow,
            source_port: self.flows.sockets()[flow].address().port(),
        }
    }
}
