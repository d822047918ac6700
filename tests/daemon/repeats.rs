//! What goes wrong again and again: it is told once a second, with a count of the other times.

use std::time::{Duration, Instant};

use crate::harness::{Daemon, client, program, receive, wait_until};
use crate::running::Held;

#[test]
fn a_worker_that_makes_no_progress_is_told_of_once_a_second_with_a_count() {
    let mut command = program();
    // It is looked at 50 times a second.
    command.env("WATCHDOG_USEC", "50000");
    let daemon = Daemon::start_as(command, &["--mode=echo"]);
    let start = Instant::now();
    let held = Held::hold(daemon.pid(), "worker-0");
    let told = || {
        let log = daemon.log().into_iter();
        log.filter(|line| line.contains("gets no sign of life"))
            .collect::<Vec<_>>()
    };
    wait_until("it is told three times", || told().len() == 3);
    // Not before it has made no progress for two seconds, which it last made within 100 ms; and
    // then a second apart.
    assert!(start.elapsed() >= Duration::from_millis(3900));
    held.release();
    let told = told();
    assert!(told[0].ends_with("sign of life"), "{told:#?}");
    for line in &told[1..] {
        let (_, more) = line.split_once(" (and ").expect(line);
        let (more, _) = more
            .split_once(" more since the last such line)")
            .expect(line);
        let more: u32 = more.parse().unwrap();
        assert!((1..=60).contains(&more), "{told:#?}");
    }
    let peer = client(daemon.address());
    peer.send(b"hello").unwrap();
    assert_eq!(receive(&peer), b"hello");
}
