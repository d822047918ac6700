//! Why the daemon could not start or go on.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use crate::address::ResolveError;
use crate::http;
use crate::reflect::NoMemory;
use crate::systemd::{PassedInError, Role};
use crate::udp;

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum DaemonError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Socket(#[from] udp::SocketError),
    #[error(transparent)]
    Http(#[from] http::BindError),
    #[error("cannot use the kernel path: {0}")]
    KernelPath(#[from] crate::kernel_echo::Unusable),
    #[error("cannot register the metrics: {0}; report this as a bug")]
    Metrics(#[from] prometheus::Error),
    #[error("cannot {action}: {cause}{}", hint(.cause))]
    Start {
        action: &'static str,
        cause: io::Error,
    },
    #[error("cannot start a worker: {cause}; lower {setting}")]
    Peers { cause: NoMemory, setting: String },
    #[error(
        "cannot listen on UDP {} twice: {name} is the same address as an earlier one; remove one \
         of them",
        udp::named_here(*.address)
    )]
    ListenTwice { name: String, address: SocketAddr },
    #[error(transparent)]
    PassedInNames(#[from] PassedInError),
    #[error("cannot use socket {descriptor}, passed in {role}: {problem}")]
    PassedIn {
        descriptor: RawFd,
        role: Role,
        problem: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "cannot use {mode} with {count} UDP sockets: that mode serves only one; pass in one socket"
    )]
    LockstepSockets { count: usize, mode: String },
    #[error("stopped: received a record shorter than 22 bytes ({setting})")]
    DecodeError { setting: String },
    #[error("cannot receive on {listen}: {cause}; restart udp-echo")]
    SocketLost { listen: String, cause: io::Error },
    #[error("cannot continue: a worker thread ended; restart udp-echo and report this as a bug")]
    WorkerLost,
    #[error("cannot continue: the HTTP server ended; restart udp-echo and report this as a bug")]
    HttpLost,
}

/// The remedy for a limit that keeps the daemon from starting.
fn hint(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::EMFILE) => "; raise the limit on open files (ulimit -n, LimitNOFILE=)",
        Some(libc::EAGAIN) => "; raise the limit on threads (ulimit -u, TasksMax=)",
        _ => "",
    }
}

impl DaemonError {
    /// Whether the command line is at fault: the exit status is 2.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::LockstepSockets { .. })
    }
}
