//! The container image: confined, measured, checked and stopped.

use std::fs;

use crate::harness::tidy::Folder;
use crate::harness::{program, run, wait_until};
use crate::namespace::Namespace;
use crate::podman::{Container, Podman, metrics};

const DAEMON: &str = "127.0.0.1:9862";
const MONITOR: &str = "127.0.0.1:9863";
/// The file of the image with the targets.
const TARGETS: &str = "/etc/udp-echo/monitor.toml";

#[test]
#[ignore = "needs root, podman and a package; .ci/run runs it"]
fn container_echoes_is_scraped_and_stops_without_privileges() {
    let podman = Podman::with_image();
    let host = Namespace::new();
    host.inside(|| {
        let container = start(podman, &[], &["--mode=echo"], "serving in echo mode");
        assert_is_confined(&container);
        let mut client = program();
        client.args([
            "probe",
            "--mode=echo",
            "--count=5",
            "--interval=10ms",
            "127.0.0.1",
        ]);
        let (status, out, err) = run(&mut client);
        assert!(
            status.success() && out.contains(" 5 received"),
            "{out}{err}"
        );
        wait_until("the echoes are counted", || {
            metric(DAEMON, "udp_echo_datagrams_echoed_total{") > 4.5
        });
        wait_until("the daemon is healthy", || container.is_healthy());
        let log = container.log();
        assert!(!log.contains(" WARN ") && !log.contains("ERROR"), "{log}");
        let licences = container.proc("root/usr/share/doc/udp-echo/THIRD-PARTY-LICENSES.txt");
        assert!(licences.contains("MIT License"), "{licences}");
        assert_eq!(container.stop(), "0");
    });
}

#[test]
#[ignore = "needs root, podman and a package; .ci/run runs it"]
fn monitor_container_measures_reloads_and_stops() {
    let podman = Podman::with_image();
    let host = Namespace::new();
    let folder = Folder::new();
    let file = folder.join("monitor.toml");
    fs::write(&file, "[defaults]\ninterval = \"20ms\"\n").unwrap();
    let volume = format!("--volume={}:{TARGETS}:ro", file.display());
    host.inside(|| {
        let daemon = start(podman, &[], &[], "serving in exchange mode");
        let monitor = start(
            podman,
            &[&volume],
            &["monitor", "localhost:9999"],
            "probing ",
        );
        assert_is_confined(&monitor);
        let replies = |target: &str| {
            metric(
                MONITOR,
                &format!("udp_echo_monitor_replies_received_total{{target=\"{target}\""),
            )
        };
        wait_until("the monitor gets replies", || {
            replies("localhost:9999") > 2.0
        });
        fs::write(
            &file,
            "[[target]]\nname = \"second\"\naddress = \"127.0.0.1\"\n",
        )
        .unwrap();
        monitor.signal("HUP");
        wait_until("the second target replies", || replies("second") > 0.0);
        let log = monitor.log();
        assert!(!log.contains(" WARN ") && !log.contains("ERROR"), "{log}");

        // Each check is that of its own container, even if both are on one network.
        wait_until("both are healthy", || {
            daemon.is_healthy() && monitor.is_healthy()
        });
        daemon.signal("STOP");
        assert!(!daemon.is_healthy());
        wait_until("the monitor is healthy", || monitor.is_healthy());
        daemon.signal("CONT");
        wait_until("the daemon is healthy", || daemon.is_healthy());
        assert_eq!(monitor.stop(), "0");
        wait_until("the daemon is healthy", || daemon.is_healthy());
        assert_eq!(daemon.stop(), "0");
    });
}

#[test]
#[ignore = "needs root, podman and a package; .ci/run runs it"]
fn monitor_container_without_targets_names_what_to_do() {
    let (status, log) = Podman::with_image().run_to_end(&["monitor"]);
    assert_eq!(status, "2");
    assert!(
        log.contains("no target: add one to /etc/udp-echo/monitor.toml"),
        "{log}"
    );
}

/// Starts a container, and waits for a text in its log.
fn start(podman: &'static Podman, options: &[&str], args: &[&str], text: &str) -> Container {
    let container = podman.start(options, args);
    container.wait_for_log(text);
    container
}

/// Asserts that the program has no privilege and nothing to write to.
fn assert_is_confined(container: &Container) {
    let status = container.proc("status");
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    for line in sets.map(|set| format!("{set}:\t0000000000000000")) {
        assert!(status.contains(&line), "{line} in {status}");
    }
    for line in ["Uid:\t65532\t", "Gid:\t65532\t", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line:?} in {status}");
    }
    let mounts = container.proc("mounts");
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == Some("/"));
    let options = root.and_then(|line| line.split(' ').nth(3));
    assert!(
        options.is_some_and(|options| options.starts_with("ro,")),
        "{mounts}"
    );
}

/// The sum of the samples that start with this text.
fn metric(address: &str, start: &str) -> f64 {
    let own = metrics(address).into_iter();
    own.filter(|(series, _)| series.starts_with(start))
        .map(|(_, value)| value)
        .sum()
}
