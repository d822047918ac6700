//! The loop of the reference server: one exchange for the whole socket, shared by all peers.

use super::echo::reply;
use super::{Action, Datagram, End, ExitOn, Expired, Ready, ReflectorSettings};
use crate::record::Record;

/// The protocol of [`super::Mode::Lockstep`].
#[derive(Debug)]
pub(super) struct Lockstep {
    max_datagram: usize,
    exit_on: ExitOn,
    /// Whether the next datagram is a record.
    owes: bool,
    /// Whether the result of the last reply is unknown.
    unsent: bool,
    records_expired: u64,
}

impl Lockstep {
    pub(super) fn new(settings: &ReflectorSettings) -> Self {
        Self {
            max_datagram: settings.max_datagram,
            exit_on: settings.exit_on,
            owes: false,
            unsent: false,
            records_expired: 0,
        }
    }

    pub(super) fn ready(&self) -> Option<Ready> {
        (!self.unsent).then_some(Ready::ONE)
    }

    pub(super) fn decide(&mut self, datagram: &Datagram<'_>) -> (Action, Option<End>) {
        let length = datagram.first_length();
        if self.owes {
            self.owes = false;
            return decide_record(datagram, self.exit_on);
        }
        if length == 0 {
            return (Action::Empty, self.exit_on.empty.then_some(End::Empty));
        }
        (self.owes, self.unsent) = (true, true);
        (reply(length, self.max_datagram), None)
    }

    pub(super) fn reply_failed(&mut self) {
        self.owes = false;
    }

    pub(super) fn batch_sent(&mut self) {
        self.unsent = false;
    }

    /// Ends the wait for a record. As in the reference server, the timeout is that of the receive
    /// call: a queued datagram is in time.
    pub(super) fn expire(&mut self) -> Expired {
        if !self.owes {
            return Expired::Nothing;
        }
        self.owes = false;
        self.records_expired += 1;
        Expired::LastRecord
    }

    pub(super) fn totals(&self) -> (u64, u64, u64) {
        (self.owes.into(), 0, self.records_expired)
    }
}

/// Decides a datagram of a peer that owes a record.
pub(super) fn decide_record(datagram: &Datagram<'_>, exit_on: ExitOn) -> (Action, Option<End>) {
    if datagram.first_length() == 0 {
        return (Action::Empty, None);
    }
    let record = Record::decode(datagram.first());
    let fatal = record.is_err() && exit_on.decode_error;
    (Action::Decode(record), fatal.then_some(End::DecodeError))
}
