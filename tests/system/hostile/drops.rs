//! Every dropped datagram is counted.

use std::thread;

use super::spoof::Spoofer;
use super::{count, with_passed_in};
use crate::harness::{Daemon, client, kernel_drops, wait_until};
use crate::namespace::Namespace;

const RECEIVED: &str = "datagrams_received_total";
const DROPS: &str = "socket_drops_total";

#[test]
#[ignore = "needs python3; .ci/run runs it"]
fn overflow_during_a_pause_is_counted_without_old_drops() {
    let small = "--recv-buffer=64KiB";
    let buffer = ["--timeout=none", small];
    let start = |more: &[&str]| Daemon::start(&[&buffer, more].concat());
    let adopt = |sockets| Daemon::start_exactly(with_passed_in(sockets, &["--mode=echo", small]));
    for (daemon, had) in [
        (start(&[]), 0),
        (start(&["--workers=4"]), 0),
        (start(&["--offload=off", "--mode=echo"]), 0),
        (adopt(1), 2000),
        (adopt(3), 2000),
    ] {
        // The daemon receives the datagrams that were queued and not dropped before its start.
        let before = had - kernel_drops(daemon.address().port());
        assert!(before < had.max(1), "{before} of {had}");
        wait_until("queued datagrams are counted", || {
            count(&daemon, RECEIVED) == before
        });
        assert_eq!(count(&daemon, DROPS), 0);
        let mut sent = 0;
        for _ in 0..3 {
            daemon.pause();
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let peers: Vec<_> = (0..10).map(|_| client(daemon.address())).collect();
                        for turn in 0..5000 {
                            peers[turn % 10].send(b"overflows").unwrap();
                        }
                    });
                }
            });
            sent += 10_000;
            daemon.resume();
            let both = || count(&daemon, RECEIVED) - before + count(&daemon, DROPS);
            wait_until("all datagrams are counted", || both() >= sent);
            assert_eq!(both(), sent);
        }
        let [received, drops] = [RECEIVED, DROPS].map(|name| count(&daemon, name));
        assert!(received > before && drops > 0);
        daemon.assert_accounted_for();
        eprintln!(
            "sent {sent} = received {} + dropped {drops}",
            received - before
        );
    }
}

#[test]
#[ignore = "needs root, to send what is corrupt; .ci/run runs it"]
fn datagrams_with_a_wrong_checksum_are_counted_as_dropped() {
    let (host, net) = Namespace::pair();
    let daemon = host.daemon(&["--listen=*:9999", "--mode=echo"]);
    let spoofer = net.inside(Spoofer::new);
    for _ in 0..50 {
        spoofer.send("10.77.0.2:5000", "10.77.0.1:9999", &[1; 200]);
        spoofer.send_corrupt("10.77.0.2:5000", "10.77.0.1:9999", &[2; 200]);
    }
    host.inside(|| {
        daemon.wait_for_metric(RECEIVED, 50.0);
        wait_until("corrupt datagrams are counted", || {
            count(&daemon, DROPS) == 50
        });
        daemon.assert_accounted_for();
    });
}
