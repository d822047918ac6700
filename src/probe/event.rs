//! The events of a run, which text and JSON lines render.

use std::time::Duration;

use super::finished::Finished;
use super::notes::DeliveryError;
use super::report::Figures;
use super::wire::Change;

/// An event of a run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event<'a> {
    /// The run starts.
    Start,
    /// A reply arrived.
    Reply(Reply),
    /// A request has no reply.
    Lost {
        /// The request.
        request: RequestName,
        /// How long the client waited for its reply. `None` if the wait was ended by a signal.
        within: Option<Duration>,
        /// Whether the request before has a reply.
        is_first: bool,
    },
    /// Several requests in a row had no reply, and the next one has.
    LostRun {
        /// Sequence number of the first request.
        first: u64,
        /// Sequence number of the last request.
        last: u64,
    },
    /// A request was answered by an error.
    Error {
        /// The request, if the error names it.
        request: Option<RequestName>,
        /// The error.
        error: DeliveryError,
    },
    /// The figures of an interval, or of the run until now.
    Report(&'a Figures),
    /// Any other event, as a sentence.
    Note(&'a str),
    /// The run has ended.
    Summary(&'a Finished<'a>),
}

/// A reply to a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    /// The request.
    pub request: RequestName,
    /// Length of the reply.
    pub bytes: usize,
    /// Round-trip time.
    pub rtt: Duration,
    /// TTL (IPv4) or hop limit (IPv6) of the reply.
    pub ttl: Option<u8>,
    /// How the reply differs from its request.
    pub change: Change,
    /// Whether the reply to a later request of the flow arrived before.
    pub is_reordered: bool,
    /// Whether the request was already answered.
    pub is_duplicate: bool,
}

/// Identifies a request in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestName {
    /// Sequence number.
    pub sequence: u64,
    /// Flow, from 0.
    pub flow: usize,
    /// Source port of the flow.
    pub source_port: u16,
}
