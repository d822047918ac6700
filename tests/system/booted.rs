//! The package on a booted Debian: install, status, upgrade, purge.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use crate::harness::{client, has_nothing, receive, request_to, total, wait_until};
use crate::machine::{DEBIAN_12, DEBIAN_13, Debian, ECHO, METRICS, Machine};
use crate::monitored::EXPOSURE as MONITOR_EXPOSURE;
use crate::package::{older_package, package};

pub const UNITS: &str = "udp-echo.service udp-echo.socket udp-echo-metrics.socket";
/// The highest exposure level of the daemon's sandbox.
pub const EXPOSURE: f64 = 0.3;
/// Python's `! I 2s Q 2h f`: 1, "ab", 2, 3, -4, 0.5.
const RECORD: [u8; 22] = *b"\0\0\0\x01ab\0\0\0\0\0\0\0\x02\0\x03\xff\xfc\x3f\0\0\0";

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn installed_service_serves_and_reports_its_state_in_debian_12() {
    assert_serves_and_reports_its_state(&DEBIAN_12);
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn installed_service_serves_and_reports_its_state_in_debian_13() {
    assert_serves_and_reports_its_state(&DEBIAN_13);
}

fn assert_serves_and_reports_its_state(debian: &Debian) {
    let machine = Machine::boot_release(debian);
    machine.install(package(), "");
    machine.shell("systemctl start udp-echo");
    assert_eq!(
        machine.shell(&format!("systemctl is-active {UNITS}")),
        "active\n".repeat(3)
    );
    assert_eq!(
        machine.shell(&format!("systemctl is-enabled {UNITS}")),
        "enabled\n".repeat(3)
    );

    // Two exchanges: a datagram is echoed, a record is decoded.
    let peer = machine.inside(|| client(address(ECHO)));
    for sent in [&b"hello"[..], b"again"] {
        peer.send(sent).unwrap();
        assert_eq!(receive(&peer), sent);
        peer.send(&RECORD).unwrap();
    }
    // A short record: a decode error, which is logged as a warning.
    peer.send(b"once more").unwrap();
    assert_eq!(receive(&peer), b"once more");
    peer.send(b"short").unwrap();
    wait_until("the records are decoded", || {
        machine.metric("decode_errors_total") > 0.0
    });
    assert!(has_nothing(&peer));
    shows_its_metrics(&machine);
    shows_its_status(&machine);
    logs_to_the_journal(&machine);
    another_socket_cannot_bind_the_port(&machine);
    sandboxes_have_their_exposure_levels(&machine);
    systemd_warns_of_no_unit(&machine);
    prometheus_scrapes_it(&machine);
    stamp_drop_in_serves_port_862(&machine);
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn upgrade_keeps_sockets_and_purge_removes_all_in_debian_12() {
    assert_upgrade_keeps_sockets_and_purge_removes_all(&DEBIAN_12);
}

#[test]
#[ignore = "needs root, debootstrap and systemd-nspawn; .ci/run runs it"]
fn upgrade_keeps_sockets_and_purge_removes_all_in_debian_13() {
    assert_upgrade_keeps_sockets_and_purge_removes_all(&DEBIAN_13);
}

fn assert_upgrade_keeps_sockets_and_purge_removes_all(debian: &Debian) {
    let machine = Machine::boot_release(debian);
    let before = files(&machine);
    let older = older_package(machine.folder());
    machine.install(&older, "");
    assert_eq!(
        machine.shell("dpkg-query -W -f '${Version}' udp-echo"),
        "0.0.9"
    );
    // A change of the operator's.
    machine.shell("echo UDP_ECHO_MODE=echo >>/etc/default/udp-echo");
    let conffile = machine.shell("cat /etc/default/udp-echo");
    machine.shell("systemctl restart udp-echo");
    machine.assert_echoes(ECHO, 3);
    let sockets = inodes(&machine);
    let pid = machine.main_pid();

    machine.install(package(), "--force-confold");
    assert_ne!(
        machine.shell("dpkg-query -W -f '${Version}' udp-echo"),
        "0.0.9"
    );
    assert_eq!(machine.shell("cat /etc/default/udp-echo"), conffile);
    assert_eq!(inodes(&machine), sockets);
    machine.assert_echoes(ECHO, 3);
    assert_ne!(machine.main_pid(), pid);
    assert_eq!(
        machine.shell(&format!("systemctl is-active {UNITS}")),
        "active\n".repeat(3)
    );

    machine.shell("dpkg --remove udp-echo 2>&1");
    let (_, states, _) = machine.attempt(&format!("systemctl is-active {UNITS}"));
    assert_eq!(states, "inactive\n".repeat(3));
    assert_eq!(
        machine.shell("ss -Hnlutp 'sport = :9999 or sport = :9862'"),
        ""
    );
    assert_eq!(machine.shell("cat /etc/default/udp-echo"), conffile);
    // Installed again, and purged while the service runs.
    machine.install(package(), "--force-confold");
    machine.assert_echoes(ECHO, 3);
    machine.shell("dpkg --purge udp-echo 2>&1");
    assert_eq!(
        machine.shell("ss -Hnlutp 'sport = :9999 or sport = :9862'"),
        ""
    );
    let left: Vec<_> = files(&machine).difference(&before).cloned().collect();
    assert!(left.is_empty(), "{left:#?}");
    let known = machine.shell("systemctl list-units --all --plain --no-legend 'udp-echo*'");
    assert_eq!(known, "");
    assert_eq!(
        machine.shell("dpkg-query -W 'udp-echo*' 2>/dev/null || true"),
        ""
    );
}

fn shows_its_metrics(machine: &Machine) {
    let metrics = machine.metrics();
    let labels = format!("{{listen=\"{ECHO}\",worker=\"0\"}}");
    let limit = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
    for (series, value) in [
        ("datagrams_received_total", 6.0),
        ("datagrams_echoed_total", 3.0),
        ("records_decoded_total", 2.0),
        ("decode_errors_total", 1.0),
        ("receive_buffer_limit_bytes", limit.trim().parse().unwrap()),
        // The unit asks for 4 MiB, and the kernel doubles that.
        (
            &*format!("socket_receive_buffer_bytes{labels}"),
            8_388_608.0,
        ),
        (&*format!("socket_drops_total{labels}"), 0.0),
    ] {
        let got = total(&metrics, series);
        assert!((got - value).abs() < 0.5, "{series} in {metrics:#?}");
    }
    for series in [
        "udp_echo_send_buffer_limit_bytes",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_threads",
        "process_virtual_memory_bytes",
    ] {
        let got = metrics.get(series);
        assert!(
            got.is_some_and(|value| *value > 0.0),
            "{series} in {metrics:#?}"
        );
    }
    // CPU time has a resolution of 10 ms: it may be 0 here.
    assert!(
        metrics.contains_key("process_cpu_seconds_total"),
        "{metrics:#?}"
    );
    assert_eq!(
        metrics.get("process_max_fds"),
        Some(&1024.0),
        "{metrics:#?}"
    );
}

fn shows_its_status(machine: &Machine) {
    let expected =
        format!("Status: \"exchange on {ECHO}, metrics on {METRICS}; 6 received, 3 echoed");
    let mut status = String::new();
    wait_until("systemctl shows the status", || {
        status = machine.shell("systemctl status --no-pager udp-echo");
        status.contains(&expected)
    });
    assert!(status.contains("active (running)"), "{status}");
}

fn logs_to_the_journal(machine: &Machine) {
    let journal = machine.shell(
        "journalctl --sync; journalctl --no-pager -u udp-echo -o json _TRANSPORT=journal + \
         _TRANSPORT=stdout _SYSTEMD_UNIT=udp-echo.service",
    );
    let own: Vec<_> = journal
        .lines()
        .filter(|line| line.contains("\"_COMM\":\"udp-echo\""))
        .collect();
    for (message, priority) in [
        ("serving in exchange mode", "\"PRIORITY\":\"6\""),
        ("decode", "\"PRIORITY\":\"4\""),
    ] {
        let line = own.iter().find(|line| line.contains(message));
        let line = line.unwrap_or_else(|| panic!("no {message:?} in {own:#?}"));
        assert!(line.contains(priority), "{line}");
    }
    for line in own {
        assert!(
            line.contains("\"SYSLOG_IDENTIFIER\":\"udp-echo\""),
            "{line}"
        );
        assert!(line.contains("\"_TRANSPORT\":\"journal\""), "{line}");
    }
}

/// systemd sets `SO_REUSEADDR`, which would let another socket steal datagrams.
fn another_socket_cannot_bind_the_port(machine: &Machine) {
    let error = machine.inside(|| {
        let thief = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        thief.set_reuse_address(true).unwrap();
        thief.bind(&address(ECHO).into()).unwrap_err()
    });
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
}

/// The commands of README. The daemon can read the state of the clock.
fn stamp_drop_in_serves_port_862(machine: &Machine) {
    let cursor = machine.cursor();
    let before = exposure(machine, "udp-echo");
    machine.shell(
        "cp -r /usr/share/udp-echo/stamp/* /etc/systemd/system/ && systemctl daemon-reload && \
         systemctl restart udp-echo.socket && systemctl start udp-echo",
    );
    let peer = machine.inside(|| client(address("127.0.0.1:862")));
    let mut request = [0; 44];
    request[3] = 7;
    peer.send(&request).unwrap();
    let reply = receive(&peer);
    assert_eq!((reply.len(), &reply[24..28]), (44, &[0, 0, 0, 7][..]));
    assert!((machine.metric("stamp_sessions") - 1.0).abs() < 0.5);
    machine.wait_for_line(&cursor, "STAMP replies report: clock ");
    let journal = machine.journal(&cursor, "-u udp-echo");
    assert!(!journal.contains("cannot read"), "{journal}");
    let more = exposure(machine, "udp-echo") - before;
    // README and SECURITY.md have this figure.
    assert!(more < 0.35, "{before} + {more}");
    machine.shell(&format!(
        "systemctl revert {UNITS}; systemctl restart {UNITS}"
    ));
}

pub fn exposure(machine: &Machine, service: &str) -> f64 {
    let text = machine.shell(&format!("systemd-analyze security --no-pager {service}"));
    let (_, overall) = text.split_once("exposure level for ").expect(&text);
    let exposure = overall.split(' ').nth(1).unwrap();
    eprintln!("exposure level of {service} {exposure}");
    exposure.parse().expect("a number")
}

fn sandboxes_have_their_exposure_levels(machine: &Machine) {
    assert!(exposure(machine, "udp-echo") <= EXPOSURE);
    assert!(exposure(machine, "udp-echo-monitor") <= MONITOR_EXPOSURE);
}

fn systemd_warns_of_no_unit(machine: &Machine) {
    // The machine has no man to find the page.
    let line = "cd /usr/lib/systemd/system && systemd-analyze verify --man=no udp-echo* 2>&1";
    assert_eq!(machine.shell(line), "");
    let line = "journalctl --sync; journalctl --no-pager -o cat -p warning _PID=1";
    let warnings = machine.shell(line);
    assert!(!warnings.contains("udp-echo"), "{warnings}");
}

fn prometheus_scrapes_it(machine: &Machine) {
    machine.write(
        "/etc/prometheus/prometheus.yml",
        &format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: udp-echo\n    \
             static_configs: [{{targets: ['{METRICS}']}}]\n"
        ),
    );
    machine.shell("systemctl unmask prometheus 2>&1 && systemctl start prometheus");
    for (query, value) in [("up", "1"), ("udp_echo_datagrams_echoed_total", "3")] {
        let request = format!(
            "GET /api/v1/query?query={query} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        );
        let expected = format!(",\"{value}\"]");
        let mut body = String::new();
        // The first scrape may take too long.
        wait_until(query, || {
            body = machine.inside(|| {
                let prometheus = address("127.0.0.1:9090");
                std::net::TcpStream::connect(prometheus).map_or_else(
                    |error| error.to_string(),
                    |_| request_to(prometheus, &request).body,
                )
            });
            body.contains(&expected)
        });
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The inodes of the sockets on both ports.
fn inodes(machine: &Machine) -> BTreeSet<String> {
    let shown = machine.shell("ss -Hnlute 'sport = :9999 or sport = :9862'");
    let words = shown.split_whitespace();
    let inodes: BTreeSet<_> = words
        .filter(|word| word.starts_with("ino:"))
        .map(str::to_owned)
        .collect();
    assert_eq!(inodes.len(), 2, "{shown}");
    inodes
}

/// Every file that a package could leave.
pub fn files(machine: &Machine) -> BTreeSet<String> {
    let found = machine.shell(
        "find /etc /usr /var/lib /var/cache /opt /srv /home /root /run/systemd/system \
         /run/systemd/transient -xdev -not -path '/var/lib/dpkg/*-old' \
         -not -path /root/udp-echo.deb 2>/dev/null || true",
    );
    found.lines().map(str::to_owned).collect()
}
