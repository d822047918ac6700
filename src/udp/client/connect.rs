//! Sockets connected to one peer, for the client.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Type};

use super::send;
use crate::udp::error::SocketAction;
use crate::udp::socket::BatchSupport;
use crate::udp::sys::guard::Guard;
use crate::udp::sys::sockopt;
use crate::udp::{BufferSize, Drops, Socket, SocketError};

impl Socket {
    /// Opens a socket that sends to and receives from `peer` only, with a port that the kernel
    /// chooses and a receive buffer of `receive_buffer` bytes. [`Self::take_rejection`] returns
    /// ICMP errors about its datagrams.
    ///
    /// # Errors
    /// The errors of socket(2), connect(2) and setsockopt(2).
    pub(crate) fn connect(peer: SocketAddr, receive_buffer: usize) -> Result<Self, SocketError> {
        let failed = |words| SocketError::of(SocketAction::Other(words), peer);
        let domain = Domain::for_address(peer);
        let inner = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
            .map_err(failed("open a socket for"))?;
        inner
            .connect(&peer.into())
            .map_err(SocketError::of(SocketAction::Connect, peer))?;
        let address = inner
            .local_addr()
            .map_err(failed("read the local address of a socket for"))?;
        let socket = Self {
            drops: Drops::from_baseline(0),
            inner,
            address: address.as_socket().unwrap_or(peer),
            batches: BatchSupport::default(),
            guard: Guard::default(),
        };
        socket
            .enable_rejections()
            .map_err(failed("set IP_RECVERR for"))?;
        sockopt::set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
            .map_err(failed("set SO_TIMESTAMPNS for"))?;
        socket
            .size_buffers([BufferSize::Bytes(receive_buffer), BufferSize::Default])
            .map_err(failed("size the buffers of a socket for"))?;
        Ok(socket)
    }

    /// Sends a datagram to the peer.
    ///
    /// # Errors
    /// The errors of send(2). An ICMP error about an earlier datagram is reported once.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.inner.send(bytes).map(drop)
    }

    /// Splits `bytes` into datagrams of `size` bytes and sends them to the peer, at most 64.
    /// Returns the number sent before the first failure.
    ///
    /// # Errors
    /// The errors of sendmmsg(2), if the first datagram fails. An ICMP error about an earlier datagram
    /// is reported once.
    pub(crate) fn send_each(&self, bytes: &[u8], size: usize) -> io::Result<usize> {
        send::each(self, bytes, size)
    }

    /// Queues all ICMP errors, transient ones too, with their data (`IP_RECVERR`, ip(7)).
    fn enable_rejections(&self) -> io::Result<()> {
        if self.address.is_ipv6() {
            sockopt::set(self, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        }
        // On an IPv6 socket, for a peer with a mapped IPv4 address.
        sockopt::set(self, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    }
}
