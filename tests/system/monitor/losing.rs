//! Paths that lose requests.

use std::thread;
use std::time::Duration;

use super::{Monitor, Scrape, float, rule, target};
use crate::harness::calm::undisturbed;
use crate::harness::wait_until;
use crate::namespace::Namespace;

#[test]
#[ignore = "needs root and nft; .ci/run runs it"]
fn monitor_loses_each_tenth_request_that_the_link_drops() {
    let (server, clients) = Namespace::pair();
    let echo = server.daemon(&["--listen=10.77.0.1:9999", "--mode=echo"]);
    let args = ["--listen=10.77.0.1:862", "--mode=stamp"];
    let stamp = server.daemon(&[&args[..], &["--metrics-listen=127.0.0.1:9864"]].concat());
    // The sequence number is in bytes 4 to 11 of a request, in STAMP mode in bytes 0 to 3. STAMP
    // starts at 0.
    let tenth: Vec<_> = (10..=5000)
        .step_by(10)
        .map(|n: u32| n.to_string())
        .collect();
    let tenth = tenth.join(", ");
    for (port, at) in [(9999, 128), (862, 64)] {
        let matches = format!("udp dport {port} @th,{at},32 {{ {tenth} }}");
        rule(&server, "input", &format!("{matches} counter drop"));
    }
    let more = "interval = \"5ms\"\nwait = 5\nflows = 3\nper_flow = true\n";
    let file = target("echo", "10.77.0.1:9999", more)
        + &target(
            "stamp",
            "10.77.0.1:862",
            "mode = \"stamp\"\ninterval = 0.005\nwait = 5",
        );
    let monitor = Monitor::start(&clients, &file);
    for name in ["echo", "stamp"] {
        monitor.wait_for_replies(name, 400);
    }
    let end = monitor.settle();
    let [sent, sent_by_stamp] = ["echo", "stamp"].map(|name| end.sent(name));
    assert!(
        sent < 5000 && sent_by_stamp < 5000,
        "{sent} {sent_by_stamp}"
    );
    // Requests 1 to `sent`, and 0 to `sent_by_stamp - 1`.
    let dropped = [sent / 10, (sent_by_stamp - 1) / 10];
    assert_eq!(["echo", "stamp"].map(|name| end.lost(name)), dropped);
    server.inside(|| {
        for (daemon, arrived) in [
            (&echo, sent - dropped[0]),
            (&stamp, sent_by_stamp - dropped[1]),
        ] {
            let arrived = float(arrived);
            daemon.wait_for_metric("datagrams_received_total", arrived);
            daemon.wait_for_metric("datagrams_echoed_total", arrived);
        }
    });
    let by_direction = |direction: &str| {
        let series = format!("lost_by_direction_total{{target=\"stamp\",direction=\"{direction}\"");
        end.count(&series)
    };
    // Only a later reply shows the direction of a loss: that of the last request stays unknown.
    let unknown = u64::from(sent_by_stamp % 10 == 1);
    let lost = ["forward", "backward", "unknown"].map(by_direction);
    assert_eq!(lost, [dropped[1] - unknown, 0, unknown]);
    assert_nothing_else(&end, "echo");
    assert_nothing_else(&end, "stamp");
}

/// Asserts that a target has no figures of other faults than loss.
fn assert_nothing_else(scrape: &Scrape, target: &str) {
    for name in ["duplicates", "corrupted", "send_errors", "icmp_errors"] {
        assert_eq!(scrape.of(&format!("{name}_total"), target), 0, "{name}");
    }
}

#[test]
#[ignore = "needs root and nft; .ci/run runs it"]
fn monitor_loses_one_flow_of_eight_whose_path_drops_all() {
    let (server, clients) = Namespace::pair();
    let daemon = server.daemon(&["--listen=10.77.0.1:9999", "--mode=echo"]);
    rule(
        &server,
        "input",
        "udp dport 9999 udp sport 40003 counter drop",
    );
    // The flows get these eight ports.
    let ports = |range: &str| {
        clients.shell(&format!(
            "sysctl -qw net.ipv4.ip_local_port_range='{range}'"
        ));
    };
    ports("40000 40007");
    let more = "interval = \"10ms\"\nwait = 5\nflows = 8\nper_flow = true\n";
    let monitor = Monitor::start(&clients, &target("a", "10.77.0.1:9999", more));
    wait_until("all flows have a socket", || {
        let sockets = clients.shell("ss -Huan dst 10.77.0.1");
        sockets.lines().count() == 8
    });
    // Scrapes need ports, too.
    ports("41000 50000");
    monitor.wait_for_replies("a", 350);
    let end = monitor.settle();
    let flow = |name: &str, flow: usize| {
        end.count(&format!(
            "flow_requests_{name}_total{{target=\"a\",flow=\"{flow}\""
        ))
    };
    let (losing, others): (Vec<_>, Vec<_>) = (0..8).partition(|number| flow("lost", *number) > 0);
    assert_eq!([losing.len(), others.len()], [1, 7]);
    let blocked = flow("sent", losing[0]);
    assert_eq!(flow("lost", losing[0]), blocked);
    assert_eq!(end.lost("a"), blocked);
    // The flows are used in turn.
    for number in others {
        assert!(flow("sent", number).abs_diff(blocked) <= 1);
    }
    let arrived = float(end.received("a"));
    server.inside(|| daemon.wait_for_metric("datagrams_received_total", arrived));
    assert_nothing_else(&end, "a");
}

const TARGETS: [&str; 2] = ["echo", "exchange"];

#[test]
#[ignore = "needs root, for network namespaces; .ci/run runs it"]
fn monitor_loses_requests_only_while_the_link_is_down() {
    for own_side in [true, false] {
        let not_sent = undisturbed(|| outage(own_side), |not_sent| *not_sent == 0);
        assert_eq!(not_sent, 0, "own side: {own_side}");
    }
}

/// Takes a link down for five seconds. Returns the number of requests that were not sent.
fn outage(own_side: bool) -> u64 {
    let (server, clients) = Namespace::pair();
    let echo = server.daemon(&["--listen=10.77.0.1:9998", "--mode=echo"]);
    let http = "--metrics-listen=127.0.0.1:9864";
    let exchange = server.daemon(&["--listen=10.77.0.1:9999", http]);
    let more = "interval = 0.25\nwait = 1\n";
    let file = target("echo", "10.77.0.1:9998", more)
        + &target(
            "exchange",
            "10.77.0.1:9999",
            &format!("mode = \"exchange\"\n{more}"),
        );
    let monitor = Monitor::start(&clients, &file);
    let side = if own_side { &clients } else { &server };
    let replies_after = |scrape: &Scrape| {
        TARGETS
            .iter()
            .map(|name| monitor.wait_for_replies(name, scrape.received(name) + 5))
            .last()
            .unwrap()
    };
    let before = replies_after(&monitor.scrape());
    side.shell("ip link set eth0 down");
    let down = monitor.scrape();
    thread::sleep(Duration::from_millis(3500));
    // The kernel may keep a request until the link is up, so the last ones may have a reply in time.
    let late = monitor.scrape();
    thread::sleep(Duration::from_millis(1500));
    side.shell("ip link set eth0 up");
    let up = replies_after(&monitor.scrape());
    let again = replies_after(&up);
    let end = monitor.settle();
    for name in TARGETS {
        let lost = end.lost(name);
        let least = late.sent(name) - down.sent(name);
        let most = up.sent(name) - before.received(name);
        assert!((least..=most).contains(&lost), "{least} {lost} {most}");
        assert!(least > 0);
        // Lost are only those that were not answered when the link was up.
        assert!(lost <= up.lost(name) + up.in_flight(name), "{name}");
        assert!(again.received(name) >= up.received(name) + 5);
        let failed = end.of("send_errors_total", name);
        assert!(failed <= lost, "{name}: {failed}");
        assert!(
            failed >= if own_side { least } else { 0 },
            "{name}: {failed}"
        );
        let icmp = end.of("icmp_errors_total", name);
        assert!(failed + icmp <= lost, "{name}: {failed} {icmp} {lost}");
        assert_eq!(end.of("duplicates_total", name), 0);
    }
    server.inside(|| {
        // A reply may be lost when the link goes down, but none is counted twice.
        for (name, daemon) in TARGETS.iter().zip([&echo, &exchange]) {
            let received = float(end.received(name));
            assert!(
                daemon.metric("datagrams_echoed_total") >= received,
                "{name}"
            );
        }
    });
    end.count("requests_not_sent_total")
}
