//! Runs the real daemon on loopback and observes it from outside.
#![allow(
    dead_code,
    missing_docs,
    unused_imports,
    unreachable_pub,
    reason = "each test program uses a part; this is no library"
)]

pub mod calm;
pub mod confined;
mod daemon;
pub mod held;
mod http;
mod log;
pub mod readme;
pub mod service;
pub mod skip;
mod sockets;
pub mod stamp;
pub mod tidy;

use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub use daemon::{Daemon, wait_until_stopped};
pub use http::{Response, answer_to, request_to, samples, total};
pub use log::Log;
pub use sockets::{
    all_is_taken, client, has_ipv6, has_nothing, kernel_drops, receive, receive_from,
    send_gso_batch, uninterrupted, unreachable,
};

/// The deadline of every wait. Long, as a busy machine may stall for a while: only a fault reaches
/// it.
pub const DEADLINE: Duration = Duration::from_mins(3);

/// The program that cargo built for this test, without variables of this process: the daemon warns
/// of unknown ones.
pub fn program() -> Command {
    without_variables(Command::new(env!("CARGO_BIN_EXE_udp-echo")))
}

fn without_variables(mut command: Command) -> Command {
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("UDP_ECHO_")) {
        command.env_remove(name);
    }
    command
}

/// Whether a program is installed. A test that needs it is skipped otherwise.
pub fn has_program(name: &str) -> bool {
    let started = Command::new(name)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    started.is_ok()
}

/// Runs a command to its end. Returns its exit status, standard output and standard error.
pub fn run(command: &mut Command) -> (ExitStatus, String, String) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status, text(output.stdout), text(output.stderr))
}

/// A shell command. In the locale C, as bash warns of a locale that is not installed.
pub fn shell(script: &str) -> Command {
    let mut command = without_variables(Command::new("sh"));
    command.args(["-c", script]).env("LC_ALL", "C");
    command
}

/// Waits for a condition.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "timeout while waiting until {what}"
        );
        thread::sleep(Duration::from_millis(2));
    }
}

/// Random numbers for test data, the same in each run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `SplitMix64`.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64).try_into().unwrap()
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}
