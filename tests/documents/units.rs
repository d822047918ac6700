//! The units agree with the program and with each other.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Daemon, program, readme, run, shell};

const SERVICE: &str = "udp-echo.service";
const ECHO: &str = "udp-echo.socket";
pub(crate) const METRICS: &str = "udp-echo-metrics.socket";
const PORTS: &str = "udp-echo-ports.target";

/// Promises of README.md and SECURITY.md about the service, and the directives that keep each.
const SANDBOX: [(&str, &[&str]); 4] = [
    (
        "no network of its own",
        &[
            "PrivateNetwork=yes",
            "RestrictAddressFamilies=AF_UNIX",
            "IPAddressDeny=any",
        ],
    ),
    (
        "no privilege",
        &[
            "DynamicUser=yes",
            "CapabilityBoundingSet=",
            "AmbientCapabilities=",
            "NoNewPrivileges=yes",
            "PrivateUsers=yes",
            "RestrictSUIDSGID=yes",
            "RestrictNamespaces=yes",
            "RestrictRealtime=yes",
            "KeyringMode=private",
        ],
    ),
    (
        "no writable file",
        &[
            "ProtectSystem=strict",
            "ProtectHome=yes",
            "PrivateTmp=yes",
            "PrivateDevices=yes",
            "DevicePolicy=closed",
            "PrivateIPC=yes",
            "ProtectProc=invisible",
            "ProcSubset=pid",
            "ProtectClock=yes",
            "ProtectControlGroups=yes",
            "ProtectHostname=yes",
            "ProtectKernelLogs=yes",
            "ProtectKernelModules=yes",
            "ProtectKernelTunables=yes",
        ],
    ),
    (
        "few system calls",
        &[
            "SystemCallFilter=@system-service",
            "SystemCallFilter=~@privileged @resources",
            "SystemCallArchitectures=native",
            "SystemCallErrorNumber=EPERM",
            "MemoryDenyWriteExecute=yes",
            "LockPersonality=yes",
        ],
    ),
];

#[test]
fn sockets_have_the_addresses_and_names_of_the_program() {
    let help = run(program().arg("-h")).1;
    let default = |option: &str| {
        let rest = help.split(&format!("--{option} ")).nth(1).unwrap();
        let rest = rest.split("[default: ").nth(1).unwrap();
        let text = rest
            .split(']')
            .next()
            .unwrap()
            .replace("localhost", "127.0.0.1");
        text.parse::<SocketAddr>().unwrap().to_string()
    };
    assert_eq!(one(ECHO, "ListenDatagram"), default("listen"));
    assert_eq!(one(METRICS, "ListenStream"), default("metrics-listen"));
    for (unit, name) in [(ECHO, "echo"), (METRICS, "metrics")] {
        assert_eq!(one(unit, "FileDescriptorName"), name);
        assert_eq!(one(unit, "Service"), SERVICE);
        // A flood must not disable the socket.
        assert_eq!(one(unit, "TriggerLimitIntervalSec"), "0");
        assert_eq!(one(unit, "FreeBind"), "yes");
        assert_eq!(one(unit, "WantedBy"), "sockets.target");
    }
    // The kernel notes a destination only if this is set when the datagram arrives.
    assert_eq!(one(ECHO, "PassPacketInfo"), "yes");
    let wrong = run(&mut passed_in_as("other")).2;
    assert!(wrong.contains("echo or metrics"), "{wrong}");
    // README.md: `ReceiveBuffer=` (default: 4 MiB).
    let buffer = one(ECHO, "ReceiveBuffer").replace('M', " MiB");
    assert!(
        readme::text().contains(&format!("(default: {buffer})")),
        "{buffer}"
    );
}

#[test]
fn texts_have_the_ports_of_the_sockets() {
    let port = |unit, name| one(unit, name).rsplit(':').next().unwrap().to_owned();
    // The last is that of Prometheus.
    let ports = [
        port(ECHO, "ListenDatagram"),
        port(METRICS, "ListenStream"),
        "9090".to_owned(),
    ];
    let mut count = 0;
    for file in ["README.md", "packaging/balancing/bird.conf"] {
        let text = fs::read_to_string(readme::root().join(file)).unwrap();
        for start in ["127.0.0.1:", "localhost:"] {
            for rest in text.split(start).skip(1) {
                let digits = rest.split(|other: char| !other.is_ascii_digit());
                let digits = digits.into_iter().next().unwrap().to_owned();
                assert!(ports.contains(&digits), "{file}: {start}{digits}");
                count += 1;
            }
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn service_names_both_sockets_and_its_options() {
    for name in ["Sockets", "PartOf", "Also"] {
        assert_eq!(one(SERVICE, name), format!("{ECHO} {METRICS}"), "{name}=");
    }
    assert_eq!(one(SERVICE, "EnvironmentFile"), "-/etc/default/udp-echo");
    assert_eq!(one(SERVICE, "ExecStart"), "/usr/bin/udp-echo");
    assert_eq!(one(SERVICE, "WantedBy"), "multi-user.target");
    assert_eq!(one(SERVICE, "SyslogIdentifier"), "udp-echo");
    let package = fs::read_to_string(readme::root().join("Cargo.toml")).unwrap();
    for unit in [SERVICE, ECHO, METRICS, PORTS] {
        let asset = format!("[\"systemd/{unit}\", \"usr/lib/systemd/system/\", \"644\"]");
        assert!(package.contains(&asset), "{unit}");
    }
    for asset in ["usr/bin/\", \"755\"", "etc/default/udp-echo\", \"644\""] {
        assert!(package.contains(asset), "{asset}");
    }
}

#[test]
fn service_restarts_once_per_second_without_a_limit() {
    assert_eq!(one(SERVICE, "Restart"), "on-failure");
    assert_eq!(one(SERVICE, "RestartSec"), "1s");
    for unit in [SERVICE, ECHO, METRICS] {
        assert_eq!(one(unit, "StartLimitIntervalSec"), "0", "{unit}");
    }
    assert!(!read(SERVICE).contains("RestartPreventExitStatus"));
    assert_eq!(one(SERVICE, "Type"), "notify");
    assert_eq!(one(SERVICE, "NotifyAccess"), "main");
    let seconds = |name| duration(&one(SERVICE, name));
    assert!(seconds("WatchdogSec") >= Duration::from_secs(10));
    // The daemon ends within one second.
    assert!(seconds("TimeoutStopSec") > Duration::from_secs(1));
}

#[test]
fn stop_of_the_service_closes_both_ports() {
    assert_eq!(one(PORTS, "PartOf"), SERVICE);
    assert_eq!(one(PORTS, "Before"), SERVICE);
    assert_eq!(one(PORTS, "PropagatesStopTo"), format!("{ECHO} {METRICS}"));
    for unit in [SERVICE, ECHO, METRICS] {
        assert_eq!(one(unit, "Wants"), PORTS, "{unit}");
    }
}

#[test]
fn service_has_the_directives_of_its_sandbox() {
    let text = read(SERVICE);
    let lines: Vec<_> = text.lines().collect();
    for (promise, directives) in SANDBOX {
        for directive in directives {
            assert!(lines.contains(directive), "{promise}: no {directive}");
        }
    }
    // The daemon needs fewer than these.
    let daemon = Daemon::start(&[]);
    let files: f64 = one(SERVICE, "LimitNOFILE").parse().unwrap();
    let threads: f64 = one(SERVICE, "TasksMax").parse().unwrap();
    let metrics = daemon.metrics();
    assert!(metrics["process_open_fds"] + 64.0 < files);
    assert!(metrics["process_threads"] < threads);
    assert_eq!(one(SERVICE, "MemoryMax"), "512M");
    assert_eq!(one(SERVICE, "LimitCORE"), "0");
    assert_eq!(one(SERVICE, "UMask"), "0777");
}

/// The program with standard input passed in under a name.
fn passed_in_as(name: &str) -> Command {
    let script = format!(
        "exec 3<&0; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name} exec \"$0\" \
         --metrics-listen=none"
    );
    let mut command = shell(&script);
    command.arg(program().get_program());
    command
}

/// `10s`, `100ms`.
fn duration(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(number) => Duration::from_millis(number.parse().unwrap()),
        None => Duration::from_secs(text.trim_end_matches('s').parse().unwrap()),
    }
}

/// The value of a directive that a unit has once.
pub(crate) fn one(unit: &str, name: &str) -> String {
    let text = read(unit);
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = values
        .next()
        .unwrap_or_else(|| panic!("{unit}: no {name}="));
    assert_eq!(values.next(), None, "{unit}: {name}= twice");
    value.to_owned()
}

fn read(unit: &str) -> String {
    fs::read_to_string(readme::root().join("systemd").join(unit)).unwrap()
}
