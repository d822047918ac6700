//! Receives replies, echoed records and ICMP errors.

use std::io;
use std::time::Duration;

use super::{BATCH, Prober};
use crate::probe::notes::DeliveryError;
use crate::probe::stamp::StampReception;
use crate::probe::tally::ReplyKind;
use crate::probe::wire::{Change, HEADER_BYTES, Message};
use crate::udp::{Rejection, Wait};

/// Granularity of a receive timeout, on any kernel.
const GRANULARITY: Duration = Duration::from_millis(20);

/// A received datagram without its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    /// Length in bytes.
    pub length: usize,
    /// TTL (IPv4) or hop limit (IPv6).
    pub ttl: Option<u8>,
    /// When it arrived.
    pub at: Duration,
    /// When it arrived at the latest.
    pub by: Duration,
    /// The part of the round trip that the reflector reports as its own.
    pub in_reflector: Duration,
}

impl Prober<'_> {
    /// Waits for datagrams for at most `timeout`, and receives some. Returns their number, errors
    /// included.
    pub(super) fn receive(&mut self, timeout: Duration) -> io::Result<u64> {
        if !timeout.is_zero() {
            self.output.flush();
        }
        let Some(poller) = &mut self.poller else {
            let mut wait = Wait::Poll;
            if timeout > GRANULARITY * 2 {
                self.set_receive_timeout(timeout.saturating_sub(GRANULARITY))?;
                wait = Wait::Block;
            } else if !timeout.is_zero() && !self.flows.sockets()[0].wait_readable(timeout)? {
                return Ok(0);
            }
            return Ok(self.receive_on(0, wait));
        };
        let mut readable = std::mem::take(&mut self.readable);
        poller.wait(timeout, &mut readable)?;
        let taken = readable
            .iter()
            .map(|flow| self.receive_on(*flow, Wait::Poll))
            .sum();
        self.readable = readable;
        Ok(taken)
    }

    fn set_receive_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        // A slightly shorter wait does no harm, and saves most of the system calls.
        let steps = timeout.as_millis() / GRANULARITY.as_millis();
        let timeout = GRANULARITY * u32::try_from(steps.max(1)).unwrap_or(1);
        if timeout != self.receive_timeout {
            self.flows.sockets()[0].set_receive_timeout(Some(timeout))?;
            self.receive_timeout = timeout;
        }
        Ok(())
    }

    /// Receives some datagrams of a flow. Returns their number.
    pub(super) fn receive_on(&mut self, flow: usize, wait: Wait) -> u64 {
        // With one request in flight there is only one datagram to receive (see Batch::receive).
        let most = self.tally.outstanding().clamp(1, BATCH as u64);
        let most = usize::try_from(most).unwrap_or(BATCH);
        match self.batch.receive(&self.flows.sockets()[flow], wait, most) {
            Ok(count) => {
                self.flows.received_on(flow);
                let now = self.clock.moment();
                for slot in 0..count {
                    let meta = self.batch.meta(slot);
                    let mut received = Received {
                        length: meta.length,
                        ttl: meta.ttl,
                        at: now.of_receipt(meta.received_at),
                        by: now.at,
                        in_reflector: Duration::ZERO,
                    };
                    let bytes = self.batch.bytes(slot);
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
                            let answer =
                                stamp.receive(flow, bytes, meta.length, reception, sent_at);
                            received.in_reflector = answer.in_reflector();
                            answer.message(meta.length)
                        }
                    };
                    if let Some(message) = message {
                        self.handle(flow, message, received);
                    }
                }
                count as u64
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                if !self.take_rejections(flow) && self.tally.rejected_on(flow) {
                    let error = DeliveryError::Rejected {
                        errno: error.raw_os_error().unwrap_or(0),
                        icmp: None,
                        from: None,
                    };
                    self.count_error(None, error);
                }
                1
            }
        }
    }

    /// Counts and prints a datagram.
    fn handle(&mut self, flow: usize, message: Message, received: Received) {
        let Received {
            length,
            at,
            by,
            in_reflector,
            ..
        } = received;
        match message {
            Message::Foreign => self.notes.foreign += 1,
            Message::Damaged => {
                self.tally.damaged();
                if length < HEADER_BYTES {
                    self.notes.truncated(length);
                }
                let target = self.address;
                self.note(format_args!(
                    "{length} bytes from {target}: damaged reply to an unknown request"
                ));
            }
            Message::Record { sequence, attempt } => {
                self.notes.records_echoed += 1;
                if let Some(due) = self.exchanges.record_echoed(flow, sequence, attempt) {
                    self.send_record(due, None);
                }
            }
            Message::Reply { sequence, change } => {
                match change {
                    Change::Truncated { length } => self.notes.truncated(length),
                    Change::None | Change::Altered => self.notes.whole_replies += 1,
                }
                let [counted_at, counted_by] = [at, by].map(|at| at.saturating_sub(in_reflector));
                let is_corrupted = match change {
                    Change::None => false,
                    // Many STAMP reflectors leave out padding: a fault of its own.
                    Change::Truncated { .. } => self.stamp.is_none(),
                    Change::Altered => true,
                };
                let kind = self
                    .tally
                    .reply(sequence, is_corrupted, counted_at, counted_by);
                if let ReplyKind::First {
                    flow,
                    rtt,
                    variations,
                    ..
                } = kind
                {
                    self.round_trips.add(rtt, variations);
                    if let Some(intervals) = &mut self.intervals {
                        intervals.add(rtt, variations);
                    }
                    let due = self.exchanges.reply_received(flow, sequence, rtt, at, by);
                    if let Some(due) = due {
                        self.send_record(due, Some(rtt));
                    }
                }
                self.report_reply(sequence, change, received, kind);
            }
        }
    }

    /// Reads and counts the ICMP errors about datagrams of a flow. Returns whether there were any.
    pub(super) fn take_rejections(&mut self, flow: usize) -> bool {
        let mut rejections = Vec::new();
        let any = self.flows.take_rejections(flow, &mut rejections);
        for rejection in rejections {
            self.count_rejection(flow, &rejection);
        }
        any
    }

    /// Counts an ICMP error that answers a waiting request. Others are ignored: they may be forged.
    pub(super) fn count_rejection(&mut self, flow: usize, rejection: &Rejection) {
        let bytes = &rejection.bytes;
        let error = rejection.into();
        if let Some(sequence) = self
            .stamp
            .as_ref()
            .and_then(|stamp| stamp.quoted(flow, bytes))
        {
            return self.rejected(sequence, error);
        }
        match self.run.parse(bytes, bytes.len()) {
            Message::Reply { sequence, .. } => self.rejected(sequence, error),
            // An ICMP error need not quote the payload (RFC 792). It is then about the request that
            // the flow waits for.
            _ if bytes.len() < HEADER_BYTES => match self.exchanges.waiting_request(flow) {
                Some(sequence) => self.rejected(sequence, error),
                None if self.exchanges.is_plain() && self.tally.rejected_on(flow) => {
                    self.count_error(None, error);
                }
                None => {}
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;
    use crate::probe::Config;
    use crate::probe::notes::Errors;
    use crate::probe::output::Output;
    use crate::probe::signals::Signals;
    use crate::reflect::Mode;
    use crate::udp::Icmp;

    /// Sends requests, then feeds in ICMP errors, each from a new address and with the sequence
    /// number of a request or without. Returns the counts of each kind and of further kinds.
    fn counted(mode: Mode, requests: usize, errors: &[Option<u64>]) -> (Vec<u64>, u64) {
        let silent = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let target = silent.local_addr().unwrap();
        let config = Config::example(&target.to_string(), mode);
        let (mut output, signals) = (Output::new(&config, ""), Signals::default());
        let mut prober = Prober::new(&config, target, "", 7, &mut output, &signals).unwrap();
        prober.send_requests(0, requests);
        for (from, sequence) in (1_u32..).zip(errors) {
            let mut bytes = vec![0; 64];
            match sequence {
                Some(sequence) => prober.run.write(*sequence, &mut bytes),
                None => bytes.clear(),
            }
            let rejection = Rejection {
                errno: libc::EHOSTUNREACH,
                icmp: Some(Icmp {
                    v6: false,
                    kind: 3,
                    code: 1,
                }),
                from: Some(Ipv4Addr::from_bits(from).into()),
                bytes,
            };
            prober.count_rejection(0, &rejection);
        }
        let errors = &prober.notes.errors;
        (
            errors.kinds().map(|(_, count)| count).collect(),
            errors.other(),
        )
    }

    #[test]
    fn prober_counts_icmp_errors_only_for_waiting_requests() {
        for (mode, requests, about, kinds) in [
            (Mode::Echo, 3, Some(2), 1),
            (Mode::Echo, 3, None, 3),
            (Mode::Echo, 3, Some(4), 0),
            (Mode::Exchange, 1, Some(1), 1),
            (Mode::Exchange, 1, None, 1),
            (Mode::Lockstep, 1, None, 1),
        ] {
            let counts = counted(mode, requests, &[about; 1000]);
            assert_eq!(counts, (vec![1; kinds], 0), "{mode:?} {about:?}");
        }
    }

    #[test]
    fn prober_lists_a_bounded_number_of_error_kinds() {
        let requests: Vec<_> = (1..=60).map(Some).collect();
        let (kinds, other) = counted(Mode::Echo, requests.len(), &requests);
        assert_eq!((kinds, other), (vec![1; Errors::MAX_KINDS], 29));
    }
}
