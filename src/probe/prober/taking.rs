//! What the loop takes: replies, records that came back, ICMP errors.

use std::io;
use std::time::Duration;

use super::{BATCH, Prober};
use crate::probe::notes::Trouble;
use crate::probe::tally::Came;
use crate::probe::wire::{Change, HEADER_BYTES, Seen};
use crate::udp::{Rejection, Wait};

/// What a socket's receive timeout is exact to, on any kernel.
const COARSE: Duration = Duration::from_millis(20);

impl Prober<'_> {
    /// Takes some of what came, after waiting for it. Says how much, errors included.
    pub(super) fn receive(&mut self, timeout: Duration) -> io::Result<u64> {
        if !timeout.is_zero() {
            self.screen.flush();
        }
        let Some(ready) = &mut self.ready else {
            let mut wait = Wait::Poll;
            if timeout > COARSE * 2 {
                self.set_receive_timeout(timeout.saturating_sub(COARSE))?;
                wait = Wait::Block;
            } else if !timeout.is_zero() && !self.flows[0].wait_readable(timeout)? {
                return Ok(0);
            }
            return Ok(self.take(0, wait));
        };
        let mut found = std::mem::take(&mut self.found);
        ready.wait(timeout, &mut found)?;
        let taken = found.iter().map(|flow| self.take(*flow, Wait::Poll)).sum();
        self.found = found;
        Ok(taken)
    }

    fn set_receive_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        // Nothing is lost by a wait that is a little shorter; most need no call then.
        let steps = timeout.as_millis() / COARSE.as_millis();
        let timeout = COARSE * u32::try_from(steps.max(1)).unwrap_or(1);
        if timeout != self.receive_timeout {
            self.flows[0].set_receive_timeout(Some(timeout))?;
            self.receive_timeout = timeout;
        }
        Ok(())
    }

    /// Takes some of what came on a flow. Says how much.
    fn take(&mut self, flow: usize, wait: Wait) -> u64 {
        // With one request in flight one datagram is all there is (Batch::receive).
        let most = self.tally.outstanding().clamp(1, BATCH as u64);
        let most = usize::try_from(most).unwrap_or(BATCH);
        match self.batch.receive(&self.flows[flow], wait, most) {
            Ok(count) => {
                let now = self.clock.moment();
                for slot in 0..count {
                    let received = self.batch.meta(slot);
                    let bytes = self.batch.bytes(slot);
                    let seen = self.run.read(bytes, received.length);
                    let at = now.of_receipt(received.received_at);
                    self.came(flow, seen, received.length, at, now.at);
                }
                count as u64
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                if !self.take_rejections(flow) && self.tally.rejected_on(flow) {
                    self.trouble(Trouble::Rejected {
                        errno: error.raw_os_error().unwrap_or(0),
                        icmp: None,
                        from: None,
                    });
                }
                1
            }
        }
    }

    /// Something came on a flow.
    fn came(&mut self, flow: usize, seen: Seen, length: usize, at: Duration, by: Duration) {
        let target = self.address;
        match seen {
            Seen::Foreign => self.notes.foreign += 1,
            Seen::Damaged => {
                self.tally.damaged();
                if length < HEADER_BYTES {
                    self.notes.cut_to = self.notes.cut_to.max(Some(length));
                }
                self.tell(format_args!(
                    "{length} bytes from {target}: damaged, it cannot be told whose reply it is"
                ));
            }
            Seen::Record { sequence, earlier } => {
                self.notes.records_back += 1;
                if let Some(due) = self.turns.record_came_back(flow, sequence, earlier) {
                    self.send_record(due, None);
                }
            }
            Seen::Reply { sequence, change } => {
                if let Change::Cut { length } = change {
                    self.notes.cut_to = self.notes.cut_to.max(Some(length));
                }
                let came = self.tally.reply(sequence, change != Change::None, at, by);
                if let Came::First { flow, rtt, .. } = came
                    && let Some(due) = self.turns.replied(flow, sequence, rtt, at, by)
                {
                    self.send_record(due, Some(rtt));
                }
                self.tell_reply(sequence, change, length, came);
            }
        }
    }

    /// Takes what ICMP errors there are about what a flow sent. Says whether there were any.
    pub(super) fn take_rejections(&mut self, flow: usize) -> bool {
        let mut any = false;
        while let Some(rejection) = self.flows[flow].take_rejection() {
            any = true;
            self.take_rejection(flow, &rejection);
        }
        any
    }

    /// Counts an ICMP error if it is about a request that waits: a forger can send any number of
    /// others.
    fn take_rejection(&mut self, flow: usize, rejection: &Rejection) {
        let bytes = &rejection.bytes;
        let is_about_one = match self.run.read(bytes, bytes.len()) {
            Seen::Reply { sequence, .. } => self.rejected(sequence),
            // Nothing of it has to come back (RFC 792): then it is about what the flow waits for.
            _ if bytes.len() < HEADER_BYTES => match self.turns.asked_on(flow) {
                Some(sequence) => self.rejected(sequence),
                None => self.turns.is_plain() && self.tally.rejected_on(flow),
            },
            _ => false,
        };
        if is_about_one {
            self.trouble(Trouble::from(rejection));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::probe::Config;
    use crate::probe::notes::Errors;
    use crate::probe::pace::Frequency;
    use crate::probe::screen::Screen;
    use crate::reflect::Mode;
    use crate::udp::Icmp;

    /// What is counted when so many requests were sent, and then come ICMP errors from ever new
    /// addresses: each with the sequence number of a request, or without.
    fn counted(mode: Mode, requests: usize, errors: &[Option<u64>]) -> (Vec<u64>, u64) {
        let silent = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let target = silent.local_addr().unwrap();
        let config = Config {
            target: target.to_string().parse().unwrap(),
            mode,
            count: None,
            duration: None,
            frequency: Frequency {
                count: 1,
                time: Duration::from_secs(1),
            },
            size: 64,
            wait: Duration::from_secs(1),
            flows: 1,
            max_loss: 100.0,
            metrics_url: None,
            quiet: true,
            json: false,
        };
        let (mut screen, stops) = (Screen::new(), AtomicU32::new(0));
        let mut prober = Prober::new(&config, target, "", 7, &mut screen, &stops).unwrap();
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
            prober.take_rejection(0, &rejection);
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
            let seen = counted(mode, requests, &[about; 1000]);
            assert_eq!(seen, (vec![1; kinds], 0), "{mode:?} {about:?}");
        }
    }

    #[test]
    fn prober_counts_a_bounded_number_of_kinds_of_errors_apart() {
        let requests: Vec<_> = (1..=60).map(Some).collect();
        let (kinds, other) = counted(Mode::Echo, requests.len(), &requests);
        assert_eq!((kinds, other), (vec![1; Errors::MOST], 28));
    }
}
