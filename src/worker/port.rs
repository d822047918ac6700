//! The socket of a worker, or a simulation of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::udp::{self, Batch, PacketInfo, RecvMeta, Sent, Socket, Transmit, Wait};

/// A socket with the slots of one batch, or a simulation of it.
pub trait Port {
    /// The bound address.
    fn address(&self) -> SocketAddr;

    /// Formats an address, with its interface name if it has a scope.
    fn named(&self, address: SocketAddr) -> String;

    /// The number of slots that a receive call can fill.
    fn slots(&self) -> usize;

    /// Whether a slot can hold a GRO batch.
    fn receives_batches(&self) -> bool;

    /// Whether GSO batches are sent.
    fn sends_batches(&self) -> bool;

    /// Completes the adoption of an inherited socket. Called when the receive queue is empty.
    ///
    /// # Errors
    /// If the socket is unusable.
    fn queue_emptied(&mut self) -> io::Result<()>;

    /// Sets how long [`Self::receive`] waits; `None` is without a limit.
    ///
    /// # Errors
    /// If the socket is unusable.
    fn set_receive_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Receives into up to `limit` slots, replacing their content. Returns the number filled.
    ///
    /// # Errors
    /// `WouldBlock` if no datagram came in time, `Interrupted` on a signal, or the error of the
    /// call.
    fn receive(&mut self, wait: Wait, limit: usize) -> io::Result<usize>;

    /// The kernel's data about the content of a slot.
    fn meta(&self, slot: usize) -> RecvMeta;

    /// The memory of a slot from `start` to its end: the received bytes, then unused ones.
    fn memory(&mut self, slot: usize, start: usize) -> &mut [u8];

    /// Whether a datagram from the network has the same source and destination address.
    fn is_forged(&self, meta: &RecvMeta) -> bool;

    /// Whether the destination is a broadcast or multicast address other than the bound address.
    fn is_broadcast_or_multicast(&self, info: &PacketInfo) -> bool;

    /// Whether the reply queue is full.
    fn is_full(&self) -> bool;

    /// Whether replies are queued.
    fn has_replies(&self) -> bool;

    /// Queues a reply.
    fn queue(&mut self, transmit: Transmit, info: Option<PacketInfo>);

    /// Sends queued replies and returns the result of the next one; `None` after the last. Waits
    /// up to `time()` if the send buffer is full.
    fn send_next(&mut self, time: impl FnMut() -> Duration) -> Option<Sent>;
}

/// The port of a real socket.
#[derive(Debug)]
pub struct SocketPort {
    socket: Arc<Socket>,
    batch: Batch,
}

impl SocketPort {
    /// Allocates `slots` slots of `slot_bytes` bytes each. Call it on the thread that uses the port,
    /// so that the memory is local to its NUMA node.
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

    fn queue_emptied(&mut self) -> io::Result<()> {
        self.socket.queue_emptied()
    }

    fn set_receive_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_receive_timeout(timeout)
    }

    fn receive(&mut self, wait: Wait, limit: usize) -> io::Result<usize> {
        self.batch.receive(&self.socket, wait, limit)
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

    fn is_broadcast_or_multicast(&self, info: &PacketInfo) -> bool {
        self.socket.is_broadcast_or_multicast(info)
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
