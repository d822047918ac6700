//! Standard output: lines, a line of progress that comes and goes, and an end if nobody reads.

use std::fmt::{self, Arguments};
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

/// Where a run is told.
#[derive(Debug)]
pub struct Screen {
    out: BufWriter<Stdout>,
    /// Whether a terminal reads.
    terminal: bool,
    /// Whether a line of progress is there.
    progress: bool,
    closed: bool,
}

impl Screen {
    /// Standard output.
    pub fn new() -> Self {
        let out = io::stdout();
        Self {
            terminal: out.is_terminal(),
            out: BufWriter::new(out),
            progress: false,
            closed: false,
        }
    }

    /// Whether a terminal reads.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes a line.
    pub fn line(&mut self, line: Arguments<'_>) {
        let clear = if self.progress { "\r\x1b[K" } else { "" };
        self.progress = false;
        let written = writeln!(self.out, "{clear}{line}");
        self.note(&written);
    }

    /// Writes a line in place of the last one of progress.
    pub fn progress(&mut self, line: &dyn fmt::Display) {
        self.progress = true;
        let written = write!(self.out, "\r\x1b[K{line}");
        self.note(&written);
        self.flush();
    }

    /// Shows what was written.
    pub fn flush(&mut self) {
        let flushed = self.out.flush();
        self.note(&flushed);
    }

    /// A pipe that is closed is an ordinary end; nothing can be told of any other error either.
    fn note(&mut self, result: &io::Result<()>) {
        self.closed |= result.is_err();
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}
