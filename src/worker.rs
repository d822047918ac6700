//! The loop: receive a batch, ask the core, send a batch, count.

mod answering;
mod attention;
mod log;
mod residence;
#[cfg(test)]
mod testing;
mod warnings;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{Level, enabled, warn};

use crate::exchange::{End, Exchange, SLACK};
use crate::metrics::Counts;
use crate::record::Record;
use crate::udp::{self, Batch, Socket, Wait};

use answering::Part;
use attention::Attention;
use residence::Waiting;
pub use warnings::Warnings;

/// How long a worker sleeps at most: within it the worker sees that it is to stop, gives up
/// what did not come in time, and shows that it lives.
pub const TICK: Duration = Duration::from_millis(100);

/// How long a worker that is to stop goes on to answer what was received, at most.
const DRAIN: Duration = Duration::from_millis(250);

/// How long a worker takes what comes, when time is to pass for the exchange, before it does.
/// More than what a pause of the machine alone comes to: see [`Attention`].
const OVERTIME: Duration = Duration::from_millis(300);
const _: () = assert!(OVERTIME.as_millis() > 2 * TICK.as_millis());

/// How long to leave a socket alone that gave an error, so that one that gives nothing else
/// takes no CPU.
const ERROR_PAUSE: Duration = Duration::from_millis(1);

/// How often a worker that polls does so for each look at the clock.
const POLLS: u32 = 16;

/// Datagrams a receive call.
const BATCH: usize = 64;
/// The same where each may be a burst of as many again, with room for it.
const BURSTS: usize = 16;
const _: () = assert!(BATCH <= SLACK, "the core keeps the peers of a batch");

/// What all workers of a daemon share. The datagram path writes none of it.
#[derive(Debug)]
pub struct Shared {
    /// Set when the workers are to stop.
    pub stop: AtomicBool,
    /// What [`crate::metrics::Moment`]s count from.
    pub epoch: Instant,
    /// What each worker counts.
    pub counts: Box<[Arc<Counts>]>,
    /// Whether the first decode error was logged.
    pub warned_of_decode_errors: AtomicBool,
    /// What was warned of lately.
    pub warnings: Warnings,
}

/// How a worker goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Options {
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
    /// The exchange came to an end that was asked for.
    End(End),
    /// The socket itself is gone.
    SocketLost(io::Error),
    /// It panicked.
    Panicked,
}

/// One thread's loop over one socket.
#[derive(Debug)]
pub struct Worker {
    socket: Arc<Socket>,
    exchange: Exchange,
    counts: Arc<Counts>,
    shared: Arc<Shared>,
    batch: Batch,
    /// The exchange's time; see [`Attention`].
    attention: Attention,
    options: Options,
    /// When the kernel received what was just answered, if it tells, and how many replies it got.
    answered: Vec<(Duration, usize)>,
    waiting: Waiting,
    /// Bursts that could not be answered as one.
    unsent: Vec<Part>,
    /// When the last batch was received.
    received_at: Instant,
    /// The receive timeout that the socket has.
    receive_timeout: Duration,
    /// Whether to look into the socket once more before time passes for the exchange.
    look_again: bool,
    /// Since when time is to pass for the exchange, and does not because the socket gives more.
    due_since: Option<Instant>,
    /// Whether the log shows each datagram.
    verbose: bool,
}

impl Worker {
    /// A worker for `socket`, and for the exchange of those who send to it. To be made on the
    /// thread that runs it, so that its memory is near.
    pub fn new(
        socket: Arc<Socket>,
        exchange: Exchange,
        options: Options,
        counts: Arc<Counts>,
        shared: Arc<Shared>,
    ) -> Self {
        let settings = exchange.settings();
        // Where a datagram can end the daemon, those in the slots behind it stay in the socket, for
        // whoever has it next.
        let ends = settings.exit_on.empty || settings.exit_on.decode_error;
        let slots = match socket.gets_bursts() {
            _ if ends => 1,
            true => BURSTS,
            false => BATCH,
        };
        let slot_bytes = settings.max_datagram.max(Record::BYTES);
        let now = now();
        Self {
            batch: Batch::new(slots, slot_bytes, &socket),
            // From when the exchange was made: none of its time has passed unseen.
            attention: Attention::new(exchange.quiet_since()),
            exchange,
            socket,
            options,
            answered: Vec::with_capacity(BATCH),
            waiting: Waiting::new(options.waiting_since),
            unsent: Vec::with_capacity(BATCH),
            counts,
            shared,
            received_at: now,
            // It waits for ever as yet.
            receive_timeout: Duration::MAX,
            look_again: false,
            due_since: None,
            verbose: false,
        }
    }

    /// Runs until asked to stop or until it cannot go on. What was received by then is answered.
    pub fn run(mut self) -> Stopped {
        let mut now = now();
        let mut poll_until = now;
        while !self.shared.stop.load(Relaxed) {
            self.counts.progress.set(self.shared.epoch, now);
            let polling = now < poll_until;
            let wait = if polling || self.look_again {
                Wait::Poll
            } else if let Err(error) = self.set_receive_timeout() {
                return Stopped::SocketLost(error);
            } else {
                Wait::Block
            };
            let polls = if polling { POLLS } else { 1 };
            let came;
            (now, came) = match self.round(wait, polls) {
                Ok(round) => round,
                Err(stopped) => return stopped,
            };
            if came {
                poll_until = now.checked_add(self.options.busy_poll).unwrap_or(now);
            }
        }
        // A pause of the machine is none of its time.
        let deadline = self.attention.now() + DRAIN;
        loop {
            match self.round(Wait::Poll, 1) {
                Ok((_, true)) if self.attention.now() < deadline => {}
                Ok(_) => return Stopped::Asked,
                Err(stopped) => return stopped,
            }
        }
    }

    /// Receives, after so many tries, and handles what came. Returns the time, and whether
    /// anything came.
    fn round(&mut self, wait: Wait, tries: u32) -> Result<(Instant, bool), Stopped> {
        let most = self.slots();
        let asked_at = self.attention.real_now();
        let (received, is_empty) = match self.receive(wait, tries, most) {
            Ok(received) => (received, received < most),
            Err(error) => {
                let is_empty = error.kind() == io::ErrorKind::WouldBlock;
                self.receive_error(error)?;
                (0, is_empty)
            }
        };
        let now = now();
        let time = self.attention.advance(now);
        let mut end = None;
        if received > 0 {
            self.verbose = enabled!(Level::DEBUG);
            self.counts.last_datagram.set(self.shared.epoch, now);
            self.received_at = now;
            end = self.handle(received, time);
        }
        if is_empty {
            self.waiting.was_empty_after(asked_at);
        }
        let due = self.exchange.next_time().is_some_and(|at| at <= time);
        self.look_again = false;
        if !due {
            self.due_since = None;
        } else if end.is_none() {
            // Where more waits, it came in time; but not for ever, under a flood of what is refused.
            let since = *self.due_since.get_or_insert(time);
            let late = time.saturating_duration_since(since) >= OVERTIME;
            // What comes between the receive and the look at the clock came in time, and a
            // signal ends a receive whatever waits.
            self.look_again = wait == Wait::Block && received < most && !late;
            if late || (received < most && !self.look_again) {
                self.listen_to_others();
                end = self.exchange.time(time);
            }
        }
        self.publish();
        match end {
            Some(end) => Err(Stopped::End(end)),
            None => Ok((now, received > 0)),
        }
    }

    /// How many slots a round may fill: so many bursts that it takes no longer than other rounds
    /// where the log shows each datagram.
    fn slots(&self) -> usize {
        if self.verbose && self.socket.gets_bursts() {
            1
        } else {
            self.batch.slots()
        }
    }

    /// Receives into up to `most` slots, after so many tries.
    fn receive(&mut self, wait: Wait, tries: u32, mut most: usize) -> io::Result<usize> {
        for _ in 1..tries {
            match self.batch.receive(&self.socket, wait, most) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
                done => return done,
            }
            // What comes next has only just come.
            most = 1;
        }
        self.batch.receive(&self.socket, wait, most)
    }

    /// An error of a receive call: only one that means that the socket is gone is the end.
    fn receive_error(&self, error: io::Error) -> Result<(), Stopped> {
        match error.raw_os_error() {
            // Nothing came in time.
            Some(libc::EAGAIN) => self.socket.is_empty_now().map_err(Stopped::SocketLost),
            Some(libc::EINTR) => Ok(()),
            Some(libc::EBADF | libc::ENOTSOCK | libc::EINVAL | libc::EFAULT) => {
                Err(Stopped::SocketLost(error))
            }
            _ => {
                let kind = self.counts.receive_errors.count(&error);
                let now = self.attention.since(self.shared.epoch);
                if let Some(more) = self.shared.warnings.receive[kind].pass(now) {
                    let listen = udp::named(self.socket.address(), &*self.socket);
                    warn!("cannot receive on {listen}: {error}{more}");
                }
                thread::sleep(ERROR_PAUSE);
                Ok(())
            }
        }
    }

    /// Has the next receive wake at the tick, or before where the exact time matters.
    fn set_receive_timeout(&mut self) -> io::Result<()> {
        let mut timeout = TICK;
        if self.exchange.ends_by_time()
            && let Some(next) = self.exchange.next_time()
        {
            timeout = timeout.min(next.saturating_duration_since(self.attention.now()));
        }
        if timeout != self.receive_timeout {
            self.socket.set_receive_timeout(timeout)?;
            self.receive_timeout = timeout;
        }
        Ok(())
    }

    /// A daemon is quiet only when all its sockets are.
    fn listen_to_others(&mut self) {
        if !self.exchange.ends_by_time() {
            return;
        }
        for counts in &self.shared.counts {
            if let Some(at) = counts.quiet_since.get(self.shared.epoch) {
                self.exchange.heard_elsewhere(self.attention.shown(at));
            }
        }
    }

    /// Lets others see what the core counts.
    fn publish(&self) {
        let totals = self.exchange.totals();
        let counts = &self.counts;
        counts.peers.set(self.exchange.owing() as u64);
        counts.evicted.set(totals.evicted);
        counts.record_timeouts.set(totals.records_given_up);
        counts.quiet_timeouts.set(totals.quiet);
        let quiet_since = self.attention.real(self.exchange.quiet_since());
        counts.quiet_since.set(self.shared.epoch, quiet_since);
    }
}

/// The loop's clock.
#[expect(clippy::disallowed_methods, reason = "this is the loop")]
fn now() -> Instant {
    Instant::now()
}
