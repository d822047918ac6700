//! Writes events to standard output, as lines of text or of JSON.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use super::event::Event;
use super::format::wrapped;
use super::screen::Screen;
use super::text::Text;
use super::{Config, json};
use crate::telemetry;

/// The output of a run.
#[derive(Debug)]
pub(super) struct Output {
    config: Config,
    /// The target's address for output.
    address: String,
    screen: Screen,
    /// The current line, to use its memory again.
    line: String,
}

/// Columns of prose where there is no narrower terminal.
const COLUMNS: usize = 80;

impl Output {
    /// Opens standard output.
    pub(super) fn new(config: &Config, address: &str) -> Self {
        Self {
            config: config.clone(),
            address: address.into(),
            screen: Screen::new(),
            line: String::new(),
        }
    }

    /// Whether an event is printed.
    pub(super) fn shows(&self, event: &Event<'_>) -> bool {
        match event {
            _ if self.config.json_lines => true,
            Event::Report(_) | Event::Summary(_) => true,
            event => self.config.lines() && Text::is_shown(event),
        }
    }

    /// Prints an event that happened at `time` since 1970.
    pub(super) fn event(&mut self, time: Duration, event: Event<'_>) {
        if !self.shows(&event) {
            return;
        }
        if matches!(event, Event::Summary(_) | Event::Report(_)) {
            // The row may show a progress line, or the echo of Ctrl-C or Ctrl-\.
            self.screen.clear_row();
        }
        if self.config.json_lines {
            for object in json::lines(time, &event) {
                self.screen.line(format_args!("{object}"));
            }
            return;
        }
        match event {
            Event::Summary(finished) if self.config.json => {
                let object = json::summary(finished);
                self.screen.line(format_args!("{object}"));
            }
            // Standard output has the object only.
            Event::Report(figures) if self.config.json => {
                telemetry::last_line(&format_args!("udp-echo: {figures}"));
            }
            event => self.text(time, event),
        }
    }

    fn text(&mut self, time: Duration, event: Event<'_>) {
        let columns = self.screen.columns();
        let is_prose = match event {
            Event::Summary(_) => true,
            Event::Start | Event::Note(_) => !self.config.timestamps,
            _ => false,
        };
        // A line of an event stays whole where no person reads it, for programs that search it.
        let columns = if is_prose {
            Some(columns.unwrap_or(COLUMNS).min(COLUMNS))
        } else {
            columns
        };
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let has_time = self.config.timestamps && !matches!(event, Event::Summary(_));
        if has_time {
            let (seconds, microseconds) = (time.as_secs(), time.subsec_micros());
            // Writing to a String cannot fail.
            let _ = write!(line, "[{seconds}.{microseconds:06}] ");
        }
        let text = Text {
            event,
            config: &self.config,
            address: &self.address,
            columns,
        };
        let _ = write!(line, "{text}");
        if matches!(event, Event::Summary(_)) && self.config.lines() {
            self.screen.line(format_args!(""));
        }
        match columns {
            Some(columns) if line.lines().any(|line| line.chars().count() > columns) => {
                self.screen
                    .line(format_args!("{}", wrapped(&line, columns)));
            }
            _ => self.screen.line(format_args!("{line}")),
        }
        self.line = line;
    }

    /// Updates the progress line. See [`Screen::progress`].
    pub(super) fn progress(&mut self, line: &str) {
        self.screen.progress(line);
    }

    /// Whether a progress line is shown during the run.
    pub(super) fn has_progress(&self) -> bool {
        self.config.quiet && !self.config.json && self.screen.is_terminal()
    }

    /// Whether a write failed, such as on a closed pipe.
    pub(super) fn is_closed(&self) -> bool {
        self.screen.is_closed()
    }

    /// Flushes the buffer.
    pub(super) fn flush(&mut self) {
        self.screen.flush();
    }

    /// Flushes the buffer at the end.
    ///
    /// # Errors
    /// Returns the first error of a write. A broken pipe is not an error: the reader has ended.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.screen.end()
    }
}
