//! Standard output: lines, and on a terminal a progress line that is overwritten.

use std::fmt::Arguments;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use terminal_size::{Width, terminal_size_of};

/// Standard output, buffered.
#[derive(Debug)]
pub(super) struct Screen {
    out: BufWriter<Stdout>,
    /// Whether standard output is a terminal.
    terminal: bool,
    /// Whether the current row shows progress.
    progress: bool,
    /// Whether a write failed. Later output is lost.
    closed: bool,
    /// The first error, except a broken pipe.
    failed: Option<io::Error>,
}

impl Screen {
    /// Opens standard output.
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

    /// Whether standard output is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether a write failed, such as on a closed pipe.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns the number of columns of the terminal, if it is known.
    pub(super) fn columns(&self) -> Option<usize> {
        let size = terminal_size_of(self.out.get_ref()).filter(|_| self.terminal);
        size.map(|(Width(columns), _)| usize::from(columns))
    }

    /// Writes a line.
    pub(super) fn line(&mut self, line: Arguments<'_>) {
        if self.progress {
            self.clear_row();
        }
        let written = writeln!(self.out, "{line}");
        self.note(written);
    }

    /// Replaces the progress line. The line is cut so that it fits into a row together with `^C`,
    /// because only the current row can be cleared.
    pub(super) fn progress(&mut self, line: &str) {
        let free = |columns: usize| columns.saturating_sub("^C".len() + 1);
        let length = self.columns().map_or(line.len(), free);
        self.clear_row();
        self.progress = true;
        let written = write!(self.out, "{line:.length$}");
        self.note(written);
        self.flush();
    }

    /// Clears the current row of the terminal, which shows progress or an echoed `^C`.
    pub(super) fn clear_row(&mut self) {
        self.progress = false;
        if self.terminal {
            let written = write!(self.out, "\r\x1b[K");
            self.note(written);
        }
    }

    /// Flushes the buffer.
    pub(super) fn flush(&mut self) {
        let flushed = self.out.flush();
        self.note(flushed);
    }

    /// Flushes the buffer at the end.
    ///
    /// # Errors
    /// Returns the first error of a write. A broken pipe is not an error: the reader has ended.
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
