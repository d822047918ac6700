//! Reloads of a file that changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;

use super::reflector::{Copies, Reflector};
use super::{Monitor, float, target};
use crate::harness::calm::undisturbed;
use crate::namespace::Namespace;

const RELOADS: usize = 100;
/// Targets that no reload changes.
const UNCHANGED: usize = 20;
/// Targets of which each reload adds one and removes another.
const ADDED: usize = 5;

/// The sequence numbers of a source port, in the order of arrival.
type Requests = BTreeMap<u16, Vec<u64>>;

#[test]
#[ignore = "needs root, for network namespaces; .ci/run runs it"]
fn hundred_reloads_do_not_touch_unchanged_targets() {
    let not_sent = undisturbed(reloads, |not_sent| *not_sent == 0);
    assert_eq!(not_sent, 0);
}

/// Reloads many times. Returns the number of requests that were not sent.
fn reloads() -> u64 {
    let (server, clients) = Namespace::pair();
    let seen = Arc::new(Mutex::new(Requests::new()));
    let noted = Arc::clone(&seen);
    let _unchanged = Reflector::start(&server, "10.77.0.1:9999", move |port, sequence| {
        let mut seen = noted.lock().unwrap();
        seen.entry(port).or_default().push(sequence);
        Copies::ONE
    });
    let changing = server.daemon(&["--listen=10.77.0.1:9998", "--mode=echo"]);
    let monitor = Monitor::start(&clients, &file(0));
    for number in 0..UNCHANGED {
        monitor.wait_for_replies(&unchanged(number), 1);
    }
    for reload in 1..=RELOADS {
        let before = monitor.scrape().sent(&added(reload));
        monitor.write(&file(reload));
        monitor.process.signal(Signal::SIGHUP);
        monitor.scrape();
        monitor.wait_for("the targets change", |scrape| {
            scrape.sent(&added(reload)) > before
        });
    }
    let end = monitor.settle();
    assert_eq!(end.count("config_reload_success"), 1);
    let seen = seen.lock().unwrap();
    // Each target has one socket and one sequence from its first request to its last.
    assert_eq!(seen.len(), UNCHANGED);
    for (port, sequences) in &*seen {
        let expected: Vec<_> = (1..=sequences.len() as u64).collect();
        assert_eq!(*sequences, expected, "from port {port}");
    }
    let mut arrived: Vec<_> = seen.values().map(|all| all.len() as u64).collect();
    let mut sent: Vec<_> = (0..UNCHANGED).map(|n| end.sent(&unchanged(n))).collect();
    arrived.sort_unstable();
    sent.sort_unstable();
    assert_eq!(sent, arrived);
    for number in 0..UNCHANGED {
        let name = unchanged(number);
        assert_eq!(end.lost(&name), 0, "{name}");
    }
    // All have the same interval, so no schedule was interrupted: each has one request more or less
    // in the same time.
    let not_sent = end.count("requests_not_sent_total");
    let most = sent[UNCHANGED - 1] - sent[0];
    assert!(most <= 2 + not_sent, "{sent:?}");
    let lost: u64 = changing_names().map(|name| end.lost(&name)).sum();
    let sent: u64 = changing_names().map(|name| end.sent(&name)).sum();
    assert_eq!(lost, 0);
    let sent = float(sent);
    server.inside(|| changing.wait_for_metric("datagrams_echoed_total", sent));
    not_sent
}

fn unchanged(number: usize) -> String {
    format!("unchanged{number}")
}

fn added(reload: usize) -> String {
    format!("added{}", reload % ADDED)
}

fn changing_names() -> impl Iterator<Item = String> {
    let added = (0..ADDED).map(added);
    added.chain(["changed".into(), "renamed".into()])
}

/// The file of a reload. One target is added, one has other settings, and one is removed.
fn file(reload: usize) -> String {
    // A busy machine may delay a request for less than the interval.
    let more = "interval = 0.2\nwait = 10\n";
    let mut targets: Vec<_> = (0..UNCHANGED)
        .map(|number| target(&unchanged(number), "10.77.0.1:9999", more))
        .collect();
    // The order of the file does not matter.
    targets.rotate_left(reload % UNCHANGED);
    targets.push(target(&added(reload), "10.77.0.1:9998", more));
    let (flows, size) = (1 + reload % 3, 64 + reload);
    let other = format!("flows = {flows}\nsize = {size}\nper_flow = true\n{more}");
    targets.push(target("changed", "10.77.0.1:9998", &other));
    if reload.is_multiple_of(2) {
        targets.push(target("renamed", "10.77.0.1:9998", more));
    }
    targets.concat()
}
