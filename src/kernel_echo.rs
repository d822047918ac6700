//! The kernel path: an XDP program that echoes datagrams in the network driver.

mod error;
mod host;
mod pins;
mod program;
mod reader;
mod routes;
mod sys;

use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

pub use error::{AttachError, DetachError, KernelError};
pub use host::user;
pub use pins::{Attach, detach};
pub use program::INSTRUCTIONS;
pub use reader::{Expected, KernelCounts, KernelEcho, Unusable};
pub use sys::XdpMode;
use sys::{Map, MapKind, Plain};

/// The default folder of the pins.
pub const PINS: &str = "/sys/fs/bpf/udp-echo";
/// How often the daemon makes the programs answer on: three times within the 1.5 seconds after which
/// they stop.
pub const HEARTBEAT: Duration = Duration::from_millis(500);
/// The most addresses of one interface.
pub const MAX_ADDRESSES: u32 = 8;

/// An address that the program answers for, and its counts on one CPU: `struct address` of `echo.c`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Entry {
    ip: [u8; 16],
    /// In network byte order.
    port: [u8; 2],
    min_source_port: u16,
    max_datagram: u32,
    mac: [u8; 6],
    _unused: [u8; 10],
    datagrams: u64,
    bytes: u64,
    passed: u64,
    last: u64,
    tick: u64,
}

#[expect(unsafe_code, reason = "the layout is that of the program")]
// SAFETY: integers and arrays of them; the fields leave no gap.
unsafe impl Plain for Entry {}

const _: () = assert!(size_of::<Entry>() == 80 && offset_of!(Entry, datagrams) == 40);

/// The settings of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The addresses that it answers for.
    pub listen: Vec<SocketAddr>,
    /// Longer datagrams are passed.
    pub max_datagram: u32,
    /// Datagrams from lower ports are passed.
    pub min_source_port: u16,
}

/// A loaded program with its maps.
#[derive(Debug)]
pub struct Program {
    loaded: OwnedFd,
    addresses: Map<Entry>,
    heartbeat: Map<u64>,
}

impl Program {
    /// Loads the program for an interface with this hardware address.
    ///
    /// # Errors
    /// `EPERM` or `EACCES` without `CAP_BPF`, `CAP_PERFMON` and `CAP_NET_ADMIN`.
    pub fn load(settings: &Settings, mac: [u8; 6]) -> Result<Self, KernelError> {
        let addresses = Map::create(MapKind::PerCpuArray, pins::ADDRESSES_NAME, MAX_ADDRESSES)?;
        let heartbeat = Map::create(MapKind::Array, "udp_echo_beat", 1)?;
        for (key, listen) in (0..).zip(&settings.listen) {
            let ip = match listen.ip().to_canonical() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            addresses.write(
                key,
                Entry {
                    ip: ip.octets(),
                    port: listen.port().to_be_bytes(),
                    min_source_port: settings.min_source_port,
                    max_datagram: settings.max_datagram,
                    mac,
                    ..Entry::default()
                },
            )?;
        }
        let loaded = sys::load(&sys::with_maps([&addresses, &heartbeat]))?;
        Ok(Self {
            loaded,
            addresses,
            heartbeat,
        })
    }
}

#[cfg(test)]
mod tests;
