//! The measurement of one address of a target: its requests, its sockets and what it counts.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;

use super::config::TargetSettings;
use super::engine::{BATCH, EngineState};
use super::figures::{EngineFigures, Figures, FlowFigures, Series};
use super::loss::LossDirection;
use super::schedule::Schedule;
use crate::metrics::errno_name;
use crate::probe::clock::RunClock;
use crate::probe::exchange::{DueRecord, Exchanges};
use crate::probe::flows::{Flows, Moved, OwnAddresses};
use crate::probe::icmp_kind;
use crate::probe::stamp::{FirstReply, StampEvent, StampReception, StampSessions};
use crate::probe::tally::{ReplyKind, Tally};
use crate::probe::wire::{Change, HEADER_BYTES, Message, Run};
use crate::record::Record;
use crate::reflect::Mode;
use crate::reflect::stamp::{AUTHENTICATED_BYTES, ErrorEstimate};
use crate::udp::{Batch, ConnectOptions, Rejection, Socket, Wait};

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
    target: std::net::SocketAddr,
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
/// The error of sockets that leave too few descriptors.
const TOO_MANY: &str = "too many open files; raise the limit (ulimit -n, LimitNOFILE=)";
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
        target: std::net::SocketAddr,
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

    /// Sends a request over a flow. A failed one counts as sent, and is lost after the time to wait.
    fn send_request(
        &mut self,
        flow: usize,
        tools: &mut Tools,
        watch: &mut dyn FnMut(usize, &Socket) -> bool,
    ) {
        if self.flows.is_none() {
            self.open(tools.most_sockets, watch);
        }
        let now = tools.clock.now();
        self.follow_address(flow, now, false, tools, watch);
        let sequence = self.tally.next_sequence();
        let now = self.write(flow, sequence, tools);
        self.tally.sent(flow, now);
        self.exchanges.request_sent(flow, sequence, now);
        self.in_flight += 1;
        {
            let mut figures = self.figures();
            figures.sent += 1;
            figures.flows[flow].sent += 1;
        }
        let mut sent = self.send(flow, tools);
        if let Err(libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::EINVAL) = sent
            && self.follow_address(flow, now, true, tools, watch)
        {
            self.exchanges.request_sent(flow, sequence, now);
            sent = self.send(flow, tools);
        }
        if let Err(errno) = sent {
            self.exchanges.request_rejected(flow, sequence);
            let mut figures = self.figures();
            *figures.send_errors.entry(errno_name(errno)).or_default() += 1;
        }
    }

    /// Writes a request. Returns the time at which it is sent.
    fn write(&mut self, flow: usize, sequence: u64, tools: &mut Tools) -> Duration {
        tools.outgoing.resize(self.settings.size, 0);
        let bytes = &mut tools.outgoing;
        let Some(stamp) = &mut self.stamp else {
            self.run.write(sequence, bytes);
            return tools.clock.now();
        };
        tools.has_stamp = true;
        let now = tools.clock.moment();
        let time_of_day = now.time_of_day();
        let time_of_day = time_of_day.unwrap_or_else(|| tools.clock.since_1970(now.at));
        stamp.write(flow, sequence, time_of_day, tools.clock_error, bytes);
        now.at
    }

    /// Sends the bytes that were written.
    fn send(&mut self, flow: usize, tools: &mut Tools) -> Result<(), i32> {
        let Some(flows) = &mut self.flows else {
            return Err(self.open_error.unwrap_or_default());
        };
        let bytes = &tools.outgoing[..];
        let sent = flows.send(flow, &mut tools.rejections, |socket| socket.send(bytes));
        flows.sent_on(flow);
        self.count_rejections(flow, tools);
        sent
    }

    fn send_record(&mut self, due: DueRecord, rtt: Option<Duration>, tools: &mut Tools) {
        let DueRecord {
            flow,
            sequence,
            attempt,
        } = due;
        let record = self.run.record(sequence, attempt, flow, rtt).encode();
        let Some(flows) = &self.flows else {
            return;
        };
        // A record that is not sent costs the next request at most.
        let _ = flows.send(flow, &mut tools.rejections, |socket| socket.send(&record));
        self.count_rejections(flow, tools);
    }

    /// Receives some datagrams of a flow. Returns their number, errors included.
    pub(super) fn receive_on(&mut self, flow: usize, tools: &mut Tools) -> usize {
        let slot_bytes = self.slot_bytes();
        let Some(flows) = &mut self.flows else {
            return 0;
        };
        let socket = &flows.sockets()[flow];
        // With one request in flight there is only one datagram to receive (see Batch::receive).
        let most = usize::try_from(self.in_flight).unwrap_or(BATCH);
        let received =
            tools
                .batch(slot_bytes, socket)
                .receive(socket, Wait::Poll, most.clamp(1, BATCH));
        match received {
            Ok(count) => {
                flows.received_on(flow);
                // The batch is apart while the datagrams are handled.
                let batch = tools.batch.take();
                if let Some((_, batch)) = &batch {
                    self.handle_all(flow, batch, count, tools);
                }
                tools.batch = batch;
                count
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
            Err(_) => {
                flows.take_rejections(flow, &mut tools.rejections);
                self.count_rejections(flow, tools);
                1
            }
        }
    }

    fn handle_all(&mut self, flow: usize, batch: &Batch, count: usize, tools: &mut Tools) {
        let now = tools.clock.moment();
        for slot in 0..count {
            let meta = batch.meta(slot);
            let bytes = batch.bytes(slot);
            let mut received = Received {
                ttl: meta.ttl,
                at: now.of_receipt(meta.received_at),
                by: now.at,
                in_reflector: Duration::ZERO,
                first: None,
            };
            let message = match &mut self.stamp {
                None => Some(self.run.parse(bytes, meta.length)),
                Some(stamp) => {
                    let reception = StampReception {
                        at: received.at,
                        time_of_day: meta.received_at.or(now.time_of_day()),
                        ttl: meta.ttl,
                        traffic_class: meta.traffic_class,
                    };
                    let sent_at = |sequence| self.tally.sent_at(sequence);
                    let (answer, event) =
                        stamp.receive(flow, bytes, meta.length, reception, sent_at);
                    if let Some(StampEvent::FirstReply(first)) = event {
                        received.first = Some(first);
                    }
                    received.in_reflector = answer.in_reflector();
                    answer.message(meta.length)
                }
            };
            if let Some(message) = message {
                self.handle(flow, message, &received, tools);
            }
        }
        if count > 0 {
            self.settle();
        }
    }

    /// Counts a datagram.
    fn handle(&mut self, flow: usize, message: Message, received: &Received, tools: &mut Tools) {
        self.notice_hold(received.at);
        match message {
            Message::Foreign => {}
            Message::Damaged => self.figures().corrupted += 1,
            Message::Record { sequence, attempt } => {
                if let Some(due) = self.exchanges.record_echoed(flow, sequence, attempt) {
                    self.send_record(due, None, tools);
                }
            }
            Message::Reply { sequence, change } => {
                let is_corrupted = match change {
                    Change::None => false,
                    // Many STAMP reflectors leave out padding.
                    Change::Truncated { .. } => self.stamp.is_none(),
                    Change::Altered => true,
                };
                self.handle_reply(sequence, is_corrupted, received, tools);
            }
        }
    }

    fn handle_reply(
        &mut self,
        sequence: u64,
        is_corrupted: bool,
        received: &Received,
        tools: &mut Tools,
    ) {
        let Received { at, by, .. } = *received;
        let sent_at = self.tally.sent_at(sequence);
        let is_late = sent_at.is_some_and(|sent_at| at > sent_at + self.settings.wait);
        if is_late && self.tally.is_waiting(sequence) {
            return;
        }
        let [counted_at, counted_by] =
            [at, by].map(|time| time.saturating_sub(received.in_reflector));
        let corrupted_before = self.tally.totals().corrupted;
        let kind = self
            .tally
            .reply(sequence, is_corrupted, counted_at, counted_by);
        let corrupted = self.tally.totals().corrupted - corrupted_before;
        let is_first = matches!(kind, ReplyKind::First { .. });
        let last_reply = tools.clock.since_1970(at);
        let mut figures = self.figures();
        figures.corrupted += corrupted;
        figures.duplicates += u64::from(matches!(kind, ReplyKind::Duplicate { .. }));
        if let ReplyKind::First {
            rtt,
            variations,
            reordered,
            ..
        } = kind
        {
            figures.received += 1;
            figures.reordered += u64::from(reordered);
            figures.rtt.add(nanoseconds(rtt));
            for variation in variations.into_iter().flatten() {
                figures.jitter.add(nanoseconds(variation));
            }
            figures.reply_ttl = received.ttl.or(figures.reply_ttl);
            figures.last_reply = figures.last_reply.max(last_reply);
            if let (Some(counts), Some(first)) = (&mut figures.stamp, &received.first) {
                if let Some(delay) = first.delay() {
                    counts.forward_delay.add(delay.forward);
                    counts.backward_delay.add(delay.backward);
                }
                for variation in first.variations() {
                    counts.forward_variation.add(variation.forward);
                    counts.backward_variation.add(variation.backward);
                }
            }
        }
        drop(figures);
        if !is_first {
            return;
        }
        self.in_flight -= 1;
        if let ReplyKind::First { rtt, flow, .. } = kind
            && let Some(due) = self.exchanges.reply_received(flow, sequence, rtt, at, by)
        {
            self.send_record(due, Some(rtt), tools);
        }
    }

    /// Counts the ICMP errors that answer a waiting request. Others are ignored: they may be forged.
    fn count_rejections(&mut self, flow: usize, tools: &mut Tools) {
        if !tools.rejections.is_empty() {
            self.notice_hold(tools.clock.now());
        }
        for rejection in std::mem::take(&mut tools.rejections) {
            let Some(icmp) = rejection.icmp else {
                continue;
            };
            let bytes = &rejection.bytes;
            let quoted = match &self.stamp {
                Some(stamp) => stamp.quoted(flow, bytes),
                None => match self.run.parse(bytes, bytes.len()) {
                    Message::Reply { sequence, .. } => Some(sequence),
                    _ => None,
                },
            };
            // An ICMP error need not quote the payload (RFC 792).
            let is_short = bytes.len() < HEADER_BYTES;
            let quoted = quoted.or_else(|| {
                let waiting = is_short.then(|| self.exchanges.waiting_request(flow));
                waiting.flatten()
            });
            let counts = match quoted {
                Some(sequence) => {
                    let is_first = self.tally.rejected(sequence).is_some();
                    if is_first {
                        self.exchanges.request_rejected(flow, sequence);
                    }
                    is_first
                }
                None => is_short && self.exchanges.is_plain() && self.tally.rejected_on(flow),
            };
            if counts {
                let mut figures = self.figures();
                *figures.icmp_errors.entry(icmp_kind(icmp)).or_default() += 1;
            }
        }
    }

    /// Opens the sockets.
    fn open(&mut self, most_sockets: RawFd, watch: &mut dyn FnMut(usize, &Socket) -> bool) {
        let opened = Flows::open(
            self.target,
            connect_options(&self.settings),
            self.settings.flows,
        );
        // The kernel chooses the lowest free number.
        let is_left = |socket: &Socket| socket.as_fd().as_raw_fd() < most_sockets;
        let (errno, error) = match opened {
            Ok(flows) if flows.sockets().iter().all(is_left) => {
                let mut sockets = flows.sockets().iter().enumerate();
                if sockets.all(|(flow, socket)| watch(flow, socket)) {
                    self.flows = Some(flows);
                    self.open_error = None;
                }
                return;
            }
            Ok(_) => (libc::EMFILE, TOO_MANY.to_owned()),
            Err(error) => (error.errno(), error.to_string()),
        };
        if self.open_error.replace(errno) != Some(errno) {
            let target = &self.settings.name;
            warn!("cannot probe target {target:?}: {error}; retrying at each request");
        }
    }

    /// Reconnects a flow before it sends, if this host's own address has changed. Returns whether it
    /// has a new socket.
    fn follow_address(
        &mut self,
        flow: usize,
        now: Duration,
        failed: bool,
        tools: &mut Tools,
        watch: &mut dyn FnMut(usize, &Socket) -> bool,
    ) -> bool {
        let moved = self.flows.as_mut();
        let Some(Moved { socket, from, to }) =
            moved.and_then(|flows| flows.moved(flow, now, failed, &mut tools.own_addresses))
        else {
            return false;
        };
        // Replies that have arrived.
        self.receive_on(flow, tools);
        if !watch(flow, &socket) {
            return false;
        }
        if let Some(flows) = &mut self.flows {
            flows.replace(flow, socket);
        }
        tracing::debug!(
            "target {:?}: own address changed from {from} to {to}; using the new one",
            self.settings.name
        );
        // In lockstep mode the exchange is not that of the peer.
        if self.settings.mode != Mode::Lockstep {
            self.exchanges.restart(flow);
        }
        true
    }

    fn slot_bytes(&self) -> usize {
        let least = match self.settings.mode {
            Mode::Stamp => AUTHENTICATED_BYTES,
            Mode::Exchange | Mode::Lockstep | Mode::Echo => Record::BYTES,
        };
        self.settings.size.max(least) + 1
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        let figures = self.series.figures.lock();
        figures.unwrap_or_else(PoisonError::into_inner)
    }
}

/// A received datagram without its content.
struct Received {
    /// TTL (IPv4) or hop limit (IPv6).
    ttl: Option<u8>,
    /// When it arrived.
    at: Duration,
    /// When it arrived at the latest.
    by: Duration,
    /// The part of the round trip that the reflector reports as its own.
    in_reflector: Duration,
    /// The first reply to a request, in STAMP mode.
    first: Option<FirstReply>,
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
