//! The packaged alerts, in a network with one fault after the other: the right ones fire, and no
//! others.

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{ADDRESSES, HOSTS, Monitor, Network, address, names, number};
use crate::harness::calm::undisturbed;
use crate::harness::tidy::Folder;
use crate::harness::{DEADLINE, Daemon, wait_until};
use crate::prometheus::{EXAMPLES, Prometheus};

/// The times and limits of the rules, and those for the test. A day stays one: it is longer than
/// the test.
const SCALE: [(&str, &str); 18] = [
    // A busy machine skips requests, sends late, and adds to the round-trip time.
    ("not_sent_total[5m])) > 0\n", "not_sent_total[3s])) > 100\n"),
    (
        "delay_seconds_bucket[5m]))) > 0.1\n",
        "delay_seconds_bucket[3s]))) > 0.5\n",
    ),
    (" > 0.005 +", " > 0.05 +"),
    ("[1m]", "[2s]"),
    ("[2m]", "[3s]"),
    ("[3m]", "[3s]"),
    ("[5m]", "[3s]"),
    ("[15m]", "[15s]"),
    ("[1d:5m]", "[1m:500ms]"),
    (" offset 15m", " offset 5s"),
    (" >= 12\n", " >= 8\n"),
    ("interval: 1m\n", "interval: 500ms\n"),
    ("for: 90s\n", "for: 1s\n"),
    ("for: 1m\n", "for: 4s\n"),
    ("for: 2m\n", "for: 1s\n"),
    ("for: 5m\n", "for: 3s\n"),
    ("for: 10m\n", "for: 6s\n"),
    // Seconds since the last datagram that a daemon received.
    (" > 600\n", " > 6\n"),
];
const RULES: [&str; 4] = [
    "recording.rules.yml",
    "alerting.rules.yml",
    "monitor.recording.rules.yml",
    "monitor.alerting.rules.yml",
];

/// As long as the slowest alert takes to fire, `UdpEchoTargetLoss`: its window, its wait, the time in
/// which a reply may come, and some evaluations.
const HOLD: Duration = Duration::from_secs(10);

/// The modes of the daemons.
const MODES: [&str; 3] = ["echo", "echo", "stamp"];
/// 50 requests per second to each host, six of each flow.
const DEFAULTS: &str = "[defaults]\ninterval = \"20ms\"\nflows = 8\nper_flow = true\n";

/// The clock of this machine may not be synchronized.
const IGNORED: &str = "alertname!=\"UdpEchoClockNotSynchronized\"";
/// Time between two evaluations of the rules.
const EVALUATION: Duration = Duration::from_millis(500);

/// Alerts as `NAME HOST`, or `NAME HOST TARGET`.
type Alerts = BTreeSet<String>;

/// Three hosts with their daemons and monitors, and a Prometheus with the packaged rules.
struct Mesh {
    prometheus: Prometheus,
    daemons: [RefCell<Option<Daemon>>; 3],
    _monitors: [Monitor; 3],
    _rules: Folder,
    // Dropped last: the others run in its namespaces.
    network: Network,
}

impl Mesh {
    fn new() -> Self {
        let network = Network::new();
        let daemons = HOSTS.map(|host| RefCell::new(Some(daemon(&network, host))));
        let monitors = HOSTS.map(|host| network.monitor(host, &targets(host)));
        let rules = scaled_rules();
        let job = |name: &str, port| {
            let targets = Network::scraped(port);
            format!("  - {{job_name: {name}, static_configs: [{{targets: {targets:?}}}]}}\n")
        };
        let prometheus = network.prometheus(&format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: [{}]\nscrape_configs:\n{}{}",
            rules.join("*.yml").display(),
            job("udp-echo", 9862),
            job("udp-echo-monitor", 9863),
        ));
        let mesh = Self {
            prometheus,
            daemons,
            _monitors: monitors,
            _rules: rules,
            network,
        };
        mesh.ask(|prometheus| {
            prometheus.wait_for_rules();
            for last_day in ["rtt_seconds:median1d", "reply_ttl:min1d", "reply_ttl:max1d"] {
                prometheus.wait_for(&format!("count(address:udp_echo_monitor_{last_day})"), 6.0);
            }
            // Two monitors measure c in two directions.
            let delays = "address:udp_echo_monitor_one_way_delay_seconds:p50_rate5m";
            prometheus.wait_for(&format!("count({delays} > -1 < 1)"), 4.0);
        });
        mesh
    }

    fn ask<T>(&self, question: impl FnOnce(&Prometheus) -> T) -> T {
        self.network.switch().inside(|| question(&self.prometheus))
    }

    /// The alerts of a selector of `ALERTS`.
    fn alerts(&self, query: &str) -> Alerts {
        let samples = self.ask(|prometheus| prometheus.samples(query));
        samples
            .iter()
            .map(|sample| named(&sample["metric"]))
            .collect()
    }

    /// Waits until no alert fires or waits to fire.
    fn wait_until_healthy(&self) {
        wait_until("no alert is left", || {
            thread::sleep(EVALUATION);
            self.alerts(&format!("ALERTS{{{IGNORED}}}")).is_empty()
        });
    }

    /// Asserts that a fault fires these alerts and no others, until and after its end. Of a machine
    /// that stalls, other alerts are right: the monitor is late, or does not send a request.
    fn assert_fires(&self, expected: &[&str], begin: impl Fn(), end: impl Fn()) {
        let expected: Alerts = expected.iter().map(|alert| (*alert).to_owned()).collect();
        let fired = undisturbed(
            || {
                self.wait_until_healthy();
                let start = Instant::now();
                let fired = || {
                    let window = start.elapsed().as_millis() + 1;
                    let firing = format!("ALERTS{{{IGNORED},alertstate=\"firing\"}}");
                    self.alerts(&format!("last_over_time({firing}[{window}ms])"))
                };
                begin();
                while !expected.is_subset(&fired()) {
                    let is_in_time = start.elapsed() < DEADLINE;
                    assert!(is_in_time, "{expected:?} do not fire, but {:?}", fired());
                    thread::sleep(EVALUATION);
                }
                // Others would fire by then.
                thread::sleep(HOLD.saturating_sub(start.elapsed()));
                end();
                self.wait_until_healthy();
                fired()
            },
            |fired| *fired == expected,
        );
        assert_eq!(fired, expected);
    }

    /// Adds a rule to the firewall of a host. The first rule of each hook makes its chain.
    fn filter(&self, host: &str, hook: &str, rule: &str) {
        let chain = format!("chain inet t {hook} {{ type filter hook {hook} priority 0; }}");
        self.network.host(host).shell(&format!(
            "nft add table inet t; nft 'add {chain}'; nft 'add rule inet t {hook} {rule}'"
        ));
    }

    fn unfilter(&self, host: &str) {
        self.network.host(host).shell("nft delete table inet t");
    }

    /// The source port of a flow between two hosts.
    fn port(&self, from: &str, to: &str) -> String {
        let to = address(to);
        let sockets = format!("ss -Huan 'dst {to}:9999'");
        let sockets = self.network.host(from).shell(&sockets);
        let local = sockets.split_whitespace().nth(3).expect("a flow");
        local.rsplit_once(':').expect("a port").1.to_owned()
    }

    fn daemon(&self, host: &str) -> Ref<'_, Daemon> {
        Ref::map(self.daemons[number(host)].borrow(), |daemon| {
            daemon.as_ref().expect("it runs")
        })
    }

    fn stop_daemon(&self, host: &str) {
        let daemon = self.daemons[number(host)].take();
        assert!(daemon.expect("it runs").stop().success());
    }

    fn start_daemon(&self, host: &str) {
        self.daemons[number(host)].replace(Some(daemon(&self.network, host)));
    }
}

fn daemon(network: &Network, host: &str) -> Daemon {
    network.daemon(host, &["--mode", MODES[number(host)]])
}

/// The file of the monitor on a host: the other hosts are its targets.
fn targets(host: &str) -> String {
    let others = HOSTS.iter().zip(MODES).filter(|(name, _)| **name != host);
    let others = others.map(|(name, mode)| {
        format!("[[target]]\nname = \"{name}\"\naddress = \"{name}:9999\"\nmode = \"{mode}\"\n")
    });
    DEFAULTS.to_owned() + &others.collect::<Vec<_>>().concat()
}

/// The packaged rules with shorter times.
fn scaled_rules() -> Folder {
    let read = |name: &str| fs::read_to_string(format!("{EXAMPLES}/prometheus/{name}")).unwrap();
    let all = RULES.map(read);
    for (time, _) in SCALE {
        assert!(all.concat().contains(time), "no rule has {time:?}");
    }
    let folder = Folder::new();
    for (name, text) in RULES.iter().zip(all) {
        let scaled = SCALE
            .iter()
            .fold(text, |text, (time, short)| text.replace(time, short));
        for line in scaled.lines() {
            let waits = line.contains(" for: ") || line.contains(" interval: ");
            let is_long =
                line.contains("m]") || line.contains("h]") || waits && !line.ends_with('s');
            assert!(
                !is_long,
                "{name} has a time that is not in the table: {line}"
            );
        }
        fs::write(folder.join(name), scaled).unwrap();
    }
    folder
}

/// An alert by its labels.
fn named(labels: &Value) -> String {
    let label = |name: &str| labels[name].as_str().unwrap_or("");
    let instance = label("instance").split(':').next().unwrap();
    let host = ADDRESSES.iter().position(|address| *address == instance);
    let host = host.map_or("", |host| HOSTS[host]);
    let alert = format!("{} {host} {}", label("alertname"), label("target"));
    alert.trim_end().to_owned()
}

/// A process that gets CPU time for 50 ms of each 350 ms, until this is dropped.
struct Slowed {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Slowed {
    fn new(process: Pid) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&end);
        let thread = thread::spawn(move || {
            while !is_over.load(Relaxed) {
                kill(process, Signal::SIGSTOP).unwrap();
                thread::sleep(Duration::from_millis(300));
                kill(process, Signal::SIGCONT).unwrap();
                thread::sleep(Duration::from_millis(50));
            }
        });
        Self {
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
#[ignore = "needs root, nft and prometheus; .ci/run runs it"]
fn faults_of_a_mesh_fire_their_alerts_and_no_others() {
    let mesh = Mesh::new();
    mesh.assert_fires(&[], || (), || ());
    break_paths(&mesh);
    hide_and_slow_down(&mesh);
    // A daemon that was stopped.
    mesh.assert_fires(
        &[
            "UdpEchoDown b",
            "UdpEchoTargetSilent a b",
            "UdpEchoTargetSilent c b",
        ],
        || mesh.stop_daemon("b"),
        || mesh.start_daemon("b"),
    );
    // A host whose link is down: Prometheus cannot reach it either.
    let link = |state| {
        mesh.network
            .switch()
            .shell(&format!("ip link set host3 {state}"))
    };
    mesh.assert_fires(
        &[
            "UdpEchoDown c",
            "UdpEchoMonitorDown c",
            "UdpEchoTargetSilent a c",
            "UdpEchoTargetSilent b c",
        ],
        || drop(link("down")),
        || drop(link("up")),
    );
}

/// Two paths lose every 10th request, one loses one flow of eight, and the replies of one have
/// another TTL. Host c does not see the lost flow: a session without requests has no gaps.
fn break_paths(mesh: &Mesh) {
    // A TTL that was seen before would be no change.
    let ttl = Cell::new(61);
    mesh.assert_fires(
        &[
            "UdpEchoTargetFlowLost a c",
            "UdpEchoTargetLoss a b",
            "UdpEchoTargetLoss b c",
            "UdpEchoTargetTtlChanged c a",
            "UdpEchoUplinkLoss c",
        ],
        || {
            let [a, b, c] = ADDRESSES;
            let lossy = "udp dport 9999 numgen inc mod 10 0 drop";
            mesh.filter("b", "input", &format!("ip saddr {a} {lossy}"));
            mesh.filter("c", "input", &format!("ip saddr {b} {lossy}"));
            let flow = mesh.port("a", "c");
            mesh.filter("c", "input", &format!("ip saddr {a} udp sport {flow} drop"));
            ttl.set(ttl.get() - 1);
            let replies = format!("ip daddr {c} udp sport 9999");
            mesh.filter(
                "a",
                "output",
                &format!("{replies} ip ttl set {}", ttl.get()),
            );
        },
        || HOSTS.iter().for_each(|host| mesh.unfilter(host)),
    );
}

/// A firewall that drops all requests without an ICMP error, a name that no longer resolves, and a
/// daemon without enough CPU time. That is not c: times of mode stamp do not include it.
fn hide_and_slow_down(mesh: &Mesh) {
    let slow = RefCell::new(None);
    mesh.assert_fires(
        &[
            "UdpEchoSilent b",
            "UdpEchoTargetNotResolved c b",
            "UdpEchoTargetSilent a b",
            "UdpEchoTargetSilent c b",
            "UdpEchoTargetSlow b a",
            "UdpEchoTargetSlow c a",
        ],
        || {
            mesh.filter("b", "input", "udp dport 9999 drop");
            mesh.network.host("c").write_hosts(&names(&["a", "c"]));
            slow.replace(Some(Slowed::new(mesh.daemon("a").pid())));
        },
        || {
            mesh.unfilter("b");
            mesh.network.host("c").write_hosts(&names(&HOSTS));
            slow.take();
        },
    );
}
