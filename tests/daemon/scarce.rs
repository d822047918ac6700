//! A start with few descriptors, threads or little memory.

use nix::sys::resource::Resource;
use std::ops::RangeInclusive;

use crate::harness::confined::limited;
use crate::harness::{Daemon, program};
use crate::usage::{assert_cannot_start, ended};

#[test]
fn start_fails_with_a_message_without_a_free_thread() {
    // A stack of this size exceeds the address space.
    let stack = (1_u64 << 50).to_string();
    for (args, what) in [
        (&["--listen=127.0.0.1:0"][..], "cannot start the log thread"),
        (&["probe", "127.0.0.1:9"], "wait for signals"),
    ] {
        let mut command = program();
        command.args(args).env("RUST_MIN_STACK", &stack);
        assert_cannot_start(&mut command, what, "Resource temporarily unavailable");
    }
}

#[test]
fn daemon_serves_or_names_the_limit_with_few_descriptors() {
    let until_idle = "--mode=echo --timeout=1ns --exit-on=timeout --log=off --listen=127.0.0.1:0";
    let one = format!("{until_idle} --metrics-listen=127.0.0.1:0");
    let many = format!("{until_idle} --metrics-listen=none --workers=24");
    assert_serves_or_says_why(4..=16, &one);
    assert_serves_or_says_why(26..=36, &many);
    let daemon = Daemon::start(&["--mode=echo"]);
    let probe = format!("probe --count=1 --wait=1min {}", daemon.address());
    assert_serves_or_says_why(4..=16, &probe);
    let url = format!("--metrics-url=http://{}/metrics", daemon.http.unwrap());
    assert_serves_or_says_why(4..=16, &format!("{probe} {url}"));
}

#[test]
fn start_fails_before_ready_without_memory_for_peers() {
    for (workers, limit, setting) in [
        ("1", 1_000_000_000_u64, "--max-peers"),
        ("2", 2_000_000_000, "UDP_ECHO_MAX_PEERS"),
    ] {
        let mut command = limited(Resource::RLIMIT_AS, limit);
        command.args(["--listen=127.0.0.1:0", "--metrics-listen=none"]);
        command.args(["--workers", workers, "--log=warn"]);
        if setting.starts_with("--") {
            command.args([setting, "16777216"]);
        } else {
            command.env(setting, "16777216");
        }
        let what = "cannot start a worker";
        let cause = "not enough memory for a table of 16777216 peers";
        assert_cannot_start(&mut command, what, &format!("{cause}; lower {setting}\n"));
    }
}

/// Runs with each limit on descriptors: the low ones fail with a message, the high ones succeed.
fn assert_serves_or_says_why(limits: RangeInclusive<u64>, args: &str) {
    let statuses = limits.chain([512]).map(|limit| {
        let mut command = limited(Resource::RLIMIT_NOFILE, limit);
        let (status, _, stderr) = ended(command.args(args.split(' ')));
        let lines = stderr.lines().count();
        match status {
            // The dynamic loader fails before the program starts.
            Some(127) if stderr.contains("Error 24") => return Some(1),
            Some(0) => assert_eq!(lines, 0, "{limit} {args}: {stderr}"),
            Some(1) => assert!(
                lines == 1 && stderr.contains("Too many open files"),
                "{limit} {args}: {stderr}"
            ),
            _ => panic!("{limit} {args}: {status:?}: {stderr}"),
        }
        status
    });
    let mut statuses: Vec<_> = statuses.collect();
    statuses.dedup();
    assert_eq!(statuses, [Some(1), Some(0)], "{args}");
}
