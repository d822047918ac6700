//! The daemon's side of the kernel path: opens the pins, keeps the programs answering and reads
//! their counts. It needs no privilege.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::host;
use super::pins::{ADDRESSES, HEARTBEAT, LINK, folders_of, interface_of, is_attached};
use super::sys::{Map, MapKind};
use super::{Entry, MAX_ADDRESSES};

/// Why the daemon cannot use attached programs.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Unusable {
    #[error(
        "a program cannot answer for {0}, which is every address: set one address in ListenDatagram= of \
         the socket unit"
    )]
    Wildcard(SocketAddr),
    #[error("no program is attached: there are no pins in {}; run `udp-echo attach`", .0.display())]
    Missing(PathBuf),
    #[error(
        "cannot read the pins in {}: {cause}; systemd opens /sys/fs/bpf to root only: use BindPaths= \
         in the unit, or another file system of type bpf with --pins",
        folder.display()
    )]
    Folder { folder: PathBuf, cause: io::Error },
    #[error("cannot open {}: {cause}{}", path.display(), hint(.cause))]
    Pin { path: PathBuf, cause: io::Error },
    #[error(
        "the program on {interface} has gone with its interface; run `udp-echo detach`, then `udp-echo \
         attach`"
    )]
    Gone { interface: String },
    #[error(
        "the program on {interface} was attached for {field} {attached}, not {own}; run `udp-echo \
         detach`, then `udp-echo attach` with the daemon's settings"
    )]
    Differs {
        interface: String,
        field: &'static str,
        attached: String,
        own: String,
    },
}

/// Advice about a pin that cannot be opened.
fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => "; attach with --owner and the user of the daemon",
        _ => "; run `udp-echo detach`, then `udp-echo attach`",
    }
}

/// The settings of the daemon that a program must have, too.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The addresses of all sockets.
    pub listen: Vec<SocketAddr>,
    /// The longest echo in bytes.
    pub max_datagram: u32,
    /// The lowest source port that is answered.
    pub min_source_port: u16,
}

/// The attached programs of all interfaces.
#[derive(Debug)]
pub struct KernelEcho {
    interfaces: Vec<Interface>,
}

#[derive(Debug)]
struct Interface {
    name: String,
    link_pin: PathBuf,
    heartbeat_pin: PathBuf,
    inode: u64,
    heartbeat: Map<u64>,
    addresses: Map<Entry>,
    /// Each address, its key, and the counts before this daemon.
    listen: Vec<(SocketAddr, u32, [u64; 3])>,
}

/// The counts of one address on one interface since the start of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelCounts {
    /// The address.
    pub listen: SocketAddr,
    /// The name of the interface.
    pub interface: String,
    /// The datagrams that the program echoed.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// The datagrams that it passed to the socket.
    pub passed: u64,
    /// The time since the last echo; `None` before the first.
    pub since_last: Option<Duration>,
    /// Another number after each echo.
    pub last: u64,
}

impl KernelEcho {
    /// Opens the pins of all interfaces.
    ///
    /// # Errors
    /// If there are none, if one cannot be opened, or if a program has other settings.
    pub fn open(pins: &Path, expected: &Expected) -> Result<Self, Unusable> {
        // In --listen it is a usage error.
        let is_wildcard = |listen: &&SocketAddr| listen.ip().to_canonical().is_unspecified();
        if let Some(listen) = expected.listen.iter().find(is_wildcard) {
            return Err(Unusable::Wildcard(*listen));
        }
        let mut folders = folders_of(pins).map_err(|cause| Unusable::Folder {
            folder: pins.into(),
            cause,
        })?;
        // Those of other programs have none.
        folders.retain(|folder| folder.join(ADDRESSES).exists());
        if folders.is_empty() {
            return Err(Unusable::Missing(pins.into()));
        }
        let interfaces = folders
            .iter()
            .map(|folder| Interface::open(folder, expected));
        Ok(Self {
            interfaces: interfaces.collect::<Result<_, _>>()?,
        })
    }

    /// Makes the programs answer for the next 1.5 seconds.
    ///
    /// # Errors
    /// The first failed write.
    pub fn beat(&self) -> io::Result<()> {
        let now = host::monotonic_time();
        let beats = self
            .interfaces
            .iter()
            .map(|one| one.heartbeat.write(0, now));
        beats.collect()
    }

    /// Makes the programs pass all datagrams to the socket.
    pub fn stop(&self) {
        for one in &self.interfaces {
            // It would stop by itself.
            let _ = one.heartbeat.write(0, 0);
        }
    }

    /// Each interface, and whether its program is the one that this daemon keeps answering.
    pub fn active(&self) -> Vec<(String, bool)> {
        let active = self.interfaces.iter().map(|one| {
            let inode = fs::metadata(&one.heartbeat_pin).map(|pin| pin.ino());
            let is_own = inode.is_ok_and(|inode| inode == one.inode);
            // Without permission, or without the descriptors for it, it is as it was.
            let is_active = is_own && is_attached(&one.link_pin).unwrap_or(true);
            (one.name.clone(), is_active)
        });
        active.collect()
    }

    /// The counts of every address on every interface.
    pub fn counts(&self) -> Vec<KernelCounts> {
        let now = host::monotonic_time();
        let read = |one: &Interface, (listen, key, before): &(SocketAddr, u32, [u64; 3])| {
            // A descriptor of a map that exists always reads.
            let (total, last) = sums(&one.addresses.read(*key).unwrap_or_default());
            let since = |index: usize| total[index].saturating_sub(before[index]);
            let echoed = since(0);
            KernelCounts {
                listen: *listen,
                interface: one.name.clone(),
                datagrams: echoed,
                bytes: since(1),
                passed: since(2),
                since_last: (echoed > 0).then(|| Duration::from_nanos(now.saturating_sub(last))),
                last,
            }
        };
        let all = self.interfaces.iter();
        all.flat_map(|one| one.listen.iter().map(move |listen| read(one, listen)))
            .collect()
    }
}

impl Drop for KernelEcho {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Interface {
    fn open(folder: &Path, expected: &Expected) -> Result<Self, Unusable> {
        let name = interface_of(folder);
        let [path, heartbeat_pin, link_pin] =
            [ADDRESSES, HEARTBEAT, LINK].map(|pin| folder.join(pin));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |cause| Unusable::Pin { path, cause }
        };
        let addresses: Map<Entry> =
            Map::open(&path, MapKind::PerCpuArray, false).map_err(failed(&path))?;
        let heartbeat =
            Map::open(&heartbeat_pin, MapKind::Array, true).map_err(failed(&heartbeat_pin))?;
        let inode = fs::metadata(&heartbeat_pin)
            .map_err(failed(&heartbeat_pin))?
            .ino();
        match is_attached(&link_pin) {
            Ok(false) => return Err(Unusable::Gone { interface: name }),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Err(failed(&link_pin)(cause));
            }
            // Only the owner may look.
            _ => (),
        }
        let mut listen = Vec::new();
        for key in 0..MAX_ADDRESSES {
            let values = addresses.read(key).map_err(failed(&path))?;
            let Some(entry) = values.first().filter(|entry| entry.port != [0; 2]) else {
                break;
            };
            let differs = |field, attached: String, own: String| Unusable::Differs {
                interface: name.clone(),
                field,
                attached,
                own,
            };
            if entry.max_datagram != expected.max_datagram {
                let [attached, own] = [entry.max_datagram, expected.max_datagram];
                return Err(differs(
                    "--max-datagram",
                    attached.to_string(),
                    own.to_string(),
                ));
            }
            if entry.min_source_port != expected.min_source_port {
                let [attached, own] = [entry.min_source_port, expected.min_source_port];
                return Err(differs(
                    "--min-source-port",
                    attached.to_string(),
                    own.to_string(),
                ));
            }
            let ip = Ipv6Addr::from(entry.ip).to_canonical();
            let address = SocketAddr::new(ip, u16::from_be_bytes(entry.port));
            listen.push((address, key, sums(&values).0));
        }
        let attached: BTreeSet<_> = listen.iter().map(|(address, ..)| *address).collect();
        let own: BTreeSet<_> = expected.listen.iter().map(canonical).collect();
        if attached != own {
            let shown = |set: &BTreeSet<SocketAddr>| {
                let set: Vec<_> = set.iter().map(ToString::to_string).collect();
                set.join(",")
            };
            return Err(Unusable::Differs {
                interface: name,
                field: "--listen",
                attached: shown(&attached),
                own: shown(&own),
            });
        }
        Ok(Self {
            name,
            link_pin,
            heartbeat_pin,
            inode,
            heartbeat,
            addresses,
            listen,
        })
    }
}

/// An address as the program has it: an IPv4-mapped one is IPv4, and there are no scopes.
fn canonical(address: &SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The sums over all CPUs of echoed datagrams, their bytes and passed datagrams; and the time of the
/// last echo.
fn sums(values: &[Entry]) -> ([u64; 3], u64) {
    values.iter().fold(([0; 3], 0), |(sums, last), entry| {
        let counts = [entry.datagrams, entry.bytes, entry.passed];
        let add = |index: usize| sums[index] + counts[index];
        (std::array::from_fn(add), last.max(entry.last))
    })
}
