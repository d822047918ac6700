//! The loop: sends what is due, takes what came, until it is time to end.

mod sending;
mod taking;
mod telling;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::Config;
use super::clock::RunClock;
use super::notes::{Notes, Trouble};
use super::pace::{Frequency, Pace};
use super::screen::Screen;
use super::tally::Tally;
use super::turns::Turns;
use super::wire::Run;
use crate::record::Record;
use crate::reflect::Mode;
use crate::udp::{self, Batch, Poller, Socket};

/// A run that could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A socket cannot be had.
    #[error(transparent)]
    Socket(#[from] udp::SocketError),
    /// What tells which sockets have something to receive failed.
    #[error("cannot wait for replies: {0}")]
    Wait(#[source] io::Error),
}

/// What a run has seen.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The books.
    pub tally: Tally,
    /// What else there is to say.
    pub notes: Notes,
    /// The ports of the flows.
    pub ports: Vec<u16>,
    /// Replies that this host dropped, as a socket's receive buffer was full.
    pub own_drops: u64,
    /// Whether the reflector echoes records too.
    pub is_plain: bool,
    /// How many records came back that a daemon in exchange mode would have taken.
    pub echoed_records: u64,
    /// How many requests were due and not sent, as flows waited or this host had no time.
    pub held_up: u64,
    /// How long it took.
    pub time: Duration,
}

/// A run.
pub(super) struct Prober<'a> {
    config: &'a Config,
    /// The target's address as it is shown.
    address: &'a str,
    run: Run,
    tally: Tally,
    turns: Turns,
    pace: Pace,
    flows: Vec<Socket>,
    /// Where there are more flows than one.
    ready: Option<Poller>,
    found: Vec<usize>,
    batch: Batch,
    outgoing: Vec<u8>,
    clock: RunClock,
    screen: &'a mut Screen,
    notes: Notes,
    /// The receive timeout of the only flow.
    receive_timeout: Duration,
    last_sent: Duration,
    last_progress: Duration,
    /// Since when nothing is waited for any more.
    all_came: Option<Duration>,
    /// How often somebody asked for the end.
    stops: &'a AtomicU32,
}

/// Datagrams a call.
const BATCH: usize = 64;

/// How long to sleep at most, so that a stop is seen.
const TICK: Duration = Duration::from_millis(100);

/// How long to look for duplicates of the last reply, at least; and twice the longest round trip.
const LINGER: Duration = Duration::from_millis(250);

/// What a socket's receive buffer is asked to be, in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

impl<'a> Prober<'a> {
    /// Opens the sockets. `id` is to be random. `stops` counts who asks for the end: once ends the
    /// sending, twice the waiting too.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub(super) fn new(
        config: &'a Config,
        target: SocketAddr,
        address: &'a str,
        id: u32,
        screen: &'a mut Screen,
        stops: &'a AtomicU32,
    ) -> Result<Self, RunError> {
        let flows = (0..config.flows)
            .map(|_| Socket::connect(target, RECEIVE_BUFFER))
            .collect::<Result<Vec<_>, _>>()?;
        let ready = match flows.as_slice() {
            [_] => None,
            flows => Some(Poller::new(flows).map_err(RunError::Wait)?),
        };
        let run = Run::new(id, config.size);
        let slot_bytes = config.size.max(Record::BYTES) + 1;
        Ok(Self {
            run,
            tally: Tally::new(config.flows, room(config)),
            turns: Turns::new(config.mode, config.flows, config.wait),
            pace: Pace::new(config.frequency),
            batch: Batch::new(BATCH, slot_bytes, &flows[0]),
            outgoing: vec![0; BATCH * config.size],
            config,
            address,
            flows,
            ready,
            found: Vec::new(),
            clock: RunClock::start(),
            screen,
            notes: Notes::default(),
            receive_timeout: Duration::ZERO,
            last_sent: Duration::ZERO,
            last_progress: Duration::ZERO,
            all_came: None,
            stops,
        })
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// When it cannot wait for replies.
    pub(super) fn run(mut self) -> Result<Outcome, RunError> {
        self.tell_start();
        loop {
            let now = self.clock.now();
            let sends = self.sends(now);
            if sends {
                self.send_due(now);
            }
            if self.gives_up(now, sends) {
                self.catch_up().map_err(RunError::Wait)?;
            }
            while let Some(due) = self.turns.time(now) {
                self.send_record(due, None);
            }
            self.tell_overdue(now);
            self.tell_progress(now);
            if self.screen.is_closed() || (!sends && self.is_over(now)) {
                break;
            }
            let timeout = self.timeout(now, sends);
            self.receive(timeout).map_err(RunError::Wait)?;
        }
        let time = self.clock.now();
        let drops = self.flows.iter().map(Socket::queue_and_drops);
        Ok(Outcome {
            ports: self
                .flows
                .iter()
                .map(|flow| flow.address().port())
                .collect(),
            own_drops: drops.filter_map(Result::ok).map(|(_, drops)| drops).sum(),
            is_plain: self.config.mode != Mode::Echo && self.turns.is_plain(),
            echoed_records: self.turns.echoed_after_reply(),
            held_up: self.pace.missed(),
            tally: self.tally,
            notes: self.notes,
            time,
        })
    }

    /// Whether there is more to send.
    fn sends(&self, now: Duration) -> bool {
        self.stops.load(Relaxed) == 0
            && (self.config.count).is_none_or(|count| self.tally.totals().sent < count)
            && (self.config.duration).is_none_or(|duration| now < duration)
    }

    /// Whether something is too late by the clock.
    fn gives_up(&mut self, now: Duration, sends: bool) -> bool {
        [self.turns.next_time(), self.next_overdue()]
            .into_iter()
            .flatten()
            .any(|at| at <= now)
            || (!sends && self.is_over(now))
    }

    /// When the next request is too late that gets a line then.
    fn next_overdue(&self) -> Option<Duration> {
        let sent = self.tally.next_overdue().filter(|_| self.config.lines());
        sent.map(|sent| sent + self.config.wait)
    }

    /// Takes what came meanwhile: it is not late, if only this process was held up.
    fn catch_up(&mut self) -> io::Result<()> {
        // A reply to each request and the echo of a record, and not what somebody sends without end.
        let most = self.tally.outstanding() * 2 + 1;
        let mut taken = 0;
        while taken < most {
            match self.receive(Duration::ZERO)? {
                0 => break,
                count => taken += count,
            }
        }
        Ok(())
    }

    /// Whether there is nothing more to wait for, when all is sent.
    fn is_over(&mut self, now: Duration) -> bool {
        if self.tally.outstanding() > 0 {
            self.all_came = None;
        }
        let waited = now >= self.last_sent + self.config.wait;
        waited || self.stops.load(Relaxed) > 1 || self.linger_until(now).is_some_and(|at| now >= at)
    }

    /// Until when duplicates are looked for, when all came.
    fn linger_until(&mut self, now: Duration) -> Option<Duration> {
        if self.tally.outstanding() > 0 {
            return None;
        }
        let since = *self.all_came.get_or_insert(now);
        let longest = self.tally.rtts().summary().map_or(LINGER, |rtts| rtts.max);
        Some(since + LINGER.max(longest * 2))
    }

    /// How long there is nothing to do but to receive.
    fn timeout(&mut self, now: Duration, sends: bool) -> Duration {
        let mut until = now + TICK;
        let mut wake = |at: Option<Duration>| until = at.map_or(until, |at| until.min(at));
        wake(self.turns.next_time());
        wake(self.next_overdue());
        if !sends {
            wake(Some(self.last_sent + self.config.wait));
            wake(self.linger_until(now));
        } else if self.turns.may_send() {
            let last = self.config.count == Some(self.tally.totals().sent);
            wake(if last {
                Some(now)
            } else {
                Some(self.pace.next())
            });
            wake(self.config.duration);
        }
        until.saturating_sub(now)
    }

    /// A request did not get there. Says whether it waited for a reply.
    fn rejected(&mut self, sequence: u64) -> bool {
        let flow = self.tally.rejected(sequence);
        if let Some(flow) = flow {
            self.turns.rejected(flow, sequence);
        }
        flow.is_some()
    }

    /// Counts an error about a request that waited, and tells it if it is new.
    fn trouble(&mut self, trouble: Trouble) {
        if self.notes.errors.add(trouble) {
            let told = trouble.told(self.address);
            self.tell(format_args!("{told}"));
        }
    }
}

/// How many requests to keep in the books: those of the time in which replies are waited for,
/// twice, within reason.
fn room(config: &Config) -> usize {
    const LEAST: usize = 1 << 12;
    const MOST: usize = 1 << 22;
    let Frequency { count, time } = config.frequency;
    let wait = config.wait.max(Duration::from_secs(1)).as_nanos() * 2;
    let most = wait * u128::from(count) / time.as_nanos().max(1);
    usize::try_from(most).unwrap_or(MOST).clamp(LEAST, MOST)
}
