//! The client's sockets: each connected to one peer, from a port of its own.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Type};

use super::send;
use crate::udp::error::SocketAction;
use crate::udp::socket::BatchSupport;
use crate::udp::sys::guard::Guard;
use crate::udp::sys::sockopt;
use crate::udp::{Drops, Socket, SocketError, SocketOptions};

impl Socket {
    /// A socket that sends to `peer` and takes datagrams from nowhere else, at a port of the
    /// kernel's choice. ICMP errors about what it sends come back to it: see
    /// [`Self::take_rejection`].
    ///
    /// # Errors
    /// When the kernel refuses: no route, no port left, …
    pub fn connect(peer: SocketAddr, receive_buffer: usize) -> Result<Self, SocketError> {
        let failed = |words| SocketError::of(SocketAction::Other(words), peer);
        let domain = Domain::for_address(peer);
        let inner = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
            .map_err(failed("open a socket for"))?;
        inner
            .connect(&peer.into())
            .map_err(SocketError::of(SocketAction::Connect, peer))?;
        let address = inner
            .local_addr()
            .map_err(failed("read the own address of a socket for"))?;
        let socket = Self {
            drops: Drops::from_baseline(0),
            inner,
            address: address.as_socket().unwrap_or(peer),
            batches: BatchSupport::default(),
            guard: Guard::default(),
        };
        socket.ask_for_rejections().map_err(failed("set up"))?;
        sockopt::set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
            .map_err(failed("set SO_TIMESTAMPNS for"))?;
        socket
            .size_buffers(&SocketOptions {
                receive_buffer: Some(receive_buffer),
                send_buffer: None,
                reuse_address: false,
                timestamps: true,
                offload: false,
            })
            .map_err(failed("size the buffers of a socket for"))?;
        Ok(socket)
    }

    /// Sends a datagram to the peer.
    ///
    /// # Errors
    /// What `send` gives; also an ICMP error about an earlier one, told once.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.inner.send(bytes).map(drop)
    }

    /// Sends datagrams of `size` bytes each, one after the other in `bytes`, to the peer. Returns
    /// how many were sent, up to the first that failed.
    ///
    /// # Errors
    /// Why the first failed; also an ICMP error about an earlier one, told once.
    pub fn send_each(&self, bytes: &[u8], size: usize) -> io::Result<usize> {
        send::each(self, bytes, size)
    }

    /// All ICMP errors, also those that are held for passing ones, and what they say (ip(7)).
    fn ask_for_rejections(&self) -> io::Result<()> {
        if self.address.is_ipv6() {
            sockopt::set(self, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
        }
        // On an IPv6 socket, for a peer with a mapped IPv4 address.
        sockopt::set(self, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    }
}
