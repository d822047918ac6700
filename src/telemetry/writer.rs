//! The thread that writes the log. Only this thread blocks on a slow reader.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tracing::callsite::{Callsite, Identifier};
use tracing::field::{FieldSet, Value};
use tracing::metadata::Kind;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, enabled};
use tracing_subscriber::fmt::format::Writer as Formatter;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;

use super::journal::Journal;
use super::queue::{LogLine, Queue, Request};

/// The shortest time between two warnings of dropped lines.
const WARNING_PERIOD: Duration = Duration::from_secs(1);

/// The destination of the log.
pub(super) enum Output {
    Journal(Journal),
    /// Lines of text on standard error.
    Text,
    /// Lines of JSON on standard error.
    Json,
}

/// Starts the writing thread.
pub(super) fn start(output: Output) -> io::Result<Queue> {
    let (queue, requests) = Queue::new();
    let dropped = queue.dropped_lines();
    let write = move || {
        let writer = Writer {
            sink: Sink::new(output),
            dropped,
            reported: 0,
            reported_at: None,
            writable: true,
        };
        writer.run(&requests);
    };
    thread::Builder::new().name("log".into()).spawn(write)?;
    Ok(queue)
}

/// Writes lines, and warns of dropped ones.
struct Writer {
    sink: Sink,
    /// Lines that found the queue full or could not be written.
    dropped: Arc<AtomicU64>,
    /// The dropped lines that the log has reported.
    reported: u64,
    /// The time of the last report.
    reported_at: Option<Instant>,
    /// Whether the last line could be written.
    writable: bool,
}

impl Writer {
    fn run(mut self, requests: &Receiver<Request>) {
        loop {
            // Dropped lines are reported even if no further line comes.
            let request = if self.writable && self.dropped.load(Relaxed) > self.reported {
                requests.recv_timeout(self.until_next_warning())
            } else {
                requests.recv().map_err(Into::into)
            };
            match request {
                Ok(Request::Write(line)) => {
                    // The warning stands where the lines are missing.
                    if line.dropped > self.reported && self.until_next_warning().is_zero() {
                        self.warn(line.dropped);
                    }
                    self.write(&line);
                }
                Ok(Request::Flush(written)) => {
                    self.warn(self.dropped.load(Relaxed));
                    // The receiver is gone if the flush timed out.
                    let _ = written.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.warn(self.dropped.load(Relaxed)),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, line: &LogLine) {
        self.writable = self.sink.write(line).is_ok();
        if !self.writable {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    fn until_next_warning(&self) -> Duration {
        let next = self.reported_at.map(|at| at + WARNING_PERIOD);
        next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now()))
    }

    /// Reports that `dropped` lines were dropped since the start.
    fn warn(&mut self, dropped: u64) {
        let lines = dropped - self.reported;
        if lines == 0 {
            return;
        }
        self.reported_at = Some(now());
        let plural = if lines == 1 { "" } else { "s" };
        let warning = LogLine {
            time: today(),
            metadata: &WARNING,
            message: format!("{lines} log line{plural} dropped: the log could not keep up"),
            dropped,
        };
        // A warning that cannot be written does not count as dropped: it is repeated.
        if !enabled!(Level::WARN) || self.sink.write(&warning).is_ok() {
            self.reported = dropped;
        }
    }
}

/// The destination of the lines.
enum Sink {
    Journal(Journal),
    Stderr(Lines),
}

impl Sink {
    fn new(output: Output) -> Self {
        match output {
            Output::Journal(journal) => Self::Journal(journal),
            Output::Text => Self::Stderr(Lines::text()),
            Output::Json => Self::Stderr(Lines::json()),
        }
    }

    fn write(&mut self, line: &LogLine) -> io::Result<()> {
        let fields = line.metadata.fields();
        let field = fields.field("message").ok_or(io::ErrorKind::InvalidData)?;
        let message = line.message.as_str();
        let values = [(&field, Some(&message as &dyn Value))];
        let values = fields.value_set(&values);
        let event = Event::new(line.metadata, &values);
        match self {
            Self::Journal(journal) => journal.send(&event),
            Self::Stderr(lines) => lines.write(&event, line.time),
        }
    }
}

/// Lines on standard error, as tracing-subscriber formats them.
struct Lines {
    subscriber: Box<dyn Subscriber>,
    /// The subscriber's output.
    formatted: Formatted,
    /// The timestamp for the subscriber.
    time: Time,
}

impl Lines {
    fn text() -> Self {
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self::new(|formatted, time| {
            let layer = fmt::layer().with_writer(formatted).with_timer(time);
            Box::new(registry().with(layer.with_ansi(colours).with_target(false)))
        })
    }

    fn json() -> Self {
        Self::new(|formatted, time| {
            let layer = fmt::layer().with_writer(formatted).with_timer(time);
            Box::new(registry().with(layer.json().flatten_event(true)))
        })
    }

    fn new(subscriber: impl FnOnce(Formatted, Time) -> Box<dyn Subscriber>) -> Self {
        let formatted = Formatted::default();
        let time = Time(Rc::new(Cell::new(SystemTime::UNIX_EPOCH)));
        Self {
            subscriber: subscriber(formatted.clone(), time.clone()),
            formatted,
            time,
        }
    }

    fn write(&mut self, event: &Event<'_>, time: SystemTime) -> io::Result<()> {
        self.time.0.set(time);
        self.subscriber.event(event);
        io::stderr().write_all(&mem::take(&mut *self.formatted.0.borrow_mut()))
    }
}

/// A buffer for a formatted line.
#[derive(Clone, Default)]
struct Formatted(Rc<RefCell<Vec<u8>>>);

impl<'a> MakeWriter<'a> for Formatted {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Formatted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The time at which a line was logged, which may be long before it is written.
#[derive(Clone)]
struct Time(Rc<Cell<SystemTime>>);

impl FormatTime for Time {
    fn format_time(&self, writer: &mut Formatter<'_>) -> std::fmt::Result {
        write!(writer, "{}", humantime::format_rfc3339_micros(self.0.get()))
    }
}

/// The metadata of the warning of dropped lines, which bypasses the queue.
static WARNING: Metadata<'static> = Metadata::new(
    "log lines dropped",
    module_path!(),
    Level::WARN,
    Some(file!()),
    Some(line!()),
    Some(module_path!()),
    FieldSet::new(&["message"], Identifier(&WarningSite)),
    Kind::EVENT,
);

struct WarningSite;

impl Callsite for WarningSite {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        &WARNING
    }
}

#[expect(clippy::disallowed_methods, reason = "the clock of this thread")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the timestamp of a log line")]
fn today() -> SystemTime {
    SystemTime::now()
}
