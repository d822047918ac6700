//! The host: users and file systems.
#![expect(unsafe_code, reason = "std has no such calls")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Whether a file is in a file system of type bpf.
pub(super) fn is_in_bpf(file: &File) -> io::Result<bool> {
    // SAFETY: `statfs` has only integers, for which zero is valid.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open; the function writes to the structure, which outlives the call.
    let status = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut found) };
    if status == 0 {
        // The type of the field differs between C libraries.
        Ok(i128::from(found.f_type) == i128::from(libc::BPF_FS_MAGIC))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The effective user.
pub(super) fn effective_user() -> u32 {
    // SAFETY: the function has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}
