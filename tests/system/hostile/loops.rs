//! No loops, no amplification: a forged source cannot make two services answer each other for ever.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::count;
use super::flood::flood_until;
use super::spoof::{Flood, Spoofer};
use crate::harness::{Daemon, client, has_nothing, receive, wait_until};
use crate::namespace::Namespace;

const MODES: [&str; 3] = ["exchange", "lockstep", "echo"];
const RECEIVED: &str = "datagrams_received_total";
const ECHOED: &str = "datagrams_echoed_total";
const OWN: &str = r#"datagrams_refused_total{reason="own_address"}"#;
const SOURCE_PORT: &str = r#"datagrams_refused_total{reason="source_port"}"#;

#[test]
#[ignore = "needs root, for namespaces and forged sources; .ci/run runs it"]
fn two_daemons_answer_a_forged_datagram_at_most_twice() {
    let (one, other) = Namespace::pair();
    let (mut triggers, mut most) = (0, 0);
    for addresses in [
        ["10.77.0.1:9999", "10.77.0.2:9999"],
        ["[fd77::1]:9999", "[fd77::2]:9999"],
    ] {
        for modes in MODES.map(|mode| MODES.map(|other| [mode, other])).concat() {
            let start = |host: &Namespace, index: usize| {
                // A socket of both families; IPv4 sources are IPv4-mapped.
                let mode = format!("--mode={}", modes[index]);
                host.daemon(&["--listen=[::]:9999", &mode, "--timeout=none"])
            };
            let mut pair = Pair {
                hosts: [&one, &other],
                daemons: [start(&one, 0), start(&other, 1)],
                modes,
                addresses,
                owes: [false; 2],
                received: [0; 2],
                replies: 0,
            };
            for round in 0..12 {
                // To each daemon, sent from each host.
                let payload = vec![round; [1, 22, 1400][usize::from(round) % 3]];
                most = most.max(pair.trigger(usize::from(round) % 2, &payload));
                triggers += 1;
            }
            pair.assert_no_amplification();
        }
    }
    eprintln!("{triggers} forged datagrams, {most} replies at most to one");
    assert_eq!(most, 2);
}

#[test]
#[ignore = "needs root, for namespaces and forged sources; .ci/run runs it"]
fn a_million_forged_sources_cause_no_loop_by_evictions() {
    let (one, other) = Namespace::pair();
    one.shell("ip route add 100.0.0.0/8 via 10.77.0.2");
    // A table that evicts a peer after a thousand others.
    let args = ["--timeout=none", "--max-peers=1000", "--recv-buffer=1MiB"];
    let start = |host: &Namespace| host.daemon(&[&["--listen=*:9999"], &args[..]].concat());
    let mut pair = Pair {
        hosts: [&one, &other],
        daemons: [start(&one), start(&other)],
        modes: ["exchange"; 2],
        addresses: ["10.77.0.1:9999", "10.77.0.2:9999"],
        owes: [false; 2],
        received: [0; 2],
        replies: 0,
    };
    let mut flood = other.inside(|| Flood::new("10.77.0.1:9999"));
    let mut most = 0;
    for round in 1..=4 {
        most = most.max(pair.trigger(0, b"before"));
        let before = one.inside(|| count(&pair.daemons[0], RECEIVED));
        one.inside(|| flood_until(&mut flood, &pair.daemons[0], before + 250_000));
        // The owing peer is evicted. One of two triggers meets the state in which both owe again.
        pair.owes[0] = false;
        pair.resume_after_flood();
        for _ in 0..2 {
            most = most.max(pair.trigger(0, b"after"));
            most = most.max(pair.trigger(1, b"after"));
        }
        one.inside(|| {
            let evicted = count(&pair.daemons[0], "peers_evicted_total");
            assert!(evicted > round * 249_000 - 2000, "{evicted}");
        });
    }
    eprintln!(
        "after {} forged sources: {most} replies at most",
        flood.sent
    );
    assert_eq!(most, 2);
}

#[test]
#[ignore = "needs root, for namespaces and forged sources; .ci/run runs it"]
fn own_address_as_source_is_refused_in_every_mode() {
    let (host, net) = with_second_addresses();
    let [inside, outside] = [&host, &net].map(|place| place.inside(Spoofer::new));
    for mode in MODES {
        for (listen, forged) in [
            (
                "10.77.0.1:9999",
                &[
                    (&outside, "10.77.0.1", "10.77.0.1"),
                    (&inside, "10.77.0.1", "10.77.0.1"),
                ][..],
            ),
            (
                "10.77.0.1:9999,10.77.0.11:9999",
                &[
                    (&outside, "10.77.0.11", "10.77.0.1"),
                    (&inside, "10.77.0.11", "10.77.0.1"),
                ],
            ),
            (
                "*:9999",
                &[
                    (&outside, "10.77.0.1", "10.77.0.1"),
                    (&inside, "10.77.0.1", "10.77.0.1"),
                    (&inside, "127.0.0.1", "127.0.0.1"),
                    (&inside, "127.0.0.5", "127.0.0.1"),
                ],
            ),
            (
                "[::]:9999",
                &[
                    (&outside, "10.77.0.1", "10.77.0.1"),
                    (&inside, "127.0.0.1", "127.0.0.1"),
                    (&outside, "[fd77::1]", "[fd77::1]"),
                    (&inside, "[fd77::1]", "[fd77::1]"),
                    (&inside, "[::1]", "[::1]"),
                ],
            ),
        ] {
            if mode == "lockstep" && listen.contains(',') {
                continue;
            }
            let daemon = host.daemon(&["--listen", listen, "--mode", mode]);
            let daemon = &daemon;
            for (number, (sender, from, to)) in (1..).zip(forged) {
                sender.send(&format!("{from}:9999"), &format!("{to}:9999"), b"loop");
                host.inside(|| daemon.wait_for_metric(OWN, f64::from(number)));
            }
            host.inside(|| {
                assert_eq!(count(daemon, ECHOED), 0, "{listen} {mode}");
                daemon.assert_accounted_for();
            });
        }
    }
}

/// A daemon on a wildcard address knows only one address of its host: the destination of the
/// datagram. It takes a source with another address of the host for a client.
#[test]
#[ignore = "needs root, for namespaces and forged sources; .ci/run runs it"]
fn other_host_address_as_source_gets_at_most_two_replies() {
    let (host, net) = with_second_addresses();
    let [inside, outside] = [&host, &net].map(|place| place.inside(Spoofer::new));
    for mode in MODES {
        for (from, to) in [
            ("10.77.0.11:9999", "10.77.0.1:9999"),
            ("[fd77::11]:9999", "[fd77::1]:9999"),
        ] {
            for sender in [&inside, &outside] {
                let daemon = host.daemon(&["--listen=[::]:9999", "--mode", mode]);
                let counted = |name| host.inside(|| count(&daemon, name));
                sender.send(from, to, b"loop");
                // The daemon receives each reply that it sends to itself.
                let ended = || counted(RECEIVED) == 1 + counted(ECHOED);
                wait_until("the daemon has received its replies", || {
                    counted(RECEIVED) > 0 && ended()
                });
                for number in 1..=10 {
                    let before = counted(RECEIVED);
                    let client = net.client("10.77.0.2:0", "10.77.0.1:9999".parse().unwrap());
                    client.send(b"?").unwrap();
                    wait_until("the datagram is received", || counted(RECEIVED) > before);
                    assert!(counted(RECEIVED) < 10 + number, "{mode} {from}: a loop");
                }
                let all = counted(RECEIVED) - 10;
                assert!(all - 1 <= if mode == "echo" { 0 } else { 2 });
                host.inside(|| daemon.assert_accounted_for());
            }
        }
    }
}

#[test]
#[ignore = "needs root, for namespaces and forged sources; .ci/run runs it"]
fn low_source_ports_are_refused_and_loopback_is_served() {
    let host = Namespace::new();
    let spoofer = host.inside(Spoofer::new);
    for listen in ["*:9999", "[::]:9999"] {
        for mode in MODES {
            let args = ["--listen", listen, "--mode", mode];
            for (least, refused, port) in [("1024", &[0, 7, 19, 1023][..], 1024), ("0", &[0], 1)] {
                let least = ["--min-source-port", least];
                let daemon = host.daemon(&[&args[..], &least].concat());
                for port in refused {
                    spoofer.send(&format!("127.0.0.1:{port}"), "127.0.0.1:9999", b"low");
                }
                let all = f64::from(u32::try_from(refused.len()).unwrap());
                host.inside(|| daemon.wait_for_metric(SOURCE_PORT, all));
                let good = host.client(
                    &format!("127.9.8.7:{port}"),
                    "127.0.0.1:9999".parse().unwrap(),
                );
                good.send(b"good").unwrap();
                assert_eq!(receive(&good), b"good", "{listen} {mode}");
                assert!(has_nothing(&good));
                host.inside(|| {
                    daemon.wait_for_metric(ECHOED, 1.0);
                    daemon.assert_accounted_for();
                });
            }
        }
    }
}

/// The promise and its limit: the daemon cannot distinguish a client from another service that
/// answers every datagram, on a port that clients may use.
#[test]
#[ignore = "needs root, for namespaces and forged sources; .ci/run runs it"]
fn echo_and_chargen_servers_get_one_reply_in_exchange_mode() {
    let (host, net) = Namespace::pair();
    let spoofer = net.inside(Spoofer::new);
    for (kind, answer) in [("echo", None), ("chargen", Some([b'#'; 74]))] {
        for (port, low) in [(if answer.is_some() { 19 } else { 7 }, true), (7007, false)] {
            for (mode, least) in [
                ("exchange", "1024"),
                ("exchange", "0"),
                ("lockstep", "0"),
                ("echo", "1024"),
                ("echo", "0"),
            ] {
                let server = Server::start(&net, port, answer);
                let args = ["--listen=*:9999", "--mode", mode, "--timeout=none"];
                let least = ["--min-source-port", least];
                let daemon = host.daemon(&[&args[..], &least].concat());
                let trigger = || {
                    spoofer.send(&format!("10.77.0.2:{port}"), "10.77.0.1:9999", b"?");
                };
                let counted = |name| host.inside(|| count(&daemon, name));
                let what = format!("{kind} on {port}, {mode}, {least:?}");
                if low && least[1] != "0" {
                    (0..10).for_each(|_| trigger());
                    host.inside(|| daemon.wait_for_metric(SOURCE_PORT, 10.0));
                    assert_eq!((counted(ECHOED), server.end()), (0, 0), "{what}");
                } else if mode == "echo" {
                    trigger();
                    // The documented limit. Still, no reply is longer than its request, and the
                    // number of datagrams in the loop does not grow.
                    wait_until("the loop runs", || counted(ECHOED) >= 100);
                    let answers = server.end();
                    wait_until("all datagrams are received", || {
                        counted(RECEIVED) >= answers
                    });
                    assert!(counted(ECHOED) <= answers + 1, "{what}");
                } else {
                    for number in 1..=10 {
                        trigger();
                        host.inside(|| daemon.wait_for_metric(RECEIVED, f64::from(2 * number)));
                    }
                    assert_eq!((counted(ECHOED), server.end()), (10, 10), "{what}");
                }
                host.inside(|| assert_no_amplification(&daemon));
            }
        }
    }
}

/// A host with two addresses per family, and a second host.
fn with_second_addresses() -> (Namespace, Namespace) {
    let (host, net) = Namespace::pair();
    host.add_address("10.77.0.11/24");
    host.add_address("fd77::11/64");
    // By default Linux drops IPv4 datagrams from the network whose source is an address of this
    // host. It accepts such IPv6 datagrams.
    host.shell("sysctl -qw net.ipv4.conf.all.accept_local=1 net.ipv4.conf.eth0.accept_local=1");
    host.shell("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0");
    (host, net)
}

/// Two daemons attacked by forged datagrams, and the state that the exchange predicts for them.
struct Pair<'a> {
    hosts: [&'a Namespace; 2],
    daemons: [Daemon; 2],
    modes: [&'a str; 2],
    addresses: [&'a str; 2],
    /// Whether each daemon is owed a record by the other.
    owes: [bool; 2],
    received: [u32; 2],
    replies: u32,
}

impl Pair<'_> {
    /// Sends one daemon a datagram with the other's address as source, and waits until both have
    /// received the predicted number: in a loop they receive more. Returns the number of replies.
    fn trigger(&mut self, index: usize, payload: &[u8]) -> u32 {
        let [to, from] = [self.addresses[index], self.addresses[1 - index]];
        let attacker = self.hosts[1 - index].inside(Spoofer::new);
        attacker.send(from, to, payload);
        let mut at = index;
        let mut replies = 0;
        loop {
            self.received[at] += 1;
            // In echo mode, the source port identifies another reflector.
            self.owes[at] = self.modes[at] != "echo" && !self.owes[at];
            if !self.owes[at] {
                break;
            }
            replies += 1;
            at = 1 - at;
        }
        self.replies += replies;
        for (index, received) in self.received.into_iter().enumerate() {
            let (host, daemon) = (self.hosts[index], &self.daemons[index]);
            host.inside(|| daemon.wait_for_metric(RECEIVED, received.into()));
        }
        replies
    }

    /// Resets the counts of the first daemon after a flood.
    fn resume_after_flood(&mut self) {
        let daemon = &self.daemons[0];
        self.hosts[0].inside(|| {
            wait_until("the receive queue is empty", || {
                count(daemon, "socket_receive_queue_bytes") == 0
            });
            // The last datagrams are counted before the next one is answered.
            let next = client("10.77.0.1:9999".parse().unwrap());
            next.send(b"next").unwrap();
            receive(&next);
            self.received[0] = u32::try_from(count(daemon, RECEIVED)).unwrap();
        });
    }

    fn assert_no_amplification(&self) {
        let mut echoed = 0;
        for (host, daemon) in self.hosts.iter().zip(&self.daemons) {
            host.inside(|| assert_no_amplification(daemon));
            echoed += host.inside(|| count(daemon, ECHOED));
        }
        assert_eq!(echoed, u64::from(self.replies), "{:?}", self.modes);
    }
}

fn assert_no_amplification(daemon: &Daemon) {
    let [came, went] = ["received_bytes_total", "echoed_bytes_total"].map(|it| count(daemon, it));
    assert!(went <= came, "{went} bytes for {came}");
    daemon.assert_accounted_for();
}

/// A UDP service that answers every datagram: with its payload, or with a fixed answer.
struct Server {
    stop: std::sync::Arc<(AtomicBool, AtomicU64)>,
    thread: thread::JoinHandle<()>,
}

impl Server {
    fn start(host: &Namespace, port: u16, answer: Option<[u8; 74]>) -> Self {
        let socket = host.inside(|| UdpSocket::bind(("10.77.0.2", port)).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let stop = std::sync::Arc::new((AtomicBool::new(false), AtomicU64::new(0)));
        let shared = std::sync::Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (stop, answers) = &*shared;
            while !stop.load(Relaxed) {
                let mut bytes = [0; 2048];
                if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    let answer = answer.as_ref().map_or(&bytes[..length], |answer| answer);
                    socket.send_to(answer, from).unwrap();
                    answers.fetch_add(1, Relaxed);
                }
            }
        });
        Self { stop, thread }
    }

    /// Ends the service. Returns the number of its answers.
    fn end(self) -> u64 {
        self.stop.0.store(true, Relaxed);
        self.thread.join().unwrap();
        self.stop.1.load(Relaxed)
    }
}
