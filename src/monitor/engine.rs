//! The probing thread: sends the requests of all addresses when they are due, and receives the
//! replies.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::figures::EngineFigures;
use super::measurement::{Measurement, Tools};
use crate::probe::clock::RunClock;
use crate::udp::{self, Poller, Socket};
use crate::worker::StampClock;

/// A change of the addresses that are probed.
#[derive(Debug)]
pub(super) enum Command {
    /// Probes an address, from now on.
    Add(Box<Measurement>),
    /// Sends no more requests for the measurement with this number. Waits for the replies of those
    /// that were sent.
    Stop(u64),
}

/// The state of the engine that other threads see.
#[derive(Debug, Default)]
pub(super) struct EngineState {
    /// The engine's own figures.
    pub(super) figures: Mutex<EngineFigures>,
    /// Number of turns of the loop.
    pub(super) turns: AtomicU64,
    /// Ends the loop.
    pub(super) stop: AtomicBool,
}

/// Longest time to sleep, so that commands and the stop are noticed.
const TICK: Duration = Duration::from_millis(100);
/// Time in which the drops of all sockets are read, and the error of the clock.
const SWEEP: Duration = Duration::from_secs(5);
/// Datagrams per system call.
pub(super) const BATCH: usize = 64;
/// The most flows of a measurement, a power of two: a socket's number has both.
const FLOWS: u64 = 1 << 12;

/// The engine.
pub(super) struct Engine {
    commands: Receiver<Command>,
    state: Arc<EngineState>,
    measurements: BTreeMap<u64, Measurement>,
    /// When each measurement has something to do.
    due: BTreeSet<(Duration, u64)>,
    poller: Poller,
    readable: Vec<usize>,
    tools: Tools,
    /// Drops of each measurement's sockets at the last reading, and of those that ended.
    drops: BTreeMap<u64, u64>,
    ended_drops: u64,
    /// The next measurement whose drops are read, and when.
    swept: u64,
    next_sweep: Duration,
}

impl Engine {
    /// Prepares the engine.
    ///
    /// # Errors
    /// If no epoll instance can be opened.
    pub(super) fn new(commands: Receiver<Command>, state: Arc<EngineState>) -> io::Result<Self> {
        Ok(Self {
            commands,
            state: Arc::clone(&state),
            measurements: BTreeMap::new(),
            due: BTreeSet::new(),
            poller: Poller::new(std::iter::empty::<&Socket>())?,
            readable: Vec::new(),
            tools: Tools::new(RunClock::start(), state, most_sockets()),
            drops: BTreeMap::new(),
            ended_drops: 0,
            swept: 0,
            next_sweep: Duration::ZERO,
        })
    }

    /// Runs until [`EngineState::stop`].
    ///
    /// # Errors
    /// If waiting for replies fails.
    pub(super) fn run(mut self) -> io::Result<()> {
        while !self.state.stop.load(Relaxed) {
            self.state.turns.fetch_add(1, Relaxed);
            self.obey();
            let now = self.tools.clock.now();
            // A measurement that is due again at once waits until all sockets were read.
            let due: Vec<_> = self.due.range(..=(now, u64::MAX)).copied().collect();
            for (_, id) in due {
                self.turn(id, now);
            }
            self.sweep(now);
            let now = self.tools.clock.now();
            let next = self.due.first().map_or(now + TICK, |(at, _)| *at);
            let timeout = next.saturating_sub(now).min(TICK);
            let mut readable = std::mem::take(&mut self.readable);
            self.poller.wait(timeout, &mut readable)?;
            for token in &readable {
                self.receive(*token as u64);
            }
            self.readable = readable;
        }
        Ok(())
    }

    /// Carries out the commands of the other threads.
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            let now = self.tools.clock.now();
            match command {
                Command::Add(mut measurement) => {
                    measurement.start(now);
                    let id = measurement.id();
                    self.measurements.insert(id, *measurement);
                    self.plan(id, None);
                }
                Command::Stop(id) => {
                    if let Some(measurement) = self.measurements.get_mut(&id) {
                        let before = measurement.planned();
                        measurement.stop();
                        self.plan(id, before);
                    }
                }
            }
        }
    }

    /// Does what a measurement has to do at `now`.
    fn turn(&mut self, id: u64, now: Duration) {
        let Some(measurement) = self.measurements.get_mut(&id) else {
            return;
        };
        let before = measurement.planned();
        measurement.turn(now, &mut self.tools, &mut |flow, socket| {
            self.poller.add(token(id, flow), socket).is_ok()
        });
        self.plan(id, before);
    }

    /// Receives some datagrams of a socket.
    fn receive(&mut self, token: u64) {
        let id = token / FLOWS;
        let Some(measurement) = self.measurements.get_mut(&id) else {
            return;
        };
        let before = measurement.planned();
        let flow = usize::try_from(token % FLOWS).unwrap_or_default();
        measurement.receive_on(flow, &mut self.tools);
        self.plan(id, before);
    }

    /// Enters the time at which a measurement has to do something next, instead of `before`. Removes
    /// the measurement if it has ended.
    fn plan(&mut self, id: u64, before: Option<Duration>) {
        let Some(measurement) = self.measurements.get_mut(&id) else {
            return;
        };
        let next = measurement.plan();
        if next != before {
            if let Some(before) = before {
                self.due.remove(&(before, id));
            }
            if let Some(next) = next {
                self.due.insert((next, id));
            }
        }
        if next.is_none() {
            measurement.finish();
            self.read_drops(id);
            self.measurements.remove(&id);
            self.ended_drops += self.drops.remove(&id).unwrap_or_default();
        }
    }

    /// Reads the drops of some sockets, so that those of all are read in [`SWEEP`].
    fn sweep(&mut self, now: Duration) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + TICK;
        if self.tools.has_stamp {
            self.tools.clock_error = StampClock::Kernel.read();
        }
        let rounds = SWEEP.as_millis() / TICK.as_millis();
        let some = self.measurements.len() as u128 / rounds + 1;
        for _ in 0..some {
            let after = self.measurements.range(self.swept..).next();
            let Some((&id, _)) = after.or_else(|| self.measurements.iter().next()) else {
                break;
            };
            self.swept = id + 1;
            self.read_drops(id);
        }
        let drops = self.ended_drops + self.drops.values().sum::<u64>();
        self.tools.count(|figures| figures.socket_drops = drops);
    }

    fn read_drops(&mut self, id: u64) {
        if let Some(measurement) = self.measurements.get(&id) {
            self.drops.insert(id, measurement.drops());
        }
    }
}

/// Raises the limit on open files, as each flow needs a socket. Returns the number from which on
/// descriptors are left to HTTP and to names that are resolved: with none left, no scrape would show
/// that the limit is too low.
fn most_sockets() -> RawFd {
    const OTHERS: u64 = 128;
    let limit = udp::raise_open_file_limit().unwrap_or(u64::MAX);
    RawFd::try_from(limit - OTHERS.min(limit / 2)).unwrap_or(RawFd::MAX)
}

/// The number of a socket for the poller.
fn token(id: u64, flow: usize) -> usize {
    usize::try_from(id * FLOWS + flow as u64).unwrap_or_default()
}
