//! What a daemon is to do: checked once, before anything is opened.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::address::HostPort;
use crate::reflect::{Admission, ExitOn, LEAK, Limits, Mode, Rate, ReflectorSettings, Timeout};
use crate::udp;

/// What a daemon is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to receive datagrams, unless sockets are passed in.
    pub listen: Vec<HostPort>,
    /// How many workers each address has, unless sockets are passed in.
    pub workers: usize,
    /// Where to serve HTTP, if at all, unless a socket is passed in.
    pub metrics_listen: Option<HostPort>,
    /// Which of these three options were given, by name: sockets that are passed in replace them.
    pub given: Vec<&'static str>,
    /// What happens to a datagram.
    pub mode: Mode,
    /// How long to wait; `None` is for ever.
    pub timeout: Option<Timeout>,
    /// Echo datagrams are cut to this many bytes.
    pub max_datagram: u16,
    /// How many peers may owe a record at once, per worker.
    pub max_peers: NonZeroU32,
    /// What ends the daemon.
    pub exit_on: ExitOn,
    /// Source ports below this one are refused.
    pub min_source_port: u16,
    /// How many datagrams are answered a second, for each source and for all.
    pub rate_limits: [Option<Rate>; 2],
    /// How long a worker polls before it sleeps.
    pub busy_poll: Duration,
    /// The options of every UDP socket.
    pub socket: udp::SocketOptions,
}

impl Config {
    /// What all workers go by. `own` are the addresses of all sockets.
    pub(super) fn settings(
        &self,
        own: impl IntoIterator<Item = SocketAddr>,
        epoch: Instant,
    ) -> ReflectorSettings {
        let [each, total] = self.rate_limits;
        let limits = each
            .or(total)
            .map(|_| Arc::new(Limits::new(epoch, LEAK, each, total)));
        ReflectorSettings {
            mode: self.mode,
            timeout: self.timeout,
            max_datagram: self.max_datagram.into(),
            max_peers: self.max_peers,
            exit_on: self.exit_on,
            admission: Admission::new(self.min_source_port, own),
            limits,
        }
    }
}
