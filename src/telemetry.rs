//! The log: its filter, its destination and its format.

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

/// The format and destination of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Native entries in the systemd journal.
    Journald,
    /// Lines of text on standard error.
    Text,
    /// Lines of JSON on standard error.
    Json,
}

/// A level, or a filter in the syntax of tracing-subscriber's `EnvFilter`.
#[derive(Debug, Clone)]
pub struct Filter(String);

/// The error of a text that is not a filter.
#[derive(Debug, Clone, thiserror::Error)]
#[error("expected off, error, warn, info, debug, trace or a filter such as udp_echo=debug")]
pub struct BadFilter;

impl FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        // tracing-subscriber 0.3.23 finds offsets in the directive without its surrounding spaces
        // and applies them to the directive with the spaces: wrong, and a panic inside a UTF-8
        // character.
        let directives: Vec<_> = text.split(',').map(str::trim).collect();
        let text = directives.join(",");
        // EnvFilter takes a lone word for a module: a misspelt level would silence the log.
        let alone = !text.contains(['=', ',', '[']);
        // EnvFilter takes a missing level for trace.
        let good = if directives.iter().any(|directive| directive.ends_with('=')) {
            false
        } else if alone {
            !text.is_empty() && text.parse::<LevelFilter>().is_ok()
        } else {
            EnvFilter::builder().parse(&text).is_ok()
        };
        good.then_some(Self(text)).ok_or(BadFilter)
    }
}

impl Filter {
    /// Whether the log has a line for each datagram.
    pub fn shows_each_datagram(&self) -> bool {
        let Ok(filter) = EnvFilter::builder().parse(&self.0) else {
            return false;
        };
        let log = tracing_subscriber::registry().with(filter);
        tracing::subscriber::with_default(
            log,
            || tracing::enabled!(target: "udp_echo::worker::log", tracing::Level::DEBUG),
        )
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The reason why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The journal cannot be reached.
    #[error("cannot log to the journal: {0}; set --log-format to text or json")]
    Journal(#[source] io::Error),
    /// The log's thread cannot be started.
    #[error("cannot start the log thread: {0}; raise the limit on threads (ulimit -u, TasksMax=)")]
    Thread(#[source] io::Error),
    /// The process has a log already.
    #[error("cannot start the log: {0}")]
    Init(#[from] TryInitError),
}

/// Starts the log. Without a `format`, it goes to the journal if standard error does and journald
/// is there, else to standard error as text.
///
/// # Errors
/// If the log's thread cannot be started, or `format` is the journal and there is none.
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
    // Cannot lose a directive: Filter was parsed.
    let filter = EnvFilter::builder().parse_lossy(&filter.0);
    tracing_subscriber::registry()
        .with(queue.clone().with_filter(filter))
        .try_init()?;
    Ok(Log {
        queue,
        patience: Cell::new(LAST_LINES),
    })
}

/// The default of [`Log::end_within`].
const LAST_LINES: Duration = Duration::from_millis(200);
/// The longest wait for [`last_line`]. Longer than the promised time to stop: this line is of a
/// failure, not of a requested stop.
const LAST_LINE: Duration = Duration::from_secs(2);

/// The log. Dropping it waits briefly for the queued lines.
///
/// A thread of its own writes the lines, so that a slow reader never blocks the threads that log. A
/// line that finds the queue full is dropped and counted.
#[derive(Debug)]
pub struct Log {
    queue: Queue,
    patience: Cell<Duration>,
}

impl Log {
    /// Sets the longest wait of the drop for the queued lines.
    pub fn end_within(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// The number of dropped lines, which continues to grow.
    pub fn dropped_lines(&self) -> Arc<AtomicU64> {
        self.queue.dropped_lines()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.flush(self.patience.get());
    }
}

/// Writes the program's last line to standard error, whatever the filter and format of the log.
/// Waits at most two seconds for a slow reader.
pub fn last_line(line: &dyn fmt::Display) {
    // The journal takes the prefix for the priority (sd-daemon(3)).
    let prefix = if stderr_is_the_journal() { "<3>" } else { "" };
    let mut text = String::from(prefix);
    // Writing to a String cannot fail.
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
        // No thread can be started; the line may be about that.
        write_out(&text);
    }
}

fn write_out(text: &str) {
    // An error has nowhere else to go.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Whether standard error is connected to the journal: `JOURNAL_STREAM` has its device and inode
/// number (systemd.exec(5)).
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
    fn filter_refuses_a_misspelt_level() {
        for good in [
            "info",
            "DEBUG",
            "off",
            "udp_echo=debug",
            "warn,udp_echo::worker=trace",
        ] {
            assert!(good.parse::<Filter>().is_ok(), "{good}");
        }
        for bad in [
            "",
            " ",
            "inof",
            "verbose",
            "udp_echo=loud",
            "udp_echo=",
            "a=b=c",
        ] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn filter_ignores_spaces_around_directives() {
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
