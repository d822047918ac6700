//! Every datagram is answered once, by the program or by the socket, and counted once.

use std::net::UdpSocket;
use std::time::Duration;

use super::{Attached, LISTEN, Side, metric};
use crate::harness::{has_nothing, receive};
use crate::namespace::Namespace;

/// 1000 flows with 1000 datagrams each.
const FLOWS: usize = 1000;
const ROUNDS: usize = 1000;
/// A ring of veth has 256 places.
const WINDOW: usize = 100;

/// The result of a datagram.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Echoed,
    Cut,
    Refused,
}

/// A flow, and the datagrams that it sends.
struct Flow {
    socket: UdpSocket,
    fate: Fate,
    length: usize,
}

impl Flow {
    /// One flow in ten is odd.
    fn new(clients: &Namespace, number: usize) -> Self {
        let (port, fate, length) = match number % 50 {
            3 => (u16::try_from(1 + number / 50).unwrap(), Fate::Refused, 30),
            13 => (0, Fate::Cut, 1200),
            23 => (0, Fate::Echoed, 0),
            33 => (0, Fate::Echoed, 1),
            43 => (0, Fate::Echoed, 1024),
            _ => (0, Fate::Echoed, 22 + number % 100),
        };
        let local = format!("10.77.0.2:{port}");
        Self {
            socket: clients.client(&local, LISTEN.parse().unwrap()),
            fate,
            length,
        }
    }

    /// The datagram of a round.
    fn datagram(&self, round: usize) -> Vec<u8> {
        let number = round.to_le_bytes();
        (0..self.length)
            .map(|at| number[at % number.len()].wrapping_add(u8::try_from(at % 251).unwrap()))
            .collect()
    }
}

#[test]
#[ignore = "needs root, BPF and ethtool; .ci/run runs it"]
fn million_datagrams_are_answered_once_and_counted() {
    needs_bpf!();
    for checksum_offload in [false, true] {
        let (server, clients) = Namespace::pair();
        let _peer = Attached::peer(&clients);
        let offload = if checksum_offload { "on" } else { "off" };
        clients.shell(&format!("ethtool -K eth0 tx {offload}"));
        let attached = Attached::new(&server, Side::Server);
        let daemon = attached.daemon(LISTEN);
        let flows: Vec<_> = (0..FLOWS).map(|flow| Flow::new(&clients, flow)).collect();
        let rounds = if checksum_offload {
            ROUNDS / 10
        } else {
            ROUNDS
        };
        let mut sent_bytes = 0;
        for round in 0..rounds {
            for window in flows.chunks(WINDOW) {
                for flow in window {
                    flow.socket.send(&flow.datagram(round)).unwrap();
                    sent_bytes += flow.length;
                }
                for flow in window.iter().filter(|flow| flow.fate != Fate::Refused) {
                    let mut expected = flow.datagram(round);
                    expected.truncate(1024);
                    assert_eq!(receive(&flow.socket), expected);
                }
            }
        }
        for flow in &flows {
            flow.socket
                .set_read_timeout(Some(Duration::from_millis(1)))
                .unwrap();
            assert!(has_nothing(&flow.socket));
        }
        let number = |count: usize| f64::from(u32::try_from(count).unwrap());
        let of = |fate| flows.iter().filter(|flow| flow.fate == fate).count() * rounds;
        let all = number(FLOWS * rounds);
        server.inside(|| {
            daemon.wait_for_metric("datagrams_received_total", all);
            daemon.wait_for_metric("received_bytes_total", number(sent_bytes));
            daemon.wait_for_metric("datagrams_refused_total", number(of(Fate::Refused)));
            daemon.wait_for_metric("datagrams_truncated_total", number(of(Fate::Cut)));
            daemon.wait_for_metric("datagrams_echoed_total", all - number(of(Fate::Refused)));
            daemon.assert_accounted_for();
            let [by_program, passed] = ["datagrams", "passed"]
                .map(|what| metric(&daemon, &format!("kernel_echo_{what}_total")));
            eprintln!("checksum offload {offload}: {by_program} by the program, {passed} passed");
            assert!((by_program + passed - all).abs() < 0.5);
            // A checksum that is left to the hardware is not finished on veth.
            let expected = if checksum_offload {
                0
            } else {
                of(Fate::Echoed)
            };
            // One unfinished checksum in 65 536 is right by chance. Without a heartbeat in time, the
            // program passes some more.
            let by_chance = number(of(Fate::Echoed) / 1000);
            assert!(by_program <= number(expected) + by_chance);
            assert!(by_program > number(expected) * 0.5 || checksum_offload);
        });
    }
}
