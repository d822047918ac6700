//! The errors of `attach` and `detach`.

use std::io;
use std::path::PathBuf;

use super::sys::XdpMode;

/// Why the program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refused it.
    #[error("cannot attach to {interface}: {cause}{hint}")]
    Refused {
        /// The name of the interface.
        interface: String,
        /// The error of the system call.
        cause: io::Error,
        /// Advice.
        hint: String,
    },
    /// It is attached.
    #[error(
        "cannot attach to {interface}: udp-echo is already attached; run `udp-echo detach` first"
    )]
    Twice {
        /// The name of the interface.
        interface: String,
    },
    /// It has another address of the link.
    #[error("cannot attach to {interface}: {address} is an address of another interface")]
    Elsewhere {
        /// The name of the interface.
        interface: String,
        /// The address with the name of its interface.
        address: String,
    },
    /// The pins cannot be made.
    #[error("cannot pin to {}: {cause}{}", folder.display(), pin_hint(.cause))]
    Pin {
        /// The folder of the interface.
        folder: PathBuf,
        /// The error of the system call.
        cause: io::Error,
    },
}

/// Advice about a system call that failed.
fn pin_hint(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(_) => {
            "; --pins needs a folder in a file system of type bpf (mount -t bpf -o mode=0755 bpf \
             /sys/fs/bpf)"
        }
        None => "",
    }
}

impl AttachError {
    /// Whether the options are wrong, not the host.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Elsewhere { .. })
    }

    pub(super) fn new(interface: &str, mode: XdpMode, cause: io::Error) -> Self {
        let native = mode == XdpMode::Native;
        let hint = match cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "; run it as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN".into()
            }
            Some(libc::EBUSY | libc::EEXIST) => format!(
                "; the device has another XDP program, and there can be only one: \
                 `ip link show {interface}` shows it"
            ),
            Some(libc::EOPNOTSUPP) if native => "; its driver has no XDP: use --generic".into(),
            Some(libc::EINVAL | libc::ERANGE) if native => {
                "; the driver may need a lower MTU or other offloads: use --generic, or see the \
                 kernel log"
                    .into()
            }
            Some(libc::ENODEV) => "; `ip link` lists the interfaces".into(),
            _ => String::new(),
        };
        Self::Refused {
            interface: interface.into(),
            cause,
            hint,
        }
    }
}

/// Why pins could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot detach: cannot remove the pins in {}: {cause}", folder.display())]
pub struct DetachError {
    pub(super) folder: PathBuf,
    pub(super) cause: io::Error,
}
