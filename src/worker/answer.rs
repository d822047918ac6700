//! Passes received datagrams to the core, sends the replies and counts both.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tracing::{info, warn};

use super::{Port, TICK, Worker, log};
use crate::metrics::Counts;
use crate::record::TooShort;
use crate::reflect::stamp::{NtpTimestamp, Reception, StampReply};
use crate::reflect::{Action, Datagram, Destination, End, Mode, Verdict};
use crate::udp::{RecvMeta, Sent, Transmit};

/// How long a round may wait in total for space in the send buffer. A slow route delays the replies
/// to other peers no longer than this.
const SEND_WAIT: Duration = TICK;

impl<P: Port> Worker<P> {
    /// Answers the received slots, up to the first with a datagram that ends the daemon.
    pub(super) fn handle(&mut self, slots: usize) -> Option<End> {
        let before = self.counts.received.get();
        let end = (0..slots).find_map(|slot| self.handle_slot(slot));
        self.send();
        let datagrams = self.counts.received.get() - before;
        self.counts.batches.0.count(datagrams, 1);
        end
    }

    /// Answers the datagram or the GRO batch of a slot.
    ///
    /// An end takes effect after the slot, because a GRO batch from an inherited socket cannot be
    /// put back. The rest of it is answered as the next process would, because a peer owes nothing
    /// after an end. The first end counts.
    fn handle_slot(&mut self, slot: usize) -> Option<End> {
        let meta = self.port.meta(slot);
        let destination = destination(&self.port, &meta);
        let shown = self.verbose.then(|| self.port.named(meta.peer));
        let reception = self.reception(&meta);
        let (mut start, mut end) = (0, None);
        loop {
            if self.port.is_full() {
                self.send();
            }
            // The log shows each datagram by itself.
            let together = !self.verbose && self.port.sends_batches();
            let most = if together { Transmit::MAX_SEGMENTS } else { 1 };
            let length = (meta.length - start).min(most * meta.segment);
            let mut datagram = Datagram {
                peer: meta.peer,
                destination,
                at: self.clock.real(),
                reception,
                length,
                segment: meta.segment.min(length),
                memory: self.port.memory(slot, start),
            };
            // A reply can replace the bytes of its request.
            let received = self.verbose.then(|| datagram.first().to_vec());
            let verdict = self.reflector.handle(&mut datagram, self.clock.now());
            if verdict.action == Action::SendFirst {
                self.send();
                continue;
            }
            if let Some(bytes) = received {
                let peer = shown.as_deref().unwrap_or_default();
                log::received(&bytes, &verdict.action, peer);
            }
            let handled = length.min(verdict.datagrams * meta.segment);
            count(&self.counts, handled, &verdict);
            if let Action::Decode(Err(short)) = verdict.action {
                self.warn_of_decode_error(meta.peer, short);
            }
            let reply = match verdict.action {
                Action::Reply { length, .. } => Some((length, None)),
                Action::StampReply(reply) => Some(self.complete(&reply, slot, start)),
                Action::Decode(_) | Action::Empty | Action::Refuse(_) | Action::SendFirst => None,
            };
            if let Some((length, traffic_class)) = reply {
                // The reply to a single datagram can be longer.
                let segment = match verdict.datagrams {
                    1 => length.max(1),
                    _ => meta.segment.max(1),
                };
                let transmit = Transmit {
                    slot,
                    start,
                    length,
                    segment,
                    traffic_class,
                };
                self.port.queue(transmit, meta.info);
            }
            start += handled;
            end = end.or(verdict.end);
            if start == meta.length {
                return end;
            }
        }
    }

    /// The data about a slot that only STAMP needs.
    fn reception(&self, meta: &RecvMeta) -> Reception {
        if self.reflector.mode() != Mode::Stamp {
            return Reception::default();
        }
        // The first datagram after the socket is opened can lack the timestamp.
        let at = meta.received_at.unwrap_or_else(self.options.time_of_day);
        Reception {
            at: NtpTimestamp::from_unix(at),
            ttl: meta.ttl,
            traffic_class: meta.traffic_class,
        }
    }

    /// Completes a reply with the time. Returns its length and traffic class; ECN is 0.
    fn complete(&mut self, reply: &StampReply, slot: usize, start: usize) -> (usize, Option<u8>) {
        let memory = self.port.memory(slot, start);
        let sent_at = NtpTimestamp::from_unix((self.options.time_of_day)());
        self.reflector.complete(reply, memory, sent_at);
        (reply.length, Some(reply.dscp << 2))
    }

    /// Sends the queued replies.
    fn send(&mut self) {
        if self.port.has_replies() {
            let sent_batches = self.port.sends_batches();
            let round = self.clock.stopwatch();
            let time = || SEND_WAIT.saturating_sub(round.passed());
            while let Some(sent) = self.port.send_next(time) {
                self.sent(sent);
            }
            // A round can take long: it can have thousands of datagrams.
            self.show_progress(round.now(), Duration::ZERO);
            if sent_batches && !self.port.sends_batches() {
                info!("UDP GSO failed on the route to a peer; disabled on this socket");
            }
        }
        self.reflector.batch_sent();
        self.count_residence();
    }

    /// Counts the result of a reply.
    fn sent(&mut self, Sent { transmit, result }: Sent) {
        let meta = self.port.meta(transmit.slot);
        let peer = meta.peer;
        match result {
            Ok(()) => {
                let datagrams = transmit.count();
                self.counts.echoed.add(datagrams as u64);
                self.counts.echoed_bytes.add(transmit.length as u64);
                if let Some(at) = meta.received_at.filter(|_| self.options.timestamps) {
                    match self.answered.last_mut() {
                        Some((last, count)) if *last == at => *count += datagrams,
                        _ => self.answered.push((at, datagrams)),
                    }
                }
                if self.verbose {
                    let peer = self.port.named(peer);
                    let memory = self.port.memory(transmit.slot, transmit.start);
                    log::sent(&memory[..transmit.length], &peer);
                }
            }
            Err(error) => {
                self.reflector.reply_failed(peer);
                let kind = self.counts.send_errors.count(&error);
                let now = self.clock.since(self.shared.epoch);
                if let Some(more) = self.shared.warnings.send[kind].pass(now) {
                    let (length, hint) = (transmit.length, hint(&error));
                    let peer = self.port.named(peer);
                    warn!("cannot send {length} bytes to {peer}: {error}{hint}{more}");
                }
            }
        }
    }

    /// Logs the first decode error with an explanation.
    fn warn_of_decode_error(&self, peer: SocketAddr, short: TooShort) {
        let warned = &self.shared.warned_of_decode_errors;
        if !(warned.load(Relaxed) || warned.swap(true, Relaxed)) {
            warn!(
                "cannot decode a record from {}: {short}; use --mode echo if every datagram is to \
                 be echoed, as this mode decodes the datagram after each echo. Further decode \
                 errors are counted, not logged",
                self.port.named(peer)
            );
        }
    }

    fn count_residence(&mut self) {
        if self.answered.is_empty() {
            return;
        }
        let (today, now) = ((self.options.time_of_day)(), self.clock.stopwatch().now());
        for (received_at, replies) in self.answered.drain(..) {
            if let Some(residence) = self.waiting.residence(received_at, today, now) {
                self.counts.residence.0.count(residence, replies as u64);
            }
        }
    }
}

/// Advice about a failed send, or nothing (send(2), udp(7)).
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; allow replies in the firewall of this host",
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES) => {
            "; check the route with `ip route get`"
        }
        _ => "",
    }
}

/// Counts received datagrams of `bytes` in total, and the core's decision.
fn count(counts: &Counts, bytes: usize, verdict: &Verdict) {
    let datagrams = verdict.datagrams as u64;
    counts.received.add(datagrams);
    counts.received_bytes.add(bytes as u64);
    match &verdict.action {
        Action::Reply { truncated, .. } => counts.truncated.add((*truncated).into()),
        Action::StampReply(reply) => counts.truncated.add(reply.truncated.into()),
        Action::Decode(Ok(_)) => counts.decoded.add(datagrams),
        Action::Decode(Err(_)) => counts.decode_errors.add(datagrams),
        Action::Empty => counts.empty.add(datagrams),
        Action::Refuse(refusal) => counts.refused[*refusal as usize].add(datagrams),
        Action::SendFirst => {}
    }
}

fn destination(port: &impl Port, meta: &RecvMeta) -> Destination {
    if port.is_forged(meta) {
        return Destination::Source;
    }
    match meta.info {
        Some(info) if port.is_broadcast_or_multicast(&info) => Destination::BroadcastOrMulticast,
        info => Destination::Here {
            address: info.map(|info| info.destination),
            over_loopback: info.is_some_and(|info| info.over_loopback()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use nix::sys::socket::setsockopt;
    use nix::sys::socket::sockopt::UdpGsoSegment;

    use super::*;
    use crate::metrics::Count;
    use crate::reflect::{ExitOn, Refusal};
    use crate::worker::{Stopped, testing};

    #[test]
    fn gro_batch_is_counted_whole_when_a_datagram_ends_the_run() {
        for mode in [Mode::Exchange, Mode::Lockstep] {
            let socket = testing::socket(true);
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(socket.address()).unwrap();
            setsockopt(&client, UdpGsoSegment, &8).unwrap();
            client.send(&[7; 5 * 8]).unwrap();
            // Stays in the socket.
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

    #[test]
    fn stamp_requests_are_answered_with_receive_time_and_ttl() {
        let socket = testing::socket(false);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(socket.address()).unwrap();
        client.set_ttl(77).unwrap();
        let mut forged = [0; 44];
        (forged[7], forged[19]) = (1, 1);
        for request in [&[7; 14][..], &[0; 44], &[0; 13], &forged, &[0; 100]] {
            client.send(request).unwrap();
        }
        let exit_on = ExitOn {
            timeout: true,
            ..ExitOn::default()
        };
        let sent_at = || Duration::from_secs(1 << 30);
        let (worker, shared) = testing::worker(socket, Mode::Stamp, exit_on, sent_at);
        assert!(matches!(worker.run(), Stopped::End(End::Timeout)));
        let mut reply = [0; 200];
        let seconds = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        for length in [44, 44, 100] {
            assert_eq!(client.recv(&mut reply).unwrap(), length);
            assert_eq!(reply[40], 77);
            assert_eq!(seconds(&reply[4..8]), (1 << 30) + 2_208_988_800);
            assert_ne!(reply[16..20], reply[4..8], "T2 is the kernel's");
            assert_ne!(reply[16..24], [0; 8]);
        }
        let counts = &shared.counts[0];
        let refused =
            [Refusal::TooShort, Refusal::Reply].map(|refusal| &counts.refused[refusal as usize]);
        assert_eq!(refused.map(Count::get), [1, 1]);
        let sessions = &counts.stamp.sessions;
        let parts = [
            &counts.received,
            &counts.echoed,
            sessions,
            &counts.stamp.reset,
        ];
        assert_eq!(parts.map(Count::get), [5, 3, 1, 2]);
    }
}
