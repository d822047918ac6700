//! Stops threads of a daemon with ptrace.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::wait_until;

/// Threads stopped by ptrace. Unlike after SIGSTOP, SIGCONT from another process does not resume
/// them. Dropping this resumes them; only the thread that stopped them can do that.
pub struct Held(Vec<Pid>);

impl Held {
    /// Stops the thread of this name. `None` if ptrace is not allowed.
    pub fn hold(process: Pid, name: &str) -> Option<Self> {
        let task = tasks(process)
            .into_iter()
            .find(|task| fs::read_to_string(task.join("comm")).unwrap().trim() == name);
        Self(Vec::new()).and(&task.expect("the thread"))
    }

    /// Stops all threads that are not stopped yet. `None` if ptrace is not allowed.
    pub fn hold_rest(process: Pid) -> Option<Self> {
        let is_free = |task: &PathBuf| {
            let status = fs::read_to_string(task.join("status")).unwrap();
            status.lines().any(|line| line == "TracerPid:\t0")
        };
        let mut free = tasks(process).into_iter().filter(is_free);
        free.try_fold(Self(Vec::new()), |held, task| held.and(&task))
    }

    fn and(mut self, task: &Path) -> Option<Self> {
        let id = task.file_name().and_then(|id| id.to_str()?.parse().ok());
        let thread = Pid::from_raw(id.unwrap());
        ptrace::seize(thread, ptrace::Options::empty()).ok()?;
        self.0.push(thread);
        ptrace::interrupt(thread).unwrap();
        // Not by waitpid(2): another thread of this program may have consumed the stop.
        wait_until("the thread is held", || {
            let stat = fs::read_to_string(task.join("stat")).unwrap();
            let state = stat.rsplit(") ").next();
            state.is_some_and(|state| state.starts_with('t'))
        });
        Some(self)
    }

    /// Adds the threads of another one.
    pub fn join(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Waits until the threads end. The process cannot end before its tracer has seen that.
    pub fn wait_for_their_end(mut self) {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        for thread in std::mem::take(&mut self.0) {
            wait_until("the thread ends", || {
                // The first status may be the stop.
                let status = waitpid(thread, Some(flags));
                let ended = matches!(
                    status,
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
                );
                ended || status.is_err()
            });
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for thread in &self.0 {
            let _ = ptrace::detach(*thread, None);
        }
    }
}

fn tasks(process: Pid) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks.flatten().map(|task| task.path()).collect()
}
