//! The monitor, seen from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests fail by panicking and wait with deadlines"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod endpoints;
mod file;
mod hostile;
mod measuring;
mod metrics;
mod options;
mod process;
mod reloading;
mod running;

use std::fs;
use std::process::Command;

use harness::tidy::Folder;
use harness::{program, run};

/// A folder with a file of targets.
fn with_file(text: impl AsRef<[u8]>) -> Folder {
    let folder = Folder::new();
    fs::write(folder.join("monitor.toml"), text).unwrap();
    folder
}

/// The monitor with these arguments.
fn monitor(args: &str) -> Command {
    let mut command = program();
    command.arg("monitor").args(args.split_whitespace());
    command
}

/// The status, standard output and standard error of a monitor that exits by itself.
fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    let (status, stdout, stderr) = run(command);
    (status.code(), stdout, stderr)
}

/// Asserts that a start and a check end with status 2 and this line.
fn assert_refused(folder: &Folder, args: &str, line: &str) {
    for check in ["", " --check"] {
        let mut command = monitor(&format!("--metrics-listen=none {args}{check}"));
        let (status, stdout, stderr) = ended(command.current_dir(&**folder));
        assert_eq!(stderr, format!("udp-echo: {line}\n"), "{args}{check}");
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{args}{check}");
    }
}
