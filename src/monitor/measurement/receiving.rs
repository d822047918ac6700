//! Receives replies, echoed records and ICMP errors.

use std::io;
use std::time::Duration;

use super::{Measurement, Tools, nanoseconds};
use crate::monitor::engine::BATCH;
use crate::probe::icmp_kind;
use crate::probe::stamp::{FirstReply, StampEvent, StampReception};
use crate::probe::tally::ReplyKind;
use crate::probe::wire::{Change, HEADER_BYTES, Message};
use crate::record::Record;
use crate::reflect::Mode;
use crate::reflect::stamp::AUTHENTICATED_BYTES;
use crate::udp::{Batch, Wait};

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

impl Measurement {
    /// Receives some datagrams of a flow. Returns their number, errors included.
    pub(in crate::monitor) fn receive_on(&mut self, flow: usize, tools: &mut Tools) -> usize {
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
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
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
                    // A late reply shows nothing.
                    let sent_at = |sequence| {
                        let sent_at = self.tally.sent_at(sequence);
                        sent_at.filter(|sent_at| received.at <= *sent_at + self.settings.wait)
                    };
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
            figures.last_reply = last_reply;
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
    pub(super) fn count_rejections(&mut self, flow: usize, tools: &mut Tools) {
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

    fn slot_bytes(&self) -> usize {
        let least = match self.settings.mode {
            Mode::Stamp => AUTHENTICATED_BYTES,
            Mode::Exchange | Mode::Lockstep | Mode::Echo => Record::BYTES,
        };
        self.settings.size.max(least) + 1
    }
}
