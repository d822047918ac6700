//! Repeated warnings: one line per second, with a count of the suppressed ones.

use crate::harness::held::Held;
use crate::harness::{Daemon, client, program, receive, wait_until};
use crate::skip;

#[test]
fn stalled_worker_is_logged_once_per_second_with_a_count() {
    let mut command = program();
    // The daemon checks its workers 50 times per second.
    command.env("WATCHDOG_USEC", "50000");
    let daemon = Daemon::start_as(command, &["--mode=echo"]);
    let Some(held) = Held::hold(daemon.pid(), "worker-0") else {
        skip!("ptrace is not allowed");
    };
    let errors = || {
        let log = daemon.log().into_iter();
        log.filter(|line| line.contains("heartbeat suppressed"))
            .collect::<Vec<_>>()
    };
    let counts = |errors: &[String]| -> Vec<u32> {
        let counts = errors.iter().filter_map(|line| {
            let (_, more) = line.split_once("restarts udp-echo (and ")?;
            more.split(' ').next()
        });
        counts.map(|count| count.parse().unwrap()).collect()
    };
    // A pause of the machine is not a stall: the first line after one may have no count.
    wait_until("three lines, one of them with a high count", || {
        let errors = errors();
        errors.len() >= 3 && counts(&errors).iter().any(|count| *count >= 20)
    });
    let errors = errors();
    drop(held);
    assert!(
        errors[0].ends_with("heartbeat suppressed, so that systemd restarts udp-echo"),
        "{errors:#?}"
    );
    let counts = counts(&errors);
    assert!(
        counts.iter().all(|count| (1..=60).contains(count)),
        "{errors:#?}"
    );
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
}
