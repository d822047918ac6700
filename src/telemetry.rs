//! Where the log goes, and how much of it.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt;
use std::str::FromStr;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use tracing::Subscriber;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

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
        // As a filter, a lone word is the name of a module: a misspelt level would silence all.
        let alone = !text.contains(['=', ',', '[']);
        let good = if alone {
            !text.is_empty() && text.parse::<LevelFilter>().is_ok()
        } else {
            EnvFilter::builder().parse(text).is_ok()
        };
        good.then(|| Self(text.into())).ok_or(BadFilter)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A log that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
/// the journal (and answers), else standard error as text.
///
/// # Errors
/// When the journal was asked for and is not there.
pub fn start(filter: &Filter, format: Option<Format>) -> Result<Log, Error> {
    let journal = match format {
        Some(Format::Journald) => Some(journal().map_err(Error::Journal)?),
        None if stderr_is_the_journal() => journal().ok(),
        _ => None,
    };
    let (layer, log) = if let Some(layer) = journal {
        (layer, Log(None))
    } else {
        let lines = writer().map_err(Error::Thread)?;
        let layer = match format {
            Some(Format::Json) => json(lines.clone()),
            _ => text(lines.clone()),
        };
        (layer, Log(Some(lines)))
    };
    // Parsed before, as a Filter.
    let filter = EnvFilter::builder().parse_lossy(&filter.0);
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    Ok(log)
}

type Boxed<S> = Box<dyn Layer<S> + Send + Sync>;

fn journal<S>() -> io::Result<Boxed<S>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_journald::Layer::new()?
        .with_syslog_identifier("udp-echo".into())
        // The default makes notices of what is information.
        .with_priority_mappings(PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info: Priority::Informational,
            debug: Priority::Debug,
            trace: Priority::Debug,
        });
    Ok(layer.boxed())
}

fn text<S>(lines: SyncSender<Message>) -> Boxed<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt::layer()
        .with_writer(move || Line(lines.clone()))
        .with_ansi(colours)
        .with_target(false)
        // A line that has no place is lost; to say so on standard error might wait.
        .log_internal_errors(false)
        .boxed()
}

fn json<S>(lines: SyncSender<Message>) -> Boxed<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(move || Line(lines.clone()))
        .log_internal_errors(false)
        .boxed()
}

/// How many lines may wait to be written.
const WAITING_LINES: usize = 1024;
/// How long the end of the daemon waits for them.
const LAST_LINES: Duration = Duration::from_millis(100);

/// The log on standard error. Dropping it waits for the last lines, for a moment.
///
/// They are written by a thread of its own, so that whoever reads them, or does not, never holds
/// up those who log. Lines that find no place to wait are lost.
#[derive(Debug)]
pub struct Log(Option<SyncSender<Message>>);

impl Drop for Log {
    fn drop(&mut self) {
        let (written, wait) = mpsc::sync_channel(1);
        if let Some(lines) = &self.0
            && lines.try_send(Message::Flush(written)).is_ok()
        {
            let _ = wait.recv_timeout(LAST_LINES);
        }
    }
}

/// What the writing thread is asked for.
#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// To say when it has come so far.
    Flush(SyncSender<()>),
}

/// One line on its way.
struct Line(SyncSender<Message>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(Message::Line(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the writing thread. What cannot be written is lost: there is no place to say so.
fn writer() -> io::Result<SyncSender<Message>> {
    let (lines, messages) = mpsc::sync_channel(WAITING_LINES);
    let write = move || {
        for message in messages {
            match message {
                Message::Line(line) => drop(io::stderr().write_all(&line)),
                Message::Flush(written) => drop(written.send(())),
            }
        }
    };
    thread::Builder::new().name("log".into()).spawn(write)?;
    Ok(lines)
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
        for bad in ["", "inof", "verbose", "udp_echo=loud", "a=b=c"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }
}
