//! The way of a line from where something happens to the thread that writes it.

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

/// How many lines may wait to be written.
const WAITING_LINES: usize = 1024;
/// How long to wait for a place among them, at the end, before looking again.
const PAUSE: Duration = Duration::from_millis(1);

/// One line of the log, before anybody formats it.
#[derive(Debug)]
pub(super) struct LogLine {
    pub(super) time: SystemTime,
    /// Level, target, file: what is known of it beforehand.
    pub(super) metadata: &'static Metadata<'static>,
    /// On one line, without control characters.
    pub(super) message: String,
    /// How many lines were dropped before it, since the start.
    pub(super) dropped: u64,
}

/// What the writing thread is asked for.
#[derive(Debug)]
pub(super) enum Request {
    Write(LogLine),
    /// To say when it has come so far.
    Flush(SyncSender<()>),
}

/// Where lines wait to be written. Whoever logs only leaves them here: it waits for nobody.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    requests: SyncSender<Request>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    /// A queue, and the end of it for the writing thread.
    pub(super) fn new() -> (Self, Receiver<Request>) {
        let (requests, receiver) = mpsc::sync_channel(WAITING_LINES);
        let dropped = Arc::default();
        (Self { requests, dropped }, receiver)
    }

    /// How many lines were lost, now and later.
    pub(super) fn dropped_lines(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    /// Waits until what is in it is written, for so long at most.
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

/// An event's message, and other fields after it as `name=value`.
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
        // A String takes it all.
        let _ = write!(Escaped(&mut self.0), "{value:?}");
    }
}

/// The log's clock.
#[expect(clippy::disallowed_methods, reason = "a line says when it was logged")]
fn now() -> SystemTime {
    SystemTime::now()
}
