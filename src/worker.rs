//! The loop: receive a batch, ask the core, send a batch, count.

mod answer;
mod clock;
pub mod log;
mod port;
mod residence;
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
use crate::reflect::{End, Reflector, ReflectorSettings, SLACK};
use crate::udp::{Socket, Wait};

use clock::{LoopClock, Slept};
pub use port::{Port, SocketPort};
use residence::Waiting;
pub use state::{Shared, State, Warnings};

/// How late what expires may be seen at most, unless the exact time matters; and how long a worker
/// waits at most before it knows that its socket is quiet.
pub const TICK: Duration = Duration::from_millis(100);

/// How long a worker that is to stop goes on to answer what was received, at most.
const DRAIN: Duration = Duration::from_millis(250);

/// How long a worker takes what comes, when time is to pass for the protocol, before it does.
const OVERTIME: Duration = Duration::from_millis(300);

/// How long to leave a socket alone that gave an error, so that one that gives nothing else
/// takes no CPU.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// How often a worker that polls does so for each look at the clock.
const POLLS: u32 = 16;

/// Datagrams a receive call.
const BATCH: usize = 64;
/// The same where each may be a GRO batch of as many again, with room for it.
const GRO_BATCHES: usize = 16;
const _: () = assert!(BATCH <= SLACK, "the core keeps the peers of a batch");

/// How a worker goes about it.
#[derive(Debug, Clone, Copy)]
pub struct WorkerOptions {
    /// How long to poll after a datagram before sleeping.
    pub busy_poll: Duration,
    /// Whether datagrams come with the time of their receipt.
    pub timestamps: bool,
    /// No datagram that waits in the socket came earlier.
    pub waiting_since: Instant,
    /// Reads the time of day, since 1970.
    pub today: fn() -> Duration,
}

/// Why a worker stopped.
#[derive(Debug)]
pub enum Stopped {
    /// It was asked to.
    Asked,
    /// The protocol came to an end that was asked for.
    End(End),
    /// The socket itself is gone.
    SocketLost(io::Error),
    /// It panicked.
    Panicked,
}

/// One thread's loop over one port.
#[derive(Debug)]
pub struct Worker<P> {
    port: P,
    reflector: Reflector,
    /// Which of the workers it is.
    index: usize,
    counts: Arc<Counts>,
    shared: Arc<Shared>,
    clock: LoopClock,
    options: WorkerOptions,
    waiting: Waiting,
    /// When the kernel received what was just answered, if it tells, and how many replies it got.
    answered: Vec<(Duration, usize)>,
    /// The receive timeout that the port has.
    receive_timeout: Option<Duration>,
    /// Whether the last receive waited in vain.
    is_quiet: bool,
    /// Whether to look into the socket once more before time passes for the protocol.
    look_again: bool,
    /// Since when time is to pass for the protocol, and does not because the socket gives more.
    due_since: Option<Instant>,
    /// Whether the log shows each datagram.
    verbose: bool,
}

/// The port of a worker that goes by `settings`.
pub fn port(socket: Arc<Socket>, settings: &ReflectorSettings) -> SocketPort {
    // Where a datagram can end the daemon, those in the slots behind it stay in the socket, for the
    // process that has it next.
    let ends = settings.exit_on.empty || settings.exit_on.decode_error;
    let slots = match socket.receives_batches() {
        _ if ends => 1,
        true => GRO_BATCHES,
        false => BATCH,
    };
    SocketPort::new(socket, slots, settings.max_datagram.max(Record::BYTES))
}

impl<P: Port> Worker<P> {
    /// The worker `index` of those that share `shared`, for a port and for the protocol with those
    /// that send to it. To be made on the thread that runs it.
    pub fn new(
        port: P,
        reflector: Reflector,
        options: WorkerOptions,
        index: usize,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            port,
            // From when the reflector was made: none of its time has passed unseen.
            clock: LoopClock::new(reflector.totals().quiet_since),
            reflector,
            options,
            waiting: Waiting::new(options.waiting_since),
            index,
            answered: Vec::with_capacity(BATCH),
            counts: Arc::clone(&shared.counts[index]),
            shared,
            receive_timeout: None,
            is_quiet: false,
            look_again: false,
            due_since: None,
            verbose: false,
        }
    }

    /// Runs until asked to stop or until it cannot go on. What was received by then is answered.
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

    /// Answers what was received before it was asked to stop.
    fn drain(&mut self) -> Stopped {
        // A pause of the machine is none of its time.
        let deadline = self.clock.now() + DRAIN;
        loop {
            match self.round(Wait::Poll, 1) {
                Ok(true) if self.clock.now() < deadline => {}
                Ok(_) => return Stopped::Asked,
                Err(stopped) => return stopped,
            }
        }
    }

    /// Receives, after so many tries, and handles what came. Returns whether anything came.
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
            self.is_quiet = false;
            self.verbose = enabled!(Level::DEBUG);
            self.counts
                .last_datagram
                .set(self.shared.epoch, self.clock.real());
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
            // Where more waits, it came in time; but not for ever, under a flood of what is refused.
            let since = *self.due_since.get_or_insert(now);
            let late = now.saturating_duration_since(since) >= OVERTIME;
            // What comes between the receive and the look at the clock came in time, and a
            // signal ends a receive whatever waits.
            self.look_again = wait == Wait::Block && received < most && !late;
            if late || (received < most && !self.look_again) {
                end = self.reflector.expire(now, self.heard_elsewhere());
            }
        }
        self.publish();
        match end {
            Some(end) => Err(Stopped::End(end)),
            None => Ok(received > 0),
        }
    }

    /// How many slots a round may fill: so many GRO batches that it takes no longer than other
    /// rounds where the log shows each datagram.
    fn slots(&self) -> usize {
        if self.verbose && self.port.receives_batches() {
            1
        } else {
            self.port.slots()
        }
    }

    /// Receives into up to `most` slots, after so many tries.
    fn receive(&mut self, wait: Wait, tries: u32, mut most: usize) -> io::Result<usize> {
        for _ in 1..tries {
            match self.port.receive(wait, most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
                done => return done,
            }
            // What comes next has only just come.
            most = 1;
        }
        self.port.receive(wait, most)
    }

    /// An error of a receive call: only one that means that the socket is gone is the end.
    fn receive_error(&mut self, error: io::Error, wait: Wait) -> Result<(), Stopped> {
        match error.raw_os_error() {
            // Nothing came in time.
            Some(libc::EAGAIN) => {
                self.is_quiet |= wait == Wait::Block;
                self.port.is_empty_now().map_err(Stopped::SocketLost)
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

    /// Has the next receive wake when something is to expire. A timeout that is set costs a system
    /// call: one that is too short stays as long as datagrams come.
    fn set_receive_timeout(&mut self) -> io::Result<()> {
        let due = self.reflector.next_expiry();
        let left = due.map(|at| at.saturating_duration_since(self.clock.now()));
        let exactly = self.reflector.expires_exactly();
        let wanted = left.map(|left| if exactly { left } else { left.max(TICK) });
        let is_good = match (self.receive_timeout, wanted) {
            (Some(set), Some(wanted)) if exactly => set == wanted,
            (Some(set), Some(wanted)) if set > wanted => set < wanted.saturating_add(TICK),
            (None, wanted) => wanted.is_none(),
            // It wakes too early.
            (Some(set), wanted) => !self.is_quiet || Some(set) == wanted,
        };
        if !is_good {
            self.port.set_receive_timeout(wanted)?;
            self.receive_timeout = wanted;
        }
        Ok(())
    }

    /// When another socket of the daemon last got a datagram, where that matters: a daemon is
    /// quiet only when all its sockets are.
    fn heard_elsewhere(&self) -> Option<Instant> {
        if !self.reflector.expires_exactly() {
            return None;
        }
        let states = self.shared.states.iter();
        let last = states.filter_map(|state| state.quiet_since.get(self.shared.epoch));
        Some(self.clock.to_protocol(last.max()?))
    }

    /// Lets others see that the worker lives, and how long it may be in its next receive.
    fn show_progress(&self, now: Instant, asked: Duration) {
        let state = &self.shared.states[self.index];
        state.progress.set(self.shared.epoch, now);
        let due = now.checked_add(asked).unwrap_or(now + FOR_EVER);
        state.due.set(self.shared.epoch, due);
    }

    /// Lets others see what the core counts.
    fn publish(&self) {
        let totals = self.reflector.totals();
        let counts = &self.counts;
        counts.peers.set(totals.peers);
        counts.evicted.set(totals.evicted);
        counts.record_timeouts.set(totals.records_given_up);
        counts.quiet_timeouts.set(totals.quiet);
        let quiet_since = self.clock.to_real(totals.quiet_since);
        let state = &self.shared.states[self.index];
        state.quiet_since.set(self.shared.epoch, quiet_since);
    }
}

/// Longer than any daemon runs.
const FOR_EVER: Duration = Duration::from_hours(24 * 365 * 100);
