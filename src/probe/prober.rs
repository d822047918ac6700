//! The loop of a run: sends due requests and records, receives replies, and decides when to end.

mod moving;
mod receiving;
mod reporting;
mod sending;

use std::error::Error;
use std::io;
use std::iter;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use super::Config;
use super::clock::RunClock;
use super::event::Event;
use super::exchange::Exchanges;
use super::flows::{Flows, OwnAddresses};
use super::notes::{DeliveryError, Notes};
use super::output::Output;
use super::pace::{Frequency, Missed, Pace};
use super::report::Intervals;
use super::rtt::RoundTrips;
use super::signals::Signals;
use super::stamp::Stamp;
use super::tally::Tally;
use super::wire::Run;
use crate::record::Record;
use crate::reflect::Mode;
use crate::reflect::stamp::{AUTHENTICATED_BYTES, ErrorEstimate};
use crate::udp::{self, Batch, ConnectOptions, Poller, Socket};
use crate::worker::StampClock;

/// A run that cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A socket cannot be opened, connected or set up.
    #[error(transparent)]
    Socket(#[from] udp::ConnectError),
    /// Waiting for a readable socket failed (`epoll_wait`, `poll` or `SO_RCVTIMEO`).
    #[error("cannot wait for replies: {0}")]
    Wait(#[source] io::Error),
}

impl RunError {
    /// Whether this host lacks descriptors or memory, so that nothing is known about the target.
    pub(crate) fn is_shortage(&self) -> bool {
        type Cause = dyn Error + 'static;
        let errno = |error: &Cause| error.downcast_ref::<io::Error>()?.raw_os_error();
        iter::successors(Some(self as &Cause), |error| (*error).source())
            .filter_map(errno)
            .any(|errno| [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS].contains(&errno))
    }
}

/// The result of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Counts of requests and replies.
    pub tally: Tally,
    /// Round-trip times.
    pub round_trips: RoundTrips,
    /// Errors and other events.
    pub notes: Notes,
    /// Source port of each flow.
    pub ports: Vec<u16>,
    /// Datagrams that the kernel dropped because a socket's receive buffer was full.
    pub own_drops: u64,
    /// Whether the reflector was found to echo records.
    pub is_plain: bool,
    /// Number of echoed records that a daemon in exchange mode would have decoded.
    pub echoed_records: u64,
    /// The measurement in STAMP mode.
    pub stamp: Option<Stamp>,
    /// Error of this host's clock in STAMP mode: the larger of those at the start and at the end.
    pub clock_error: ErrorEstimate,
    /// Requests that were due and not sent.
    pub missed: Missed,
    /// System time at the start.
    pub started: SystemTime,
    /// System time at the end, since 1970.
    pub ended: Duration,
    /// Duration of the run.
    pub time: Duration,
}

/// A run in progress.
pub(super) struct Prober<'a> {
    config: &'a Config,
    /// The target's address for output.
    address: &'a str,
    run: Run,
    stamp: Option<Stamp>,
    /// Error of this host's clock at the start.
    clock_error: ErrorEstimate,
    tally: Tally,
    round_trips: RoundTrips,
    exchanges: Exchanges,
    pace: Pace,
    flows: Flows,
    own_addresses: OwnAddresses,
    /// The last change of this host's own address: the old address and the new one.
    address_change: Option<(IpAddr, IpAddr)>,
    /// Waits for all sockets, if there are several.
    poller: Option<Poller>,
    readable: Vec<usize>,
    batch: Batch,
    outgoing: Vec<u8>,
    clock: RunClock,
    output: &'a mut Output,
    /// The intervals of `--report`.
    intervals: Option<Intervals>,
    notes: Notes,
    /// Receive timeout of the only socket.
    receive_timeout: Duration,
    last_sent: Duration,
    last_progress: Duration,
    /// Shortest time to wait for duplicates of the last reply; `None` waits for none.
    linger: Option<Duration>,
    /// When the last outstanding request was answered.
    all_answered: Option<Duration>,
    signals: &'a Signals,
    /// Number of signals to print figures that were answered.
    reports: u32,
}

/// Datagrams per system call.
const BATCH: usize = 64;

/// Longest time to sleep, so that a signal is noticed.
const TICK: Duration = Duration::from_millis(100);

/// Shortest time to wait for duplicates of the last reply. Twice the longest round trip is used if
/// that is longer.
const LINGER: Duration = Duration::from_millis(250);

/// Requested size of a socket's receive buffer in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

impl<'a> Prober<'a> {
    /// Opens the sockets. `id` is a random number. The first signal to stop ends the sending, the
    /// second also the waiting.
    ///
    /// # Errors
    /// Fails if a socket cannot be opened or connected.
    pub(super) fn new(
        config: &'a Config,
        target: SocketAddr,
        address: &'a str,
        id: u32,
        output: &'a mut Output,
        signals: &'a Signals,
    ) -> Result<Self, RunError> {
        let flows = Flows::open(target, connect_options(config), config.flows)?;
        let poller = match flows.sockets() {
            [_] => None,
            sockets => Some(Poller::new(sockets).map_err(RunError::Wait)?),
        };
        let run = Run::new(id, config.size);
        let least = match config.mode {
            Mode::Stamp => AUTHENTICATED_BYTES,
            Mode::Exchange | Mode::Lockstep | Mode::Echo => Record::BYTES,
        };
        let slot_bytes = config.size.max(least) + 1;
        let stamp = config.stamp.as_ref().map(|settings| {
            let capacity = tally_capacity(config) / config.flows;
            Stamp::new(settings.clone(), config.flows, capacity, id)
        });
        Ok(Self {
            run,
            stamp,
            clock_error: StampClock::Kernel.read(),
            tally: Tally::new(config.flows, tally_capacity(config)),
            round_trips: RoundTrips::default(),
            exchanges: Exchanges::new(config.mode, config.flows, config.wait),
            pace: Pace::new(config.frequency),
            batch: Batch::new(BATCH, slot_bytes, &flows.sockets()[0]),
            outgoing: vec![0; BATCH * config.size],
            config,
            address,
            flows,
            own_addresses: OwnAddresses::default(),
            address_change: None,
            poller,
            readable: Vec::new(),
            clock: RunClock::start(),
            output,
            intervals: config.report.map(Intervals::new),
            notes: Notes::default(),
            receive_timeout: Duration::ZERO,
            last_sent: Duration::ZERO,
            last_progress: Duration::ZERO,
            linger: Some(LINGER),
            all_answered: None,
            signals,
            reports: 0,
        })
    }

    /// Does not wait for duplicates: the run ends when the last request is answered.
    pub(super) fn without_linger(self) -> Self {
        Self {
            linger: None,
            ..self
        }
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// Fails if waiting for replies fails.
    pub(super) fn run(mut self) -> Result<Outcome, RunError> {
        self.report(Duration::ZERO, Event::Start);
        let mut sent_all = false;
        loop {
            let now = self.clock.now();
            let sending = self.is_sending(now);
            if sending {
                self.send_due(now);
            } else if !sent_all {
                sent_all = true;
                self.end_sending(now);
            }
            if self.has_expired(now, sending) {
                self.catch_up().map_err(RunError::Wait)?;
            }
            while let Some(due) = self.exchanges.next_record(now) {
                self.send_record(due, None);
            }
            self.report_overdue(now);
            self.report_figures(now);
            self.show_progress(now);
            if self.output.is_closed() || (!sending && self.is_over(now)) {
                break;
            }
            let timeout = self.timeout(now, sending);
            self.receive(timeout).map_err(RunError::Wait)?;
        }
        let time = self.clock.now();
        self.report_losses(time);
        let sockets = self.flows.sockets().iter();
        Ok(Outcome {
            ports: sockets.map(|socket| socket.address().port()).collect(),
            own_drops: self.flows.drops(),
            is_plain: self.stamp.is_none()
                && self.config.mode != Mode::Echo
                && self.exchanges.is_plain(),
            clock_error: self.clock_error.worse(StampClock::Kernel.read()),
            stamp: self.stamp,
            echoed_records: self.exchanges.echoed_after_reply(),
            missed: self.pace.missed(),
            started: self.clock.started(),
            ended: self.clock.since_1970(time),
            tally: self.tally,
            round_trips: self.round_trips,
            notes: self.notes,
            time,
        })
    }

    /// Whether there are more requests to send.
    fn is_sending(&self, now: Duration) -> bool {
        self.signals.stops() == 0
            && self.requests_left() > 0
            && (self.config.duration).is_none_or(|duration| now < duration)
    }

    /// Returns the number of requests that the count still allows.
    fn requests_left(&self) -> u64 {
        self.config.count.unwrap_or(u64::MAX) - self.tally.totals().sent
    }

    /// Whether a reply or the whole run is overdue at `now`.
    fn has_expired(&mut self, now: Duration, sending: bool) -> bool {
        [self.exchanges.next_deadline(), self.next_overdue()]
            .into_iter()
            .flatten()
            .any(|at| at <= now)
            || (!sending && self.is_over(now))
    }

    /// Returns the time at which the next request without a reply is overdue.
    fn next_overdue(&self) -> Option<Duration> {
        let sent = self.tally.next_overdue();
        sent.map(|sent| sent + self.config.wait)
    }

    /// Receives all waiting datagrams. They are in time if only this process was stopped.
    fn catch_up(&mut self) -> io::Result<()> {
        // A reply and an echoed record per request: a flood must not keep the loop here.
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

    /// Whether there is nothing left to wait for, once all requests are sent.
    fn is_over(&mut self, now: Duration) -> bool {
        if self.tally.outstanding() > 0 {
            self.all_answered = None;
        }
        let waited = now >= self.last_sent + self.config.wait;
        waited || self.signals.stops() > 1 || self.linger_until(now).is_some_and(|at| now >= at)
    }

    /// Returns the time until which to wait for duplicates, if all requests are answered.
    fn linger_until(&mut self, now: Duration) -> Option<Duration> {
        if self.tally.outstanding() > 0 {
            return None;
        }
        let since = *self.all_answered.get_or_insert(now);
        let Some(linger) = self.linger else {
            return Some(since);
        };
        let longest = self
            .round_trips
            .rtts
            .summary()
            .map_or(linger, |rtts| rtts.max);
        Some(since + linger.max(longest * 2))
    }

    /// Returns how long the loop may wait for datagrams.
    fn timeout(&mut self, now: Duration, sending: bool) -> Duration {
        let mut until = now + TICK;
        let mut wake = |at: Option<Duration>| until = at.map_or(until, |at| until.min(at));
        wake(self.exchanges.next_deadline());
        wake(self.next_overdue());
        wake(self.intervals.as_ref().map(Intervals::end));
        if !sending {
            wake(Some(self.last_sent + self.config.wait));
            wake(self.linger_until(now));
        } else if self.exchanges.may_send() {
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

    /// Counts a request as not delivered, if it waits for a reply.
    fn rejected(&mut self, sequence: u64, error: DeliveryError) {
        if let Some(flow) = self.tally.rejected(sequence) {
            self.exchanges.request_rejected(flow, sequence);
            self.count_error(Some((sequence, flow)), error);
        }
    }
}

/// Returns the first of the addresses that this host has a route to.
///
/// # Errors
/// The error of the first address, if there is none.
pub(super) fn first_with_a_route(
    config: &Config,
    targets: &[SocketAddr],
) -> Result<SocketAddr, RunError> {
    let options = connect_options(config);
    let mut first_error = None;
    for target in targets {
        match Socket::connect(*target, &options) {
            Ok(_) => return Ok(*target),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    // A name has at least one address.
    Err(first_error.map_or(RunError::Wait(io::ErrorKind::NotFound.into()), Into::into))
}

fn connect_options(config: &Config) -> ConnectOptions {
    ConnectOptions {
        receive_buffer: RECEIVE_BUFFER,
        source: config.source.clone(),
        ip: config.ip,
        port: 0,
    }
}

/// Number of requests that the tally keeps: those of twice the time to wait, within bounds.
fn tally_capacity(config: &Config) -> usize {
    const LEAST: usize = 1 << 12;
    const MOST: usize = 1 << 22;
    let Frequency { count, time } = config.frequency;
    let wait = config.wait.max(Duration::from_secs(1)).as_nanos() * 2;
    let most = wait * u128::from(count) / time.as_nanos().max(1);
    usize::try_from(most).unwrap_or(MOST).clamp(LEAST, MOST)
}
