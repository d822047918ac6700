//! Names that do not resolve, and names with several addresses.

use super::{Monitor, Scrape, float, target};
use crate::harness::Daemon;
use crate::namespace::Namespace;

const MORE: &str = "interval = 0.05\nwait = 5\n";

#[test]
#[ignore = "needs root, for network namespaces; .ci/run runs it"]
fn known_address_is_measured_while_its_name_fails() {
    let (server, clients) = Namespace::pair();
    let daemon = server.daemon(&["--listen=10.77.0.1:9999", "--mode=echo"]);
    clients.write_hosts("10.77.0.1 known\n");
    let file = target("a", "known:9999", MORE) + &target("b", "unknown:9999", MORE);
    let monitor = Monitor::start(&clients, &file);
    let resolved = |scrape: &Scrape| ["a", "b"].map(|name| scrape.of("target_resolved", name));
    let series = |scrape: &Scrape, name: &str| {
        let labels = format!("requests_sent_total{{target=\"{name}\"");
        scrape
            .0
            .keys()
            .filter(|key| key.starts_with(&labels))
            .count()
    };
    // The metric of a name that does not resolve exists before the first attempt ends.
    let first = monitor.wait_for_replies("a", 20);
    assert!(first.0.contains_key("target_resolved{target=\"b\"}"));
    assert_eq!([series(&first, "a"), series(&first, "b")], [1, 0]);
    monitor.process.wait_for_log("target \"b\": cannot resolve");

    // Now the other name fails.
    clients.write_hosts("10.77.0.1 unknown\n");
    let failed = monitor.wait_for("the names change their state", |scrape| {
        resolved(scrape) == [0, 1]
    });
    let later = monitor.wait_for_replies("a", failed.received("a") + 20);
    assert_eq!(resolved(&later), [0, 1]);
    monitor.wait_for_replies("b", 20);

    clients.write_hosts("10.77.0.1 unknown known\n");
    let back = monitor.wait_for("both names resolve", |scrape| resolved(scrape) == [1, 1]);
    assert_eq!([series(&back, "a"), series(&back, "b")], [1, 1]);
    monitor.wait_for_replies("a", back.received("a") + 20);
    for name in ["a", "b"] {
        for (text, times) in [("cannot resolve", 1), ("its name resolves again", 1)] {
            let line = format!("target \"{name}\": {text}");
            assert_eq!(monitor.logged(&line), times, "{line}");
        }
    }
    let end = monitor.settle();
    assert_eq!([end.lost("a"), end.lost("b")], [0, 0]);
    let sent = float(end.sent("a") + end.sent("b"));
    server.inside(|| daemon.wait_for_metric("datagrams_echoed_total", sent));
}

#[test]
#[ignore = "needs root, for network namespaces; .ci/run runs it"]
fn all_addresses_follows_instances_that_come_and_go() {
    const INSTANCES: [&str; 3] = ["10.77.0.1", "10.77.0.11", "10.77.0.12"];
    let (server, clients) = Namespace::pair();
    server.add_address("10.77.0.11/24");
    server.add_address("10.77.0.12/24");
    let daemons: Vec<Daemon> = INSTANCES
        .iter()
        .zip(9864..)
        .map(|(address, http)| {
            server.daemon(&[
                &format!("--listen={address}:9999"),
                &format!("--metrics-listen=127.0.0.1:{http}"),
                "--mode=echo",
            ])
        })
        .collect();
    let hosts = |instances: &[usize]| {
        let lines = instances.iter().map(|number| INSTANCES[*number]);
        let lines: Vec<_> = lines
            .map(|address| format!("{address} service\n"))
            .collect();
        clients.write_hosts(&lines.concat());
    };
    let at = |scrape: &Scrape, name: &str, number: usize| {
        let address = INSTANCES[number];
        scrape.count(&format!("{name}{{target=\"a\",address=\"{address}:9999\""))
    };
    let received = |scrape: &Scrape, number| at(scrape, "replies_received_total", number);

    hosts(&[0, 1]);
    let more = format!("all_addresses = true\n{MORE}");
    let monitor = Monitor::start(&clients, &target("a", "service:9999", &more));
    let first = monitor.wait_for("two instances answer", |scrape| {
        received(scrape, 0) >= 20 && received(scrape, 1) >= 20
    });
    assert_eq!(at(&first, "requests_sent_total", 2), 0);

    // One goes and one comes.
    hosts(&[1, 2]);
    let second = monitor.wait_for("the third instance answers", |scrape| {
        received(scrape, 2) >= 20 && at(scrape, "requests_in_flight", 0) == 0
    });
    let gone = at(&second, "requests_sent_total", 0);
    let both = [1, 2].map(|number| received(&second, number) + 20);
    let third = monitor.wait_for("both instances answer", |scrape| {
        received(scrape, 1) >= both[0] && received(scrape, 2) >= both[1]
    });
    assert_eq!(at(&third, "requests_sent_total", 0), gone);

    // The first one comes back, and its counts go on.
    hosts(&[0, 1, 2]);
    monitor.wait_for("the first instance answers again", |scrape| {
        received(scrape, 0) >= gone + 20
    });
    let end = monitor.settle();
    assert_eq!(end.lost("a"), 0);
    for (number, daemon) in daemons.iter().enumerate() {
        let sent = at(&end, "requests_sent_total", number);
        let sent = float(sent);
        server.inside(|| daemon.wait_for_metric("datagrams_echoed_total", sent));
    }
    assert_eq!(monitor.logged("cannot resolve"), 0);
}
