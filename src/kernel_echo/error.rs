//! The errors of `attach` and `detach`.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::sys::XdpMode;

/// The error of a system call, and the verdict of the verifier about a refused program.
#[derive(Debug)]
pub struct KernelError {
    pub(super) cause: io::Error,
    verdict: Option<String>,
}

impl KernelError {
    /// `log` is the verifier's, which ends with its verdict and statistics.
    pub(super) fn of_verifier(cause: io::Error, log: &[u8]) -> Self {
        let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let is_verdict = |line: &&str| {
            let statistics = ["processed ", "verification time ", "stack depth "];
            !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start))
        };
        let verdict = text.lines().map(str::trim).rev().find(is_verdict);
        Self {
            cause,
            verdict: verdict.map(Into::into),
        }
    }
}

impl From<io::Error> for KernelError {
    fn from(cause: io::Error) -> Self {
        Self {
            cause,
            verdict: None,
        }
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)?;
        match &self.verdict {
            Some(verdict) => write!(f, ", the verifier says: {verdict}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for KernelError {}

/// Why the program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refused it.
    #[error("cannot attach to {interface}: {cause}{hint}")]
    Refused {
        /// The name of the interface.
        interface: String,
        /// The error of the system call.
        cause: KernelError,
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

    pub(super) fn new(interface: &str, mode: XdpMode, cause: KernelError) -> Self {
        let native = mode == XdpMode::Native;
        let hint = match cause.cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "; run it as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN".into()
            }
            _ if cause.verdict.is_some() => "; the program needs Linux 5.11 or later".into(),
            Some(libc::ENOSYS) => "; the kernel has no BPF".into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_is_the_last_line_before_the_statistics() {
        let error = |log: &[u8]| {
            let cause = io::Error::from_raw_os_error(libc::EINVAL);
            KernelError::of_verifier(cause, log).to_string()
        };
        let log = b"0: (95) exit\n R0 !read_ok \n\nverification time 7 usec\nstack depth 0\n\
                    processed 1 insns (limit 1000000)\n\0\0old";
        let cause = "Invalid argument (os error 22)";
        let expected = format!("{cause}, the verifier says: R0 !read_ok");
        assert_eq!(error(log), expected);
        assert_eq!(error(b"processed 0 insns\n\0"), cause);
        assert_eq!(error(&[0; 9]), cause);
        assert_eq!(error(b""), cause);
    }
}
