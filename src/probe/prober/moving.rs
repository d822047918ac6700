//! Follows this host's own address.

use std::time::Duration;

use super::Prober;
use crate::probe::flows::Moved;
use crate::reflect::Mode;
use crate::udp::{Socket, Wait};

impl Prober<'_> {
    /// Reconnects a flow before it sends, if this host's own address has changed. Returns whether the
    /// flow has a new socket.
    pub(super) fn follow_address(&mut self, flow: usize, now: Duration, failed: bool) -> bool {
        let own = &mut self.own_addresses;
        let Some(Moved { socket, from, to }) = self.flows.moved(flow, now, failed, own) else {
            return false;
        };
        self.replace_socket(flow, socket);
        let change = Some((from, to));
        if self.address_change != change {
            self.address_change = change;
            self.notes.address_changes += 1;
            self.note(format_args!(
                "own address changed from {from} to {to}: using the new one"
            ));
        }
        true
    }

    fn replace_socket(&mut self, flow: usize, socket: Socket) {
        // Replies that have arrived.
        self.receive_on(flow, Wait::Poll);
        if let Some(poller) = &self.poller
            && poller.add(flow, &socket).is_err()
        {
            return;
        }
        self.flows.replace(flow, socket);
        self.receive_timeout = Duration::ZERO;
        // In lockstep mode the exchange is not that of the peer.
        if self.config.mode != Mode::Lockstep {
            self.exchanges.restart(flow);
        }
    }
}
