//! An event as a line of text.

use std::fmt::{self, Display, Formatter};

use super::Config;
use super::event::{Event, Reply, RequestName};
use super::format::{Milliseconds, Percent, Seconds, Time};
use super::report::Figures;
use super::wire::Change;

/// The text of an event.
pub(super) struct Text<'a> {
    /// The event.
    pub event: Event<'a>,
    /// The settings of the run.
    pub config: &'a Config,
    /// The target's address for output.
    pub address: &'a str,
    /// Columns of the terminal, if there is one.
    pub columns: Option<usize>,
}

impl Text<'_> {
    /// Whether the event has a line. Of a run of lost requests only the first and the last have one.
    pub(super) fn is_shown(event: &Event<'_>) -> bool {
        !matches!(
            event,
            Event::Lost {
                is_first: false,
                ..
            }
        )
    }

    fn start(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Config {
            mode,
            frequency,
            size,
            flows,
            ..
        } = self.config;
        let target = self.config.shown_target(self.address);
        let mode = mode.name();
        write!(f, "probing {target} in {mode} mode: {size} bytes, ")?;
        match (frequency.count, frequency.time) {
            (1, time) => write!(f, "one request every {}", Time(time))?,
            (count, time) => {
                let rate = f64::from(count) / time.as_secs_f64();
                write!(f, "{rate} requests per second")?;
            }
        }
        match flows {
            1 => Ok(()),
            flows => write!(f, ", {flows} flows"),
        }
    }

    fn reply(&self, f: &mut Formatter<'_>, reply: &Reply) -> fmt::Result {
        let (bytes, address) = (reply.bytes, self.address);
        write!(f, "{bytes} bytes from {address}: ")?;
        self.request(f, reply.request)?;
        if let Some(ttl) = reply.ttl {
            write!(f, " ttl={ttl}")?;
        }
        let change = match reply.change {
            Change::None => "",
            Change::Truncated { .. } => " (truncated)",
            Change::Altered => " (corrupted)",
        };
        let remark = match (reply.is_duplicate, reply.is_reordered) {
            (true, _) => " (duplicate)",
            (false, true) => " (out of order)",
            (false, false) => "",
        };
        write!(f, " time={} ms{change}{remark}", Milliseconds(reply.rtt))
    }

    fn request(&self, f: &mut Formatter<'_>, request: RequestName) -> fmt::Result {
        write!(f, "seq={}", request.sequence)?;
        match self.config.flows {
            1 => Ok(()),
            _ => write!(f, " flow={}", request.flow + 1),
        }
    }
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.event {
            Event::Start => self.start(f),
            Event::Reply(reply) => self.reply(f, reply),
            Event::Lost {
                request, within, ..
            } => {
                f.write_str("no reply to ")?;
                self.request(f, *request)?;
                within.map_or(Ok(()), |within| write!(f, " within {}", Time(within)))
            }
            Event::LostRun { first, last } => {
                let count = last - first + 1;
                write!(f, "no reply to seq={first} to seq={last}: {count} in a row")
            }
            Event::Error { request, error } => {
                match request {
                    Some(request) => self.request(f, *request)?,
                    None => f.write_str("a request")?,
                }
                write!(f, ": {error}")
            }
            Event::Report(figures) => figures.fmt(f),
            Event::Note(note) => f.write_str(note),
            Event::Summary(finished) => finished.text(self.columns).fmt(f),
        }
    }
}

impl Display for Figures {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            received,
            lost,
            ..
        } = self;
        write!(
            f,
            "{} to {} s: {sent} sent, {received} received, {lost} lost ({})",
            Seconds(self.from),
            Seconds(self.to),
            Percent(*lost, received + lost),
        )?;
        let Some(rtts) = self.rtts else { return Ok(()) };
        let [mean, max] = [rtts.mean, rtts.max].map(Milliseconds);
        write!(f, ", mean {mean}, max {max} ms")
    }
}
