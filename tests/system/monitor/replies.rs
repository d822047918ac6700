//! Replies that arrive late or many times.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::reflector::{Copies, Reflector};
use super::{Monitor, target};
use crate::harness::{DEADLINE, wait_until};
use crate::namespace::Namespace;

const REFLECTOR: &str = "10.77.0.1:9999";

#[test]
#[ignore = "needs root, for network namespaces; .ci/run runs it"]
fn monitor_counts_999_duplicates_or_drops_per_request() {
    const MANY: Copies = Copies {
        number: 1000,
        delay: Duration::ZERO,
    };
    let (server, clients) = Namespace::pair();
    // From the tenth request on, the replies wait for the test.
    let (arrived, arrivals) = channel();
    let (go, going) = channel();
    let reflector = Reflector::start(&server, REFLECTOR, move |_, sequence| {
        if sequence >= 10 {
            arrived.send(sequence).unwrap();
            going.recv_timeout(DEADLINE).unwrap();
        }
        MANY
    });
    // A receive buffer holds fewer than a thousand datagrams of this size.
    let more = "interval = 1\nwait = 60\nsize = 3000\n";
    let monitor = Monitor::start(&clients, &target("a", REFLECTOR, more));
    let complete = |requests: u64| {
        let what = format!("all replies to {requests} requests are counted");
        let end = monitor.wait_for(&what, |scrape| {
            let further = scrape.of("duplicates_total", "a") + scrape.count("socket_drops_total");
            let received = scrape.received("a");
            assert!(received + further <= reflector.replies() + 1, "{further}");
            received == requests && further == 999 * requests
        });
        assert_eq!(end.of("corrupted_total", "a"), 0);
        assert_eq!(end.lost("a"), 0);
        end
    };
    arrivals.recv_timeout(DEADLINE).unwrap();
    let at_first = complete(9);
    // The monitor cannot read these in time.
    monitor.process.pause();
    let before = reflector.replies();
    go.send(()).unwrap();
    wait_until("all replies are sent", || {
        reflector.replies() == before + 1000
    });
    monitor.process.resume();
    arrivals.recv_timeout(DEADLINE).unwrap();
    let end = complete(10);
    let dropped = |scrape: &super::Scrape| scrape.count("socket_drops_total");
    assert!(dropped(&end) > dropped(&at_first));
    // The reflector may stop.
    go.send(()).unwrap();
}

#[test]
#[ignore = "needs root, for network namespaces; .ci/run runs it"]
fn reply_after_the_wait_leaves_its_request_lost() {
    const WAIT: Duration = Duration::from_secs(3);
    const MARGIN: Duration = Duration::from_millis(500);
    let (server, clients) = Namespace::pair();
    let (arrived, arrivals) = channel();
    let (go, going) = channel();
    let reflector = Reflector::start(&server, REFLECTOR, move |_, sequence| {
        // The replies to some requests come late, and twice.
        if sequence <= 15 && sequence % 3 == 0 {
            return Copies {
                number: 2,
                delay: WAIT + MARGIN,
            };
        }
        if sequence == 60 || sequence == 110 {
            arrived.send(()).unwrap();
            going.recv_timeout(DEADLINE).unwrap();
        }
        Copies::ONE
    });
    let reply_is_sent = || {
        let before = reflector.replies();
        go.send(()).unwrap();
        wait_until("the reply is sent", || reflector.replies() > before);
    };
    let more = "interval = 0.1\nwait = 3\n";
    let monitor = Monitor::start(&clients, &target("a", REFLECTOR, more));
    arrivals.recv_timeout(DEADLINE).unwrap();
    wait_until("the late replies are sent", || {
        reflector.replies() == 54 + 10
    });
    let first = monitor.wait_for_replies("a", 54);
    assert_eq!([first.lost("a"), first.received("a")], [5, 54]);
    // The reply comes after the wait, and the monitor runs only after that.
    monitor.process.pause();
    thread::sleep(WAIT + MARGIN);
    reply_is_sent();
    monitor.process.resume();
    arrivals.recv_timeout(DEADLINE).unwrap();
    let second = monitor.wait_for("request 110 waits", |scrape| {
        scrape.in_flight("a") == scrape.sent("a") - 109
    });
    assert!(second.lost("a") >= 6, "request 60 is not lost");
    // The reply comes in time, and the monitor runs only after the wait.
    monitor.process.pause();
    reply_is_sent();
    thread::sleep(WAIT + MARGIN);
    monitor.process.resume();
    monitor.wait_for_replies("a", second.received("a") + 20);
    let end = monitor.settle();
    assert_eq!(end.lost("a"), second.lost("a"));
    assert_eq!(end.sent("a"), reflector.replies() - 5);
    for name in ["duplicates_total", "reordered_total", "corrupted_total"] {
        assert_eq!(end.of(name, "a"), 0, "{name}");
    }
}
