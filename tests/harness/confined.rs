//! The program with fewer capabilities or lower limits, set without any external program.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, setrlimit};

use super::program;

/// The program without capabilities, so that the system's limits hold for it as root too.
#[allow(
    unsafe_code,
    reason = "std has no safe way to set an attribute of a child"
)]
pub fn without_capabilities() -> Command {
    let mut command = program();
    // SAFETY: between fork and exec there are two system calls, which are async-signal-safe.
    unsafe { command.pre_exec(drop_capabilities) };
    command
}

/// The program with a lower resource limit (getrlimit(2)).
#[allow(
    unsafe_code,
    reason = "std has no safe way to set an attribute of a child"
)]
pub fn limited(resource: Resource, limit: u64) -> Command {
    let mut command = program();
    let set = move || Ok(setrlimit(resource, limit, limit)?);
    // SAFETY: between fork and exec there is one system call, which is async-signal-safe.
    unsafe { command.pre_exec(set) };
    command
}

/// `no_new_privs` keeps exec from giving root its capabilities back (capabilities(7)).
#[allow(unsafe_code, reason = "no crate here has capset")]
fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`, and 0 for the calling thread.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    const NONE: [u32; 6] = [0; 6];
    set_no_new_privs()?;
    // SAFETY: both arrays have the sizes that capset(2) reads.
    let status = unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), NONE.as_ptr()) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
