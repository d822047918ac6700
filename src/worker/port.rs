//! What a worker receives from and replies through.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::udp::{self, Batch, PacketInfo, RecvMeta, Sent, Socket, Transmit, Wait};

/// A socket with the slots of one batch: the real one, or a simulation.
pub trait Port {
    /// The address it is bound to.
    fn address(&self) -> SocketAddr;

    /// An address as it is shown: with the name of its interface.
    fn named(&self, address: SocketAddr) -> String;

    /// How many slots one receive call can fill.
    fn slots(&self) -> usize;

    /// Whether a slot can hold a GRO batch.
    fn receives_batches(&self) -> bool;

    /// Whether several datagrams can be sent as one (UDP GSO).
    fn sends_batches(&self) -> bool;

    /// Finishes taking it over from another process, if it was. Nothing may wait in it.
    ///
    /// # Errors
    /// When the socket is gone.
    fn is_empty_now(&mut self) -> io::Result<()>;

    /// Sets how long [`Self::receive`] waits; `None` is for ever.
    ///
    /// # Errors
    /// When the socket is gone.
    fn set_receive_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Receives into up to `most` slots, in place of what they had. Returns how many it filled.
    ///
    /// # Errors
    /// `WouldBlock` when nothing came in time, `Interrupted` on a signal, or why the call failed.
    fn receive(&mut self, wait: Wait, most: usize) -> io::Result<usize>;

    /// What is known of a slot's content.
    fn meta(&self, slot: usize) -> RecvMeta;

    /// The memory of a slot from an offset on: its content, then what is free.
    fn memory(&mut self, slot: usize, start: usize) -> &mut [u8];

    /// Whether a datagram came from the network although its source is its destination.
    fn is_forged(&self, meta: &RecvMeta) -> bool;

    /// Whether a datagram went to a broadcast or multicast address that the socket is not itself
    /// bound to.
    fn is_group(&self, info: &PacketInfo) -> bool;

    /// Whether replies have to be sent before one can be queued.
    fn is_full(&self) -> bool;

    /// Whether replies wait to be sent.
    fn has_replies(&self) -> bool;

    /// Queues a reply.
    fn queue(&mut self, transmit: Transmit, info: Option<PacketInfo>);

    /// Sends queued replies and says what became of the next one; `None` after the last. A full
    /// send buffer is waited for as long as there is `time`.
    fn send_next(&mut self, time: impl FnMut() -> Duration) -> Option<Sent>;
}

/// The real one.
#[derive(Debug)]
pub struct SocketPort {
    socket: Arc<Socket>,
    batch: Batch,
}

impl SocketPort {
    /// A port of `slots` slots, each of which keeps up to `slot_bytes` of a datagram. To be made on
    /// the thread that uses it, so that its memory is near.
    pub fn new(socket: Arc<Socket>, slots: usize, slot_bytes: usize) -> Self {
        Self {
            batch: Batch::new(slots, slot_bytes, &socket),
            socket,
        }
    }
}

impl Port for SocketPort {
    fn address(&self) -> SocketAddr {
        self.socket.address()
    }

    fn named(&self, address: SocketAddr) -> String {
        udp::named(address, &*self.socket)
    }

    fn slots(&self) -> usize {
        self.batch.slots()
    }

    fn receives_batches(&self) -> bool {
        self.socket.receives_batches()
    }

    fn sends_batches(&self) -> bool {
        self.batch.sends_batches()
    }

    fn is_empty_now(&mut self) -> io::Result<()> {
        self.socket.is_empty_now()
    }

    fn set_receive_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_receive_timeout(timeout)
    }

    fn receive(&mut self, wait: Wait, most: usize) -> io::Result<usize> {
        self.batch.receive(&self.socket, wait, most)
    }

    fn meta(&self, slot: usize) -> RecvMeta {
        self.batch.meta(slot)
    }

    fn memory(&mut self, slot: usize, start: usize) -> &mut [u8] {
        self.batch.memory(slot, start)
    }

    fn is_forged(&self, meta: &RecvMeta) -> bool {
        self.socket.is_forged(meta)
    }

    fn is_group(&self, info: &PacketInfo) -> bool {
        self.socket.is_group(info)
    }

    fn is_full(&self) -> bool {
        self.batch.is_full()
    }

    fn has_replies(&self) -> bool {
        self.batch.has_replies()
    }

    fn queue(&mut self, transmit: Transmit, info: Option<PacketInfo>) {
        self.batch.queue(transmit, info);
    }

    fn send_next(&mut self, time: impl FnMut() -> Duration) -> Option<Sent> {
        self.batch.send_next(&self.socket, time)
    }
}
