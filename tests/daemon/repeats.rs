//! What goes wrong again and again: it is told once a second, with a count of the other times.

use crate::harness::held::Held;
use crate::harness::{Daemon, client, program, receive, wait_until};
use crate::skip;

#[test]
fn a_worker_that_makes_no_progress_is_told_of_once_a_second_with_a_count() {
    let mut command = program();
    // It is looked at 50 times a second.
    command.env("WATCHDOG_USEC", "50000");
    let daemon = Daemon::start_as(command, &["--mode=echo"]);
    let Some(held) = Held::hold(daemon.pid(), "worker-0") else {
        skip!("ptrace is not allowed");
    };
    let told = || {
        let log = daemon.log().into_iter();
        log.filter(|line| line.contains("gets no sign of life"))
            .collect::<Vec<_>>()
    };
    let counts = |told: &[String]| -> Vec<u32> {
        let counts = told.iter().filter_map(|line| {
            let (_, more) = line.split_once("sign of life (and ")?;
            more.strip_suffix(" more since the last such line)")
        });
        counts.map(|count| count.parse().unwrap()).collect()
    };
    // A pause of the machine is no hang: the first line after one may have no count.
    wait_until("it is told three times, once for many", || {
        let told = told();
        told.len() >= 3 && counts(&told).iter().any(|count| *count >= 20)
    });
    let told = told();
    drop(held);
    assert!(told[0].ends_with("sign of life"), "{told:#?}");
    let counts = counts(&told);
    assert!(
        counts.iter().all(|count| (1..=60).contains(count)),
        "{told:#?}"
    );
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
}
