//! Addresses that move: those of a target's name, and this host's own.

use super::{Monitor, Scrape, float, target};
use crate::harness::{Daemon, wait_until};
use crate::namespace::Namespace;

const MORE: &str = "interval = 0.05\nwait = 5\n";

/// The series of target `a` with an address.
fn at(scrape: &Scrape, name: &str, address: &str) -> u64 {
    scrape.count(&format!("{name}{{target=\"a\",address=\"{address}:9999\""))
}

fn daemon(server: &Namespace, address: &str, http: u16) -> Daemon {
    server.daemon(&[
        &format!("--listen={address}:9999"),
        &format!("--metrics-listen=127.0.0.1:{http}"),
        "--mode=echo",
    ])
}

#[test]
#[ignore = "needs root, for network namespaces; .ci/run runs it"]
fn monitor_follows_a_name_that_moves_to_another_address() {
    let (server, clients) = Namespace::pair();
    // Without it, the other addresses would go with the first one.
    server.shell("sysctl -qw net.ipv4.conf.eth0.promote_secondaries=1");
    for address in ["10.77.0.11/24", "10.77.0.12/24"] {
        server.add_address(address);
    }
    let first = daemon(&server, "10.77.0.1", 9864);
    let second = daemon(&server, "10.77.0.11", 9865);
    let _third = daemon(&server, "10.77.0.12", 9866);
    clients.write_hosts("10.77.0.1 reflector\n");
    let monitor = Monitor::start(&clients, &target("a", "reflector:9999", MORE));
    monitor.wait_for_replies("a", 20);

    // The first address stops answering.
    let arrived = server.inside(|| {
        server.shell("ip address del 10.77.0.1/24 dev eth0");
        first.metric("datagrams_received_total")
    });
    drop(first);
    clients.write_hosts("10.77.0.11 reflector\n");
    let moved = monitor.wait_for("the second address answers", |scrape| {
        at(scrape, "replies_received_total", "10.77.0.11") >= 20
            && at(scrape, "requests_in_flight", "10.77.0.1") == 0
    });
    let sent = at(&moved, "requests_sent_total", "10.77.0.1");
    let received = at(&moved, "replies_received_total", "10.77.0.1");
    assert!(sent > received && received >= 20, "{sent} {received}");
    assert!(
        (float(received) - arrived).abs() < 0.5,
        "{received} {arrived}"
    );

    // The second address still answers.
    clients.write_hosts("10.77.0.12 reflector\n");
    monitor.wait_for("the third address answers", |scrape| {
        at(scrape, "replies_received_total", "10.77.0.12") >= 20
    });
    let end = monitor.settle();
    assert_eq!(at(&end, "requests_sent_total", "10.77.0.1"), sent);
    assert_eq!(at(&end, "replies_received_total", "10.77.0.1"), received);
    assert_eq!(
        at(&end, "requests_lost_total", "10.77.0.1"),
        sent - received
    );
    for address in ["10.77.0.11", "10.77.0.12"] {
        assert_eq!(at(&end, "requests_lost_total", address), 0, "{address}");
    }
    let sent = at(&end, "requests_sent_total", "10.77.0.11");
    let sent = float(sent);
    server.inside(|| second.wait_for_metric("datagrams_echoed_total", sent));
}

#[test]
#[ignore = "needs root, for network namespaces; .ci/run runs it"]
fn monitor_loses_nothing_when_its_own_address_is_replaced() {
    for (reflector, old, new) in [
        ("10.77.0.1", "10.77.0.2/24", "10.77.0.3/24"),
        ("[fd77::1]", "fd77::2/64", "fd77::3/64"),
    ] {
        for mode in ["exchange", "echo"] {
            let (server, clients) = Namespace::pair();
            let daemon = server.daemon(&["--listen=[::]:9999", &format!("--mode={mode}")]);
            let more = format!("mode = \"{mode}\"\nflows = 3\nper_flow = true\n{MORE}");
            let file = target("a", &format!("{reflector}:9999"), &more);
            let monitor = Monitor::start(&clients, &file);
            monitor.wait_for_replies("a", 20);
            monitor.process.pause();
            // The replies to all requests are queued.
            let count = |name: &str| server.inside(|| daemon.metric(name));
            let mut before = f64::NAN;
            wait_until("the daemon is idle", || {
                let received = count("datagrams_received_total");
                let is_idle = received - before < 0.5;
                before = received;
                std::thread::sleep(std::time::Duration::from_millis(20));
                is_idle
            });
            server.inside(|| daemon.assert_accounted_for());
            clients.shell(&format!("ip address del {old} dev eth0"));
            clients.add_address(new);
            monitor.process.resume();
            let moved = monitor.scrape();
            monitor.wait_for_replies("a", moved.received("a") + 20);
            let end = monitor.settle();
            assert_eq!(end.lost("a"), 0, "{reflector} {mode}");
            assert_eq!(end.of("send_errors_total", "a"), 0, "{reflector} {mode}");
            let sent = float(end.sent("a"));
            server.inside(|| daemon.wait_for_metric("datagrams_echoed_total", sent));
        }
    }
}
