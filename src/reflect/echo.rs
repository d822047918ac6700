//! The echo protocol of RFC 862: every datagram is echoed, none is decoded.

use super::table::Place;
use super::{Action, Datagram, Ready, ReflectorSettings};

/// The protocol of [`super::Mode::Echo`].
#[derive(Debug)]
pub(super) struct Echo {
    max_datagram: usize,
}

impl Echo {
    pub(super) fn new(settings: &ReflectorSettings) -> Self {
        Self {
            max_datagram: settings.max_datagram,
        }
    }

    /// A GRO batch is echoed as one, unless its datagrams must be truncated.
    #[inline]
    pub(super) fn ready(&self, datagram: &Datagram<'_>) -> Ready {
        let datagrams = if datagram.segment > self.max_datagram {
            1
        } else {
            datagram.count()
        };
        Ready {
            datagrams,
            place: Place::NONE,
        }
    }

    #[inline]
    pub(super) fn decide(&self, datagram: &Datagram<'_>, datagrams: usize) -> Action {
        if datagrams > 1 {
            return Action::Reply {
                length: datagram.length,
                truncated: false,
            };
        }
        reply(datagram.first_length(), self.max_datagram)
    }
}

/// Echoes a datagram, truncated to `max` bytes.
#[inline]
pub(super) fn reply(length: usize, max: usize) -> Action {
    Action::Reply {
        length: length.min(max),
        truncated: length > max,
    }
}
