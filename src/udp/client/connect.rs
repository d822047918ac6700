//! Sockets connected to one peer, for the client.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Type};

use super::send;
use crate::udp::error::SocketAction;
use crate::udp::socket::BatchSupport;
use crate::udp::sys::guard::Guard;
use crate::udp::sys::sockopt;
use crate::udp::{BufferSize, Drops, Socket, SocketError};

/// The address and the interface that a socket sends from. At least one is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Address of this host.
    pub address: Option<IpAddr>,
    /// Name of an interface of this host.
    pub interface: Option<String>,
}

/// The fields of the IP header of sent datagrams. `None` leaves the kernel's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IpOptions {
    /// The TOS byte (IPv4) or traffic class (IPv6): DSCP and ECN (RFC 2474).
    pub traffic_class: Option<u8>,
    /// The TTL (IPv4) or hop limit (IPv6).
    pub ttl: Option<u8>,
    /// Who may fragment a datagram.
    pub fragmentation: Option<Fragmentation>,
}

/// Where a datagram may be fragmented (`IP_MTU_DISCOVER`, ip(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragmentation {
    /// Nowhere: a datagram longer than the path MTU is an error.
    Never,
    /// On this host.
    Local,
    /// On this host and, with IPv4, on routers.
    Anywhere,
}

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
        socket.enable_ttl().map_err(failed("set IP_RECVTTL for"))?;
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

    /// Reports the TTL or hop limit of received datagrams.
    fn enable_ttl(&self) -> io::Result<()> {
        if self.address.is_ipv6() {
            sockopt::set(self, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
        }
        // On an IPv6 socket, for a peer with a mapped IPv4 address.
        sockopt::set(self, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::skipped;
    use crate::udp::{Batch, Wait};

    #[test]
    fn connected_socket_reports_ttl_and_hop_limit_of_replies() {
        for host in ["127.0.0.1", "::1"] {
            let host: IpAddr = host.parse().unwrap();
            let Ok(peer) = UdpSocket::bind((host, 0)) else {
                assert!(host.is_ipv6());
                skipped!("no IPv6: the part about {host}");
                continue;
            };
            let peer = socket2::Socket::from(peer);
            if host.is_ipv6() {
                peer.set_unicast_hops_v6(77).unwrap();
            } else {
                peer.set_ttl_v4(77).unwrap();
            }
            let peer = UdpSocket::from(peer);
            let socket = Socket::connect(peer.local_addr().unwrap(), 1 << 16).unwrap();
            peer.send_to(b"reply", socket.address()).unwrap();
            let mut batch = Batch::new(1, 64, &socket);
            batch.receive(&socket, Wait::Block, 1).unwrap();
            assert_eq!(batch.meta(0).ttl, Some(77), "{host}");
        }
    }
}
