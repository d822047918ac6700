//! A forged packet does not make two reflectors answer each other without end.

use super::{Suite, key, key_file};
use crate::harness::stamp::{open, signed};
use crate::harness::tidy::Folder;
use crate::harness::{Daemon, receive};
use crate::hostile::spoof::Spoofer;
use crate::namespace::Namespace;

const OWN: &str = "10.77.0.1:862";
const OTHER: &str = "10.77.0.2:862";

/// The counts of a daemon.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Expected {
    received: u32,
    echoed: u32,
    reply: u32,
    too_short: u32,
}

impl Expected {
    /// A forged packet to the daemon. Another reflector answers the daemon's reply `answers` times.
    fn add_to_daemon(&mut self, is_answered: bool, answers: u32) {
        self.received += 1;
        if is_answered {
            self.echoed += 1;
            self.received += answers;
            self.reply += answers;
        } else {
            self.too_short += 1;
        }
    }

    /// A packet of another reflector.
    fn add_reply(&mut self) {
        self.received += 1;
        self.reply += 1;
    }

    /// Waits for the counts. After an answer to a last request they must still be the same.
    fn assert_are_of(&mut self, host: &Namespace, daemon: &Daemon, last: &[u8]) {
        let wait = |expected: &Self| {
            let metric = |name: &str, count: u32| daemon.wait_for_metric(name, count.into());
            let refused = |reason| format!("datagrams_refused_total{{reason=\"{reason}\"}}");
            metric("datagrams_received_total", expected.received);
            metric("datagrams_echoed_total", expected.echoed);
            metric(&refused("reply"), expected.reply);
            metric(&refused("too_short"), expected.too_short);
            daemon.assert_accounted_for();
        };
        host.inside(|| wait(self));
        let address = daemon.address();
        let client = host.client(&format!("{}:0", address.ip()), address);
        client.send(last).unwrap();
        receive(&client);
        self.received += 1;
        self.echoed += 1;
        host.inside(|| wait(self));
    }
}

/// Forged packets, and whether a daemon answers them.
fn open_packets() -> Vec<(Vec<u8>, bool)> {
    let mut random = crate::harness::Random::new(862);
    vec![
        (open(7, 0), true),
        (vec![], false),
        (vec![0; 13], false),
        (vec![0; 14], true),
        (random.bytes(14), true),
        (vec![0; 44], true),
        ([open(0, 9), random.bytes(1000)].concat(), true),
    ]
}

#[test]
#[ignore = "needs root, for namespaces and forged sources; .ci/run runs it"]
fn stamp_daemons_answer_a_forged_packet_at_most_once() {
    let (one, other) = Namespace::pair();
    let folder = Folder::new();
    let key_file = key_file(&folder);
    let signed_packets = vec![(signed(&key(), 7, 0), true), (signed(&key(), 0, 9), true)];
    for (listen, addresses, args, packets, last) in [
        ("*:862", [OWN, OTHER], "", open_packets(), open(0, 0)),
        (
            "[::]:862",
            ["[fd77::1]:862", "[fd77::2]:862"],
            "",
            open_packets(),
            open(0, 0),
        ),
        (
            "*:862",
            [OWN, OTHER],
            key_file.as_str(),
            signed_packets,
            signed(&key(), 0, 0),
        ),
    ] {
        let listen = format!("--listen={listen}");
        let mut args = args.split_whitespace().collect::<Vec<_>>();
        args.extend(["--mode=stamp", &listen]);
        let hosts = [&one, &other];
        let daemons = hosts.map(|host| host.daemon(&args));
        let spoofers = hosts.map(|host| host.inside(Spoofer::new));
        let mut expected = [Expected::default(); 2];
        for (packet, is_answered) in packets {
            // To each daemon, sent from the host of the other.
            for to in [0, 1] {
                let from = 1 - to;
                spoofers[from].send(addresses[from], addresses[to], &packet);
                expected[to].add_to_daemon(is_answered, 0);
                if is_answered {
                    expected[from].add_reply();
                }
            }
        }
        for index in [0, 1] {
            expected[index].assert_are_of(hosts[index], &daemons[index], &last);
        }
    }
}

#[test]
#[ignore = "needs root and stamp-suite; .ci/run runs it"]
fn stamp_suite_and_daemon_answer_a_forged_packet_once() {
    let (own, other) = Namespace::pair();
    let folder = Folder::new();
    let key_file = key_file(&folder);
    let signed_packets = vec![(signed(&key(), 7, 0), true), (signed(&key(), 0, 9), true)];
    for (args, suite_args, packets, last) in [
        ("", &[][..], open_packets(), open(0, 0)),
        ("", &["--stateful-reflector"], open_packets(), open(0, 0)),
        ("", &["--clock-source=PTP"], open_packets(), open(0, 0)),
        (
            key_file.as_str(),
            &["-AA"],
            signed_packets,
            signed(&key(), 0, 0),
        ),
    ] {
        let _suite = Suite::start(&other, suite_args);
        let mut args = args.split_whitespace().collect::<Vec<_>>();
        args.extend(["--mode=stamp", "--listen=10.77.0.1:862"]);
        let daemon = own.daemon(&args);
        let [from_own, from_other] = [&own, &other].map(|host| host.inside(Spoofer::new));
        let mut expected = Expected::default();
        for (packet, is_answered) in packets {
            // stamp-suite answers all, replies and empty datagrams too.
            from_other.send(OTHER, OWN, &packet);
            expected.add_to_daemon(is_answered, 1);
            from_own.send(OWN, OTHER, &packet);
            expected.add_reply();
        }
        expected.assert_are_of(&own, &daemon, &last);
    }
}
