//! The worker loop: receive a batch, pass each datagram to the core, send the replies, count.

mod answer;
mod clock;
pub mod log;
mod port;
mod residence;
mod stamp_clock;
mod state;
#[cfg(test)]
mod testing;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use tracing::{Level, enabled, warn};

use crate::metrics::Counts;
use crate::record::Record;
use crate::reflect::stamp::AUTHENTICATED_BYTES;
use crate::reflect::{End, Mode, Reflector, ReflectorSettings, SLACK};
use crate::udp::{Socket, Wait};

use clock::{LoopClock, Slept};
pub use port::{Port, SocketPort};
use residence::Waiting;
pub use stamp_clock::StampClock;
pub use state::{Shared, State, Warnings};

/// How late an expiry may be handled, except where the exact time matters. Also how long a receive
/// waits before the worker treats its socket as idle.
pub const TICK: Duration = Duration::from_millis(100);

/// How long a stopping worker continues to answer received datagrams.
const DRAIN: Duration = Duration::from_millis(250);

/// How long an expiry can be delayed by datagrams that are still in the socket.
const MAX_EXPIRY_DELAY: Duration = Duration::from_millis(300);

/// The pause after a receive error, so that a socket with permanent errors uses little CPU time.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// How long an error estimate of the clock is used.
const CLOCK_PERIOD: Duration = Duration::from_secs(1);

/// The number of polls per reading of the clock.
const POLLS: u32 = 16;

/// The number of slots if each holds one datagram.
const BATCH: usize = 64;
/// The number of slots if each holds a GRO batch.
const GRO_BATCHES: usize = 16;
/// The number of slots in STAMP mode. A reply's T3 is read when it is queued, so few are sent at once.
const STAMP_BATCH: usize = 8;
const _: () = assert!(BATCH <= SLACK, "the core keeps the peers of a batch");

/// The options of a worker.
#[derive(Debug, Clone, Copy)]
pub struct WorkerOptions {
    /// How long to poll after a datagram before blocking.
    pub busy_poll: Duration,
    /// Whether to measure residence times by kernel receive timestamps.
    pub timestamps: bool,
    /// No queued datagram was received before this time.
    pub waiting_since: Instant,
    /// Reads the time of day, since 1970.
    pub time_of_day: fn() -> Duration,
    /// The error estimate of that time, for STAMP.
    pub stamp_clock: StampClock,
}

/// Why a worker stopped.
#[derive(Debug)]
pub enum Stopped {
    /// [`Shared::stop`] was set.
    Asked,
    /// An event that `exit_on` names.
    End(End),
    /// The socket is unusable.
    SocketLost(io::Error),
    /// The worker panicked.
    Panicked,
}

/// The loop of one thread over one port.
#[derive(Debug)]
pub struct Worker<P> {
    port: P,
    reflector: Reflector,
    /// The worker's number, from 0.
    index: usize,
    counts: Arc<Counts>,
    shared: Arc<Shared>,
    clock: LoopClock,
    options: WorkerOptions,
    waiting: Waiting,
    /// Receive timestamps of answered requests, each with its number of replies.
    answered: Vec<(Duration, usize)>,
    /// The port's current receive timeout.
    receive_timeout: Option<Duration>,
    /// Whether the last blocking receive timed out.
    is_idle: bool,
    /// Whether to poll the socket once more before an expiry.
    look_again: bool,
    /// When the error estimate of the clock was read.
    clock_error_at: Option<Instant>,
    /// When an expiry that is delayed by more datagrams was first due.
    due_since: Option<Instant>,
    /// Whether the log shows each datagram.
    verbose: bool,
}

/// Allocates the slots for a socket, as `settings` require.
pub fn port(socket: Arc<Socket>, settings: &ReflectorSettings) -> SocketPort {
    // If a datagram can end the daemon, use one slot: datagrams behind it stay in the socket for
    // the next process.
    let ends = settings.exit_on.empty || settings.exit_on.decode_error;
    let slots = match socket.receives_batches() {
        _ if ends => 1,
        _ if settings.mode == Mode::Stamp => STAMP_BATCH,
        true => GRO_BATCHES,
        false => BATCH,
    };
    let least = match settings.mode {
        Mode::Stamp => AUTHENTICATED_BYTES,
        Mode::Exchange | Mode::Lockstep | Mode::Echo => Record::BYTES,
    };
    SocketPort::new(socket, slots, settings.max_datagram.max(least))
}

impl<P: Port> Worker<P> {
    /// A worker with the number `index` in `shared`. Call it on the thread that runs the worker.
    pub fn new(
        port: P,
        reflector: Reflector,
        options: WorkerOptions,
        index: usize,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            port,
            // The clock starts when the reflector was created, so that it misses no time.
            clock: LoopClock::new(reflector.totals().idle_since),
            reflector,
            options,
            waiting: Waiting::new(options.waiting_since),
            index,
            answered: Vec::with_capacity(BATCH),
            counts: Arc::clone(&shared.counts[index]),
            shared,
            receive_timeout: None,
            is_idle: false,
            look_again: false,
            clock_error_at: None,
            due_since: None,
            verbose: false,
        }
    }

    /// Runs until asked to stop or until it cannot continue. Answers all datagrams it received.
    pub fn run(mut self) -> Stopped {
        match self.serve() {
            Ok(()) => self.drain(),
            Err(stopped) => stopped,
        }
    }

    fn serve(&mut self) -> Result<(), Stopped> {
        self.receive_timeout = Some(TICK);
        let set = self.port.set_receive_timeout(self.receive_timeout);
        set.map_err(Stopped::SocketLost)?;
        let mut poll_until = self.clock.real();
        while !self.shared.stop.load(Relaxed) {
            let polling = self.clock.real() < poll_until;
            let wait = if polling || self.look_again {
                Wait::Poll
            } else {
                self.set_receive_timeout().map_err(Stopped::SocketLost)?;
                Wait::Block
            };
            let polls = if polling { POLLS } else { 1 };
            if self.round(wait, polls)? {
                let now = self.clock.real();
                poll_until = now.checked_add(self.options.busy_poll).unwrap_or(now);
            }
        }
        Ok(())
    }

    /// Answers datagrams that arrived before the request to stop.
    fn drain(&mut self) -> Stopped {
        // The protocol's time excludes pauses of the machine.
        let deadline = self.clock.now() + DRAIN;
        loop {
            match self.round(Wait::Poll, 1) {
                Ok(true) if self.clock.now() < deadline => {}
                Ok(_) => return Stopped::Asked,
                Err(stopped) => return stopped,
            }
        }
    }

    /// Receives with up to `tries` calls and handles the datagrams. Returns whether there were any.
    fn round(&mut self, wait: Wait, tries: u32) -> Result<bool, Stopped> {
        let asked = match wait {
            Wait::Block => self.receive_timeout.unwrap_or(Duration::MAX),
            Wait::Poll => Duration::ZERO,
        };
        self.show_progress(self.clock.real(), asked);
        let most = self.slots();
        let asked_at = self.clock.real();
        let received = self.receive(wait, tries, most);
        let failed = received.as_ref().err().map(io::Error::kind);
        let interrupted = failed == Some(io::ErrorKind::Interrupted);
        let is_empty = failed == Some(io::ErrorKind::WouldBlock);
        let received = match received {
            Ok(received) => received,
            Err(error) => {
                self.receive_error(error, wait)?;
                0
            }
        };
        let emptied = is_empty || (1..most).contains(&received);
        let slept = Slept {
            asked,
            interrupted,
            emptied,
        };
        self.clock.read(slept, self.reflector.next_expiry());
        let mut end = None;
        if received > 0 {
            self.is_idle = false;
            self.verbose = enabled!(Level::DEBUG);
            self.counts
                .last_datagram
                .set(self.shared.epoch, self.clock.real());
            self.update_clock_error();
            end = self.handle(received);
        }
        if emptied {
            self.waiting.was_empty_after(asked_at);
        }
        let now = self.clock.now();
        let due = self.reflector.next_expiry().is_some_and(|at| at <= now);
        self.look_again = false;
        if !due {
            self.due_since = None;
        } else if end.is_none() {
            // Queued datagrams arrived in time. The delay is limited, because a flood of refused
            // datagrams never ends.
            let since = *self.due_since.get_or_insert(now);
            let late = now.saturating_duration_since(since) >= MAX_EXPIRY_DELAY;
            // Datagrams that arrived before the clock was read are in time as well. A signal can
            // end a receive although datagrams are queued.
            self.look_again = wait == Wait::Block && received < most && !late;
            if late || (received < most && !self.look_again) {
                end = self.reflector.expire(now, self.last_datagram_elsewhere());
            }
        }
        self.publish();
        match end {
            Some(end) => Err(Stopped::End(end)),
            None => Ok(received > 0),
        }
    }

    /// Reads the error estimate of the clock if the last one is too old.
    fn update_clock_error(&mut self) {
        let now = self.clock.real();
        let is_fresh = |at| now.saturating_duration_since(at) < CLOCK_PERIOD;
        if self.reflector.mode() == Mode::Stamp && !self.clock_error_at.is_some_and(is_fresh) {
            self.clock_error_at = Some(now);
            self.reflector
                .set_clock_error(self.options.stamp_clock.read());
        }
    }

    /// The number of slots that a round may fill. Logging each datagram is slow, so with it a round
    /// takes one GRO batch.
    fn slots(&self) -> usize {
        if self.verbose && self.port.receives_batches() {
            1
        } else {
            self.port.slots()
        }
    }

    /// Receives into up to `most` slots with up to `tries` calls.
    fn receive(&mut self, wait: Wait, tries: u32, mut most: usize) -> io::Result<usize> {
        for _ in 1..tries {
            match self.port.receive(wait, most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
                done => return done,
            }
            // After an empty poll, more than one datagram is unlikely.
            most = 1;
        }
        self.port.receive(wait, most)
    }

    /// Handles an error of a receive call. Fails only if the socket is unusable.
    fn receive_error(&mut self, error: io::Error, wait: Wait) -> Result<(), Stopped> {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => {
                self.is_idle |= wait == Wait::Block;
                self.port.queue_emptied().map_err(Stopped::SocketLost)
            }
            Some(libc::EINTR) => Ok(()),
            Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT) => {
                Err(Stopped::SocketLost(error))
            }
            _ => {
                let kind = self.counts.receive_errors.count(&error);
                let now = self.clock.since(self.shared.epoch);
                if let Some(more) = self.shared.warnings.receive[kind].pass(now) {
                    let listen = self.port.named(self.port.address());
                    warn!("cannot receive on {listen}: {error}{more}");
                }
                thread::sleep(ERROR_PAUSE);
                Ok(())
            }
        }
    }

    /// Makes the next receive time out at the next expiry. Setting the timeout costs a system call,
    /// so one that is too short stays while datagrams arrive.
    fn set_receive_timeout(&mut self) -> io::Result<()> {
        let due = self.reflector.next_expiry();
        let left = due.map(|at| at.saturating_duration_since(self.clock.now()));
        let exactly = self.reflector.expires_exactly();
        let wanted = left.map(|left| if exactly { left } else { left.max(TICK) });
        let is_good = match (self.receive_timeout, wanted) {
            (Some(set), Some(wanted)) if exactly => set == wanted,
            (Some(set), Some(wanted)) if set > wanted => set < wanted.saturating_add(TICK),
            (None, wanted) => wanted.is_none(),
            // The set timeout is too short.
            (Some(set), wanted) => !self.is_idle || Some(set) == wanted,
        };
        if !is_good {
            self.port.set_receive_timeout(wanted)?;
            self.receive_timeout = wanted;
        }
        Ok(())
    }

    /// When another socket last received a datagram, in the protocol's time. `None` if it does not
    /// matter: `exit_on.timeout` requires that all sockets are idle.
    fn last_datagram_elsewhere(&self) -> Option<Instant> {
        if !self.reflector.expires_exactly() {
            return None;
        }
        let states = self.shared.states.iter();
        let last = states.filter_map(|state| state.idle_since.get(self.shared.epoch));
        Some(self.clock.to_protocol(last.max()?))
    }

    /// Publishes the heartbeat and the deadline of the next one.
    fn show_progress(&self, now: Instant, asked: Duration) {
        let state = &self.shared.states[self.index];
        state.progress.set(self.shared.epoch, now);
        let due = now.checked_add(asked).unwrap_or(now + FOR_EVER);
        state.due.set(self.shared.epoch, due);
    }

    /// Publishes the core's totals.
    fn publish(&self) {
        let totals = self.reflector.totals();
        let counts = &self.counts;
        counts.peers.set(totals.peers);
        counts.evicted.set(totals.evicted);
        counts.record_timeouts.set(totals.records_expired);
        counts.idle_timeouts.set(totals.idle_timeouts);
        if let Some(totals) = self.reflector.stamp_totals() {
            counts.stamp.set(&totals);
        }
        let idle_since = self.clock.to_real(totals.idle_since);
        let state = &self.shared.states[self.index];
        state.idle_since.set(self.shared.epoch, idle_since);
    }
}

/// Longer than any daemon runs.
const FOR_EVER: Duration = Duration::from_hours(24 * 365 * 100);
