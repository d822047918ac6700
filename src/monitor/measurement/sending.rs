//! Sends requests and records.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use tracing::{debug, warn};

use super::{Measurement, Tools, connect_options};
use crate::metrics::errno_name;
use crate::probe::exchange::DueRecord;
use crate::probe::flows::{Flows, Moved};
use crate::reflect::Mode;
use crate::udp::Socket;

/// Time between two attempts to open the sockets.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// The error of sockets that leave too few descriptors.
const TOO_MANY: &str = "too many open files; raise the limit (ulimit -n, LimitNOFILE=)";
/// The error of sockets that `epoll_ctl(2)` does not accept.
const NO_EPOLL: &str = "cannot wait for its sockets; raise fs.epoll.max_user_watches";

impl Measurement {
    /// Sends a request over a flow. A failed one counts as sent, and is lost after the time to wait.
    pub(super) fn send_request(
        &mut self,
        flow: usize,
        tools: &mut Tools,
        watch: &mut dyn FnMut(usize, &Socket) -> bool,
    ) {
        let now = tools.clock.now();
        if self.flows.is_none() && now >= self.next_open {
            self.open(now, tools.most_sockets, watch);
        }
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

    pub(super) fn send_record(&mut self, due: DueRecord, rtt: Option<Duration>, tools: &mut Tools) {
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

    /// Opens the sockets.
    fn open(
        &mut self,
        now: Duration,
        most_sockets: RawFd,
        watch: &mut dyn FnMut(usize, &Socket) -> bool,
    ) {
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
                    return;
                }
                (libc::ENOMEM, NO_EPOLL.to_owned())
            }
            Ok(_) => (libc::EMFILE, TOO_MANY.to_owned()),
            Err(error) => (error.errno(), error.to_string()),
        };
        self.next_open = now + OPEN_AGAIN;
        if self.open_error.replace(errno) != Some(errno) {
            let target = &self.settings.name;
            warn!("cannot probe target {target:?}: {error}; retrying once per second");
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
        debug!(
            "target {:?}: own address changed from {from} to {to}; using the new one",
            self.settings.name
        );
        // In lockstep mode the exchange is not that of the peer.
        if self.settings.mode != Mode::Lockstep {
            self.exchanges.restart(flow);
        }
        true
    }
}
