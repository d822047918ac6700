//! The program with less than the test has. No program of the system is needed for it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, setrlimit};

use super::program;

/// The program without the right to go beyond the system's limits.
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

/// The program with a limit of its own (getrlimit(2)).
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

/// Without new privileges, exec gives root none that it has not (capabilities(7)).
#[allow(unsafe_code, reason = "no crate here has capset")]
fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`, and the calling thread.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    const NONE: [u32; 6] = [0; 6];
    set_no_new_privs()?;
    // SAFETY: both point to as much as capset(2) reads.
    let status = unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), NONE.as_ptr()) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
