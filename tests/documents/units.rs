//! The units agree with the program and with each other.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Daemon, program, readme, run, shell};

const SERVICE: &str = "udp-echo.service";
const ECHO: &str = "udp-echo.socket";
pub(crate) const METRICS: &str = "udp-echo-metrics.socket";
const OPEN: &str = "udp-echo-open.target";
const STARTED: &str = "udp-echo-started.target";
const MONITOR: &str = "udp-echo-monitor.service";

/// Directives of [`SANDBOX`] that the monitor does not have. It has a network and reads the clock.
const NOT_OF_THE_MONITOR: [&str; 6] = [
    "PrivateNetwork=yes",
    "RestrictAddressFamilies=AF_UNIX",
    "IPAddressDeny=any",
    "ProtectClock=yes",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
];

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
    // The others are those of the monitor, and of Prometheus as a service and by hand.
    let ports = [
        port(ECHO, "ListenDatagram"),
        port(METRICS, "ListenStream"),
        "9863".to_owned(),
        "9090".to_owned(),
        "9091".to_owned(),
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
    let package = readme::manifest();
    for unit in [SERVICE, ECHO, METRICS, OPEN, STARTED, MONITOR] {
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
    assert_eq!(one(STARTED, "PartOf"), SERVICE);
    assert_eq!(one(STARTED, "Wants"), OPEN);
    assert_eq!(one(STARTED, "DefaultDependencies"), "no");
    assert_eq!(one(OPEN, "StopWhenUnneeded"), "yes");
    for socket in [ECHO, METRICS] {
        assert_eq!(one(socket, "PartOf"), OPEN, "{socket}");
    }
    for unit in [SERVICE, ECHO, METRICS] {
        assert_eq!(one(unit, "Wants"), STARTED, "{unit}");
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

#[test]
fn monitor_service_reads_the_file_of_the_package() {
    let file = "/etc/udp-echo/monitor.toml";
    let start = format!("/usr/bin/udp-echo monitor --config {file}");
    assert_eq!(one(MONITOR, "ExecStart"), start);
    assert_eq!(one(MONITOR, "ExecReload"), "/bin/kill -HUP $MAINPID");
    assert_eq!(one(MONITOR, "EnvironmentFile"), "-/etc/default/udp-echo");
    assert_eq!(one(MONITOR, "SyslogIdentifier"), "udp-echo-monitor");
    let manifest = readme::manifest();
    // The user of the service exists only while the service runs: all users must be able to read the file.
    for part in [
        "[\"packaging/monitor.toml\", \"etc/udp-echo/\", \"644\"]",
        &format!("conf-files = [\"/etc/default/udp-echo\", \"{file}\"]"),
    ] {
        assert!(manifest.contains(part), "{part}");
    }
}

#[test]
fn monitor_service_restarts_except_after_a_usage_error() {
    assert_eq!(one(MONITOR, "Restart"), "on-failure");
    assert_eq!(one(MONITOR, "RestartSec"), "1s");
    assert_eq!(one(MONITOR, "StartLimitIntervalSec"), "0");
    let usage = run(program().args(["monitor", "--no-such-option"])).0;
    let status = usage.code().unwrap().to_string();
    assert_eq!(one(MONITOR, "RestartPreventExitStatus"), status);
    assert_eq!(one(MONITOR, "Type"), "notify");
    assert_eq!(one(MONITOR, "NotifyAccess"), "main");
    assert!(duration(&one(MONITOR, "WatchdogSec")) >= Duration::from_secs(10));
    assert!(duration(&one(MONITOR, "TimeoutStopSec")) > Duration::from_secs(1));
}

#[test]
fn monitor_service_has_the_directives_of_its_sandbox() {
    let text = read(MONITOR);
    let lines: Vec<_> = text.lines().collect();
    let shared = SANDBOX.iter().flat_map(|(_, directives)| *directives);
    let shared = shared.filter(|directive| !NOT_OF_THE_MONITOR.contains(directive));
    let own = [
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "ProtectClock=no",
        "PrivateMounts=yes",
        "LimitCORE=0",
        "UMask=0777",
    ];
    for directive in shared.chain(&own) {
        assert!(lines.contains(directive), "no {directive}");
    }
    // The order matters: the last list adds to what the others permit.
    let filters = lines
        .iter()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="));
    let expected = [
        "@system-service",
        "~@privileged @resources",
        "adjtimex clock_adjtime",
    ];
    assert_eq!(filters.collect::<Vec<_>>(), expected);
    // Each flow has a port of its own.
    let files: u32 = one(MONITOR, "LimitNOFILE").parse().unwrap();
    assert!(files > u32::from(u16::MAX));
}

#[test]
fn monitor_file_has_every_key_with_its_default() {
    let file = readme::root().join("packaging/monitor.toml");
    let text = fs::read_to_string(&file).unwrap();
    let folder = std::env::temp_dir().join(format!("udp-echo-toml-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let changed = folder.join("monitor.toml");
    let check = |file: &Path| {
        let mut command = program();
        let (status, _, err) = run(command.args(["monitor", "--check", "--config"]).arg(file));
        (status.code(), err)
    };
    // Nothing is set.
    let (status, err) = check(&file);
    assert_eq!(status, Some(2), "{err}");
    assert!(err.contains("no target: add one to "), "{err}");

    // An error names all keys.
    fs::write(&changed, "[[target]]\naddress = \"a\"\nunknown = 1\n").unwrap();
    let (_, err) = check(&changed);
    let keys = err.trim().split("expected ").nth(1).expect(&err);
    let keys: Vec<_> = keys.split(", ").collect();
    assert!(keys.len() > 10, "{err}");
    for key in &keys {
        assert!(text.contains(&format!("\n#{key} = ")), "no {key}");
    }

    // Each commented line is valid, though the file with keys does not exist here.
    let set = text.lines().map(|line| match line.strip_prefix('#') {
        Some(line) if !line.starts_with(' ') && !line.starts_with("key_file") => line,
        _ => line,
    });
    let set: Vec<_> = set.collect();
    fs::write(&changed, set.join("\n")).unwrap();
    assert_eq!(check(&changed), (Some(0), String::new()));
    fs::remove_dir_all(folder).unwrap();

    let help = run(program().args(["probe", "-h"])).1;
    let (defaults, _) = text.split_once("have no default").unwrap();
    let mut count = 0;
    for (key, value) in defaults
        .lines()
        .filter_map(|line| line.strip_prefix('#')?.split_once(" = "))
    {
        let option = help
            .lines()
            .find(|line| line.contains(&format!("--{key} ")));
        if let Some((_, default)) = option.and_then(|line| line.split_once("[default: ")) {
            assert_eq!(
                value.trim_matches('"'),
                default.trim_end_matches(']'),
                "{key}"
            );
            count += 1;
        }
    }
    assert!(count > 4, "{count}");
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
