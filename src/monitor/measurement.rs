//! The measurement of one address of a target: its requests, its sockets and what it counts.

mod receiving;
mod sending;

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::config::TargetSettings;
use super::engine::{BATCH, EngineState};
use super::figures::{EngineFigures, Figures, FlowFigures, Series};
use super::loss::LossDirection;
use super::schedule::Schedule;
use crate::probe::clock::RunClock;
use crate::probe::exchange::Exchanges;
use crate::probe::flows::{Flows, OwnAddresses};
use crate::probe::stamp::StampSessions;
use crate::probe::tally::Tally;
use crate::probe::wire::Run;
use crate::reflect::stamp::ErrorEstimate;
use crate::udp::{Batch, ConnectOptions, Rejection, Socket};

/// The parts that all measurements share: they run on one thread.
pub(super) struct Tools {
    pub(super) clock: RunClock,
    /// Error of this host's clock.
    pub(super) clock_error: ErrorEstimate,
    /// Whether there is a measurement of STAMP mode.
    pub(super) has_stamp: bool,
    state: Arc<EngineState>,
    /// Descriptors from this number on are left to other uses.
    most_sockets: RawFd,
    own_addresses: OwnAddresses,
    batch: Option<(usize, Batch)>,
    outgoing: Vec<u8>,
    rejections: Vec<Rejection>,
}

/// The measurement of one address.
#[derive(Debug)]
pub(super) struct Measurement {
    id: u64,
    settings: Arc<TargetSettings>,
    target: SocketAddr,
    series: Series,
    run: Run,
    stamp: Option<StampSessions>,
    loss: Vec<LossDirection>,
    tally: Tally,
    exchanges: Exchanges,
    schedule: Schedule,
    /// `None` while they cannot be opened.
    flows: Option<Flows>,
    /// The errno of the last attempt to open them, if it failed.
    open_error: Option<i32>,
    /// When to try again to open them.
    next_open: Duration,
    /// Whether the oldest due request waits for a flow: its delay is not that of this process.
    is_held: bool,
    is_stopping: bool,
    in_flight: u64,
    planned: Option<Duration>,
}

/// The most receive calls before a request is lost.
const MOST_UNREAD: usize = 1024;
/// Requested size of a socket's receive buffer in bytes: for some thousand replies to one request.
const RECEIVE_BUFFER: usize = 1 << 20;
/// The fraction of the interval by which the phases of two measurements differ: with the golden ratio
/// any number of them is spread evenly.
const GOLDEN: f64 = 0.618_033_988_749_895;

impl Tools {
    pub(super) fn new(clock: RunClock, state: Arc<EngineState>, most_sockets: RawFd) -> Self {
        Self {
            clock,
            clock_error: ErrorEstimate::UNKNOWN,
            has_stamp: false,
            state,
            most_sockets,
            own_addresses: OwnAddresses::default(),
            batch: None,
            outgoing: Vec::new(),
            rejections: Vec::new(),
        }
    }

    /// Changes the monitor's own figures.
    pub(super) fn count(&self, change: impl FnOnce(&mut EngineFigures)) {
        let figures = self.state.figures.lock();
        change(&mut figures.unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns a batch with slots of at least this size.
    fn batch(&mut self, slot_bytes: usize, socket: &Socket) -> &mut Batch {
        if self
            .batch
            .as_ref()
            .is_none_or(|(size, _)| *size < slot_bytes)
        {
            self.batch = Some((slot_bytes, Batch::new(BATCH, slot_bytes, socket)));
        }
        match &mut self.batch {
            Some((_, batch)) => batch,
            None => unreachable!("it was just made"),
        }
    }
}

impl Measurement {
    /// Prepares the measurement with the number `id`. `random` identifies its requests.
    pub(super) fn new(
        id: u64,
        settings: &Arc<TargetSettings>,
        target: SocketAddr,
        series: Series,
        random: u32,
    ) -> Self {
        let TargetSettings {
            mode,
            interval,
            flows,
            size,
            wait,
            ..
        } = **settings;
        // Those of twice the time to wait, and of a pause.
        let kept = (wait * 2).as_nanos() / interval.as_nanos().max(1) + 128;
        let kept = usize::try_from(kept).unwrap_or(1 << 22).min(1 << 22);
        let stamp = settings.stamp.as_ref();
        let loss = if stamp.is_some() { flows } else { 0 };
        Self {
            id,
            target,
            run: Run::new(random, size),
            stamp: stamp.map(|stamp| StampSessions::new(stamp.clone(), flows, kept, random)),
            loss: (0..loss).map(|_| LossDirection::default()).collect(),
            tally: Tally::new(flows, kept),
            exchanges: Exchanges::new(mode, flows, wait),
            schedule: Schedule::new(interval, Duration::ZERO),
            flows: None,
            open_error: None,
            next_open: Duration::ZERO,
            is_held: false,
            is_stopping: false,
            in_flight: 0,
            planned: None,
            settings: Arc::clone(settings),
            series,
        }
    }

    /// The number of the measurement.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The first request is due within an interval from `now`.
    #[expect(clippy::cast_precision_loss, reason = "a phase")]
    pub(super) fn start(&mut self, now: Duration) {
        let phase = (self.id as f64 * GOLDEN).fract();
        let interval = self.settings.interval;
        self.schedule = Schedule::new(interval, now + interval.mul_f64(phase));
        let mut figures = self.figures();
        let flows = self.settings.flows.max(figures.flows.len());
        figures.flows.resize(flows, FlowFigures::default());
        if self.stamp.is_some() && figures.stamp.is_none() {
            figures.stamp = Some(Box::default());
        }
    }

    /// Sends no more requests.
    pub(super) fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// The time of [`Self::plan`] when it was called last.
    pub(super) fn planned(&self) -> Option<Duration> {
        self.planned
    }

    /// Returns the time at which there is something to do. `None` if the measurement has ended.
    pub(super) fn plan(&mut self) -> Option<Duration> {
        let overdue = self.tally.oldest_waiting();
        let overdue = overdue.map(|(sent_at, _)| sent_at + self.settings.wait);
        let may_send = !self.is_stopping && self.exchanges.may_send();
        let request = may_send.then(|| self.schedule.next());
        let record = self.exchanges.next_deadline();
        self.planned = if self.is_stopping && self.in_flight == 0 {
            None
        } else {
            [overdue, request, record].into_iter().flatten().min()
        };
        self.planned
    }

    /// Counts the losses whose direction is not decided, at the end.
    pub(super) fn finish(&mut self) {
        self.settle();
        let unknown: u64 = self.loss.iter_mut().map(LossDirection::finish).sum();
        if let Some(counts) = &mut self.figures().stamp {
            counts.unknown_lost += unknown;
        }
    }

    /// Returns the number of datagrams that the kernel dropped.
    pub(super) fn drops(&self) -> u64 {
        self.flows.as_ref().map_or(0, Flows::drops)
    }

    /// Does what is due at `now`. `watch` enters a new socket of a flow for [`Self::receive_on`], and
    /// returns whether it could.
    pub(super) fn turn(
        &mut self,
        now: Duration,
        tools: &mut Tools,
        watch: &mut dyn FnMut(usize, &Socket) -> bool,
    ) {
        let freed = self.exchanges.next_deadline().unwrap_or(now);
        self.notice_hold(freed.min(now));
        self.expire(now, tools);
        while let Some(due) = self.exchanges.next_record(now) {
            self.send_record(due, None, tools);
        }
        if self.is_stopping {
            return;
        }
        let (skipped, due) = self.schedule.due(now);
        if skipped > 0 && !self.is_held {
            tools.count(|figures| figures.not_sent += skipped);
        }
        for _ in 0..due {
            let Some(flow) = self.exchanges.next_flow() else {
                self.is_held = true;
                break;
            };
            let late = self.schedule.sent(tools.clock.now());
            if !std::mem::take(&mut self.is_held) {
                tools.count(|figures| figures.schedule_delay.add(nanoseconds(late)));
            }
            self.send_request(flow, tools, watch);
        }
    }

    /// Notes that no flow was free until `at`, if that is so: a request that was due before then waited
    /// for a flow, not for this process. Call it before a flow becomes free.
    fn notice_hold(&mut self, at: Duration) {
        self.is_held |= !self.exchanges.may_send() && self.schedule.next() <= at;
    }

    /// Counts the requests as lost whose time to wait has passed.
    fn expire(&mut self, now: Duration, tools: &mut Tools) {
        let wait = self.settings.wait;
        while let Some((sent_at, flow)) = self.tally.oldest_waiting()
            && sent_at + wait <= now
        {
            // A reply that arrived in time may not have been read. A flood must not keep the loop here.
            let mut unread = 0..MOST_UNREAD;
            while unread.next().is_some() && self.receive_on(flow, tools) > 0 {}
            if self.tally.oldest_waiting() != Some((sent_at, flow)) {
                continue;
            }
            let before = sent_at + Duration::from_nanos(1);
            if let Some(flow) = self.tally.expire(before) {
                self.in_flight -= 1;
                let mut figures = self.figures();
                figures.lost += 1;
                figures.flows[flow].lost += 1;
            }
        }
        self.settle();
    }

    /// Counts the losses whose direction is decided now.
    fn settle(&mut self) {
        let Some(stamp) = &mut self.stamp else {
            return;
        };
        self.tally.oldest_waiting();
        let settled = self.tally.settled();
        let mut figures = self
            .series
            .figures
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(counts) = &mut figures.stamp else {
            return;
        };
        for (flow, loss) in self.loss.iter_mut().enumerate() {
            while let Some(request) = stamp.next_settled(flow, settled) {
                let decided = loss.add(request);
                counts.forward_lost += decided.forward;
                counts.backward_lost += decided.backward;
                counts.unknown_lost += decided.unknown;
            }
        }
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        let figures = self.series.figures.lock();
        figures.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The options of the sockets of a target.
pub(super) fn connect_options(settings: &TargetSettings) -> ConnectOptions {
    ConnectOptions {
        receive_buffer: RECEIVE_BUFFER,
        source: settings.source.clone(),
        ip: settings.ip,
        port: 0,
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
