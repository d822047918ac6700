//! The command lines of the kernel path: `udp-echo attach` and `udp-echo detach`.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use clap::{Parser, ValueHint};

use super::values::{number, path, size};
use crate::address::HostPort;
use crate::kernel_echo::{Attach, MAX_ADDRESSES, PINS, Settings, XdpMode};

/// Echo datagrams in the network driver (XDP)
///
/// Load an XDP program, attach it to network interfaces and pin it. While a daemon with
/// --kernel-echo runs, it echoes the datagrams for --listen in the driver and passes everything
/// else to the socket. Needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
#[expect(clippy::doc_markdown, reason = "help texts have no backticks")]
#[derive(Debug, Clone, Parser)]
#[command(
    version = super::VERSION,
    display_name = "udp-echo",
    term_width = super::option::WIDTH,
    after_help = "Exit status:\n  0  attached\n  1  cannot attach; nothing is left behind\n  2  usage error"
)]
pub struct AttachArgs {
    /// Network interface [default: none]
    ///
    /// Network interface that the datagrams arrive on, such as eth0. Repeat the option or separate names with
    /// commas.
    #[arg(long, value_name = "IF", value_delimiter = ',', required = true)]
    interface: Vec<String>,

    /// Address of the daemon [default: none]
    ///
    /// Address that the daemon listens on, without wildcards. Repeat the option or separate
    /// addresses with commas. The daemon must listen on the same addresses and no others.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        value_delimiter = ',',
        required = true
    )]
    listen: Vec<HostPort>,

    /// Longest datagram to echo
    ///
    /// Longest datagram to echo; must be that of the daemon. The socket gets longer ones.
    #[arg(long, value_name = "BYTES", value_parser = size(1..=65507), default_value = "1024")]
    max_datagram: u16,

    /// Lowest source port
    ///
    /// Lowest source port to answer; must be that of the daemon.
    #[arg(long, value_name = "N", value_parser = number::<u16>(0..=65535), default_value = "1024")]
    min_source_port: u16,

    /// Use generic XDP [default: off]
    ///
    /// Use generic XDP, which works with every Ethernet device, but after the driver. It takes more
    /// CPU time than native XDP.
    #[arg(long, value_parser = clap::builder::BoolishValueParser::new())]
    generic: bool,

    /// Pin folder
    ///
    /// Folder for the pinned objects, in a file system of type bpf.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = path, default_value = PINS)]
    pins: PathBuf,

    /// User of the daemon [default: root]
    ///
    /// User that the daemon runs as: a name, a number, or the path of a file that belongs to the user,
    /// starting with a slash. Only this user and root can keep the program answering: without a
    /// heartbeat for 1.5 seconds it passes everything to the socket.
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
}

/// Detach the XDP program
///
/// Detach the program of `udp-echo attach` from network interfaces and remove its pins. All
/// datagrams then go to the socket.
#[derive(Debug, Clone, Parser)]
#[command(
    version = super::VERSION,
    display_name = "udp-echo",
    term_width = super::option::WIDTH,
    after_help = "Exit status:\n  0  detached, or nothing was attached\n  1  cannot detach\n  2  usage error"
)]
pub struct DetachArgs {
    /// Network interface [default: all]
    ///
    /// Network interface to detach from. Repeat the option or separate names with commas.
    #[arg(long, value_name = "IF", value_delimiter = ',')]
    pub interface: Vec<String>,

    /// Pin folder
    ///
    /// Folder with the pinned objects.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = path, default_value = PINS)]
    pub pins: PathBuf,
}

/// An address that the kernel path cannot serve, or a user that does not exist.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum UnusableAttach {
    #[error("{0}")]
    Resolve(#[from] crate::address::ResolveError),
    #[error(
        "{0} is a wildcard, broadcast, multicast or loopback address: name an address of the interface"
    )]
    NotUnicast(HostPort),
    #[error("{0} has port 0: name the port of the daemon")]
    NoPort(HostPort),
    #[error("more than {MAX_ADDRESSES} addresses in --listen: attach at most {MAX_ADDRESSES}")]
    TooMany,
    #[error("there is no user {0}")]
    NoUser(String),
    #[error("cannot read the owner of {path}: {cause}")]
    NoOwner { path: String, cause: io::Error },
}

impl UnusableAttach {
    /// Whether the options are wrong, not the host.
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::Resolve(_))
    }
}

impl AttachArgs {
    /// The settings.
    ///
    /// # Errors
    /// If an address or the user cannot be used.
    pub fn settings(&self) -> Result<Attach, UnusableAttach> {
        let mut listen = Vec::new();
        for given in &self.listen {
            let address: SocketAddr = given.resolve()?;
            let ip = address.ip();
            let is_unicast = !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast(address);
            if !is_unicast || ip.is_loopback() {
                return Err(UnusableAttach::NotUnicast(given.clone()));
            }
            if address.port() == 0 {
                return Err(UnusableAttach::NoPort(given.clone()));
            }
            if !listen.contains(&address) {
                listen.push(address);
            }
        }
        if listen.len() > MAX_ADDRESSES as usize {
            return Err(UnusableAttach::TooMany);
        }
        let mut interfaces = Vec::new();
        for name in &self.interface {
            if !interfaces.contains(name) {
                interfaces.push(name.clone());
            }
        }
        Ok(Attach {
            pins: self.pins.clone(),
            interfaces,
            settings: Settings {
                listen,
                max_datagram: self.max_datagram.into(),
                min_source_port: self.min_source_port,
            },
            mode: if self.generic {
                XdpMode::Generic
            } else {
                XdpMode::Native
            },
            owner: self.owner.as_deref().map(user).transpose()?,
        })
    }
}

/// Whether it is a broadcast address, of any network or of one of an interface: the kernel then
/// connects only sockets that may send to all hosts.
fn is_broadcast(address: SocketAddr) -> bool {
    let connect = |may_broadcast| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_broadcast(may_broadcast)?;
        socket.connect(address)
    };
    let is_limited = matches!(address.ip(), IpAddr::V4(ip) if ip.is_broadcast());
    let is_refused = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    is_limited || connect(false).is_err_and(is_refused) && connect(true).is_ok()
}

/// The number of a user.
fn user(name: &str) -> Result<u32, UnusableAttach> {
    // chown(2) takes the greatest number as "unchanged".
    if let Ok(number) = name.parse()
        && number != u32::MAX
    {
        return Ok(number);
    }
    // The C library knows the users of DynamicUser= only with the package libnss-systemd, but each
    // owns the RuntimeDirectory= of its service.
    if name.starts_with('/') {
        return match fs::metadata(name) {
            Ok(found) => Ok(found.uid()),
            Err(cause) => Err(UnusableAttach::NoOwner {
                path: name.into(),
                cause,
            }),
        };
    }
    crate::kernel_echo::user(name).ok_or_else(|| UnusableAttach::NoUser(name.into()))
}
