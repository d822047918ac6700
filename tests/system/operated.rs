//! The service under systemctl and dpkg: stop, disable, upgrade, and options that are wrong.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;

use crate::harness::{DEADLINE, client, wait_until};
use crate::machine::{DEBIAN_12, DEBIAN_13, Debian, ECHO, METRICS, Machine};
use crate::namespace::shell;
use crate::package::{older_package, package};

const UNITS: &str = "udp-echo.service udp-echo.socket udp-echo-metrics.socket";
/// 200 datagrams per second.
const INTERVAL: Duration = Duration::from_millis(5);
/// The daemon ends when it is idle; the next datagram starts it.
const IDLE_EXIT: &str = "UDP_ECHO_MODE=echo\nUDP_ECHO_EXIT_ON=timeout\nUDP_ECHO_TIMEOUT=0.5\n";
const WRONG: &str = "UDP_ECHO_MODE=echo\nUDP_ECHO_MAX_DATAGRAM=0\n";

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn stop_closes_both_ports_until_a_start_in_debian_12() {
    assert_stop_closes_both_ports_until_a_start(&DEBIAN_12);
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn stop_closes_both_ports_until_a_start_in_debian_13() {
    assert_stop_closes_both_ports_until_a_start(&DEBIAN_13);
}

fn assert_stop_closes_both_ports_until_a_start(debian: &Debian) {
    let machine = installed(debian, "UDP_ECHO_MODE=echo\n");
    // More often than a start limit would allow.
    for stop in ["udp-echo", "udp-echo.socket", "udp-echo-metrics.socket"].repeat(3) {
        machine.assert_echoes(ECHO, 1);
        machine.shell(&format!("systemctl stop {stop}"));
        assert_stays_stopped(&machine);
        machine.shell("systemctl start udp-echo");
        assert_eq!(states(&machine, "is-active"), ["active"; 3]);
    }

    // The daemon ended because it was idle.
    options(&machine, IDLE_EXIT);
    machine.shell("systemctl restart udp-echo");
    machine.assert_echoes(ECHO, 1);
    machine.wait_for("ActiveState", "inactive");
    machine.shell("systemctl stop udp-echo");
    assert_stays_stopped(&machine);

    // systemd tries again and again to start it.
    options(&machine, WRONG);
    machine.attempt("systemctl start udp-echo");
    machine.wait_for("SubState", "auto-restart");
    machine.shell("systemctl stop udp-echo");
    assert_stays_stopped(&machine);

    options(&machine, "UDP_ECHO_MODE=echo\n");
    machine.shell("systemctl restart udp-echo");
    machine.assert_echoes(ECHO, 1);
    machine.shell("systemctl restart 'udp-echo*'");
    machine.assert_echoes(ECHO, 1);
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn disabled_service_stays_stopped_after_a_reboot() {
    let mut machine = installed(&DEBIAN_12, "UDP_ECHO_MODE=echo\n");
    machine.assert_echoes(ECHO, 1);
    machine.shell("systemctl disable --now udp-echo 2>&1");
    assert_stays_stopped(&machine);
    machine.reboot();
    assert_stays_stopped(&machine);
    assert_eq!(states(&machine, "is-enabled"), ["disabled"; 3]);

    machine.shell("systemctl enable --now udp-echo 2>&1");
    machine.assert_echoes(ECHO, 1);
    machine.reboot();
    machine.assert_echoes(ECHO, 1);
    assert_eq!(states(&machine, "is-active"), ["active"; 3]);
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn datagram_that_starts_a_wildcard_listener_is_answered() {
    let machine = installed(&DEBIAN_12, "UDP_ECHO_MODE=echo\n");
    for (listen, to) in [
        ("0.0.0.0:9999", ECHO),
        ("[::]:9999", ECHO),
        ("[::]:9999", "[::1]:9999"),
    ] {
        machine.write(
            "/etc/systemd/system/udp-echo.socket.d/override.conf",
            &format!("[Socket]\nListenDatagram=\nListenDatagram={listen}\n"),
        );
        machine.shell("systemctl stop udp-echo; systemctl daemon-reload");
        machine.shell("systemctl start udp-echo.socket");
        assert_eq!(machine.main_pid(), None);
        machine.assert_echoes(to, 1);
    }
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn wrong_option_is_tried_once_per_second_as_datagrams_wait() {
    let machine = installed(&DEBIAN_12, "UDP_ECHO_MODE=echo\n");
    options(&machine, WRONG);
    let cursor = machine.cursor();
    let lost = lost_while(&machine, || {
        let (status, _, _) = machine.attempt("systemctl restart udp-echo");
        assert!(!status.success());
        wait_until("systemd tried 5 times", || {
            machine
                .property("udp-echo", "NRestarts")
                .parse::<u32>()
                .unwrap()
                >= 5
        });
        machine.wait_for("SubState", "auto-restart");
        for socket in ["udp-echo.socket", "udp-echo-metrics.socket"] {
            assert_eq!(machine.property(socket, "ActiveState"), "active");
        }
        options(&machine, "UDP_ECHO_MODE=echo\n");
        machine.shell("systemctl restart udp-echo");
        machine.assert_echoes(ECHO, 1);
    });
    assert_eq!(lost, 0);
    assert_eq!(machine.property("udp-echo", "RestartUSec"), "1s");

    let journal = machine.journal(&cursor, "-o short");
    let count = |text: &str| journal.matches(text).count();
    // The two restarts by hand; no datagram starts it in between.
    let starts = count(": Starting udp-echo.service");
    let scheduled = count(": Scheduled restart job");
    assert!((7..=scheduled + 2).contains(&starts), "{journal}");
    let mut lines = BTreeMap::<&str, Vec<&str>>::new();
    for line in journal.lines() {
        if let Some((_, line)) = line.split_once(" udp-echo[") {
            let (process, text) = line.split_once("]: ").unwrap();
            lines.entry(process).or_default().push(text);
        }
    }
    lines.retain(|_, lines| lines.iter().any(|line| line.contains("invalid value")));
    assert!(lines.len() >= 6, "{journal}");
    assert!(lines.values().all(|lines| lines.len() == 1), "{lines:#?}");
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn upgrade_restarts_the_service_without_loss_in_debian_12() {
    assert_upgrade_restarts_the_service_without_loss(&DEBIAN_12);
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn upgrade_restarts_the_service_without_loss_in_debian_13() {
    assert_upgrade_restarts_the_service_without_loss(&DEBIAN_13);
}

fn assert_upgrade_restarts_the_service_without_loss(debian: &Debian) {
    let machine = Machine::boot_release(debian);
    let older = edited_package(
        &machine,
        &format!(
            "sed -i 's/^WatchdogSec=.*/WatchdogSec=20s/' $units/udp-echo.service; {NO_TARGETS}"
        ),
    );
    machine.install(&older, "");
    options(&machine, "UDP_ECHO_MODE=echo\n");
    machine.shell("systemctl restart udp-echo");
    assert_eq!(machine.property("udp-echo", "WatchdogUSec"), "20s");
    let pid = machine.main_pid();
    let lost = lost_while(&machine, || {
        machine.install(package(), "--force-confold");
        assert_ne!(machine.main_pid(), pid);
    });
    assert_eq!(lost, 0);
    assert_eq!(machine.property("udp-echo", "WatchdogUSec"), "10s");
    machine.shell("systemctl stop udp-echo");
    assert_stays_stopped(&machine);

    // A socket's own settings take effect when it is opened again.
    let older = edited_package(
        &machine,
        "sed -i 's/^ReceiveBuffer=.*/ReceiveBuffer=8M/' $units/udp-echo.socket",
    );
    machine.install(&older, "--force-confold");
    machine.shell("systemctl start udp-echo");
    let buffer = "socket_receive_buffer_bytes";
    assert!((machine.metric(buffer) - 16_777_216.0).abs() < 0.5);
    machine.install(package(), "--force-confold");
    assert!((machine.metric(buffer) - 8_388_608.0).abs() < 0.5);
    machine.assert_echoes(ECHO, 1);
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn upgrade_leaves_stopped_and_disabled_units_in_debian_12() {
    assert_upgrade_leaves_stopped_and_disabled_units(&DEBIAN_12);
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn upgrade_leaves_stopped_and_disabled_units_in_debian_13() {
    assert_upgrade_leaves_stopped_and_disabled_units(&DEBIAN_13);
}

fn assert_upgrade_leaves_stopped_and_disabled_units(debian: &Debian) {
    let machine = Machine::boot_release(debian);
    let older = edited_package(&machine, NO_TARGETS);
    machine.install(&older, "");
    options(&machine, IDLE_EXIT);
    let upgrade = || {
        machine.install(package(), "--force-confold");
        machine.install(&older, "--force-confold --force-downgrade");
        machine.install(package(), "--force-confold");
    };

    // The daemon ended because it was idle: the next datagram starts it.
    for change in ["disable", "enable"] {
        machine.shell(&format!("systemctl {change} udp-echo 2>&1"));
        machine.shell("systemctl restart udp-echo");
        machine.assert_echoes(ECHO, 1);
        machine.wait_for("ActiveState", "inactive");
        upgrade();
        assert_eq!(
            states(&machine, "is-active"),
            ["inactive", "active", "active"]
        );
        machine.shell("systemctl stop udp-echo");
        assert_stays_stopped(&machine);
    }
    machine.shell("systemctl start udp-echo");
    machine.assert_echoes(ECHO, 1);

    machine.shell("systemctl stop udp-echo");
    upgrade();
    assert_stays_stopped(&machine);
    assert_eq!(states(&machine, "is-enabled"), ["enabled"; 3]);

    machine.shell("systemctl start udp-echo; systemctl disable --now udp-echo 2>&1");
    upgrade();
    assert_stays_stopped(&machine);
    assert_eq!(states(&machine, "is-enabled"), ["disabled"; 3]);
    machine.shell("dpkg --remove udp-echo 2>&1");
    machine.install(package(), "--force-confold");
    assert_stays_stopped(&machine);
    assert_eq!(states(&machine, "is-enabled"), ["disabled"; 3]);

    // Installed again, an enabled one is started.
    machine.shell("systemctl enable udp-echo 2>&1; dpkg --remove udp-echo 2>&1");
    machine.install(package(), "--force-confold");
    machine.assert_echoes(ECHO, 1);
}

/// Makes the units of an older package as those of 0.1, which had no targets.
const NO_TARGETS: &str = "rm $units/udp-echo-*.target; \
    sed -i '/^PartOf=udp-echo-open/d; /^Wants=/d' $units/udp-echo*.socket $units/udp-echo.service";

/// A booted machine with the service running on options.
fn installed(debian: &Debian, text: &str) -> Machine {
    let machine = Machine::boot_release(debian);
    machine.install(package(), "");
    options(&machine, text);
    machine.shell("systemctl restart udp-echo");
    machine
}

fn options(machine: &Machine, text: &str) {
    machine.write("/etc/default/udp-echo", text);
}

/// Answers of `systemctl is-active` or `is-enabled` for each of [`UNITS`].
fn states(machine: &Machine, verb: &str) -> Vec<String> {
    let (_, said, _) = machine.attempt(&format!("systemctl {verb} {UNITS}"));
    said.lines().map(str::to_owned).collect()
}

/// Asserts that neither a datagram nor a connection starts the service.
fn assert_stays_stopped(machine: &Machine) {
    // The sockets close shortly after `systemctl stop` has returned.
    wait_until("the ports are closed", || {
        let open = machine.shell("ss -Hnlutp 'sport = :9999 or sport = :9862'");
        open.is_empty() && states(machine, "is-active") == ["inactive"; 3]
    });
    machine.inside(|| {
        let peer = client(ECHO.parse().unwrap());
        peer.send(b"to a closed port").unwrap();
        let refused = peer.recv(&mut [0; 32]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let refused = TcpStream::connect(METRICS.parse::<SocketAddr>().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
    assert_eq!(states(machine, "is-active"), ["inactive"; 3]);
}

/// An older package whose units differ: `edit` is shell that finds them in `$units`.
fn edited_package(machine: &Machine, edit: &str) -> PathBuf {
    let older = older_package(machine.folder());
    let folder = machine.folder().join("edited");
    let (path, tree) = (folder.with_extension("deb"), folder.display());
    shell(&format!(
        "set -e; rm -rf {tree}; dpkg-deb -R {older} {tree}; units={tree}/usr/lib/systemd/system; \
         {edit}; (cd {tree}; find etc usr -type f -exec md5sum {{}} + >DEBIAN/md5sums); \
         dpkg-deb -b {tree} {path}; rm -rf {older_tree}",
        older = older.display(),
        older_tree = Path::new(machine.folder()).join("older").display(),
        path = path.display(),
    ));
    path
}

/// Sends 200 datagrams per second during `work`. The number of datagrams without a reply.
fn lost_while(machine: &Machine, work: impl FnOnce()) -> usize {
    let peer = machine.inside(|| client(ECHO.parse().unwrap()));
    // Thousands of replies can come at once.
    setsockopt(&peer, RcvBufForce, &(16 << 20)).unwrap();
    peer.set_nonblocking(true).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut answered = Vec::new();
            while !stop.load(Relaxed) {
                let number = u32::try_from(answered.len()).unwrap();
                answered.push(false);
                peer.send(&number.to_be_bytes()).expect("the port is open");
                take_replies(&peer, &mut answered);
                thread::sleep(INTERVAL);
            }
            let deadline = Instant::now() + DEADLINE / 4;
            while answered.contains(&false) && Instant::now() < deadline {
                thread::sleep(INTERVAL);
                take_replies(&peer, &mut answered);
            }
            answered.iter().filter(|answered| !**answered).count()
        });
        {
            let _stops = Stops(&stop);
            work();
        }
        sender.join().unwrap()
    })
}

fn take_replies(peer: &UdpSocket, answered: &mut [bool]) {
    let mut bytes = [0; 4];
    loop {
        match peer.recv(&mut bytes) {
            Ok(_) => answered[u32::from_be_bytes(bytes) as usize] = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("the port is closed: {error}"),
        }
    }
}

/// Stops the sender when dropped, also by a panic.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
