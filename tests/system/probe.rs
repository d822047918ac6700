//! The client with firewalls and other reflectors.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::harness::{DEADLINE, program, run};
use crate::namespace::Namespace;

const REFLECTOR: &str = "10.77.0.1:9999";

#[test]
#[ignore = "needs root and nft; .ci/run runs it"]
fn rejection_by_a_firewall_is_explained() {
    for (verdict, words) in [
        (
            "reject with icmp type admin-prohibited",
            "a firewall rejects the datagrams (ICMP administratively prohibited from 10.77.0.1)",
        ),
        (
            "reject with icmp type host-prohibited",
            "a firewall rejects the datagrams (ICMP host prohibited from 10.77.0.1)",
        ),
        (
            "reject with icmp type host-unreachable",
            "or the host is down (ICMP host unreachable from 10.77.0.1)",
        ),
        (
            "reject with icmp type port-unreachable",
            "3 requests: the port is closed (ICMP port unreachable from 10.77.0.1)",
        ),
        ("drop", "3 sent, 0 received, 3 lost (100%)"),
    ] {
        let (server, clients) = Namespace::pair();
        let _daemon = server.daemon(&["--listen=10.77.0.1:9999"]);
        rules(&server, "input", &format!("udp dport 9999 {verdict}"));
        let args = "--count=3 --interval=0.2 --wait=0.3";
        let (status, out) = probe(&clients, REFLECTOR, args);
        assert_eq!(status, 1, "{out}");
        assert!(out.contains(words), "{verdict}: {out}");
        assert!(out.contains("3 sent, 0 received, 3 lost (100%)"), "{out}");
    }
    let (_server, clients) = Namespace::pair();
    let args = "--count=2 --interval=0.2 --wait=0.3";
    rules(&clients, "output", "udp dport 9999 drop");
    let (status, out) = probe(&clients, REFLECTOR, args);
    assert_eq!(status, 1, "{out}");
    assert!(out.contains("a firewall on this host blocks it"), "{out}");
    let (status, out) = probe(&clients, "[fd77::1]:9998", args);
    assert_eq!(status, 1, "{out}");
    let words = "2 requests: the port is closed (ICMPv6 port unreachable from fd77::1)";
    assert!(out.contains(words), "{out}");
}

#[test]
#[ignore = "needs root, for raw sockets; .ci/run runs it"]
fn rejection_with_the_shortest_quote_is_reported() {
    let (server, clients) = Namespace::pair();
    let (firewall, icmp) = server.inside(|| {
        let icmp = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
        (UdpSocket::bind(REFLECTOR).unwrap(), icmp.unwrap())
    });
    firewall.set_read_timeout(Some(DEADLINE)).unwrap();
    for mode in ["--mode=exchange --wait=60", "--mode=echo --wait=2"] {
        let args = format!("{mode} --count=3 --interval=0.1");
        let child = started(&clients, REFLECTOR, &args);
        for _ in 0..3 {
            let (length, peer) = firewall.recv_from(&mut [0; 65]).unwrap();
            assert_eq!(length, 64);
            let to: SocketAddr = "10.77.0.2:0".parse().unwrap();
            icmp.send_to(&prohibited(peer.port()), &to.into()).unwrap();
        }
        let out = child.wait_with_output().unwrap();
        let words = "3 requests: a firewall rejects the datagrams (ICMP administratively prohibited \
                     from 10.77.0.1)";
        let text = joined(&String::from_utf8(out.stdout).unwrap());
        assert!(text.contains(words), "{mode}: {text}");
        assert!(text.contains("3 sent, 0 received, 3 lost"), "{text}");
        assert_eq!(out.status.code(), Some(1));
    }
}

#[test]
#[ignore = "needs root and nft; .ci/run runs it"]
fn summary_lists_the_flows_when_only_one_loses() {
    let (server, clients) = Namespace::pair();
    let _daemon = server.daemon(&["--listen=10.77.0.1:9999", "--mode=echo"]);
    // Datagrams from some ports are dropped.
    rules(&server, "input", "udp dport 9999 udp sport @blocked drop");
    let mut child = started(
        &clients,
        REFLECTOR,
        "--mode=echo --flows=8 --rate=80 --duration=4 --quiet --wait=0.2",
    );
    // Waits for the client's sockets, and takes the port of one.
    let deadline = Instant::now() + DEADLINE;
    let port = loop {
        let sockets = clients.shell("ss -Huan dst 10.77.0.1");
        let ports: Vec<String> = sockets
            .lines()
            .filter_map(|line| {
                let local = line.split_whitespace().nth(3)?;
                Some(local.rsplit(':').next()?.to_owned())
            })
            .collect();
        if ports.len() == 8 {
            break ports[3].clone();
        }
        assert!(Instant::now() < deadline, "{sockets}");
        std::thread::sleep(Duration::from_millis(5));
    };
    server.shell(&format!("nft add element inet t blocked '{{ {port} }}'"));
    let out = ended(&mut child);
    assert!(
        out.contains("some flows lose requests, others do not:"),
        "{out}"
    );
    let flows: Vec<_> = out
        .lines()
        .filter(|line| line.starts_with("  flow "))
        .collect();
    assert_eq!(flows.len(), 8, "{out}");
    let losing: Vec<_> = flows
        .iter()
        .filter(|line| !line.contains(" 0 lost (0%)"))
        .collect();
    assert_eq!(losing.len(), 1, "{out}");
    assert!(losing[0].contains(&format!("from port {port}:")), "{out}");
}

#[test]
#[ignore = "needs root and nft; .ci/run runs it"]
fn losses_are_located_by_the_daemons_metrics() {
    let metrics = "--metrics-url=http://10.77.0.1:9862/metrics";
    for (hook, port, place) in [
        ("input", "dport", "uplink"),
        ("output", "sport", "downlink"),
    ] {
        for side in ["server", "client"] {
            let (server, clients) = Namespace::pair();
            // Without GSO, as a firewall would see a batch as one packet.
            let args = [
                "--listen=10.77.0.1:9999",
                "--mode=echo",
                "--offload=off",
                "--metrics-listen=10.77.0.1:9862",
            ];
            let _daemon = server.daemon(&args);
            // On the client's side the same datagrams pass the other hook. The rule drops one of
            // four by its sequence number, not by a counter: the daemon resends what failed within
            // a batch, and a counter would let that pass.
            let (host, hook) = match (side, hook) {
                ("server", hook) => (&server, hook),
                (_, "input") => (&clients, "postrouting"),
                _ => (&clients, "input"),
            };
            rules(
                host,
                hook,
                &format!("udp {port} 9999 @th,152,8 & 3 == 0 drop"),
            );
            let args = format!("--mode=echo --count=40 --rate=400 --wait=0.3 --json {metrics}");
            let (status, out) = probe(&clients, REFLECTOR, &args);
            assert_eq!(status, 0, "{out}");
            assert!(out.contains("\"lost\":10,"), "{side} {hook}: {out}");
            let expected = |name: &str| {
                let count = if name == place { 10 } else { 0 };
                format!("\"{name}\":{count}")
            };
            for name in ["uplink", "server_drops", "server_refused", "downlink"] {
                assert!(out.contains(&expected(name)), "{side} {hook} {name}: {out}");
            }
        }
    }
}

#[test]
#[ignore = "needs ncat and xinetd; .ci/run runs it"]
fn ncat_and_xinetd_reflectors_are_measured() {
    let (server, clients) = Namespace::pair();
    let folder = std::env::temp_dir().join(format!("udp-echo-xinetd-{}", std::process::id()));
    std::fs::write(
        &folder,
        "service echo\n{\n type = INTERNAL\n id = dgram\n socket_type = dgram\n protocol = udp\n \
         user = root\n wait = yes\n bind = 10.77.0.1\n cps = 100000 1\n}\n",
    )
    .unwrap();
    rules(&clients, "input", "udp length 30 counter");
    let xinetd = format!("xinetd -dontfork -f {} -pidfile {0}.pid", folder.display());
    for (reflector, port) in [
        (
            "ncat --udp --listen --keep-open 10.77.0.1 9 --exec /bin/cat",
            9,
        ),
        (xinetd.as_str(), 7),
    ] {
        let mut words = reflector.split(' ');
        let mut command = server.command(words.next().unwrap());
        command.args(words).stdin(Stdio::null());
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let target = format!("10.77.0.1:{port}");
        let deadline = Instant::now() + DEADLINE;
        while probe(&clients, &target, "--mode=echo --count=1 --wait=1").0 != 0 {
            assert!(Instant::now() < deadline, "{reflector}");
        }
        // A delayed ncat may merge datagrams, and after each echo xinetd discards queued datagrams,
        // maybe all records: so the test repeats until no request is lost.
        let all = "20 sent, 20 received, 0 lost (0%)";
        for (mode, records) in [("echo", false), ("exchange", true)] {
            let args = format!("--mode={mode} --count=20 --interval=0.02 --wait=0.3");
            loop {
                let before = records_back(&clients);
                let (status, out) = probe(&clients, &target, &args);
                assert_eq!(status, 0, "{reflector}: {out}");
                let came = records_back(&clients) > before;
                // A daemon too would echo the record after a lost request.
                if out.contains(all) {
                    assert_eq!(out.contains("use --mode echo"), came, "{reflector}: {out}");
                    if came == records {
                        break;
                    }
                }
                assert!(Instant::now() < deadline, "{reflector}: {out}");
            }
        }
        // `ip netns exec` executes the program, so this kills it.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for name in [folder.clone(), folder.with_extension("pid")] {
        let _ = std::fs::remove_file(name);
    }
}

/// The number of datagrams with a record's length, from the counter of [`rules`].
fn records_back(host: &Namespace) -> u64 {
    let rules = host.shell("nft list table inet t");
    let count = rules.split("counter packets ").nth(1).unwrap();
    count.split(' ').next().unwrap().parse().unwrap()
}

/// The ICMP error "administratively prohibited" about a request from a port of 10.77.0.2. It quotes
/// the IP and UDP headers, the minimum of RFC 792.
fn prohibited(port: u16) -> Vec<u8> {
    let mut packet = vec![3, 13, 0, 0, 0, 0, 0, 0];
    packet.extend([0x45, 0, 0, 92, 0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend([10, 77, 0, 2, 10, 77, 0, 1]);
    packet.extend([port, 9999, 72, 0].map(u16::to_be_bytes).concat());
    // The checksum of RFC 1071.
    let words = packet
        .chunks(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let sum: u32 = words.map(u32::from).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    packet[2..4].copy_from_slice(&(!sum).to_be_bytes());
    packet
}

/// Adds a set of source ports, and a chain with a rule.
fn rules(host: &Namespace, hook: &str, rule: &str) {
    host.shell("nft add table inet t");
    host.shell("nft 'add set inet t blocked { type inet_service; }'");
    host.shell(&format!(
        "nft 'add chain inet t {hook} {{ type filter hook {hook} priority 0; }}'"
    ));
    host.shell(&format!("nft 'add rule inet t {hook} {rule}'"));
}

fn command(host: &Namespace, target: &str, args: &str) -> Command {
    let mut command = host.command(program().get_program().to_str().unwrap());
    command.arg("probe").arg(target).args(args.split(' '));
    command.stdin(Stdio::null());
    command
}

/// Runs the client. Returns its exit status and its output as one line.
fn probe(host: &Namespace, target: &str, args: &str) -> (i32, String) {
    let (status, out, err) = run(&mut command(host, target, args));
    assert_eq!(err, "");
    (status.code().unwrap(), joined(&out))
}

/// Joins the lines of a text: long sentences of the client are broken into several.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn started(host: &Namespace, target: &str, args: &str) -> Child {
    let mut command = command(host, target, args);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn ended(child: &mut Child) -> String {
    let mut out = String::new();
    std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut out).unwrap();
    assert!(child.wait().unwrap().success(), "{out}");
    out
}
