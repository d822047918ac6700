//! The metrics about the process and the build.

use std::process::Command;
use std::time::SystemTime;

use crate::harness::{Daemon, readme, wait_until};
use crate::skip;

#[test]
fn resident_memory_is_below_virtual_memory() {
    let metrics = Daemon::start(&[]).metrics();
    let [resident, all] = ["resident", "virtual"].map(|kind| {
        let name = format!("process_{kind}_memory_bytes");
        metrics[&name]
    });
    // Thread stacks alone reserve more than the process uses.
    assert!(resident < all, "{resident} of {all}");
}

#[test]
fn start_time_is_when_the_process_was_started() {
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    // A clock may be set during a round.
    wait_until("the time is right", || {
        let before = now();
        let daemon = Daemon::start(&[]);
        let after = now();
        let started = daemon.metrics()["process_start_time_seconds"];
        let is_right = started >= before - 0.01 && started <= after + 0.01;
        if !is_right {
            eprintln!("not {before} <= {started} <= {after}");
        }
        is_right
    });
}

#[test]
fn build_info_names_the_commit_that_was_built() {
    let body = Daemon::start(&[]).get("/metrics").body;
    let built = env!("BUILD_REVISION");
    let labels = format!(
        "revision=\"{built}\",rustc=\"{}\"}} 1\n",
        env!("BUILD_RUSTC")
    );
    assert!(body.contains(&labels), "no {labels} in {body}");
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .current_dir(readme::root())
            .output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    // The build script runs again when git writes this file.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
    if !log.is_some_and(|log| readme::root().join(log).exists()) {
        skip!("this is no git checkout with a log of its commits");
    }
    let head = git(&["rev-parse", "HEAD"]).unwrap();
    assert!(
        built.len() >= 12 && head.starts_with(built),
        "{built}, {head}"
    );
}
