//! A start where the system has little to give.

use nix::sys::resource::Resource;
use std::ops::RangeInclusive;

use crate::harness::confined::limited;
use crate::harness::{Daemon, program};
use crate::usage::{assert_cannot_start, ended};

#[test]
fn without_a_thread_to_be_had_it_says_so_all_the_same() {
    // The stack of a thread then has no room in the whole address space.
    let stack = (1_u64 << 50).to_string();
    for (args, what) in [
        (&["--listen=127.0.0.1:0"][..], "the thread that writes"),
        (&["probe", "127.0.0.1:9"], "wait for signals"),
    ] {
        let mut command = program();
        command.args(args).env("RUST_MIN_STACK", &stack);
        assert_cannot_start(&mut command, what, "Resource temporarily unavailable");
    }
}

#[test]
fn with_few_descriptors_it_serves_or_says_that_they_are_too_few() {
    let until_quiet = "--mode=echo --timeout=1ns --exit-on=timeout --log=off --listen=127.0.0.1:0";
    let one = format!("{until_quiet} --metrics-listen=127.0.0.1:0");
    let many = format!("{until_quiet} --metrics-listen=none --workers=24");
    assert_serves_or_says_why(4..=16, &one);
    assert_serves_or_says_why(26..=36, &many);
    let daemon = Daemon::start(&["--mode=echo"]);
    let probe = format!("probe --count=1 --wait=1min {}", daemon.address());
    assert_serves_or_says_why(4..=16, &probe);
    let url = format!("--metrics-url=http://{}/metrics", daemon.http.unwrap());
    assert_serves_or_says_why(4..=16, &format!("{probe} {url}"));
}

#[test]
fn without_memory_for_the_peers_it_says_so_before_it_says_that_it_serves() {
    for (workers, limit) in [("1", 1_000_000_000_u64), ("2", 2_000_000_000)] {
        let mut command = limited(Resource::RLIMIT_AS, limit);
        command.args(["--listen=127.0.0.1:0", "--metrics-listen=none"]);
        command.args(["--max-peers=16777216", "--workers", workers, "--log=warn"]);
        let what = "cannot start a worker";
        assert_cannot_start(
            &mut command,
            what,
            "not enough memory for a table of 16777216 peers",
        );
    }
}

/// From a limit of descriptors that is too low to one that is not, whatever else is open.
fn assert_serves_or_says_why(limits: RangeInclusive<u64>, args: &str) {
    let statuses = limits.chain([512]).map(|limit| {
        let mut command = limited(Resource::RLIMIT_NOFILE, limit);
        let (status, _, stderr) = ended(command.args(args.split(' ')));
        let lines = stderr.lines().count();
        match status {
            // The loader has nothing to say it with.
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
