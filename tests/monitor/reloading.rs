//! SIGHUP: changed, broken and unreadable files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::harness::confined::without_capabilities;
use crate::harness::wait_until;
use crate::process::{Monitor, Reflector, document, file, rewrite, targets};

const DEFAULTS: &str = "mode = \"echo\"\ninterval = 0.005\nwait = 60";

#[test]
fn reload_does_not_touch_an_unchanged_target() {
    let [kept, changed, gone, added] = [(); 4].map(|()| Reflector::start(|_| 1));
    let folder = targets(
        DEFAULTS,
        &[
            ("kept", kept.address, ""),
            ("changed", changed.address, "flows = 2"),
            ("gone", gone.address, ""),
        ],
    );
    let monitor = Monitor::start_with(&folder);
    let all_received = |targets: &[&str], least: u64| {
        monitor.wait_for("all targets have replies", |seen| {
            let received = |target: &&str| seen.of(target, "replies_received_total");
            targets.iter().map(received).min() > Some(least)
        })
    };
    let before = all_received(&["kept", "changed", "gone"], 5);
    rewrite(
        &folder,
        &document(
            DEFAULTS,
            &[
                ("added", added.address, ""),
                ("changed", changed.address, "flows = 3"),
                ("kept", kept.address, ""),
            ],
        ),
    );
    let after = monitor.reload();
    for target in ["kept", "changed", "gone"] {
        for name in ["requests_sent_total", "rtt_seconds_count"] {
            let [before, after] = [&before, &after].map(|seen| seen.of(target, name));
            assert!(after >= before, "{name} of {target} fell");
        }
    }
    assert_eq!(after.own("config_reload_success"), 1);
    let more = after.of("changed", "replies_received_total") + 5;
    all_received(&["kept", "changed", "added"], more);
    // The series of the removed target stays, and nothing more is sent.
    let last = monitor.wait_for("no request is in flight", |seen| {
        seen.of("gone", "requests_in_flight") == 0
    });
    let sent = last.of("gone", "requests_sent_total");
    assert_eq!(last.of("gone", "replies_received_total"), sent);
    assert_eq!(gone.seen.lock().unwrap().len() as u64, sent);
    assert!(
        !last
            .0
            .keys()
            .any(|key| key.contains("resolved{target=\"gone\""))
    );
    // A changed target has new sockets and keeps its counts.
    assert_eq!(ports(&changed).len(), 5);
    assert_eq!(ports(&kept).len(), 1);
    assert_is_without_gap(&kept);
}

#[test]
fn unchanged_target_loses_nothing_over_many_reloads() {
    let [kept, other] = [(); 2].map(|()| Reflector::start(|_| 1));
    let with = |flows: usize| {
        let lines = format!("flows = {flows}");
        document(
            DEFAULTS,
            &[("kept", kept.address, ""), ("other", other.address, &lines)],
        )
    };
    let folder = targets(DEFAULTS, &[]);
    rewrite(&folder, &with(1));
    let monitor = Monitor::start_with(&folder);
    let mut before = [0; 2];
    for round in 1..=30 {
        rewrite(&folder, &with(1 + round % 3));
        let seen = monitor.reload();
        let counts = ["kept", "other"].map(|target| {
            seen.assert_accounted_for(target);
            seen.of(target, "requests_sent_total")
        });
        assert!(counts[0] >= before[0] && counts[1] >= before[1]);
        before = counts;
    }
    assert_eq!(monitor.logged("reloaded:").len(), 30);
    let seen = monitor.wait_for("there are replies", |seen| {
        seen.of("kept", "replies_received_total") > 50
    });
    assert_eq!(seen.of("kept", "requests_lost_total"), 0);
    assert_eq!(ports(&kept).len(), 1);
    assert_is_without_gap(&kept);
}

#[test]
fn broken_or_unreadable_file_keeps_the_targets_until_repaired() {
    let reflector = Reflector::start(|_| 1);
    let all = [("a", reflector.address, "")];
    let folder = targets(DEFAULTS, &all);
    let path = file(&folder);
    // Root may read every file.
    let monitor = Monitor::start_as(without_capabilities(), &format!("--config={path}"));
    let goes_on = || {
        let sent = monitor.figures().of("a", "requests_sent_total");
        monitor.wait_for("the target is probed", |seen| {
            seen.of("a", "requests_sent_total") > sent + 3
        })
    };
    let set_mode = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    let right = document(DEFAULTS, &all);
    let broken: [(&dyn Fn(), &str); 4] = [
        (&|| rewrite(&folder, "[[target]\n"), ":1: not TOML: "),
        (
            &|| rewrite(&folder, &format!("{right}intervall = 1\n")),
            ": unknown key intervall in [[target]]; ",
        ),
        (&|| rewrite(&folder, "[defaults]\n"), "no target: "),
        (&|| set_mode(0), "Permission denied (os error 13); "),
    ];
    for (number, (damage, cause)) in (1..).zip(broken) {
        damage();
        assert_eq!(monitor.reload().own("config_reload_success"), 0, "{cause}");
        let seen = goes_on();
        assert_eq!(seen.own("config_reload_success"), 0, "{cause}");
        assert_eq!(seen.of("a", "target_resolved"), 1, "{cause}");
        let lines = monitor.logged("cannot reload: ");
        assert_eq!(lines.len(), number, "{lines:#?}");
        let line = lines.last().unwrap();
        assert!(line.contains(cause), "{line}");
        assert!(
            line.ends_with("; keeping the targets as they were"),
            "{line}"
        );
        set_mode(0o600);
        rewrite(&folder, &right);
        assert_eq!(monitor.reload().own("config_reload_success"), 1, "{cause}");
        goes_on();
    }
    assert_eq!(ports(&reflector).len(), 1);
    assert_is_without_gap(&reflector);
    assert_eq!(monitor.get("/-/healthy").status, 200);
}

/// The source ports of all requests until now.
fn ports(reflector: &Reflector) -> std::collections::BTreeSet<u16> {
    let seen = reflector.seen.lock().unwrap();
    seen.iter().map(|(port, _)| *port).collect()
}

/// Asserts that the requests have all numbers in turn.
fn assert_is_without_gap(reflector: &Reflector) {
    wait_until("there is a request", || {
        !reflector.seen.lock().unwrap().is_empty()
    });
    let seen = reflector.seen.lock().unwrap();
    let numbers: Vec<_> = seen.iter().map(|(_, number)| *number).collect();
    let expected: Vec<_> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, expected);
}
