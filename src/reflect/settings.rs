//! How an exchange is to go.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Admission, Limits};

/// What happens to a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The original recipe's exchange, kept per peer.
    Exchange,
    /// The original recipe's loop: one exchange for the whole socket, whoever sends.
    Lockstep,
    /// RFC 862: every datagram is echoed, nothing is decoded.
    Echo,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Exchange, Self::Lockstep, Self::Echo];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Lockstep => "lockstep",
            Self::Echo => "echo",
        }
    }
}

/// Which of the original recipe's deaths end the daemon too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitOn {
    /// The socket was quiet for the whole timeout.
    pub timeout: bool,
    /// An empty datagram came where an echo datagram was due.
    pub empty: bool,
    /// A record was shorter than 22 bytes.
    pub decode_error: bool,
}

/// The end that [`ExitOn`] asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// See [`ExitOn::timeout`].
    Timeout,
    /// See [`ExitOn::empty`].
    Empty,
    /// See [`ExitOn::decode_error`].
    DecodeError,
}

/// How long to wait for a datagram or a record: more than nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(Duration);

impl Timeout {
    /// `None` if `duration` is zero.
    pub fn new(duration: Duration) -> Option<Self> {
        (!duration.is_zero()).then_some(Self(duration))
    }

    /// The time itself.
    pub fn get(self) -> Duration {
        self.0
    }

    pub(super) fn has_passed(self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.0
    }
}

/// How the exchange is to go.
#[derive(Debug, Clone)]
pub struct ReflectorSettings {
    /// What happens to a datagram.
    pub mode: Mode,
    /// How long to wait; `None` is for ever.
    pub timeout: Option<Timeout>,
    /// Echo datagrams are cut to this many bytes.
    pub max_datagram: usize,
    /// How many peers may owe a record at once.
    pub max_peers: NonZeroU32,
    /// What ends the daemon.
    pub exit_on: ExitOn,
    /// Who is answered at all.
    pub admission: Admission,
    /// How many are answered a second, if that is limited. Workers share it.
    pub limits: Option<Arc<Limits>>,
}
