//! One UDP socket: bound, its buffers set, its drops read.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Protocol, Type};

use super::error::SocketAction;
use super::sys::guard::Guard;
use super::sys::{offload, sockopt};
use super::{AdoptError, BufferLimits, Drops, MemInfo, PacketInfo, RecvMeta, SocketError, named};

/// What a socket is asked for.
#[derive(Debug, Clone, Copy)]
pub struct SocketOptions {
    /// The receive buffer's size in bytes; `None` leaves the kernel's.
    pub receive_buffer: Option<usize>,
    /// The send buffer's size in bytes; `None` leaves the kernel's.
    pub send_buffer: Option<usize>,
    /// Whether to let others take over the port (`SO_REUSEADDR`, socket(7)).
    pub reuse_address: bool,
    /// Whether datagrams are to come with the time of their receipt.
    pub timestamps: bool,
    /// Whether bursts are to be received and sent as one, where the kernel can.
    pub offload: bool,
}

/// A bound UDP socket.
#[derive(Debug)]
pub struct Socket {
    pub(super) inner: socket2::Socket,
    pub(super) address: SocketAddr,
    pub(super) drops: Drops,
    /// Whether it gets bursts as one, whether that is not wanted, and whether it sends such.
    pub(super) batches: BatchSupport,
    pub(super) guard: Guard,
}

#[derive(Debug, Default)]
pub(super) struct BatchSupport {
    received: bool,
    unwanted: AtomicBool,
    sent: bool,
}

impl Socket {
    /// Binds a socket. The port is this socket's alone unless `reuse_address` says otherwise.
    /// `[::]` takes IPv4 datagrams too.
    ///
    /// # Errors
    /// When the kernel refuses: an address in use or of another host, no permission, …
    pub fn bind(address: SocketAddr, options: &SocketOptions) -> Result<Self, SocketError> {
        Self::bind_as(address, options, false)
    }

    /// Binds one more socket to the same address. The kernel spreads the peers over all of them
    /// and keeps each with one (`SO_REUSEPORT`, socket(7)). The first was bound without, so that
    /// the port was free; nobody but this user's processes can join now.
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

    /// Takes over a socket that the service manager bound. Its port is made this socket's alone
    /// (systemd sets `SO_REUSEADDR` on every socket) unless `reuse_address` says otherwise, and
    /// what the kernel dropped before is not counted.
    ///
    /// # Errors
    /// When it is not a bound, unconnected UDP socket.
    pub fn adopt(descriptor: OwnedFd, options: &SocketOptions) -> Result<Self, AdoptError> {
        let unusable = |action| move |cause| AdoptError::Unusable { action, cause };
        let inner = socket2::Socket::from(descriptor);
        check_kind(&inner)?;
        if let Ok(Some(peer)) = inner.peer_addr().map(|peer| peer.as_socket()) {
            return Err(AdoptError::Connected(named(peer, &inner)));
        }
        let address = inner.local_addr().map_err(unusable("read its address"))?;
        let address = address
            .as_socket()
            .filter(|address| address.port() != 0)
            .ok_or(AdoptError::Unbound)?;
        inner
            .set_nonblocking(false)
            .map_err(unusable("make it block"))?;
        inner
            .set_reuse_address(options.reuse_address)
            .map_err(unusable("set SO_REUSEADDR"))?;
        let drops = sockopt::meminfo(&inner).map_err(unusable("read SO_MEMINFO"))?;
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

    /// What bound and adopted sockets need alike.
    fn prepare(&mut self, options: &SocketOptions) -> Result<(), (&'static str, io::Error)> {
        let failed = |action| move |cause| (action, cause);
        // ICMP errors about earlier replies are not to fail later ones (ip(7), ipv6(7)).
        sockopt::set(&*self, libc::IPPROTO_IP, libc::IP_RECVERR, 0)
            .map_err(failed("set IP_RECVERR for"))?;
        if self.address.is_ipv6() {
            sockopt::set(&*self, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 0)
                .map_err(failed("set IPV6_RECVERR for"))?;
        }
        self.tell_destinations()
            .map_err(failed("set packet info for"))?;
        sockopt::set(
            &*self,
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            options.timestamps.into(),
        )
        .map_err(failed("set SO_TIMESTAMPNS for"))?;
        self.size_buffers(options)
            .map_err(failed("size the buffers of"))?;
        self.offload(options.offload);
        Ok(())
    }

    /// The address it is bound to, with the port that the kernel chose if it was asked to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether what it receives can be a burst.
    pub fn receives_batches(&self) -> bool {
        self.batches.received
    }

    /// Whether it can send a burst, as far as the kernel tells beforehand.
    pub fn sends_batches(&self) -> bool {
        self.batches.sent
    }

    /// Finishes taking over an inherited socket. To be called when nothing waits in it.
    ///
    /// Has it get no more bursts, if it was handed over with them and they are not wanted: for those
    /// that wait already, nothing would tell any more where one datagram ends. (One that comes at
    /// this very moment is taken for one datagram.)
    ///
    /// # Errors
    /// What `setsockopt` gives.
    pub fn is_empty_now(&self) -> io::Result<()> {
        self.guard.is_empty_now();
        if self.batches.unwanted.load(Relaxed) {
            offload::set_receives_batches(self, false)?;
            self.batches.unwanted.store(false, Relaxed);
        }
        Ok(())
    }

    /// Sets how long a receive waits for the first datagram, `None` for ever (`SO_RCVTIMEO`,
    /// socket(7)).
    ///
    /// # Errors
    /// What `setsockopt` gives.
    pub fn set_receive_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        // The kernel takes zero for "for ever".
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_micros(1)));
        self.inner.set_read_timeout(timeout)
    }

    /// Whether a datagram went to a broadcast or multicast address that the socket is not
    /// itself bound to.
    pub fn is_group(&self, info: &PacketInfo) -> bool {
        info.group && info.destination != self.address.ip().to_canonical()
    }

    /// Whether a datagram came from the network although its source is the address that it was
    /// sent to. IPv4 datagrams of that kind do not pass the kernel (`fib_validate_source`,
    /// `net/ipv4/fib_frontend.c`).
    ///
    /// This also holds for an empty datagram of a local client, and for each datagram of such a
    /// client as long as the filter has not seen all that waits.
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

    /// The sizes of its receive and send buffers in bytes, as the kernel says (`SO_RCVBUF`,
    /// `SO_SNDBUF`): it doubles what it is asked for, to have room for its own book-keeping
    /// (socket(7)).
    ///
    /// # Errors
    /// What `getsockopt` gives.
    pub fn buffer_sizes(&self) -> io::Result<[usize; 2]> {
        Ok([
            self.inner.recv_buffer_size()?,
            self.inner.send_buffer_size()?,
        ])
    }

    /// What waits in its receive buffer, and what was dropped since it was bound, neither of
    /// which needs a datagram to be read.
    ///
    /// # Errors
    /// What `getsockopt` gives.
    pub fn queue_and_drops(&self) -> io::Result<(u32, u64)> {
        let MemInfo {
            receive_queue,
            drops,
        } = sockopt::meminfo(self)?;
        Ok((receive_queue, self.drops.total(drops)))
    }

    /// Has datagrams come with packet info where the socket takes them for more than one
    /// address: a reply has to leave from the one that was asked, and not all may be answered.
    fn tell_destinations(&self) -> io::Result<()> {
        let ip = self.address.ip();
        if is_one_host(ip) {
            return Ok(());
        }
        if ip.is_ipv6() {
            sockopt::set(self, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        }
        // On an IPv6 socket, for the IPv4 datagrams that it gets.
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

    pub(super) fn size_buffers(&self, options: &SocketOptions) -> io::Result<()> {
        if options.receive_buffer.or(options.send_buffer).is_none() {
            return Ok(());
        }
        let limits = BufferLimits::new()?;
        let sizes = self.buffer_sizes()?;
        for (size, has, limit, force, within_limit) in [
            (
                options.receive_buffer,
                sizes[0],
                limits.receive()?,
                libc::SO_RCVBUFFORCE,
                libc::SO_RCVBUF,
            ),
            (
                options.send_buffer,
                sizes[1],
                limits.send()?,
                libc::SO_SNDBUFFORCE,
                libc::SO_SNDBUF,
            ),
        ] {
            let Some(size) = size else { continue };
            let size = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
            match sockopt::set(self, libc::SOL_SOCKET, force, size) {
                Err(denied) if denied.kind() == io::ErrorKind::PermissionDenied => {
                    // The limit must not take away what a service manager gave, past it.
                    let has = libc::c_int::try_from(has / 2).unwrap_or(libc::c_int::MAX);
                    let limit = libc::c_int::try_from(limit).unwrap_or(libc::c_int::MAX);
                    if size < has || limit > has {
                        sockopt::set(self, libc::SOL_SOCKET, within_limit, size)?;
                    }
                }
                done => done?,
            }
        }
        Ok(())
    }
}

#[cfg(all(test, miri))]
impl Socket {
    /// One that is none, for a kernel that is simulated.
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

/// Whether a socket is for UDP over IP.
fn check_kind(socket: &socket2::Socket) -> Result<(), AdoptError> {
    let unusable = |cause| AdoptError::Unusable {
        action: "read its kind",
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

/// Whether an address is a single host's, so that datagrams have no other destination.
fn is_one_host(ip: IpAddr) -> bool {
    // Of an IPv6 socket that was handed over for IPv4 alone, ::ffff:0.0.0.0 is every address.
    let ip = ip.to_canonical();
    let group = match ip {
        // A directed broadcast address looks like any other: packet info tells.
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    };
    !ip.is_unspecified() && !group
}
