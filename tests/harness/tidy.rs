//! Removes folders and processes of a test, however the test ends.

use std::fs;
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Makes the kernel kill the process when the thread that started it ends (`PR_SET_PDEATHSIG`), so
/// that a killed test program leaves no daemon behind. The setting survives exec, but not fork.
#[allow(
    unsafe_code,
    reason = "std has no safe way to set an attribute of a child"
)]
pub fn end_with_test(command: &mut Command) -> &mut Command {
    let set = || Ok(set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: between fork and exec there is one system call, which is async-signal-safe.
    unsafe { command.pre_exec(set) }
}

/// A new folder. A separate process removes it, even when the test program is killed.
pub struct Folder {
    path: PathBuf,
    remover: Child,
}

impl Folder {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("udp-echo-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Its input ends when this value is dropped or the test program has ended.
        let remover = Command::new("sh")
            .args(["-c", "cat >/dev/null; rm -rf \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a shell");
        fs::create_dir(&path).unwrap();
        Self { path, remover }
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}
