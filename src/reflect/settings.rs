//! The settings of a reflector.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stamp::StampSettings;
use super::{Admission, Limits};

/// The protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The exchange of the reference server, kept per peer.
    Exchange,
    /// The loop of the reference server: one exchange for the whole socket, shared by all peers.
    Lockstep,
    /// RFC 862: every datagram is echoed, nothing is decoded.
    Echo,
    /// The session reflector of STAMP (RFC 8762).
    Stamp,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 4] = [Self::Exchange, Self::Lockstep, Self::Echo, Self::Stamp];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Lockstep => "lockstep",
            Self::Echo => "echo",
            Self::Stamp => "stamp",
        }
    }
}

/// The events that end the daemon, as they end the reference server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitOn {
    /// The socket was idle for the whole timeout.
    pub timeout: bool,
    /// An empty datagram arrived when no record was owed.
    pub empty: bool,
    /// A record was shorter than 22 bytes.
    pub decode_error: bool,
}

/// The event that ended the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// See [`ExitOn::timeout`].
    Timeout,
    /// See [`ExitOn::empty`].
    Empty,
    /// See [`ExitOn::decode_error`].
    DecodeError,
}

/// How long to wait for a datagram or a record. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(pub(super) Duration);

impl Timeout {
    /// `None` if `duration` is zero.
    pub fn new(duration: Duration) -> Option<Self> {
        (!duration.is_zero()).then_some(Self(duration))
    }

    /// The duration.
    pub fn get(self) -> Duration {
        self.0
    }

    pub(super) fn has_passed(self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.0
    }
}

/// The settings of a reflector.
#[derive(Debug, Clone)]
pub struct ReflectorSettings {
    /// The protocol.
    pub mode: Mode,
    /// How long to wait for a datagram or a record; `None` is without a limit.
    pub timeout: Option<Timeout>,
    /// The length in bytes to which echo datagrams and STAMP requests are truncated.
    pub max_datagram: usize,
    /// The most peers that may owe a record at once, or the most sessions of STAMP.
    pub max_peers: NonZeroU32,
    /// The events that end the daemon.
    pub exit_on: ExitOn,
    /// The rules of admission.
    pub admission: Admission,
    /// The rate limits, shared by all workers.
    pub limits: Option<Arc<Limits>>,
    /// The settings of [`Mode::Stamp`].
    pub stamp: StampSettings,
}
