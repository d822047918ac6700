//! The queue of log lines from the threads that log to the thread that writes.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::escape::Escaped;

/// The capacity in lines.
const CAPACITY: usize = 1024;
/// The time between two attempts of a flush to enter a full queue.
const PAUSE: Duration = Duration::from_millis(1);

/// A line of the log, not yet formatted.
#[derive(Debug)]
pub(super) struct LogLine {
    pub(super) time: SystemTime,
    /// The level, target and source file.
    pub(super) metadata: &'static Metadata<'static>,
    /// One line without control characters.
    pub(super) message: String,
    /// The number of lines dropped before this one, since the start.
    pub(super) dropped: u64,
}

/// A request to the writing thread.
#[derive(Debug)]
pub(super) enum Request {
    Write(LogLine),
    /// Report through the channel when all earlier lines are written.
    Flush(SyncSender<()>),
}

/// The queue. Logging a line never blocks: a line that finds the queue full is dropped.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    requests: SyncSender<Request>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// Creates a queue, and the receiver for the writing thread.
    pub(super) fn new() -> (Self, Receiver<Request>) {
        let (requests, receiver) = mpsc::sync_channel(CAPACITY);
        let dropped = Arc::default();
        (Self { requests, dropped }, receiver)
    }

    /// The number of dropped lines, which continues to grow.
    pub(super) fn dropped_lines(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    /// Waits until all queued lines are written, for at most `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let (written, wait) = mpsc::sync_channel(1);
        let mut request = Request::Flush(written);
        let mut left = patience;
        while let Err(TrySendError::Full(back)) = self.requests.try_send(request) {
            let Some(less) = left.checked_sub(PAUSE) else {
                return;
            };
            thread::sleep(PAUSE);
            (request, left) = (back, less);
        }
        let _ = wait.recv_timeout(left);
    }
}

impl<S: Subscriber> Layer<S> for Queue {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let line = LogLine {
            time: now(),
            metadata: event.metadata(),
            message: text.0,
            dropped: self.dropped.load(Relaxed),
        };
        if self.requests.try_send(Request::Write(line)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// An event's message, followed by its other fields as `name=value`.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        if field.name() != "message" {
            self.0.push_str(field.name());
            self.0.push('=');
        }
        // Writing to a String cannot fail.
        let _ = write!(Escaped(&mut self.0), "{value:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "the timestamp of a log line")]
fn now() -> SystemTime {
    SystemTime::now()
}
