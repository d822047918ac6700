//! Sends due requests and records.

use std::io;
use std::time::Duration;

use super::{BATCH, Prober};
use crate::probe::exchange::DueRecord;
use crate::probe::notes::DeliveryError;
use crate::probe::pace::Frequency;
use crate::reflect::Mode;
use crate::udp::Socket;

/// Number of due requests from which on one call sends them all over one flow, if the rate is at
/// least [`FAST`]: one core cannot keep such a rate otherwise. Below it flows are used in turn.
const TOGETHER: usize = 16;
const FAST: Frequency = Frequency {
    count: 10_000,
    time: Duration::from_secs(1),
};

impl Prober<'_> {
    /// Sends the requests that are due at `now`.
    pub(super) fn send_due(&mut self, now: Duration) {
        self.send_some_due(now);
        self.pace.ran(now, self.exchanges.may_send());
    }

    /// Ends the sending. The last requests of a run that ends by its duration are sent now: the loop
    /// wakes a little after they are due.
    pub(super) fn end_sending(&mut self, now: Duration) {
        let is_stopped = self.signals.stops() > 0;
        let end = self.config.duration.filter(|_| !is_stopped);
        if let Some(end) = end.filter(|_| !self.pace.is_stalled(now)) {
            let before_end = end.min(now).saturating_sub(Duration::from_nanos(1));
            while self.send_some_due(before_end) > 0 {}
        }
        self.pace.end(now, end, self.requests_left());
    }

    /// Sends at most a batch of the requests that are due. Returns their number.
    fn send_some_due(&mut self, now: Duration) -> usize {
        let due = self.pace.due(now).min(self.requests_left());
        let due = usize::try_from(due).unwrap_or(BATCH).min(BATCH);
        let together = due >= TOGETHER && self.config.frequency.is_at_least(FAST);
        if self.config.mode == Mode::Echo && together {
            if let Some(flow) = self.exchanges.next_flow() {
                self.send_requests(flow, due);
            }
            return due;
        }
        for sent in 0..due {
            let Some(flow) = self.exchanges.next_flow() else {
                return sent;
            };
            self.send_requests(flow, 1);
        }
        due
    }

    /// Sends this number of requests over a flow.
    pub(super) fn send_requests(&mut self, flow: usize, number: usize) {
        self.follow_address(flow, self.clock.now(), false);
        let size = self.config.size;
        let first = self.tally.next_sequence();
        let now = self.write(flow, first, number);
        self.last_sent = now;
        for sequence in (first..).take(number) {
            self.tally.sent(flow, now);
            self.exchanges.request_sent(flow, sequence, now);
            self.pace.sent();
        }
        self.flows.sent_on(flow);
        let outgoing = std::mem::take(&mut self.outgoing);
        let mut next = 0;
        let mut may_follow = true;
        while next < number {
            let bytes = &outgoing[next * size..number * size];
            let sent = self.send(flow, |socket| match bytes.len() / size {
                1 => socket.send(bytes).map(|()| 1),
                _ => socket.send_each(bytes, size),
            });
            let sequence = first + next as u64;
            next += match sent {
                Ok(sent) => sent,
                Err(libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::EINVAL)
                    if may_follow && self.follow_address(flow, now, true) =>
                {
                    may_follow = false;
                    self.exchanges.request_sent(flow, sequence, now);
                    0
                }
                Err(errno) => {
                    self.rejected(sequence, DeliveryError::Unsent(errno));
                    1
                }
            };
        }
        self.outgoing = outgoing;
    }

    /// Writes requests of a flow. Returns the time at which they are sent.
    fn write(&mut self, flow: usize, first: u64, number: usize) -> Duration {
        let outgoing = self.outgoing.chunks_mut(self.config.size).take(number);
        let Some(stamp) = &mut self.stamp else {
            for (sequence, bytes) in (first..).zip(outgoing) {
                self.run.write(sequence, bytes);
            }
            return self.clock.now();
        };
        let now = self.clock.moment();
        let time_of_day = now.time_of_day();
        let time_of_day = time_of_day.unwrap_or_else(|| self.clock.since_1970(now.at));
        for (sequence, bytes) in (first..).zip(outgoing) {
            stamp.write(flow, sequence, now.at, time_of_day, self.clock_error, bytes);
        }
        now.at
    }

    /// Sends a record.
    pub(super) fn send_record(&mut self, due: DueRecord, rtt: Option<Duration>) {
        let DueRecord {
            flow,
            sequence,
            attempt,
        } = due;
        let record = self.run.record(sequence, attempt, flow, rtt).encode();
        match self.send(flow, |socket| socket.send(&record)) {
            Ok(()) => self.notes.records_sent += 1,
            Err(errno) => {
                let count = self.notes.unsent_records.entry(errno).or_default();
                *count += 1;
                if *count == 1 {
                    let error = DeliveryError::Unsent(errno);
                    self.note(format_args!("record: {error}"));
                }
            }
        }
    }

    /// Sends over a flow, and counts the ICMP errors that the kernel reports instead.
    ///
    /// # Errors
    /// Returns the errno of the failed call.
    fn send<T>(&mut self, flow: usize, call: impl Fn(&Socket) -> io::Result<T>) -> Result<T, i32> {
        let mut rejections = Vec::new();
        let sent = self.flows.send(flow, &mut rejections, call);
        for rejection in rejections {
            self.count_rejection(flow, &rejection);
        }
        sent
    }
}
