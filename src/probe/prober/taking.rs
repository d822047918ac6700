//! What the loop takes: replies, records that came back, ICMP errors.

use std::io;
use std::time::Duration;

use super::{BATCH, Prober};
use crate::probe::notes::Trouble;
use crate::probe::tally::Came;
use crate::probe::wire::{Change, HEADER_BYTES, Seen};
use crate::udp::Wait;

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
            self.flows[0].set_receive_timeout(timeout)?;
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
                    let received = self.batch.received(slot);
                    let bytes = self.batch.bytes(slot, 0..received.length);
                    let seen = self.run.read(bytes, received.length);
                    let at = now.of_receipt(received.received_at);
                    self.came(flow, seen, received.length, at, now.at);
                }
                count as u64
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                if !self.take_rejections(flow) {
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
        let target = self.settings.target;
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
            let bytes = &rejection.bytes;
            let sequence = match self.run.read(bytes, bytes.len()) {
                Seen::Reply { sequence, .. } => Some(sequence),
                // Nothing of it has to come back (RFC 792): then it is about what the flow waits for.
                _ if bytes.len() < HEADER_BYTES => self.turns.asked_on(flow),
                _ => continue,
            };
            match sequence {
                Some(sequence) => self.rejected(sequence),
                None if self.turns.is_plain() => {}
                // About a record.
                None => continue,
            }
            self.trouble(Trouble::from(&rejection));
        }
        any
    }
}
