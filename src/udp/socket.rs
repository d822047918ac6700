//! One UDP socket: bound or passed in, with its options, buffers and drop counter.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::address::is_one_host;
use socket2::{Domain, Protocol, Type};

use super::error::SocketAction;
use super::sys::guard::Guard;
use super::sys::{offload, sockopt};
use super::{AdoptError, BufferSize, Drops, MemInfo, PacketInfo, RecvMeta, SocketError, named};

/// The options of a socket.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option that is on or off"
)]
pub struct SocketOptions {
    /// `SO_RCVBUF`.
    pub receive_buffer: BufferSize,
    /// `SO_SNDBUF`.
    pub send_buffer: BufferSize,
    /// Whether other sockets may bind the same port (`SO_REUSEADDR`, socket(7)).
    pub reuse_address: bool,
    /// Whether the kernel timestamps received datagrams (`SO_TIMESTAMPNS`).
    pub timestamps: bool,
    /// Whether to use GRO and GSO (udp(7)), if the kernel supports them.
    pub offload: bool,
    /// Whether the kernel reports TTL and traffic class of received datagrams, and sends with TTL
    /// 255, as STAMP requires (RFC 8762).
    pub ip_header: bool,
}

/// A bound UDP socket.
#[derive(Debug)]
pub struct Socket {
    pub(super) inner: socket2::Socket,
    pub(super) address: SocketAddr,
    pub(super) drops: Drops,
    pub(super) batches: BatchSupport,
    pub(super) guard: Guard,
}

#[derive(Debug, Default)]
pub(super) struct BatchSupport {
    /// Whether the socket receives GRO batches.
    received: bool,
    /// Whether an inherited socket receives GRO batches although offload is off.
    unwanted: AtomicBool,
    /// Whether the socket can send GSO batches.
    sent: bool,
}

impl Socket {
    /// Binds a socket. No other socket can bind the port unless `reuse_address` is set. `[::]`
    /// also receives IPv4 datagrams.
    ///
    /// # Errors
    /// The errors of socket(2), setsockopt(2) and bind(2).
    pub fn bind(address: SocketAddr, options: &SocketOptions) -> Result<Self, SocketError> {
        Self::bind_as(address, options, false)
    }

    /// Binds another socket to the same address. The kernel spreads the peers over all sockets and
    /// always delivers one peer to the same socket (`SO_REUSEPORT`, socket(7)). The first socket
    /// was bound without the option, so the port was free. From now on, only processes of the same
    /// user can bind it.
    ///
    /// # Errors
    /// As for [`Self::bind`].
    pub fn bind_another(&self, options: &SocketOptions) -> Result<Self, SocketError> {
        let failed = |words| SocketError::of(SocketAction::Other(words), self.address);
        self.inner
            .set_reuse_port(true)
            .map_err(failed("set SO_REUSEPORT for"))?;
        Self::bind_as(self.address, options, true)
    }

    fn bind_as(
        address: SocketAddr,
        options: &SocketOptions,
        another: bool,
    ) -> Result<Self, SocketError> {
        let failed = |words| SocketError::of(SocketAction::Other(words), address);
        let inner = socket2::Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )
        .map_err(failed("open a socket for"))?;
        if address.is_ipv6() {
            inner
                .set_only_v6(!address.ip().is_unspecified())
                .map_err(failed("set IPV6_V6ONLY for"))?;
        }
        inner
            .set_reuse_address(options.reuse_address)
            .map_err(failed("set SO_REUSEADDR for"))?;
        inner
            .set_reuse_port(another)
            .map_err(failed("set SO_REUSEPORT for"))?;
        let guard = Guard::early(&inner, address);
        inner.bind(&address.into()).map_err(failed("listen on"))?;
        let address = inner
            .local_addr()
            .and_then(|bound| {
                let unusable = || io::Error::other("not an IP address");
                bound.as_socket().ok_or_else(unusable)
            })
            .map_err(failed("read the address of"))?;
        let mut socket = Self {
            drops: Drops::from_baseline(0),
            inner,
            address,
            batches: BatchSupport::default(),
            guard,
        };
        socket
            .prepare(options)
            .map_err(|(action, cause)| failed(action)(cause))?;
        Ok(socket)
    }

    /// Adopts a socket that the service manager bound. Clears `SO_REUSEADDR`, which systemd sets on
    /// every socket, unless `reuse_address` is set. Earlier drops are not counted.
    ///
    /// # Errors
    /// If it is not a bound, unconnected UDP socket, or if a system call on it fails.
    pub fn adopt(descriptor: OwnedFd, options: &SocketOptions) -> Result<Self, AdoptError> {
        let unusable = |action| move |cause| AdoptError::Unusable { action, cause };
        let inner = socket2::Socket::from(descriptor);
        check_kind(&inner)?;
        if let Ok(Some(peer)) = inner.peer_addr().map(|peer| peer.as_socket()) {
            return Err(AdoptError::Connected(named(peer, &inner)));
        }
        let address = inner
            .local_addr()
            .map_err(unusable("read the address of"))?;
        let address = address
            .as_socket()
            .filter(|address| address.port() != 0)
            .ok_or(AdoptError::Unbound)?;
        inner
            .set_nonblocking(false)
            .map_err(unusable("clear O_NONBLOCK of"))?;
        inner
            .set_reuse_address(options.reuse_address)
            .map_err(unusable("set SO_REUSEADDR for"))?;
        let drops = sockopt::meminfo(&inner).map_err(unusable("read SO_MEMINFO of"))?;
        let guard = Guard::late(&inner, address);
        let mut socket = Self {
            drops: Drops::from_baseline(drops.drops),
            inner,
            address,
            batches: BatchSupport::default(),
            guard,
        };
        socket
            .prepare(options)
            .map_err(|(action, cause)| unusable(action)(cause))?;
        Ok(socket)
    }

    /// Sets the options that bound and adopted sockets have in common.
    fn prepare(&mut self, options: &SocketOptions) -> Result<(), (&'static str, io::Error)> {
        let failed = |action| move |cause| (action, cause);
        // With IP_RECVERR, an ICMP error about one reply fails a later one (ip(7), ipv6(7)).
        sockopt::set(&*self, libc::IPPROTO_IP, libc::IP_RECVERR, 0)
            .map_err(failed("set IP_RECVERR for"))?;
        if self.address.is_ipv6() {
            sockopt::set(&*self, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 0)
                .map_err(failed("set IPV6_RECVERR for"))?;
        }
        self.enable_packet_info()
            .map_err(failed("enable packet info for"))?;
        sockopt::set(
            &*self,
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            options.timestamps.into(),
        )
        .map_err(failed("set SO_TIMESTAMPNS for"))?;
        if options.ip_header {
            self.enable_ip_header()
                .map_err(failed("set TTL and traffic class for"))?;
        }
        self.size_buffers([options.receive_buffer, options.send_buffer])
            .map_err(failed("size the buffers of"))?;
        self.offload(options.offload);
        Ok(())
    }

    /// The bound address, with the actual port if the kernel chose it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the socket may receive GRO batches.
    pub fn receives_batches(&self) -> bool {
        self.batches.received
    }

    /// Whether the kernel reports support for GSO batches. Sends can still fail on some routes.
    pub fn sends_batches(&self) -> bool {
        self.batches.sent
    }

    /// Completes the adoption of an inherited socket. Call it when the receive queue is empty.
    ///
    /// Disables GRO if the socket was passed in with GRO and offload is off. GRO stays enabled
    /// until the queue is empty, because the kernel reports the segment size of queued batches only
    /// with GRO enabled. (A batch that arrives during this call is taken for one datagram.)
    ///
    /// # Errors
    /// The errors of setsockopt(2).
    pub fn queue_emptied(&self) -> io::Result<()> {
        self.guard.queue_emptied();
        if self.batches.unwanted.load(Relaxed) {
            offload::set_receives_batches(self, false)?;
            self.batches.unwanted.store(false, Relaxed);
        }
        Ok(())
    }

    /// Sets how long a receive waits for the first datagram (`SO_RCVTIMEO`, socket(7)). `None`
    /// waits without a limit.
    ///
    /// # Errors
    /// The errors of setsockopt(2).
    pub fn set_receive_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        // For the kernel, zero means no timeout.
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_micros(1)));
        self.inner.set_read_timeout(timeout)
    }

    /// Whether the destination is a broadcast or multicast address other than the bound address.
    pub fn is_broadcast_or_multicast(&self, info: &PacketInfo) -> bool {
        info.broadcast_or_multicast && info.destination != self.address.ip().to_canonical()
    }

    /// Whether an IPv6 datagram from the network has the same source and destination address. The
    /// kernel drops such IPv4 datagrams (`fib_validate_source`, `net/ipv4/fib_frontend.c`).
    ///
    /// Also true for empty datagrams of local clients, and for all of their datagrams until the
    /// filter has seen every queued datagram.
    pub fn is_forged(&self, received: &RecvMeta) -> bool {
        let SocketAddr::V6(peer) = received.peer else {
            return false;
        };
        if received.length > 0 && self.guard.is_complete() {
            return false;
        }
        let info = received.info;
        let destination = info.map_or(self.address.ip(), |info| info.destination);
        destination == *peer.ip() && !destination.is_loopback()
    }

    /// The bytes in the receive queue, and the datagrams dropped since the socket was bound or
    /// adopted (`SO_MEMINFO`).
    ///
    /// # Errors
    /// The errors of getsockopt(2).
    pub fn queue_and_drops(&self) -> io::Result<(u32, u64)> {
        let MemInfo {
            receive_queue,
            drops,
        } = sockopt::meminfo(self)?;
        Ok((receive_queue, self.drops.total(drops)))
    }

    /// Enables packet info if the socket receives for more than one address. The destination
    /// becomes the source of the reply, and decides whether there is one.
    fn enable_packet_info(&self) -> io::Result<()> {
        let ip = self.address.ip();
        if is_one_host(ip) {
            return Ok(());
        }
        if ip.is_ipv6() {
            sockopt::set(self, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        }
        // On an IPv6 socket, for IPv4 datagrams.
        sockopt::set(self, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }

    fn offload(&mut self, wanted: bool) {
        let found = offload::receives_batches(&*self);
        self.batches = BatchSupport {
            received: found || (wanted && offload::set_receives_batches(&*self, true).is_ok()),
            unwanted: AtomicBool::new(found && !wanted),
            sent: wanted && offload::can_send_batches(&*self),
        };
    }
}

#[cfg(all(test, miri))]
impl Socket {
    /// A socket for the simulated kernel.
    pub(in crate::udp) fn simulated(batches: bool) -> Self {
        let file = std::fs::File::open("/dev/null").unwrap();
        Self {
            inner: OwnedFd::from(file).into(),
            address: ([0, 0, 0, 0], 9999).into(),
            drops: Drops::from_baseline(0),
            batches: BatchSupport {
                received: batches,
                unwanted: AtomicBool::new(false),
                sent: batches,
            },
            guard: Guard::default(),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Fails unless the socket is for UDP over IP.
fn check_kind(socket: &socket2::Socket) -> Result<(), AdoptError> {
    let unusable = |cause| AdoptError::Unusable {
        action: "read the kind of",
        cause,
    };
    let domain = socket.domain().map_err(unusable)?;
    let kind = socket.r#type().map_err(unusable)?;
    let protocol = socket.protocol().map_err(unusable)?;
    let internet = [Domain::IPV4, Domain::IPV6].contains(&domain);
    if internet && kind == Type::DGRAM && protocol == Some(Protocol::UDP) {
        return Ok(());
    }
    Err(AdoptError::Kind(if internet && kind == Type::STREAM {
        "a TCP socket".into()
    } else {
        format!("a socket of family {domain:?} and type {kind:?}")
    }))
}
