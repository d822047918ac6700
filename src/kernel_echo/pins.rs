//! The pins of attached programs: one folder per interface, in a file system of type bpf.
//!
//! A link holds the program at its interface while the link has a descriptor or a pin. It is pinned
//! last: whatever ends `attach` before that leaves the interface without a program.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use super::error::{AttachError, DetachError, KernelError};
use super::sys::{self, LinkInfo, XdpMode};
use super::{Program, Settings};
use super::{host, routes};

const LINK: &str = "link";
pub(super) const ADDRESSES: &str = "addresses";
pub(super) const HEARTBEAT: &str = "heartbeat";
/// The name of the map of addresses. It identifies the folder of an interface.
pub(super) const ADDRESSES_NAME: &str = "udp_echo_addr";

/// The task of `attach`.
#[derive(Debug, Clone)]
pub struct Attach {
    /// The folder of the pins.
    pub pins: PathBuf,
    /// The names of the interfaces.
    pub interfaces: Vec<String>,
    /// The settings of the program.
    pub settings: Settings,
    /// Whether the program runs in the driver.
    pub mode: XdpMode,
    /// The user whose daemon may write the heartbeat; `None` is root.
    pub owner: Option<u32>,
}

impl Attach {
    /// Attaches the program to all interfaces, or to none. Returns warnings.
    ///
    /// # Errors
    /// The first failure. Nothing is left behind.
    pub fn run(&self) -> Result<Vec<String>, AttachError> {
        let is_new = fs::symlink_metadata(&self.pins).is_err();
        let mut done = Vec::new();
        for interface in &self.interfaces {
            match self.attach(interface) {
                Ok(pinned) => done.push(pinned),
                Err(error) => {
                    // The first error says more than one of these.
                    for folder in done {
                        let _ = remove(&folder);
                    }
                    if is_new {
                        let _ = fs::remove_dir(&self.pins);
                    }
                    return Err(error);
                }
            }
        }
        Ok(self
            .interfaces
            .iter()
            .flat_map(|one| warnings(one))
            .collect())
    }

    fn attach(&self, interface: &str) -> Result<PathBuf, AttachError> {
        let failed = |cause: KernelError| AttachError::new(interface, self.mode, cause);
        let found = host::interface(interface).map_err(|cause| failed(cause.into()))?;
        // The program knows no zones.
        let is_elsewhere = |listen: &&SocketAddr| matches!(listen, SocketAddr::V6(v6) if ![0, found.index].contains(&v6.scope_id()));
        if let Some(address) = self.settings.listen.iter().find(is_elsewhere) {
            return Err(AttachError::Elsewhere {
                interface: interface.into(),
                address: crate::udp::named_here(*address),
            });
        }
        let program = Program::load(&self.settings, found.mac).map_err(failed)?;
        let folder = self.pins.join(folder_name(interface));
        let cannot_pin = |cause| AttachError::Pin {
            folder: folder.clone(),
            cause,
        };
        if self.is_attached(&folder).map_err(cannot_pin)? {
            return Err(AttachError::Twice {
                interface: interface.into(),
            });
        }
        let link = sys::attach(&program.loaded, found.index, self.mode)
            .map_err(|cause| failed(cause.into()))?;
        remove_left(&folder).map_err(cannot_pin)?;
        let pin = || {
            create_open(&folder)?;
            for (object, name, mode) in [
                (
                    &program.addresses as &dyn std::os::fd::AsFd,
                    ADDRESSES,
                    0o644,
                ),
                (&program.heartbeat, HEARTBEAT, 0o644),
                (&link, LINK, 0o600),
            ] {
                let path = folder.join(name);
                sys::pin(object, &path)?;
                fs::set_permissions(&path, Permissions::from_mode(mode))?;
                if name == HEARTBEAT {
                    lchown(&path, self.owner, None)?;
                }
            }
            Ok(())
        };
        pin().map_err(|cause| {
            let _ = remove(&folder);
            cannot_pin(cause)
        })?;
        Ok(folder)
    }

    /// Whether the interface of a folder has a program of `attach`. Creates the folder of all pins.
    fn is_attached(&self, folder: &Path) -> io::Result<bool> {
        match create_open(&self.pins) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created?,
        }
        if !host::is_in_bpf(&open_trusted(&self.pins)?)? {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        unless_missing(open_trusted(folder).map(drop))?;
        let link = sys::get(&folder.join(LINK), 0);
        let found: io::Result<LinkInfo> = link.and_then(|link| sys::info(&link));
        // The interface of a link can be gone.
        Ok(found.is_ok_and(|found| found.interface != 0))
    }
}

/// Warnings of replies that take another way than those of the socket.
fn warnings(interface: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let networks = routes::elsewhere(interface).join(", ");
    if !networks.is_empty() {
        warnings.push(format!(
            "replies of the program leave by {interface}, where their datagrams came in; those of \
             the socket leave to {networks}"
        ));
    }
    if host::interface(interface).is_ok_and(|found| found.takes_vlan_tags) {
        warnings.push(format!(
            "{interface} removes VLAN tags: the program answers datagrams of every VLAN, without a \
             tag; `ethtool -K {interface} rxvlan off` leaves them to the socket"
        ));
    }
    warnings
}

/// Detaches the program from these interfaces, or from all, and removes the pins. It is no error if
/// there are none.
///
/// # Errors
/// The first pin that cannot be removed. The others are removed.
pub fn detach(pins: &Path, interfaces: &[String]) -> Result<(), DetachError> {
    let failed = |folder: &Path| {
        let folder = folder.to_owned();
        move |cause| DetachError { folder, cause }
    };
    let opened = match open_trusted(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(failed(pins))?,
    };
    if !host::is_in_bpf(&opened).map_err(failed(pins))? {
        return Ok(());
    }
    let mut result = Ok(());
    for folder in folders_of(pins).map_err(failed(pins))? {
        if interfaces.is_empty() || interfaces.contains(&interface_of(&folder)) {
            result = result.and(remove_own(&folder).map_err(failed(&folder)));
        }
    }
    if is_named_as_ours(pins) {
        // Fails while interfaces are left.
        let _ = fs::remove_dir(pins);
    }
    result
}

/// The name of the folder of an interface. Names in a file system of type bpf have no dot, names of
/// interfaces no colon.
fn folder_name(interface: &str) -> String {
    interface.replace('.', ":")
}

/// The name of the interface of a folder.
pub(super) fn interface_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().replace(':', ".")
}

/// The folders of all interfaces.
pub(super) fn folders_of(pins: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let entries: Vec<_> = entries.collect::<io::Result<_>>()?;
    let folders = entries
        .iter()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut folders: Vec<_> = folders.map(fs::DirEntry::path).collect();
    folders.sort();
    Ok(folders)
}

/// Whether a folder of pins has the default name. `attach` creates it, so `detach` removes it.
fn is_named_as_ours(pins: &Path) -> bool {
    pins.file_name() == Path::new(super::PINS).file_name()
}

/// Creates a folder that every user can open.
fn create_open(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(folder)?;
    open_trusted(folder)?.set_permissions(Permissions::from_mode(0o755))
}

/// Opens a folder that no other user can change, and no link to one: paths in it are then safe.
fn open_trusted(folder: &Path) -> io::Result<File> {
    let untrusted = || {
        io::Error::other(format!(
            "{} must be a folder, not a link, that belongs to root and that only root can write",
            folder.display()
        ))
    };
    // A slash at the end would follow a link.
    let path: PathBuf = folder.components().collect();
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path);
    let opened = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(untrusted()),
        opened => opened?,
    };
    let found = opened.metadata()?;
    let is_own = [0, host::effective_user()].contains(&found.uid());
    if is_own && found.mode() & 0o022 == 0 {
        Ok(opened)
    } else {
        Err(untrusted())
    }
}

/// Removes the folder of an interface, if it is one.
fn remove_own(folder: &Path) -> io::Result<()> {
    let mut is_empty = true;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if ![LINK, ADDRESSES, HEARTBEAT].iter().any(|own| name == *own) {
            return Ok(());
        }
        is_empty = false;
    }
    open_trusted(folder)?;
    // An `attach` that is killed can leave an empty folder.
    let is_own = if is_empty {
        folder.parent().is_some_and(is_named_as_ours)
    } else {
        sys::map_has_name(&folder.join(ADDRESSES), ADDRESSES_NAME)?
    };
    if is_own { remove(folder) } else { Ok(()) }
}

/// Removes what an `attach` that was killed left of an interface. Any other file is an error.
fn remove_left(folder: &Path) -> io::Result<()> {
    unless_missing(remove_own(folder))?;
    unless_missing(fs::remove_dir(folder))
}

/// Removes the pins of an interface, the link first. It is no error if there are none.
fn remove(folder: &Path) -> io::Result<()> {
    // Without this, the kernel would detach the program some time after its pin has gone, and the next
    // `attach` could find the interface busy.
    let link = sys::get(&folder.join(LINK), 0);
    let _ = link.and_then(|link| sys::detach(&link));
    // The addresses, which tell that the folder is one of `attach`, come first and go last.
    for name in [LINK, HEARTBEAT, ADDRESSES] {
        unless_missing(fs::remove_file(folder.join(name)))?;
    }
    unless_missing(fs::remove_dir(folder))
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
