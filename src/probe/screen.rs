//! Standard output: lines, a line of progress that comes and goes, and an end if nobody reads.

use std::fmt::Arguments;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use terminal_size::{Width, terminal_size_of};

/// Where a run is told.
#[derive(Debug)]
pub(super) struct Screen {
    out: BufWriter<Stdout>,
    /// Whether a terminal reads.
    terminal: bool,
    /// Whether a line of progress is there.
    progress: bool,
    closed: bool,
    failed: Option<io::Error>,
}

impl Screen {
    /// Standard output.
    pub(super) fn new() -> Self {
        let out = io::stdout();
        Self {
            terminal: out.is_terminal(),
            out: BufWriter::new(out),
            progress: false,
            closed: false,
            failed: None,
        }
    }

    /// Whether a terminal reads.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many characters a row of the terminal has, if one reads and tells.
    pub(super) fn columns(&self) -> Option<usize> {
        let size = terminal_size_of(self.out.get_ref()).filter(|_| self.terminal);
        size.map(|(Width(columns), _)| usize::from(columns))
    }

    /// Writes a line.
    pub(super) fn line(&mut self, line: Arguments<'_>) {
        if self.progress {
            self.wipe();
        }
        let written = writeln!(self.out, "{line}");
        self.note(written);
    }

    /// Writes a line in place of the last one of progress, as much of it as fits into a row, where
    /// there is to be room for `^C` too: of two rows only one could be taken back.
    pub(super) fn progress(&mut self, line: &str) {
        let room = |columns: usize| columns.saturating_sub("^C".len() + 1);
        let room = self.columns().map_or(line.len(), room);
        self.wipe();
        self.progress = true;
        let written = write!(self.out, "{line:.room$}");
        self.note(written);
        self.flush();
    }

    /// Takes back what is in the terminal's row: progress, or the `^C` that it shows itself.
    pub(super) fn wipe(&mut self) {
        self.progress = false;
        if self.terminal {
            let written = write!(self.out, "\r\x1b[K");
            self.note(written);
        }
    }

    /// Shows what was written.
    pub(super) fn flush(&mut self) {
        let flushed = self.out.flush();
        self.note(flushed);
    }

    /// Shows what was written, for the last time.
    ///
    /// # Errors
    /// Why not all could be written, unless it is that nobody reads any more: a pipe that is closed
    /// is an ordinary end.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.flush();
        self.failed.take().map_or(Ok(()), Err)
    }

    fn note(&mut self, result: io::Result<()>) {
        let Err(error) = result else { return };
        if !self.closed && error.kind() != io::ErrorKind::BrokenPipe {
            self.failed = Some(error);
        }
        self.closed = true;
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}
