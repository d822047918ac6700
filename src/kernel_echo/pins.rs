//! The pins of attached programs: one folder per interface, in a file system of type bpf.
//!
//! A link holds the program at its interface while the link has a descriptor or a pin. It is pinned
//! last: whatever ends `attach` before that leaves the interface without a program.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::error::{AttachError, DetachError};
use super::routes;
use super::sys::{self, LinkInfo, XdpMode};
use super::{Program, Settings};

const LINK: &str = "link";
pub(super) const ADDRESSES: &str = "addresses";
pub(super) const HEARTBEAT: &str = "heartbeat";

/// The task of `attach`.
#[derive(Debug, Clone)]
pub struct Attach {
    /// The folder of the pins.
    pub pins: PathBuf,
    /// The names of the interfaces.
    pub interfaces: Vec<String>,
    /// The settings of the program, without the hardware address.
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
        let mut done = Vec::new();
        for interface in &self.interfaces {
            match self.attach(interface) {
                Ok(pinned) => done.push(pinned),
                Err(error) => {
                    for folder in done {
                        // The first error says more.
                        let _ = remove(&folder);
                    }
                    // Fails while it has other interfaces.
                    let _ = fs::remove_dir(&self.pins);
                    return Err(error);
                }
            }
        }
        let away = |interface: &String| {
            let networks = routes::elsewhere(interface).join(", ");
            (!networks.is_empty()).then(|| {
                format!(
                    "replies of the program leave by {interface}, where their datagrams came in; \
                     those of the socket leave to {networks}"
                )
            })
        };
        Ok(self.interfaces.iter().filter_map(away).collect())
    }

    fn attach(&self, interface: &str) -> Result<PathBuf, AttachError> {
        let failed = |cause| AttachError::new(interface, self.mode, cause);
        let found = sys::interface(interface).map_err(failed)?;
        let folder = self.pins.join(interface);
        if is_attached(&folder) {
            return Err(AttachError::Twice {
                interface: interface.into(),
            });
        }
        let settings = Settings {
            mac: found.mac,
            ..self.settings.clone()
        };
        let program = Program::load(&settings).map_err(failed)?;
        let link = sys::attach(&program.loaded, found.index, self.mode).map_err(failed)?;
        let cannot_pin = |cause| AttachError::Pin {
            folder: folder.clone(),
            cause,
        };
        // An attach that was killed can have left some.
        remove(&folder).map_err(cannot_pin)?;
        let pin = || {
            for made in [&self.pins, &folder] {
                create_open(made)?;
            }
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
                    chown(&path, self.owner, None)?;
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
}

/// Detaches the program from these interfaces, or from all, and removes the pins. It is no error if
/// there are none.
///
/// # Errors
/// If a pin cannot be removed.
pub fn detach(pins: &Path, interfaces: &[String]) -> Result<usize, DetachError> {
    let mut folders = Vec::new();
    let found = folders_of(pins).map_err(|cause| DetachError {
        folder: pins.into(),
        cause,
    })?;
    for folder in found {
        let name = folder.file_name().and_then(|name| name.to_str());
        if interfaces.is_empty() || interfaces.iter().any(|own| Some(own.as_str()) == name) {
            folders.push(folder);
        }
    }
    let mut count = 0;
    for folder in folders {
        count += usize::from(folder.join(LINK).exists());
        remove(&folder).map_err(|cause| DetachError { folder, cause })?;
    }
    // Fails while interfaces are left.
    let _ = fs::remove_dir(pins);
    Ok(count)
}

/// The folders of all interfaces.
pub(super) fn folders_of(pins: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<_> = paths.collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// Creates a folder that every user can open. Leaves one that exists as it is.
fn create_open(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => fs::set_permissions(folder, Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the pinned link still has an interface.
fn is_attached(folder: &Path) -> bool {
    let link = sys::get(&folder.join(LINK), 0);
    let found: io::Result<LinkInfo> = link.and_then(|link| sys::info(&link));
    found.is_ok_and(|found| found.interface != 0)
}

/// Removes the pins of an interface, the link first. It is no error if there are none.
fn remove(folder: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    for name in [LINK, ADDRESSES, HEARTBEAT] {
        gone(fs::remove_file(folder.join(name)))?;
    }
    gone(fs::remove_dir(folder))
}
