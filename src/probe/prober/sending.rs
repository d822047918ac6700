//! What the loop sends: requests that are due, and records.

use std::io;
use std::time::Duration;

use super::{BATCH, Prober};
use crate::probe::notes::Trouble;
use crate::probe::pace::Frequency;
use crate::probe::turns::Due;
use crate::reflect::Mode;
use crate::udp::Socket;

/// From how many that are due on they are sent over one flow, by one call, at a rate from which on
/// one core needs that. What is caught up with at a lower rate takes the flows in turn as ever.
const TOGETHER: usize = 16;
const FAST: Frequency = Frequency {
    count: 10_000,
    time: Duration::from_secs(1),
};

impl Prober<'_> {
    /// Sends the requests that are due.
    pub(super) fn send_due(&mut self, now: Duration) {
        let left = self.config.count.unwrap_or(u64::MAX) - self.tally.totals().sent;
        let due = self.pace.due(now).min(left);
        let due = usize::try_from(due).unwrap_or(BATCH).min(BATCH);
        let together = due >= TOGETHER && self.config.frequency.is_at_least(FAST);
        if self.config.mode == Mode::Echo && together {
            if let Some(flow) = self.turns.next_flow() {
                self.send_requests(flow, due);
            }
            return;
        }
        for _ in 0..due {
            let Some(flow) = self.turns.next_flow() else {
                return;
            };
            self.send_requests(flow, 1);
        }
    }

    /// Sends so many requests over a flow.
    pub(super) fn send_requests(&mut self, flow: usize, number: usize) {
        let size = self.config.size;
        let first = self.tally.next_sequence();
        for (sequence, bytes) in (first..).zip(self.outgoing.chunks_mut(size).take(number)) {
            self.run.write(sequence, bytes);
        }
        let now = self.clock.now();
        self.last_sent = now;
        for sequence in (first..).take(number) {
            self.tally.sent(flow, now);
            self.turns.asked(flow, sequence, now);
            self.pace.sent();
        }
        let outgoing = std::mem::take(&mut self.outgoing);
        let mut next = 0;
        while next < number {
            let bytes = &outgoing[next * size..number * size];
            let sent = self.send(flow, |socket| match bytes.len() / size {
                1 => socket.send(bytes).map(|()| 1),
                _ => socket.send_each(bytes, size),
            });
            next += sent.unwrap_or_else(|errno| {
                self.trouble(Trouble::Unsent(errno));
                self.rejected(first + next as u64);
                1
            });
        }
        self.outgoing = outgoing;
    }

    /// Sends a record.
    pub(super) fn send_record(&mut self, due: Due, rtt: Option<Duration>) {
        let Due {
            flow,
            sequence,
            earlier,
        } = due;
        let record = self.run.record(sequence, earlier, flow, rtt).encode();
        match self.send(flow, |socket| socket.send(&record)) {
            Ok(()) => self.notes.records_sent += 1,
            Err(errno) => {
                let count = self.notes.unsent_records.entry(errno).or_default();
                *count += 1;
                if *count == 1 {
                    let told = Trouble::Unsent(errno).told(self.address);
                    self.tell(format_args!("record: {told}"));
                }
            }
        }
    }

    /// Sends over a flow, and again where a signal came, or an ICMP error about an earlier datagram
    /// was told in place of sending this one.
    fn send<T>(&mut self, flow: usize, call: impl Fn(&Socket) -> io::Result<T>) -> Result<T, i32> {
        /// More of them than that come only as fast as they are told.
        const MOST: u32 = 4;
        let mut tries = 0;
        loop {
            let error = match call(&self.flows[flow]) {
                Err(error) => error,
                Ok(sent) => return Ok(sent),
            };
            tries += 1;
            let told = self.take_rejections(flow);
            // What it says may have been taken just before.
            let of_another = error.kind() == io::ErrorKind::ConnectionRefused;
            if error.kind() != io::ErrorKind::Interrupted && (tries > MOST || !(told || of_another))
            {
                return Err(error.raw_os_error().unwrap_or(0));
            }
        }
    }
}
