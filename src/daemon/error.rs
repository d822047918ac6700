//! Why the daemon could not start or go on.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use crate::address::{HostPort, ResolveError};
use crate::http;
use crate::reflect::NoMemory;
use crate::systemd::{HandedOverError, Role};
use crate::udp;

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says it in its message")]
pub enum DaemonError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Socket(#[from] udp::SocketError),
    #[error(transparent)]
    Http(#[from] http::BindError),
    #[error("cannot make the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("cannot start {what}: {cause}")]
    Start {
        what: &'static str,
        cause: io::Error,
    },
    #[error("cannot start a worker: {0}; --max-peers asks for fewer")]
    Peers(#[from] NoMemory),
    #[error(
        "cannot listen on UDP {} twice: --listen {name} is the same as one before",
        udp::named_here(*.address)
    )]
    ListenTwice { name: HostPort, address: SocketAddr },
    #[error(transparent)]
    HandedOverNames(#[from] HandedOverError),
    #[error("socket {descriptor}, handed over {role}, {problem}")]
    HandedOver {
        descriptor: RawFd,
        role: Role,
        problem: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("--mode lockstep has one socket, and {0} UDP sockets were handed over")]
    LockstepSockets(usize),
    #[error("stopped on a decode error, as --exit-on asks")]
    DecodeError,
    #[error("cannot receive on {listen} any more: {cause}")]
    SocketLost { listen: String, cause: io::Error },
    #[error("a worker has stopped")]
    WorkerLost,
    #[error("HTTP is no longer served")]
    HttpLost,
}

impl DaemonError {
    /// Whether the command line is at fault.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::LockstepSockets(_))
    }
}
