//! From what was received to what is sent: the core is asked, and everything is counted.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Shared, TICK, Worker, log, now};
use crate::exchange::{Action, Burst, Datagram, Destination, End, Refusal, Together, Verdict};
use crate::metrics::Counts;
use crate::udp::{self, Pieces, Received, Sent, Socket};

/// How long a round may wait for room in the send buffer, in all: a way that is too narrow for
/// what has to go back holds up the other peers no longer.
const PATIENCE: Duration = TICK;

/// Datagrams of one slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    slot: usize,
    /// Where the first begins and the last ends, in bytes.
    start: usize,
    end: usize,
}

impl Worker {
    /// Answers what a batch has, up to the slot of a datagram that ends the daemon.
    pub(super) fn handle(&mut self, slots: usize, now: Instant) -> Option<End> {
        let before = self.counts.received.get();
        let mut end = None;
        for slot in 0..slots {
            let received = self.batch.received(slot);
            let whole = Part {
                slot,
                start: 0,
                end: received.length,
            };
            end = self.answer(whole, &received, true, now);
            if end.is_some() {
                break;
            }
        }
        self.send(now);
        let datagrams = self.counts.received.get() - before;
        self.counts.batches.0.count(datagrams, 1);
        end
    }

    /// Answers datagrams of a slot: `together` where that comes to the same, or one by one.
    ///
    /// An end takes effect behind the slot: a GRO batch from an inherited socket cannot be put
    /// back. The rest of it is answered as the next process would do it, because a peer owes
    /// nothing after an end. The first end counts.
    fn answer(
        &mut self,
        part: Part,
        received: &Received,
        together: bool,
        now: Instant,
    ) -> Option<End> {
        let Part { slot, end, .. } = part;
        let mut start = part.start;
        let mut first_end = None;
        loop {
            if self.batch.is_full() {
                self.send(now);
            }
            if together && end - start > received.segment && self.may_go_together() {
                let most = start + Pieces::MOST * received.segment;
                let end = end.min(most);
                if self.answer_burst(Part { slot, start, end }, received, now) {
                    start = end;
                    if start == part.end {
                        return first_end;
                    }
                    continue;
                }
            }
            let next = end.min(start + received.segment);
            let bytes = self.batch.bytes(slot, start..next);
            let datagram = Datagram {
                peer: received.peer,
                destination: destination(&self.socket, received),
                at: self.received_at,
                length: next - start,
                bytes,
            };
            let Verdict { action, end: ends } = self.exchange.datagram(&datagram, now);
            if action == Action::SendFirst {
                // Then the core is asked again.
                self.send(now);
                continue;
            }
            if self.verbose {
                log::received(&self.socket, &datagram, &action);
            }
            count(&self.socket, &self.counts, &self.shared, &datagram, &action);
            if let Action::Echo { length, .. } = action {
                let pieces = Pieces::one(start, length);
                self.batch.reply(slot, pieces, received.info);
            }
            start = next;
            first_end = first_end.or(ends);
            if start == end {
                return first_end;
            }
        }
    }

    /// Whether the log does not show each datagram and the kernel sends bursts.
    fn may_go_together(&self) -> bool {
        !self.verbose && self.batch.sends_bursts()
    }

    /// Answers a burst as a whole, if the core can decide on it.
    fn answer_burst(&mut self, part: Part, received: &Received, now: Instant) -> bool {
        let Part { slot, start, end } = part;
        let bytes = self.batch.bytes(slot, start..end);
        let burst = burst(&self.socket, received, self.received_at, bytes);
        let Some(together) = self.exchange.burst(&burst, now) else {
            return false;
        };
        let all_or_none = matches!(together, Together::Exchange { .. });
        if !all_or_none {
            count_burst(&self.socket, &self.counts, &self.shared, &burst, together);
        }
        let (step, most) = match together {
            Together::Refuse(_) => return true,
            Together::Echo { most } => (received.segment, most),
            Together::Exchange { most } => (2 * received.segment, most),
        };
        let pieces = Pieces {
            start,
            end,
            step,
            length: received.segment.min(most),
            all_or_none,
        };
        self.batch.reply(slot, pieces, received.info);
        true
    }

    /// Sends the replies that wait.
    fn send(&mut self, now: Instant) {
        if self.batch.has_replies() {
            self.send_batch();
        }
        self.exchange.replies_sent();
        self.count_residence();
        if !self.unsent.is_empty() {
            let mut unsent = std::mem::take(&mut self.unsent);
            for part in unsent.drain(..) {
                let received = self.batch.received(part.slot);
                let end = self.answer(part, &received, false, now);
                debug_assert_eq!(end, None, "where one can end the daemon nothing is a burst");
            }
            self.send(now);
            self.unsent = unsent;
        }
    }

    fn send_batch(&mut self) {
        let sent_bursts = self.batch.sends_bursts();
        let Self {
            batch,
            exchange,
            counts,
            shared,
            socket,
            answered,
            unsent,
            options,
            verbose,
            received_at,
            attention,
            ..
        } = self;
        let round = *received_at;
        let time = || PATIENCE.saturating_sub(now().saturating_duration_since(round));
        batch.send(socket, time, |batch, sent| {
            let Sent {
                slot,
                pieces,
                result,
            } = sent;
            let received = batch.received(slot);
            let peer = received.peer;
            let bytes = batch.bytes(slot, pieces.start..pieces.end);
            match result {
                Ok(()) => {
                    counts.echoed.add(pieces.count() as u64);
                    counts.echoed_bytes.add(pieces.bytes() as u64);
                    if let Some(at) = received.received_at.filter(|_| options.timestamps) {
                        match answered.last_mut() {
                            // Of the same burst.
                            Some((last, count)) if *last == at => *count += pieces.count(),
                            _ => answered.push((at, pieces.count())),
                        }
                    }
                    if pieces.all_or_none {
                        let burst = burst(socket, &received, *received_at, bytes);
                        let most = pieces.length;
                        let together = Together::Exchange { most };
                        let datagrams = count_burst(socket, counts, shared, &burst, together);
                        exchange.burst_sent(peer, datagrams);
                    }
                    if *verbose {
                        log::sent(socket, peer, bytes);
                    }
                }
                Err(_) if pieces.all_or_none => {
                    exchange.burst_failed(peer, bytes.len().div_ceil(received.segment));
                    unsent.push(Part {
                        slot,
                        start: pieces.start,
                        end: pieces.end,
                    });
                }
                Err(error) => {
                    exchange.reply_failed(peer);
                    let kind = counts.send_errors.count(&error);
                    let passes = shared.warnings.send[kind].pass(attention.since(shared.epoch));
                    if let Some(more) = passes {
                        let peer = udp::named(peer, &**socket);
                        warn!("cannot send {} bytes to {peer}: {error}{more}", bytes.len());
                    }
                }
            }
        });
        // A round can have thousands of datagrams.
        counts.progress.set(shared.epoch, now());
        if sent_bursts && !batch.sends_bursts() {
            info!("the kernel cannot send bursts on the way to a peer: from now on none are sent");
        }
    }

    fn count_residence(&mut self) {
        if self.answered.is_empty() {
            return;
        }
        let (today, now) = ((self.options.today)(), now());
        for (received_at, replies) in self.answered.drain(..) {
            if let Some(residence) = self.waiting.residence(received_at, today, now) {
                self.counts.residence.0.count(residence, replies as u64);
            }
        }
    }
}

/// Counts a datagram that was received and what was done with it.
fn count(
    socket: &Socket,
    counts: &Counts,
    shared: &Shared,
    datagram: &Datagram<'_>,
    action: &Action,
) {
    counts.received.add(1);
    counts.received_bytes.add(datagram.length as u64);
    match action {
        Action::Echo { truncated, .. } => counts.truncated.add((*truncated).into()),
        Action::Decode(Ok(_)) => counts.decoded.add(1),
        Action::Decode(Err(short)) => {
            counts.decode_errors.add(1);
            let warned = &shared.warned_of_decode_errors;
            if !(warned.load(Relaxed) || warned.swap(true, Relaxed)) {
                warn!(
                    "cannot decode a record from {}: {short}. In this mode the datagram after \
                     each that was echoed is a record; --mode echo is the plain reflector. \
                     Further decode errors are only counted",
                    udp::named(datagram.peer, socket)
                );
            }
        }
        Action::Empty => counts.empty.add(1),
        Action::Refuse(Refusal::SourcePort) => counts.refused_source_port.add(1),
        Action::Refuse(Refusal::OwnAddress) => counts.refused_own_address.add(1),
        Action::Refuse(Refusal::Destination) => counts.refused_destination.add(1),
        Action::Refuse(Refusal::RateLimit) => counts.refused_rate_limit.add(1),
        Action::SendFirst => {}
    }
}

/// Counts the datagrams of a burst. Returns how many there are.
fn count_burst(
    socket: &Socket,
    counts: &Counts,
    shared: &Shared,
    burst: &Burst<'_>,
    together: Together,
) -> usize {
    let mut datagrams = 0;
    for (datagram, action) in together.actions(burst) {
        count(socket, counts, shared, &datagram, &action);
        datagrams += 1;
    }
    datagrams
}

/// A burst as the core sees it.
fn burst<'a>(socket: &Socket, received: &Received, at: Instant, bytes: &'a [u8]) -> Burst<'a> {
    Burst {
        peer: received.peer,
        destination: destination(socket, received),
        at,
        segment: received.segment,
        bytes,
    }
}

fn destination(socket: &Socket, received: &Received) -> Destination {
    if socket.is_forged(received) {
        return Destination::Source;
    }
    match received.info {
        Some(info) if socket.is_group(&info) => Destination::Group,
        info => Destination::Here {
            address: info.map(|info| info.destination),
            looped: info.is_some_and(|info| info.looped()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::sys::socket::setsockopt;
    use nix::sys::socket::sockopt::UdpGsoSegment;

    use super::*;
    use crate::exchange::{ExitOn, Mode};
    use crate::metrics::Count;
    use crate::worker::{Stopped, testing};

    #[test]
    fn gro_batch_is_counted_whole_when_a_datagram_ends_the_run() {
        for mode in [Mode::Exchange, Mode::Lockstep] {
            let socket = testing::socket(true);
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(socket.address()).unwrap();
            setsockopt(&client, UdpGsoSegment, &8).unwrap();
            client.send(&[7; 5 * 8]).unwrap();
            // It stays in the socket.
            client.send(b"next").unwrap();
            let exit_on = ExitOn {
                decode_error: true,
                ..ExitOn::default()
            };
            let (worker, shared) = testing::worker(socket, mode, exit_on, || Duration::ZERO);
            let stopped = worker.run();
            assert!(
                matches!(stopped, Stopped::End(End::DecodeError)),
                "{stopped:?}"
            );
            let counts = &shared.counts[0];
            let parts = [&counts.received, &counts.echoed, &counts.decode_errors];
            assert_eq!(parts.map(Count::get), [5, 3, 2], "{mode:?}");
        }
    }
}
