//! The debug log of datagrams, in the words of the reference server.

pub mod python;

use tracing::debug;

use crate::record::Record;
use crate::reflect::Action;

use python::{PythonBytes, PythonRecord};

/// The most bytes of a datagram that the log shows.
const LOGGED_BYTES: usize = 1024;

/// Logs the bytes of a received datagram and the core's decision.
pub(super) fn received(bytes: &[u8], action: &Action, peer: &str) {
    match action {
        Action::Reply { length, truncated } => {
            let cut = if *truncated { " (cut)" } else { "" };
            debug!("recv: {}, from: {peer}{cut}", Shown(&bytes[..*length]));
        }
        Action::StampReply(reply) => {
            let cut = if reply.truncated { " (cut)" } else { "" };
            debug!("recv: {}, from: {peer}{cut}", Shown(bytes));
        }
        Action::Decode(result) => {
            let cut = &bytes[..bytes.len().min(Record::BYTES)];
            debug!("recv: {}, from: {peer}", Shown(cut));
            match result {
                Ok(record) => debug!("recv unpacked: {}", PythonRecord(record)),
                Err(short) => debug!("recv not unpacked: {short}"),
            }
        }
        Action::Empty => debug!("no data from {peer}"),
        Action::Refuse(refusal) => debug!("refused: {}, from: {peer}", refusal.name()),
        Action::SendFirst => {}
    }
}

/// Bytes as the reference server logs them, at most [`LOGGED_BYTES`].
struct Shown<'a>(&'a [u8]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.0[..self.0.len().min(LOGGED_BYTES)];
        write!(f, "{}", PythonBytes(shown))?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} bytes more"),
        }
    }
}

/// Logs a reply that was sent.
pub(super) fn sent(bytes: &[u8], peer: &str) {
    debug!("sent: {}, to: {peer}", Shown(bytes));
}
