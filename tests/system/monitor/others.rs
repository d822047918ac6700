//! Reflectors of other programs, and ports without a reflector.

use std::process::{Child, Stdio};

use super::{Monitor, Scrape, target};
use crate::harness::has_program;
use crate::harness::tidy::{Folder, end_with_test};
use crate::machine::KEPT;
use crate::namespace::Namespace;
use crate::stamp::Suite;

const MORE: &str = "interval = 0.1\nwait = 1\n";

#[test]
#[ignore = "needs root, nft, ncat, xinetd and stamp-suite; .ci/run runs it"]
fn figures_of_other_reflectors_are_those_of_the_wire() {
    let (clients, server) = Namespace::pair();
    let folder = Folder::new();
    let mut file = String::new();
    let mut ports = Vec::new();
    let mut children = Vec::new();
    if has_program("ncat") {
        let line = "ncat --udp --listen --keep-open 10.77.0.2 9 --exec /bin/cat";
        children.push(Process::start(&server, line));
        file += &target("ncat", "10.77.0.2:9", MORE);
        ports.push(("ncat", 9));
    } else {
        crate::skipped!("there is no ncat");
    }
    if has_program("xinetd") {
        let conf = folder.join("xinetd.conf");
        std::fs::write(
            &conf,
            "service echo\n{\n type = INTERNAL\n id = dgram\n socket_type = dgram\n \
             protocol = udp\n user = root\n wait = yes\n bind = 10.77.0.2\n cps = 100000 1\n}\n",
        )
        .unwrap();
        let conf = conf.display();
        let line = format!("xinetd -dontfork -f {conf} -pidfile {conf}.pid");
        children.push(Process::start(&server, &line));
        file += &target("xinetd", "10.77.0.2:7", MORE);
        ports.push(("xinetd", 7));
    } else {
        crate::skipped!("there is no xinetd");
    }
    let mut suite = None;
    if std::path::Path::new(KEPT)
        .join("stamp-suite-1.0.0/bin/stamp-suite")
        .exists()
    {
        suite = Some(Suite::start(&server, &["--stateful-reflector"]));
        let more = format!("mode = \"stamp\"\n{MORE}");
        file += &target("suite", "10.77.0.2:862", &more);
        ports.push(("suite", 862));
    } else {
        crate::skipped!("there is no stamp-suite");
    }
    for (_, port) in &ports {
        count(&clients, *port);
    }
    if ports.is_empty() {
        return;
    }
    let monitor = Monitor::start(&clients, &file);
    for (name, _) in &ports {
        monitor.wait_for_replies(name, 20);
    }
    let end = monitor.settle();
    for (name, port) in ports {
        let [sent, received] = counted(&clients, port);
        assert_eq!(end.sent(name), sent, "{name}");
        // An ICMP error came if the reflector was not ready.
        let late_or_twice = received - end.received(name);
        assert!(end.of("duplicates_total", name) <= late_or_twice, "{name}");
        assert!(late_or_twice <= end.lost(name), "{name}");
        if name == "suite" {
            assert_stamp(&end, sent);
        }
    }
    drop((children, suite));
}

/// Asserts that stamp-suite's replies have all figures of STAMP.
fn assert_stamp(end: &Scrape, sent: u64) {
    let of = |name: &str| end.of(name, "suite");
    let received = of("replies_received_total");
    assert_eq!([received, of("corrupted_total")], [sent, 0]);
    // One for each direction.
    assert_eq!(of("one_way_delay_seconds_count"), 2 * received);
    assert_eq!(of("lost_by_direction_total"), 0);
    assert_eq!(of("reply_ttl"), 255);
}

#[test]
#[ignore = "needs root and nft; .ci/run runs it"]
fn ports_without_a_reflector_lose_all_requests() {
    let (clients, server) = Namespace::pair();
    server.shell("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000");
    super::rule(&server, "input", "udp dport 4000 counter drop");
    for port in [4000, 4001] {
        count(&clients, port);
    }
    let more = "interval = 0.02\nwait = 0.5\n";
    let exchange = format!("mode = \"exchange\"\n{more}");
    let file = target("silent", "10.77.0.2:4000", more)
        + &target("closed", "10.77.0.2:4001", more)
        + &target("silent exchange", "10.77.0.2:4000", &exchange)
        + &target("closed exchange", "10.77.0.2:4001", &exchange);
    let monitor = Monitor::start(&clients, &file);
    let all = ["silent", "silent exchange", "closed", "closed exchange"];
    monitor.wait_for("all targets have lost requests", |scrape| {
        all.iter().all(|name| scrape.lost(name) >= 10)
    });
    let end = monitor.settle();
    for name in all {
        let sent = end.sent(name);
        assert_eq!([end.received(name), end.lost(name)], [0, sent], "{name}");
        assert_eq!(end.of("send_errors_total", name), 0, "{name}");
        let icmp = if name.starts_with("closed") { sent } else { 0 };
        assert_eq!(end.of("icmp_errors_total", name), icmp, "{name}");
        let series = format!("icmp_errors_total{{target=\"{name}\",kind=\"icmp_port_unreachable\"");
        assert_eq!(end.count(&series), icmp, "{name}");
    }
    for (name, port) in [("silent", 4000), ("closed", 4001)] {
        let sent = end.sent(name) + end.sent(&format!("{name} exchange"));
        assert_eq!(counted(&clients, port), [sent, 0], "{name}");
    }
}

/// Counts the requests to a port and the replies from there, not the records.
fn count(host: &Namespace, port: u16) {
    for (hook, side) in [("output", "dport"), ("input", "sport")] {
        let rule = format!("udp {side} {port} udp length != 30 counter");
        super::rule(host, hook, &rule);
    }
}

/// The numbers of requests to a port and of replies from there.
fn counted(host: &Namespace, port: u16) -> [u64; 2] {
    let rules = host.shell("nft list table inet t");
    ["dport", "sport"].map(|side| {
        let rule = format!("udp {side} {port} udp length != 30 counter packets ");
        let (_, rest) = rules.split_once(&rule).expect(&rules);
        rest.split(' ').next().unwrap().parse().unwrap()
    })
}

/// Another program in a namespace, killed when dropped.
struct Process(Child);

impl Process {
    fn start(host: &Namespace, line: &str) -> Self {
        let mut words = line.split(' ');
        let mut command = host.command(words.next().unwrap());
        command.args(words).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(end_with_test(&mut command).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
