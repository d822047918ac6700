//! The monitor beside `smokeping_prober` and `blackbox_exporter`: the faults of the table in README.md.
#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{Monitor, Network};
use crate::harness::tidy::{Folder, end_with_test};
use crate::harness::{Daemon, request_to, run, samples, wait_until};
use crate::namespace::Namespace;

/// The target `b` has eight flows and a port of its own, `moving` is a name that changes its address, and `missing` is a
/// name that does not exist.
const TARGETS: &str = r#"
[defaults]
mode = "stamp"
interval = "25ms"
wait = "2s"
[[target]]
address = "b"
name = "b"
flows = 8
per_flow = true
[[target]]
address = "moving:863"
name = "moving"
wait = "500ms"
[[target]]
address = "missing"
name = "missing"
"#;
const NAMES: &str = "127.0.0.1 localhost\n10.77.0.2 b\n";
const BLACKBOX: &str =
    "modules: {icmp: {prober: icmp, timeout: 5s, icmp: {preferred_ip_protocol: ip4}}}\n";

/// The probes of one target until now, and the lost ones among them, by program.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Seen {
    monitor: [f64; 2],
    smokeping: [f64; 2],
    blackbox: [f64; 2],
}

impl Seen {
    fn since(self, before: Self) -> Self {
        let minus = |now: [f64; 2], before: [f64; 2]| [now[0] - before[0], now[1] - before[1]];
        Self {
            monitor: minus(self.monitor, before.monitor),
            smokeping: minus(self.smokeping, before.smokeping),
            blackbox: minus(self.blackbox, before.blackbox),
        }
    }
}

/// The three programs on host `a`.
struct Programs<'a> {
    network: &'a Network,
    _monitor: Monitor,
    _processes: [Process; 2],
    /// Probes of `blackbox_exporter`, and the failed ones, by target.
    probes: BTreeMap<&'static str, [f64; 2]>,
    _folder: Folder,
}

impl<'a> Programs<'a> {
    fn start(network: &'a Network) -> Self {
        let folder = Folder::new();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let blackbox = write("blackbox.yml", BLACKBOX);
        // Ten pings per second.
        let smokeping = write(
            "smokeping.yml",
            "targets: [{hosts: [b, moving], interval: 100ms, network: ip4, protocol: icmp}]\n",
        );
        let host = network.host("a");
        host.write_hosts(&format!("{NAMES}10.77.0.2 moving\n"));
        let start = |line: &str| {
            let mut command = host.command("sh");
            command.args(["-c", &format!("exec {line}")]);
            Process::start(command)
        };
        let processes = [
            start(&format!(
                "prometheus-smokeping-prober --config.file={smokeping} \
                 --web.listen-address=127.0.0.1:9374"
            )),
            start(&format!(
                "prometheus-blackbox-exporter --config.file={blackbox} \
                 --web.listen-address=127.0.0.1:9115"
            )),
        ];
        let programs = Self {
            network,
            _monitor: network.monitor("a", TARGETS),
            _processes: processes,
            probes: BTreeMap::new(),
            _folder: folder,
        };
        for port in [9374, 9115] {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            wait_until("the program serves HTTP", || {
                host.inside(|| std::net::TcpStream::connect(address).is_ok())
            });
        }
        programs
    }

    /// The metrics at a path of a port of host `a`.
    fn read(&self, port: u16, path: &str) -> BTreeMap<String, f64> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        let response = self
            .network
            .host("a")
            .inside(|| request_to(address, &request));
        assert_eq!(response.status, 200, "{path}");
        samples(&response.body)
    }

    /// A figure of the monitor.
    fn monitor(&self, series: &str) -> f64 {
        sum(
            &self.read(9863, "/metrics"),
            &format!("udp_echo_monitor_{series}"),
        )
    }

    /// Probes a target once with `blackbox_exporter`, and reads all three.
    fn look(&mut self, target: &'static str) -> Seen {
        let probe = self.blackbox(target);
        let failed = 1.0 - probe["probe_success"];
        let probes = self.probes.entry(target).or_default();
        *probes = [probes[0] + 1.0, probes[1] + failed];
        let blackbox = *probes;
        let of = format!("{{target=\"{target}\"");
        let monitor = self.read(9863, "/metrics");
        let monitor = ["requests_sent_total", "requests_lost_total"]
            .map(|name| sum(&monitor, &format!("udp_echo_monitor_{name}{of}")));
        let smokeping = self.read(9374, "/metrics");
        let of = format!("{{host=\"{target}\"");
        let sent = sum(&smokeping, &format!("smokeping_requests_total{of}"));
        let name = "smokeping_response_duration_seconds_count";
        let answered = sum(&smokeping, &format!("{name}{of}"));
        Seen {
            monitor,
            smokeping: [sent, sent - answered],
            blackbox,
        }
    }

    fn blackbox(&self, target: &str) -> BTreeMap<String, f64> {
        self.read(9115, &format!("/probe?module=icmp&target={target}"))
    }

    /// The probes during a fault: at least 200 requests, 50 pings and 10 probes of `blackbox_exporter`.
    fn during(&mut self, fault: impl FnOnce(), end: impl FnOnce()) -> Seen {
        let before = self.at_rest();
        fault();
        wait_until("each program has probed", || {
            thread::sleep(Duration::from_millis(100));
            let seen = self.look("b").since(before);
            seen.monitor[0] >= 200.0 && seen.smokeping[0] >= 50.0 && seen.blackbox[0] >= 10.0
        });
        end();
        let seen = self.at_rest().since(before);
        eprintln!("{seen:?}");
        seen
    }

    /// The figures of `b` at a time when no probe is in flight.
    fn at_rest(&mut self) -> Seen {
        let lost = |seen: &Seen| seen.smokeping[1];
        wait_until("no request is in flight", || {
            self.monitor("requests_in_flight{target=\"b\"") < 0.5
        });
        // A ping in flight counts as lost for a moment.
        let mut least = self.look("b");
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(30));
            let seen = self.look("b");
            if lost(&seen) <= lost(&least) {
                least = seen;
            }
        }
        least
    }
}

/// A program that ends with the test.
struct Process(Child);

impl Process {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = end_with_test(&mut command).stderr(Stdio::null()).spawn();
        Self(child.expect("a shell"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The sum of all series that start with this text.
fn sum(metrics: &BTreeMap<String, f64>, series: &str) -> f64 {
    let all = metrics.iter().filter(|(key, _)| key.starts_with(series));
    all.map(|(_, value)| value).sum()
}

#[test]
#[ignore = "needs root, nft, smokeping_prober and blackbox_exporter; .ci/run runs it"]
fn monitor_sees_faults_that_pings_do_not() {
    let network = Network::new();
    let stamp = ["--mode=stamp", "--listen=0.0.0.0:862,0.0.0.0:863"];
    let start = |host: &str| {
        let args = [&stamp[..], &["--metrics-listen=127.0.0.1:9862"]].concat();
        network.host(host).daemon(&args)
    };
    let reflector = start("b");
    let _other = start("c");
    let [a, b] = ["a", "b"].map(|name| network.host(name));
    let mut programs = Programs::start(&network);
    wait_until("each has its first reply", || {
        let seen = programs.look("b");
        let answered = |[sent, lost]: [f64; 2]| sent - lost > 2.5;
        answered(seen.monitor) && answered(seen.smokeping) && answered(seen.blackbox)
    });

    every_seventh_request_lost(&mut programs, b);
    one_flow_lost(&mut programs, a, b);
    firewall(&mut programs, b);
    changed_path(&programs, b);
    programs_with_a_missing_name(&programs);
    let reflector = stopped(&mut programs, reflector, || start("b"));
    moved(&mut programs, b);
    drop(reflector);
}

/// Adds rules to a chain at a hook of a host.
fn rules(host: &Namespace, hook: &str, rules: &[&str]) {
    host.shell(&format!(
        "nft 'add table inet t; add chain inet t {hook} {{ type filter hook {hook} priority 0; }}'"
    ));
    for rule in rules {
        host.shell(&format!("nft 'add rule inet t {hook} {rule}'"));
    }
}

fn no_rules(host: &Namespace) {
    host.shell("nft delete table inet t");
}

/// Loss: each counts what the firewall drops, and the monitor knows the direction.
fn every_seventh_request_lost(programs: &mut Programs<'_>, b: &Namespace) {
    let [udp, icmp] = ["udp dport 862", "icmp type echo-request"]
        .map(|of| format!("{of} numgen inc mod 7 == 6 counter drop"));
    let mut listed = String::new();
    let seen = programs.during(
        || rules(b, "input", &[&udp, &icmp]),
        || {
            listed = b.shell("nft list table inet t");
            no_rules(b);
        },
    );
    let mut words = listed.split(' ').skip_while(|word| *word != "packets");
    let mut dropped = || -> f64 {
        let count = words.by_ref().skip_while(|word| *word != "packets").nth(1);
        count.expect(&listed).parse().unwrap()
    };
    // The firewall drops on between its list and its end.
    let [sent, lost] = seen.monitor;
    assert!(
        lost > 9.0 && lost >= dropped() && lost <= sent / 7.0 + 1.0,
        "{seen:?} {listed}"
    );
    assert!(seen.smokeping[1] > 2.0 && seen.blackbox[1] > 0.5);
    assert!(
        seen.smokeping[1] + seen.blackbox[1] <= dropped() + 2.0,
        "{seen:?} {listed}"
    );
    let direction = |direction: &str| {
        let series = "lost_by_direction_total{target=\"b\",address=\"10.77.0.2:862\"";
        programs.monitor(&format!("{series},direction=\"{direction}\""))
    };
    wait_until("the monitor knows the direction", || {
        direction("forward") >= seen.monitor[1]
    });
    assert!(direction("backward") < 0.5);
}

/// A broken path of several equal ones: only the monitor sees it, and which flow it is.
fn one_flow_lost(programs: &mut Programs<'_>, a: &Namespace, b: &Namespace) {
    let sockets = a.shell("ss -Huan 'dst 10.77.0.2:862'");
    let local = sockets.split_whitespace().find(|word| word.contains(':'));
    let (_, port) = local.expect("a socket").rsplit_once(':').unwrap();
    let rule = format!("udp dport 862 udp sport {port} drop");
    let seen = programs.during(|| rules(b, "input", &[&rule]), || no_rules(b));
    assert!(seen.monitor[1] > 10.0, "{seen:?}");
    assert_eq!(
        [seen.smokeping[1], seen.blackbox[1]],
        [0.0, 0.0],
        "{seen:?}"
    );
}

/// A firewall that drops the datagrams and lets pings pass.
fn firewall(programs: &mut Programs<'_>, b: &Namespace) {
    let seen = programs.during(
        || rules(b, "input", &["udp dport 862 drop"]),
        || no_rules(b),
    );
    assert!(seen.monitor[1] > 100.0, "{seen:?}");
    assert_eq!(
        [seen.smokeping[1], seen.blackbox[1]],
        [0.0, 0.0],
        "{seen:?}"
    );
}

/// A process that has ended, on a host that answers pings.
fn stopped(
    programs: &mut Programs<'_>,
    reflector: Daemon,
    start: impl FnOnce() -> Daemon,
) -> Daemon {
    let refused =
        "icmp_errors_total{target=\"b\",address=\"10.77.0.2:862\",kind=\"icmp_port_unreachable\"";
    assert_eq!(programs.monitor(refused), 0.0);
    let mut next = None;
    let seen = programs.during(|| drop(reflector), || next = Some(start()));
    assert!(seen.monitor[1] > 100.0, "{seen:?}");
    assert!(programs.monitor(refused) > 0.5);
    assert_eq!(
        [seen.smokeping[1], seen.blackbox[1]],
        [0.0, 0.0],
        "{seen:?}"
    );
    next.expect("a reflector")
}

/// Replies that come another way, with another TTL. `smokeping_prober` has no figure for it.
fn changed_path(programs: &Programs<'_>, b: &Namespace) {
    let ttl = |programs: &Programs<'_>| programs.monitor("reply_ttl{target=\"b\"");
    let hops = |programs: &Programs<'_>| programs.blackbox("b")["probe_icmp_reply_hop_limit"];
    assert_eq!([ttl(programs), hops(programs)], [255.0, 64.0]);
    rules(b, "output", &["ip ttl set 50"]);
    wait_until("the TTL changes", || ttl(programs) == 50.0);
    assert_eq!(hops(programs), 50.0);
    no_rules(b);
}

/// A name that does not exist at the start: `smokeping_prober` ends, and the monitor waits for it.
fn programs_with_a_missing_name(programs: &Programs<'_>) {
    let a = programs.network.host("a");
    let series = "udp_echo_monitor_target_resolved{target=\"missing\"}";
    assert_eq!(programs.read(9863, "/metrics")[series], 0.0);
    assert_eq!(programs.blackbox("missing")["probe_success"], 0.0);
    let mut smokeping = a.command("prometheus-smokeping-prober");
    smokeping.args([
        "--config.file=/dev/null",
        "--web.listen-address=127.0.0.1:9375",
        "missing",
    ]);
    let (status, _, said) = run(&mut smokeping);
    assert_eq!(status.code(), Some(1), "{said}");
    a.write_hosts(&format!("{NAMES}10.77.0.2 moving\n10.77.0.2 missing\n"));
    let answers = |programs: &Programs<'_>| {
        programs.monitor("replies_received_total{target=\"missing\"") > 0.5
            && programs.blackbox("missing")["probe_success"] == 1.0
    };
    wait_until("the name is found", || answers(programs));
}

/// A host that fails, and whose name gets the address of another one.
fn moved(programs: &mut Programs<'_>, b: &Namespace) {
    let a = programs.network.host("a");
    b.shell("ip link set eth0 down");
    a.write_hosts("127.0.0.1 localhost\n10.77.0.3 b\n10.77.0.3 moving\n");
    wait_until("the monitor measures the new address", || {
        let new = "replies_received_total{target=\"moving\",address=\"10.77.0.3:863\"";
        programs.monitor(new) > 10.0 && programs.blackbox("moving")["probe_success"] == 1.0
    });
    // It pings the old address for ever.
    let before = programs.look("moving").smokeping;
    wait_until("more pings are sent", || {
        programs.look("moving").smokeping[0] > before[0] + 10.0
    });
    let after = programs.look("moving").smokeping;
    assert!(after[1] - before[1] > 9.0, "{before:?} {after:?}");
}
