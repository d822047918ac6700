//! A running command of the README.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::wait_until;

/// The deadline of a command that ends by itself: apt, or cargo on a busy machine.
const PATIENCE: Duration = Duration::from_mins(5);

/// A running command. Its process group is killed when dropped.
pub struct Typed {
    pub line: String,
    child: Child,
    /// A file with its standard output and error.
    said: PathBuf,
}

impl Typed {
    pub fn start(command: Command, line: &str) -> Self {
        Self::start_with(Stdio::null(), command, line)
    }

    /// Starts a command that reads the line of [`Self::enter`].
    pub fn start_reading(command: Command, line: &str) -> Self {
        Self::start_with(Stdio::piped(), command, line)
    }

    fn start_with(stdin: Stdio, mut command: Command, line: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("udp-echo-said-{}-{number}", std::process::id());
        let said = std::env::temp_dir().join(name);
        let file = File::create(&said).unwrap();
        command.stdin(stdin).process_group(0);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        Self {
            line: line.to_owned(),
            child: command.spawn().expect("a shell"),
            said,
        }
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).expect("UTF-8")
    }

    /// Enters a line, waits until the command prints it, and ends the input.
    pub fn enter(&mut self, text: &str) {
        let mut input = self.child.stdin.take().expect("piped");
        writeln!(input, "{text}").unwrap();
        self.wait_for("the line comes back", |said| said.contains(text));
    }

    /// Waits until the command works or has ended.
    pub fn wait_for(&mut self, what: &str, mut works: impl FnMut(&str) -> bool) {
        wait_until(&format!("{what}: {}", self.line), || {
            works(&self.said()) || self.child.try_wait().unwrap().is_some()
        });
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            let late = Instant::now() >= deadline;
            assert!(!late, "{} does not end: {}", self.line, self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends SIGINT if the command still runs. It must succeed, and a client must have lost nothing.
    pub fn interrupt_and_end(mut self) {
        if let Some(program) = self.program() {
            let _ = kill(program, Signal::SIGINT);
        }
        let status = self.wait();
        let said = self.said();
        assert!(status.success(), "{}: {status}\n{said}", self.line);
        if self.line.contains("--json") {
            let (at, _) = said.match_indices('{').next().expect("an object");
            let summary: Value = serde_json::from_str(&said[at..]).expect("an object");
            assert!(summary["sent"].as_u64() > Some(0), "{summary}");
            assert_eq!(summary["lost"], 0, "{summary}");
            let attribution = !summary["attribution"].is_null();
            assert_eq!(
                attribution,
                self.line.contains("--metrics-url"),
                "{summary}"
            );
        } else if self.line.contains(" probe ") {
            let summary = said.lines().find(|line| line.contains(" sent, "));
            let summary = summary.unwrap_or_else(|| panic!("no summary: {said}"));
            assert!(!summary.starts_with("0 sent"), "{said}");
            assert!(summary.contains(" 0 lost (0%)"), "{said}");
        }
    }

    /// The process of the program below the shell.
    fn program(&self) -> Option<Pid> {
        below(self.child.id(), "udp-echo")
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        let shell = Pid::from_raw(self.child.id().try_into().unwrap());
        let _ = killpg(shell, Signal::SIGKILL);
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.said);
    }
}

/// A descendant of a process, by its name.
fn below(process: u32, name: &str) -> Option<Pid> {
    let is = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    if is.trim_end() == name {
        return Some(Pid::from_raw(process.try_into().unwrap()));
    }
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    let mut children = children.split_whitespace();
    children.find_map(|child| below(child.parse().unwrap(), name))
}
