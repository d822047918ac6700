//! Sockets connected to one peer, for the client.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};

use socket2::{Domain, Protocol, Type};

use super::send;
use crate::udp::error::SocketAction;
use crate::udp::socket::BatchSupport;
use crate::udp::sys::guard::Guard;
use crate::udp::sys::sockopt;
use crate::udp::{BufferSize, Drops, NO_ADDRESS, NO_PORT, Socket, SocketError, named_here};

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
    /// Fragmentation of datagrams.
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

/// The options of a socket that is connected to one peer.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectOptions {
    /// Requested size of the receive buffer in bytes.
    pub(crate) receive_buffer: usize,
    /// Where to send from; `None` leaves it to the route.
    pub(crate) source: Option<Source>,
    /// The IP header of sent datagrams.
    pub(crate) ip: IpOptions,
    /// Port to send from if `source` has an address; 0 lets the kernel choose.
    pub(crate) port: u16,
}

/// A socket that could not be opened, bound, connected or set up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A system call about the peer failed.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The interface cannot be used.
    #[error("cannot send from interface {name:?}: {cause}{}", interface_hint(.cause))]
    Interface {
        /// Name of the interface.
        name: String,
        /// Error of `SO_BINDTODEVICE`.
        #[source]
        cause: io::Error,
    },
    /// The source address cannot be used.
    #[error("cannot send from {}: {cause}{}", named_source(*.address), source_hint(.address, .cause))]
    Source {
        /// The address, and the port or 0.
        address: SocketAddr,
        /// Error of bind(2).
        #[source]
        cause: io::Error,
    },
}

impl ConnectError {
    /// The errno of the system call that failed, or 0.
    pub(crate) fn errno(&self) -> i32 {
        let cause = match self {
            Self::Socket(error) => error.cause(),
            Self::Interface { cause, .. } | Self::Source { cause, .. } => cause,
        };
        cause.raw_os_error().unwrap_or_default()
    }
}

fn interface_hint(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENODEV) => "; choose an interface of this host (`ip link` shows them)",
        Some(libc::EPERM) => "; use an address of it: before Linux 5.7 the name needs CAP_NET_RAW",
        _ => "",
    }
}

/// Formats a source address, with the port if it is fixed.
fn named_source(address: SocketAddr) -> String {
    let named = named_here(address);
    match named.strip_suffix(":0") {
        Some(address) => address.trim_matches(['[', ']']).to_owned(),
        None => named,
    }
}

fn source_hint(address: &SocketAddr, cause: &io::Error) -> &'static str {
    match (cause.raw_os_error(), address) {
        (Some(libc::EADDRNOTAVAIL), _) => NO_ADDRESS,
        (Some(libc::EINVAL), SocketAddr::V6(v6)) if v6.ip().is_unicast_link_local() => {
            "; add the interface of the link-local address, as in fe80::1%eth0"
        }
        (Some(libc::EADDRINUSE), _) => NO_PORT,
        _ => "",
    }
}

impl Source {
    /// Binds a socket to the interface, and to the address and the port, of which the port may be 0.
    fn bind(
        &self,
        socket: &socket2::Socket,
        peer: SocketAddr,
        port: u16,
    ) -> Result<(), ConnectError> {
        if let Some(name) = &self.interface {
            let failed = |cause| ConnectError::Interface {
                name: name.clone(),
                cause,
            };
            socket.bind_device(Some(name.as_bytes())).map_err(failed)?;
        }
        let Some(address) = self.address else {
            return Ok(());
        };
        let address = match (address, peer) {
            // A link-local source has the interface of the peer, unless it has its own.
            (IpAddr::V6(ip), SocketAddr::V6(peer)) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, port, 0, peer.scope_id()).into()
            }
            (address, _) => SocketAddr::new(address, port),
        };
        let failed = |cause| ConnectError::Source { address, cause };
        socket.bind(&address.into()).map_err(failed)
    }
}

impl IpOptions {
    fn set(self, socket: &socket2::Socket, peer: SocketAddr) -> io::Result<()> {
        let (level, traffic_class, ttl, discover) = if peer.is_ipv6() {
            let level = libc::IPPROTO_IPV6;
            let options = (
                libc::IPV6_TCLASS,
                libc::IPV6_UNICAST_HOPS,
                libc::IPV6_MTU_DISCOVER,
            );
            (level, options.0, options.1, options.2)
        } else {
            (
                libc::IPPROTO_IP,
                libc::IP_TOS,
                libc::IP_TTL,
                libc::IP_MTU_DISCOVER,
            )
        };
        // The numbers are the same for both families.
        let fragmentation = self.fragmentation.map(|value| match value {
            Fragmentation::Never => libc::IP_PMTUDISC_DO,
            Fragmentation::Local => libc::IP_PMTUDISC_WANT,
            Fragmentation::Anywhere => libc::IP_PMTUDISC_DONT,
        });
        for (name, value) in [
            (traffic_class, self.traffic_class.map(Into::into)),
            (ttl, self.ttl.map(Into::into)),
            (discover, fragmentation),
        ] {
            if let Some(value) = value {
                sockopt::set(socket, level, name, value)?;
            }
        }
        Ok(())
    }
}

/// Whether this host has the address. If it cannot be found out, it has.
pub(crate) fn is_own(address: SocketAddr) -> bool {
    let mut any_port = address;
    any_port.set_port(0);
    let bound = UdpSocket::bind(any_port);
    !bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

impl Socket {
    /// Opens a socket that sends to and receives from `peer` only. [`Self::take_rejection`] returns ICMP errors about its datagrams.
    ///
    /// # Errors
    /// The errors of socket(2), bind(2), connect(2) and setsockopt(2).
    pub(crate) fn connect(
        peer: SocketAddr,
        options: &ConnectOptions,
    ) -> Result<Self, ConnectError> {
        let failed = |words| SocketError::of(SocketAction::Other(words), peer);
        let domain = Domain::for_address(peer);
        let inner = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
            .map_err(failed("open a socket for"))?;
        if let Some(source) = &options.source {
            source.bind(&inner, peer, options.port)?;
        }
        options
            .ip
            .set(&inner, peer)
            .map_err(failed("set the options of a socket for"))?;
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
        socket
            .receive_ip_header()
            .map_err(failed("set IP_RECVTTL for"))?;
        sockopt::set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
            .map_err(failed("set SO_TIMESTAMPNS for"))?;
        socket
            .size_buffers([
                BufferSize::Bytes(options.receive_buffer),
                BufferSize::Default,
            ])
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

#[cfg(test)]
mod tests {
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
            let to = peer.local_addr().unwrap();
            let socket = Socket::connect(to, &ConnectOptions::default()).unwrap();
            peer.send_to(b"reply", socket.address()).unwrap();
            let mut batch = Batch::new(1, 64, &socket);
            batch.receive(&socket, Wait::Block, 1).unwrap();
            assert_eq!(batch.meta(0).ttl, Some(77), "{host}");
        }
    }

    #[test]
    fn fragmentation_is_set_as_path_mtu_discovery() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (fragmentation, value) in [
            (Fragmentation::Never, libc::IP_PMTUDISC_DO),
            (Fragmentation::Local, libc::IP_PMTUDISC_WANT),
            (Fragmentation::Anywhere, libc::IP_PMTUDISC_DONT),
        ] {
            let options = ConnectOptions {
                ip: IpOptions {
                    fragmentation: Some(fragmentation),
                    ..IpOptions::default()
                },
                ..ConnectOptions::default()
            };
            let socket = Socket::connect(peer.local_addr().unwrap(), &options).unwrap();
            let set = sockopt::get(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
            assert_eq!(set.unwrap(), value, "{fragmentation:?}");
        }
    }

    #[test]
    fn addresses_of_this_host_are_recognized() {
        for (address, own) in [
            ("127.0.0.1:9", true),
            ("192.0.2.1:9", false),
            ("[2001:db8::1]:9", false),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            // Without IPv6, nothing is known about its addresses.
            assert!(is_own(address) == own || address.is_ipv6(), "{address}");
        }
    }
}
