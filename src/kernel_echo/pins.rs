//! The pins of attached programs: one folder per interface, in a file system of type bpf.
//!
//! A link holds the program at its interface while the link has a descriptor or a pin. It is pinned
//! last: whatever ends `attach` before that leaves the interfaces without a program.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use super::error::{AttachError, DetachError, KernelError};
use super::sys::{self, LinkInfo, XdpMode};
use super::{Program, Settings};
use super::{host, routes};

pub(super) const LINK: &str = "link";
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

/// An interface that has the program until this is dropped.
struct Attached<'a> {
    task: &'a Attach,
    folder: PathBuf,
    link: OwnedFd,
    is_kept: bool,
}

impl Attach {
    /// Attaches the program to all interfaces, or to none. Returns warnings.
    ///
    /// # Errors
    /// The first failure. Nothing is left behind.
    pub fn run(&self) -> Result<Vec<String>, AttachError> {
        let is_new = fs::symlink_metadata(&self.pins).is_err();
        let all = self.interfaces.iter();
        let attached: Result<Vec<_>, _> = all.map(|interface| self.attach(interface)).collect();
        let kept = attached.and_then(|mut all| {
            for one in &all {
                one.pin_link().map_err(|cause| one.cannot_pin(cause))?;
            }
            for one in &mut all {
                one.is_kept = true;
            }
            Ok(())
        });
        if kept.is_err() && is_new {
            // The first error says more than this one.
            let _ = fs::remove_dir(&self.pins);
        }
        kept?;
        let all = self.interfaces.iter();
        Ok(all.flat_map(|interface| self.warnings(interface)).collect())
    }

    /// Attaches the program to an interface, and pins its maps.
    fn attach(&self, interface: &str) -> Result<Attached<'_>, AttachError> {
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
        if self.has_program(&folder).map_err(cannot_pin)? {
            return Err(AttachError::Twice {
                interface: interface.into(),
            });
        }
        let link = sys::attach(&program.loaded, found.index, self.mode)
            .map_err(|cause| failed(cause.into()))?;
        remove_left(&folder).map_err(cannot_pin)?;
        let attached = Attached {
            task: self,
            folder,
            link,
            is_kept: false,
        };
        let pinned = attached.pin_maps(&program);
        pinned.map_err(|cause| attached.cannot_pin(cause))?;
        Ok(attached)
    }

    /// Warnings of replies that take another way than those of the socket, or are lost.
    fn warnings(&self, interface: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let networks = routes::elsewhere(interface).join(", ");
        if !networks.is_empty() {
            warnings.push(format!(
                "replies of the program leave by {interface}, where their datagrams came in; those of \
                 the socket leave to {networks}"
            ));
        }
        let found = host::interface(interface);
        if self.mode == XdpMode::Native && found.as_ref().is_ok_and(|found| found.is_veth) {
            warnings.push(format!(
                "{interface} is a veth device, which loses the replies unless its other end has an XDP \
                 program, too: use --generic"
            ));
        }
        if found.is_ok_and(|found| found.takes_vlan_tags) {
            warnings.push(format!(
                "{interface} removes VLAN tags: the program answers datagrams of every VLAN, without a \
                 tag; `ethtool -K {interface} rxvlan off` leaves them to the socket"
            ));
        }
        warnings
    }

    /// Whether the interface of a folder has a program of `attach`. Creates the folder of all pins.
    fn has_program(&self, folder: &Path) -> io::Result<bool> {
        match create_open(&self.pins) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created?,
        }
        if !host::is_in_bpf(&open_trusted(&self.pins)?)? {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        unless_missing(open_trusted(folder).map(drop))?;
        Ok(is_attached(&folder.join(LINK)).unwrap_or(false))
    }
}

impl Attached<'_> {
    fn pin_maps(&self, program: &Program) -> io::Result<()> {
        create_open(&self.folder)?;
        let maps: [(&dyn AsFd, _, _); 2] = [
            (&program.addresses, ADDRESSES, None),
            (&program.heartbeat, HEARTBEAT, self.task.owner),
        ];
        for (map, name, owner) in maps {
            let path = self.folder.join(name);
            sys::pin(map, &path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o644))?;
            lchown(&path, owner, None)?;
        }
        Ok(())
    }

    /// Keeps the program at the interface. The daemon may look whether the link has gone: there is
    /// no descriptor of a link that can only read.
    fn pin_link(&self) -> io::Result<()> {
        let path = self.folder.join(LINK);
        sys::pin(&self.link, &path)?;
        lchown(&path, self.task.owner, None)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))
    }

    fn cannot_pin(&self, cause: io::Error) -> AttachError {
        AttachError::Pin {
            folder: self.folder.clone(),
            cause,
        }
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // The error that is reported says more.
            let _ = remove(&self.folder);
        }
    }
}

/// Whether a pinned link still has an interface.
pub(super) fn is_attached(link: &Path) -> io::Result<bool> {
    let found: LinkInfo = sys::info(&sys::get(link, 0)?)?;
    Ok(found.interface != 0)
}

/// Detaches the program from these interfaces, or from all, and removes the pins. It is no error if
/// there are none. Returns the names of the interfaces.
///
/// # Errors
/// The first pin that cannot be removed. The others are removed.
pub fn detach(pins: &Path, interfaces: &[String]) -> Result<Vec<String>, DetachError> {
    let failed = |folder: &Path| {
        let folder = folder.to_owned();
        move |cause| DetachError { folder, cause }
    };
    let opened = match open_trusted(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(failed(pins))?,
    };
    if !host::is_in_bpf(&opened).map_err(failed(pins))? {
        return Ok(Vec::new());
    }
    let mut detached = Vec::new();
    let mut result = Ok(());
    for folder in folders_of(pins).map_err(failed(pins))? {
        let name = interface_of(&folder);
        if interfaces.is_empty() || interfaces.contains(&name) {
            match remove_own(&folder) {
                Ok(true) => detached.push(name),
                Ok(false) => {}
                Err(cause) => result = result.and(Err(failed(&folder)(cause))),
            }
        }
    }
    if is_named_as_ours(pins) {
        // Fails while interfaces are left.
        let _ = fs::remove_dir(pins);
    }
    result.map(|()| detached)
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
    fs::DirBuilder::new().mode(0o755).create(folder)?;
    // Whatever the umask is.
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

/// Removes the folder of an interface, if it is one. Returns whether it was.
fn remove_own(folder: &Path) -> io::Result<bool> {
    let mut is_empty = true;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if ![LINK, ADDRESSES, HEARTBEAT].iter().any(|own| name == *own) {
            return Ok(false);
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
    if is_own {
        remove(folder)?;
    }
    Ok(is_own)
}

/// Removes what an `attach` that was killed left of an interface. Any other file is an error.
fn remove_left(folder: &Path) -> io::Result<()> {
    unless_missing(remove_own(folder).map(drop))?;
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
