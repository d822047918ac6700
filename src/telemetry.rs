//! Where the log goes, and how much of it.

mod escape;
mod journal;
mod queue;
mod writer;

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use escape::Escaped;
pub(crate) use escape::is_control;
use journal::Journal;
use queue::Queue;
use writer::Output;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Native entries in the systemd journal.
    Journald,
    /// Lines of text on standard error.
    Text,
    /// Lines of JSON on standard error.
    Json,
}

/// What is logged: a level, or a filter as tracing-subscriber has them.
#[derive(Debug, Clone)]
pub struct Filter(String);

/// A text that is no filter.
#[derive(Debug, Clone, thiserror::Error)]
#[error("expected off, error, warn, info, debug, trace or a filter such as udp_echo=debug")]
pub struct BadFilter;

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        // tracing-subscriber 0.3.23 goes astray where a directive has spaces around it, and panics
        // where a letter of many bytes is there too: it looks at the directive without the spaces,
        // and then cuts it up with them.
        let directives: Vec<_> = text.split(',').map(str::trim).collect();
        let text = directives.join(",");
        // As a filter, a lone word is the name of a module: a misspelt level would silence all.
        let alone = !text.contains(['=', ',', '[']);
        let good = if alone {
            !text.is_empty() && text.parse::<LevelFilter>().is_ok()
        } else {
            EnvFilter::builder().parse(&text).is_ok()
        };
        good.then_some(Self(text)).ok_or(BadFilter)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A log that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no journal to write to.
    #[error("cannot log to the journal: {0}")]
    Journal(#[source] io::Error),
    /// The thread that writes it cannot be had.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[source] io::Error),
    /// There is a log already.
    #[error("cannot start the log: {0}")]
    Init(#[from] TryInitError),
}

/// Starts the log. Without a `format`, the journal gets it when standard error is connected to
/// the journal (and it is there), else standard error as text.
///
/// # Errors
/// When the journal was asked for and is not there.
pub fn start(filter: &Filter, format: Option<Format>) -> Result<Log, LogError> {
    let journal = match format {
        Some(Format::Journald) => Some(Journal::find().map_err(LogError::Journal)?),
        None if stderr_is_the_journal() => Journal::find().ok(),
        _ => None,
    };
    let output = match (journal, format) {
        (Some(journal), _) => Output::Journal(journal),
        (None, Some(Format::Json)) => Output::Json,
        (None, _) => Output::Text,
    };
    let queue = writer::start(output).map_err(LogError::Thread)?;
    // Parsed before, as a Filter.
    let filter = EnvFilter::builder().parse_lossy(&filter.0);
    tracing_subscriber::registry()
        .with(queue.clone().with_filter(filter))
        .try_init()?;
    Ok(Log {
        queue,
        patience: Cell::new(LAST_LINES),
    })
}

/// How long the end of the log waits for the last lines, unless it is told otherwise.
const LAST_LINES: Duration = Duration::from_millis(200);
/// The same for the one that says why it could not go on. A busy machine may take its time;
/// nobody who asked it to stop waits for this.
const LAST_LINE: Duration = Duration::from_secs(2);

/// The log. Dropping it waits for the last lines, for a moment.
///
/// They are written by a thread of its own, so that whoever reads them, or does not, never holds
/// up those who log. Lines that find no place to wait are lost, and counted.
#[derive(Debug)]
pub struct Log {
    queue: Queue,
    patience: Cell<Duration>,
}

impl Log {
    /// Its end waits no longer than that for the last lines.
    pub fn end_within(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// How many lines were lost, now and later.
    pub fn dropped_lines(&self) -> Arc<AtomicU64> {
        self.queue.dropped_lines()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.flush(self.patience.get());
    }
}

/// Writes the last line to standard error, whatever is logged and where to. Where nobody reads
/// it, it waits for a moment only.
pub fn last_line(line: &dyn fmt::Display) {
    // The journal takes the prefix for the priority (sd-daemon(3)).
    let prefix = if stderr_is_the_journal() { "<3>" } else { "" };
    let mut text = String::from(prefix);
    // A String takes it all.
    let _ = write!(Escaped(&mut text), "{line}");
    text.push('\n');
    let text: Arc<str> = text.into();
    let (written, wait) = mpsc::sync_channel(1);
    let write = {
        let text = Arc::clone(&text);
        move || {
            write_out(&text);
            let _ = written.send(());
        }
    };
    if thread::Builder::new().spawn(write).is_ok() {
        let _ = wait.recv_timeout(LAST_LINE);
    } else {
        // That there is no thread to be had may be what the line is about.
        write_out(&text);
    }
}

fn write_out(text: &str) {
    // There is no other place to say so.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Whether standard error leads to the journal: `JOURNAL_STREAM` names its device and inode
/// (systemd.exec(5)).
pub fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else {
        return false;
    };
    std::fs::File::from(stderr)
        .metadata()
        .is_ok_and(|stderr| *stream == *format!("{}:{}", stderr.st_dev(), stderr.st_ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused_and_filters_are_not() {
        for good in [
            "info",
            "DEBUG",
            "off",
            "udp_echo=debug",
            "warn,udp_echo::worker=trace",
        ] {
            assert!(good.parse::<Filter>().is_ok(), "{good}");
        }
        for bad in ["", " ", "inof", "verbose", "udp_echo=loud", "a=b=c"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spaces_around_a_directive_are_nothing() {
        for (spaced, plain) in [
            (" info ", "info"),
            ("warn, udp_echo=debug", "warn,udp_echo=debug"),
            (" größe=debug", "größe=debug"),
            (" é\u{8d}=debug", "é\u{8d}=debug"),
        ] {
            let filter = spaced.parse::<Filter>().unwrap();
            assert_eq!(filter.to_string(), plain);
        }
    }
}
