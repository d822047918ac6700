//! Warnings of datagrams that the kernel dropped or the daemon refused.

use std::time::Instant;

use crate::harness::{Daemon, client, wait_until};
use crate::modes::bound_to;

const DROPPED: &str = "datagrams dropped by the kernel since ";
const REFUSED: &str = "datagrams refused since ";

#[test]
fn kernel_drops_are_warned_of_once_per_minute_with_counts() {
    wait_until("the last lines are logged", || {
        let start = Instant::now();
        let daemon = Daemon::start(&["--mode=echo", "--recv-buffer=4KiB", "--offload=off"]);
        for _ in 0..2 {
            let peer = client(daemon.address());
            daemon.pause();
            for _ in 0..1000 {
                peer.send(&[0; 1000]).unwrap();
            }
            daemon.resume();
            daemon.wait_for_log(DROPPED);
        }
        let dropped = daemon.metric("socket_drops_total");
        let advice = "--recv-buffer and net.core.rmem_max";
        all_are_reported(daemon, start, DROPPED, dropped, advice)
    });
}

#[test]
fn refusals_are_warned_of_once_per_minute_by_reason() {
    wait_until("the last lines are logged", || {
        let start = Instant::now();
        let daemon = Daemon::start(&["--mode=echo", "--min-source-port=65535"]);
        let peer = bound_to(([127, 0, 0, 1], 0));
        for _ in 0..2 {
            for _ in 0..3 {
                peer.send_to(b"x", daemon.address()).unwrap();
            }
            daemon.wait_for_log(REFUSED);
        }
        daemon.wait_for_metric("datagrams_refused_total", 6.0);
        let advice = "(lower --min-source-port;";
        all_are_reported(daemon, start, REFUSED, 6.0, advice)
    });
}

/// Stops the daemon, and checks that its lines report every datagram and say what to do, with at
/// most one warning per minute. Returns false if the log could not be written in time.
fn all_are_reported(daemon: Daemon, start: Instant, text: &str, all: f64, advice: &str) -> bool {
    let log = daemon.shared_log();
    assert!(daemon.stop().success());
    let minutes = start.elapsed().as_secs() / 60;
    wait_until("the log has ended", || log.has_ended());
    let log = log.lines();
    if !log.iter().any(|line| line.contains("stopped: ")) {
        return false;
    }
    let lines: Vec<_> = log.iter().filter(|line| line.contains(text)).collect();
    let warnings = lines.iter().filter(|line| line.contains(" WARN "));
    let warnings = u64::try_from(warnings.count()).unwrap();
    assert!((1..=minutes + 1).contains(&warnings), "{lines:#?}");
    let reported: u32 = lines.iter().map(|line| reported(line)).sum();
    assert!((f64::from(reported) - all).abs() < 0.5, "{all}: {lines:#?}");
    assert!(lines.iter().all(|line| line.contains(advice)), "{lines:#?}");
    true
}

/// The first number in a line after `since …:`.
fn reported(line: &str) -> u32 {
    let (_, counts) = line.split_once(" since ").unwrap();
    let (_, counts) = counts.split_once(": ").unwrap();
    let mut numbers = counts.split(|c: char| !c.is_ascii_digit());
    let number = numbers.find(|part| !part.is_empty());
    number.unwrap().parse().unwrap()
}
