//! Reflectors that misbehave.

use std::collections::BTreeSet;

use crate::process::{Monitor, Reflector, Scrape, targets};

/// Replies to each request.
const COPIES: u64 = 1000;

#[test]
fn reflector_with_1000_replies_changes_only_its_own_figures() {
    let flood = Reflector::start(|_| COPIES.try_into().unwrap());
    let other = Reflector::start(|_| 1);
    // No request is lost on a machine that stalls.
    let defaults = "mode = \"echo\"\ninterval = 0.5\nwait = 600";
    let all = [("flood", flood.address, ""), ("other", other.address, "")];
    let monitor = Monitor::start_with(&targets(defaults, &all));
    let before = monitor.wait_for("both have a reply", |seen| {
        received(seen, "flood") > 0 && received(seen, "other") > 0
    });
    let seen = monitor.wait_for("every reply is counted", |seen| {
        let replies = received(seen, "flood")
            + seen.of("flood", "duplicates_total")
            + seen.own("socket_drops_total");
        let sent = seen.of("flood", "requests_sent_total");
        sent > 5 && replies == COPIES * sent && received(seen, "other") > 5
    });
    for target in ["flood", "other"] {
        seen.assert_accounted_for(target);
        assert_eq!(seen.of(target, "requests_lost_total"), 0, "{target}");
    }
    for name in ["duplicates_total", "reordered_total", "corrupted_total"] {
        assert_eq!(seen.of("other", name), 0, "{name}");
    }
    let names = |seen: &Scrape| seen.0.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&seen), names(&before));
}

fn received(seen: &Scrape, target: &str) -> u64 {
    seen.of(target, "replies_received_total")
}
