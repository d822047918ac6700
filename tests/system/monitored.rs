//! The service of `udp-echo monitor` on a booted Debian.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nix::sys::signal::{Signal, kill};

use crate::booted::exposure;
use crate::harness::{DEADLINE, request_to, samples, total, wait_until};
use crate::machine::Machine;
use crate::package::{older_package, package};

const UNIT: &str = "udp-echo-monitor";
const FILE: &str = "/etc/udp-echo/monitor.toml";
const HTTP: &str = "127.0.0.1:9863";
/// The highest exposure level of the sandbox.
pub const EXPOSURE: f64 = 1.5;
/// The daemon of the package, and a port where nothing listens.
const TARGETS: &str = "[defaults]\ninterval = \"100ms\"\nwait = \"200ms\"\n\
                       [[target]]\nname = \"daemon\"\naddress = \"localhost\"\n\
                       [[target]]\nname = \"closed\"\naddress = \"127.0.0.1:9\"\nmode = \"echo\"\n";

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn monitor_is_installed_disabled_and_needs_a_target() {
    let machine = Machine::boot();
    machine.install(package(), "");
    assert_eq!(state(&machine), ["disabled", "inactive"]);
    let cursor = machine.cursor();
    let (status, _, _) = machine.attempt("systemctl start udp-echo-monitor");
    assert!(!status.success());
    // Only an operator can correct it: systemd does not try again.
    assert_eq!(machine.property(UNIT, "ActiveState"), "failed");
    assert_eq!(machine.property(UNIT, "ExecMainStatus"), "2");
    assert_eq!(machine.property(UNIT, "NRestarts"), "0");
    let line = format!("no target: add one to {FILE} or name it on the command line");
    wait_for_line(&machine, &cursor, &line);

    assert!(exposure(&machine, UNIT) <= EXPOSURE);
    let said = machine.shell(
        "systemd-analyze verify --man=no /usr/lib/systemd/system/udp-echo-monitor.service 2>&1",
    );
    assert_eq!(said, "");
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn monitor_service_measures_and_reloads_its_file() {
    let machine = Machine::boot();
    machine.install(package(), "");
    machine.write(FILE, TARGETS);
    machine.shell("systemctl enable --now udp-echo-monitor 2>&1");
    assert_eq!(state(&machine), ["enabled", "active"]);
    let pid = machine.property(UNIT, "MainPID");
    for (series, least) in [
        ("replies_received_total{target=\"daemon\"", 3.0),
        ("requests_lost_total{target=\"closed\"", 3.0),
        // The kernel of this host answers at once.
        ("icmp_errors_total{target=\"closed\"", 3.0),
    ] {
        wait_until(series, || figure(&machine, series) >= least);
    }
    assert!(figure(&machine, "replies_received_total{target=\"closed\"") < 0.5);
    let status = machine.property(UNIT, "StatusText");
    assert!(status.contains(HTTP), "{status}");
    // The daemon saw them come.
    assert!(machine.metric("datagrams_echoed_total") > 2.5);

    // A target more; the others go on.
    let before = metrics(&machine);
    let more = format!(
        "{TARGETS}[[target]]\nname = \"stamp\"\naddress = \"127.0.0.1\"\nmode = \"stamp\"\n"
    );
    machine.write(FILE, &more);
    let cursor = machine.cursor();
    machine.shell("systemctl reload udp-echo-monitor");
    wait_until("the new target is measured", || {
        let name = "udp_echo_monitor_requests_sent_total{";
        let of_new = |series: &String| series.starts_with(name) && series.contains("\"stamp\"");
        metrics(&machine).keys().any(of_new)
    });
    let after = metrics(&machine);
    let is_counter = |series: &str| series.split('{').next().unwrap().ends_with("_total");
    for (series, value) in before.iter().filter(|(series, _)| is_counter(series)) {
        assert!(
            after.get(series) >= Some(value),
            "{series} fell: {after:#?}"
        );
    }
    assert_eq!(machine.property(UNIT, "MainPID"), pid);
    // The sandbox permits the monitor to read the state of the clock.
    assert!(!journal(&machine, &cursor).contains("cannot read"));

    // A broken file keeps the one before.
    for broken in [
        "[[target]]\naddress = \n",
        "[[target]]\nadress = \"localhost\"\n",
    ] {
        let cursor = machine.cursor();
        machine.write(FILE, broken);
        machine.shell("systemctl reload udp-echo-monitor");
        wait_for_line(&machine, &cursor, &format!("{FILE}:2: "));
        wait_until("the reload fails", || {
            figure(&machine, "config_reload_success") < 0.5
        });
        let sent = "requests_sent_total{target=\"daemon\"";
        let before = figure(&machine, sent);
        wait_until("requests go on", || figure(&machine, sent) > before + 2.5);
        machine.write(FILE, &more);
        machine.shell("systemctl reload udp-echo-monitor");
        wait_until("the reload succeeds", || {
            figure(&machine, "config_reload_success") > 0.5
        });
    }
    // A file that the service cannot read.
    let cursor = machine.cursor();
    machine.shell(&format!(
        "chmod 600 {FILE}; systemctl reload udp-echo-monitor"
    ));
    wait_for_line(&machine, &cursor, &format!("cannot read {FILE}: "));
    wait_until("the reload fails", || {
        figure(&machine, "config_reload_success") < 0.5
    });
    assert_eq!(machine.property(UNIT, "MainPID"), pid);

    machine.shell("systemctl stop udp-echo-monitor");
    assert_eq!(machine.property(UNIT, "ActiveState"), "inactive");
    // It ended by itself, not by the kill after TimeoutStopSec=.
    assert_eq!(machine.property(UNIT, "Result"), "success");
    assert_eq!(machine.property(UNIT, "ExecMainStatus"), "0");
    assert_eq!(machine.shell("ss -Hnltp 'sport = :9863'"), "");
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn monitor_is_restarted_by_the_watchdog_when_stopped() {
    let machine = Machine::boot();
    machine.install(package(), "");
    machine.write(FILE, TARGETS);
    // A shorter watchdog interval saves time.
    machine.write(
        "/etc/systemd/system/udp-echo-monitor.service.d/watchdog.conf",
        "[Service]\nWatchdogSec=5s\n",
    );
    machine.shell("systemctl daemon-reload; systemctl start udp-echo-monitor");
    let cursor = machine.cursor();
    let main = || machine.property(UNIT, "MainPID").parse::<i32>().unwrap();
    let pid = main();
    kill(machine.outer_pid(pid), Signal::SIGSTOP).unwrap();
    wait_for_line(&machine, &cursor, "Watchdog timeout");
    wait_until("the monitor runs again", || {
        ![0, pid].contains(&main()) && machine.property(UNIT, "ActiveState") == "active"
    });
    let series = "replies_received_total{target=\"daemon\"";
    wait_until("it measures again", || figure(&machine, series) > 2.5);
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn monitor_reads_keys_that_only_root_can_read() {
    let machine = Machine::boot();
    machine.install(package(), "");
    machine.write(
        "/etc/udp-echo/stamp.keys",
        &format!("* {}\n", "5a".repeat(16)),
    );
    machine.shell("chmod 600 /etc/udp-echo/stamp.keys");
    // The comment of the unit.
    let unit = machine.shell("systemctl cat udp-echo-monitor");
    let commented = |start: &str| {
        let lines = unit.lines().map(|line| line.trim_start_matches(['#', ' ']));
        let found: Vec<_> = lines.filter(|line| line.starts_with(start)).collect();
        assert_eq!(found.len(), 1, "{start} in {unit}");
        found[0].to_owned()
    };
    let drop_in = format!("[Service]\n{}\n", commented("LoadCredential="));
    machine.write(
        "/etc/systemd/system/udp-echo-monitor.service.d/keys.conf",
        &drop_in,
    );
    let target = "[[target]]\naddress = \"127.0.0.1\"\nmode = \"stamp\"\n";
    machine.write(FILE, &format!("{target}{}\n", commented("key_file = ")));
    machine.shell("systemctl daemon-reload; systemctl start udp-echo-monitor");
    wait_until("requests are sent", || {
        figure(&machine, "requests_sent_total") > 0.5
    });
    // The list that limits where the monitor sends.
    let [deny, allow] = ["IPAddressDeny=", "IPAddressAllow="].map(commented);
    machine.write(
        "/etc/systemd/system/udp-echo-monitor.service.d/limit.conf",
        &format!("[Service]\n{deny}\n{allow}\n"),
    );
    machine.shell("systemctl daemon-reload; systemctl restart udp-echo-monitor");
    wait_until("requests are sent", || {
        figure(&machine, "requests_sent_total") > 0.5
    });
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn running_monitor_is_restarted_by_an_upgrade() {
    let machine = Machine::boot();
    let older = older_package(machine.folder());
    machine.install(&older, "");
    let upgrade = || {
        machine.install(package(), "--force-confold");
        machine.install(&older, "--force-confold --force-downgrade");
        machine.install(package(), "--force-confold");
    };
    upgrade();
    assert_eq!(state(&machine), ["disabled", "inactive"]);
    machine.write(FILE, TARGETS);
    machine.shell("systemctl enable udp-echo-monitor 2>&1");
    upgrade();
    assert_eq!(state(&machine), ["enabled", "inactive"]);
    for (verb, enabled) in [("enable --now", "enabled"), ("disable", "disabled")] {
        machine.shell(&format!("systemctl {verb} udp-echo-monitor 2>&1"));
        let pid = machine.property(UNIT, "MainPID");
        upgrade();
        assert_eq!(state(&machine), [enabled, "active"]);
        assert_ne!(machine.property(UNIT, "MainPID"), pid);
    }

    // Removed while it runs; installed again, an enabled one is started.
    machine.shell("systemctl enable udp-echo-monitor 2>&1; dpkg --remove udp-echo 2>&1");
    assert_eq!(machine.shell("ss -Hnltp 'sport = :9863'"), "");
    machine.install(package(), "--force-confold");
    assert_eq!(state(&machine), ["enabled", "active"]);
    machine.shell("dpkg --purge udp-echo 2>&1");
    let left = machine.shell(
        "find /etc/udp-echo /etc/systemd /usr/lib/systemd -name '*udp-echo*' 2>/dev/null || true",
    );
    assert_eq!(left, "");
}

/// Whether the monitor's service is enabled, and active.
fn state(machine: &Machine) -> Vec<String> {
    let (_, said, _) = machine.attempt(&format!(
        "systemctl is-enabled {UNIT}; systemctl is-active {UNIT}"
    ));
    said.lines().map(str::to_owned).collect()
}

/// All metrics of the monitor.
fn metrics(machine: &Machine) -> BTreeMap<String, f64> {
    let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    let address: SocketAddr = HTTP.parse().unwrap();
    let response = machine.inside(|| request_to(address, request));
    assert_eq!(response.status, 200, "{response:?}");
    samples(&response.body)
}

/// The sum of a metric over all series that have the given labels.
fn figure(machine: &Machine, series: &str) -> f64 {
    total(&metrics(machine), &format!("monitor_{series}"))
}

fn journal(machine: &Machine, cursor: &str) -> String {
    machine.shell(&format!(
        "journalctl --sync; journalctl --no-pager -u {UNIT} --after-cursor '{cursor}' -o cat"
    ))
}

/// Waits for a line in the journal of the monitor's service.
fn wait_for_line(machine: &Machine, cursor: &str, text: &str) {
    let mut said = String::new();
    let deadline = std::time::Instant::now() + DEADLINE;
    while !said.contains(text) {
        assert!(
            std::time::Instant::now() < deadline,
            "no {text:?} in {said}"
        );
        said = journal(machine, cursor);
    }
}
