//! The loads and their contenders. A new row is an entry here.

use std::path::Path;
use std::time::Duration;

use crate::loads::Shape;
use crate::machine::cpus;
use crate::references::Reference;
use crate::servers::{Start, daemon_knows, has_suite};
use crate::{veth, wire};

/// A figure by which servers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Echoes per second.
    Rate,
    /// The server's CPU time per received datagram, in microseconds.
    Cpu,
    /// The median round-trip time in microseconds.
    Median,
    /// The 99th percentile of the round-trip time in microseconds.
    Slow,
}

/// A load and the servers that it is run against.
pub struct Load {
    /// The name for `--load`.
    pub name: &'static str,
    pub title: String,
    pub shape: Shape,
    /// Received datagrams per echoed datagram.
    pub datagrams_per_echo: u32,
    pub contenders: Vec<Contender>,
    /// The contenders that the daemon is compared with.
    pub against: Vec<String>,
    /// Whether it runs over the veth pair instead of loopback.
    pub over_veth: bool,
}

/// A server under a load.
#[derive(Clone)]
pub struct Contender {
    pub name: String,
    pub start: Start,
    /// The number of peers that owe a record before the load starts. The server is then started
    /// only once, because this takes long.
    pub owing: Option<usize>,
}

impl Contender {
    /// Whether it is the daemon and not a plain loop.
    pub fn is_daemon(&self) -> bool {
        matches!(self.start, Start::Daemon(..) | Start::Kernel)
    }
}

pub const RECVFROM: &str = "blocking recvfrom/sendto";
pub const SPIN: &str = "recvfrom/sendto in a spin";
pub const MMSG: &str = "recvmmsg/sendmmsg loop";
pub const GRO: &str = "GRO/GSO loop";
pub const TOKIO: &str = "tokio";
pub const SUITE: &str = "stamp-suite 1.0.0, stateful";
pub const DAEMON: &str = "udp-echo";
pub const OFFLOAD_OFF: &str = "udp-echo --offload off";
pub const BUSY_POLL: &str = "udp-echo --busy-poll 1ms";
pub const KERNEL: &str = "udp-echo --kernel-echo require";
pub const BARE: &str = "bare XDP program";

/// All loads.
pub fn loads() -> Vec<Load> {
    let windows = |flows, window, bytes| Shape::Windows {
        flows,
        window,
        bytes,
        pause: Duration::ZERO,
        header_at: 0,
    };
    let exchanges = Shape::Exchanges {
        peers: 64,
        bytes: 64,
    };
    let gso = Shape::GsoBatches {
        flows: 16,
        segments: 64,
        bytes: 64,
    };
    vec![
        Load::of_echoes("one", "one in flight, 64 bytes", windows(1, 1, 64), polls()),
        Load::of_echoes(
            "paced",
            "one in flight, 64 bytes, 500 µs after each reply",
            Shape::Windows {
                flows: 1,
                window: 1,
                bytes: 64,
                pause: Duration::from_micros(500),
                header_at: 0,
            },
            polls(),
        ),
        Load::of_echoes(
            "echo",
            "16 flows × 16 in flight, 64 bytes",
            windows(16, 16, 64),
            offloads(),
        ),
        Load::of_echoes(
            "large",
            "16 flows × 16 in flight, 1024 bytes",
            windows(16, 16, 1024),
            vec![echo(DAEMON, &[])],
        ),
        Load::of_echoes(
            "gso",
            "senders with GSO: 16 flows × 64 in flight, 64 bytes",
            gso,
            offloads(),
        ),
        Load {
            name: "exchange",
            title: "exchanges: 64 peers × 1 in flight, 64 bytes, and a record for each".into(),
            shape: exchanges,
            datagrams_per_echo: 2,
            contenders: vec![
                plain(MMSG, Reference::MmsgExchange),
                daemon(DAEMON, vec!["--mode=exchange"], 1),
            ],
            against: vec![MMSG.into()],
            over_veth: false,
        },
        Load {
            name: "growth",
            title: "exchanges as above, while other peers owe a record".into(),
            shape: exchanges,
            datagrams_per_echo: 2,
            contenders: [1, 100, 1000, 10_000, 100_000].map(owing).into(),
            against: vec![owing(1).name],
            over_veth: false,
        },
        Load {
            name: "workers",
            title: "workers: 16 flows × 16 in flight, 64 bytes".into(),
            shape: windows(16, 16, 64),
            datagrams_per_echo: 1,
            contenders: (1..=cpus().max(2)).map(workers).collect(),
            against: vec![workers(1).name],
            over_veth: false,
        },
        stamp(),
        over_veth("veth-one", "one in flight, 22 bytes", windows(1, 1, 22)),
        over_veth(
            "veth",
            "128 flows × 1 in flight, 22 bytes",
            Shape::Circling {
                flows: 128,
                window: 1,
            },
        ),
        over_veth(
            "veth-batches",
            "8 flows × 16 in flight, one after the other, 22 bytes",
            Shape::Circling {
                flows: 8,
                window: 16,
            },
        ),
    ]
}

/// A load of separate frames over the veth pair.
fn over_veth(name: &'static str, title: &str, shape: Shape) -> Load {
    Load {
        name,
        title: format!("over veth: {title}"),
        shape,
        datagrams_per_echo: 1,
        contenders: vec![
            echo(DAEMON, &[veth::LISTEN]),
            echo(OFFLOAD_OFF, &[veth::LISTEN, "--offload=off"]),
            contender(KERNEL, Start::Kernel),
            contender(BARE, Start::Bare),
        ],
        against: vec![DAEMON.into(), BARE.into()],
        over_veth: true,
    }
}

/// The daemon in stamp mode beside stamp-suite, if that is installed.
fn stamp() -> Load {
    let mut contenders = vec![daemon(DAEMON, vec!["--mode=stamp"], 1)];
    if has_suite() {
        contenders.insert(0, contender(SUITE, Start::Suite));
    } else {
        eprintln!("stamp-suite is not installed, which .ci/run does: no comparison with it");
    }
    Load {
        name: crate::stamp::NAME,
        title: "STAMP: 16 flows × 16 in flight, 44 bytes".into(),
        shape: Shape::Windows {
            flows: 16,
            window: 16,
            bytes: 44,
            pause: Duration::ZERO,
            header_at: wire::IN_STAMP_REPLY,
        },
        datagrams_per_echo: 1,
        contenders,
        against: vec![SUITE.into()],
        over_veth: false,
    }
}

/// Adds another build of the daemon to each load, beside each row of this build.
pub fn add_other_build(loads: &mut [Load], program: &Path) {
    for load in loads {
        let mut contenders = Vec::new();
        for contender in load.contenders.drain(..) {
            let other = match &contender.start {
                Start::Daemon(args, workers) => Some(Contender {
                    name: format!("{} (before)", contender.name),
                    start: Start::Other(program.to_owned(), args.clone(), *workers),
                    owing: contender.owing,
                }),
                Start::Loop(_) | Start::Other(..) | Start::Suite | Start::Kernel | Start::Bare => {
                    None
                }
            };
            contenders.push(contender);
            load.against
                .extend(other.iter().map(|other| other.name.clone()));
            contenders.extend(other);
        }
        load.contenders = contenders;
    }
}

impl Load {
    /// A load of all plain loops and `others`.
    fn of_echoes(name: &'static str, title: &str, shape: Shape, others: Vec<Contender>) -> Self {
        let mut contenders = vec![
            plain(RECVFROM, Reference::Recvfrom),
            plain(MMSG, Reference::Mmsg),
            plain(GRO, Reference::Gro),
            plain(TOKIO, Reference::Tokio),
        ];
        contenders.extend(others);
        let plain = contenders.iter().filter(|contender| !contender.is_daemon());
        let against = plain.map(|contender| contender.name.clone()).collect();
        Self {
            name,
            title: title.into(),
            shape,
            datagrams_per_echo: 1,
            contenders,
            against,
            over_veth: false,
        }
    }
}

fn plain(name: &str, reference: Reference) -> Contender {
    contender(name, Start::Loop(reference))
}

fn daemon(name: &str, args: Vec<&'static str>, workers: usize) -> Contender {
    contender(name, Start::Daemon(args, workers))
}

fn contender(name: &str, start: Start) -> Contender {
    Contender {
        name: name.into(),
        start,
        owing: None,
    }
}

fn echo(name: &str, args: &[&'static str]) -> Contender {
    daemon(name, [&["--mode=echo"], args].concat(), 1)
}

/// The daemon with and without busy polling, and a plain loop that polls.
fn polls() -> Vec<Contender> {
    vec![
        plain(SPIN, Reference::Spin),
        echo(DAEMON, &[]),
        echo(BUSY_POLL, &["--busy-poll=1ms"]),
    ]
}

/// The daemon with and without offload.
fn offloads() -> Vec<Contender> {
    let mut contenders = vec![echo(DAEMON, &[])];
    if daemon_knows("--offload") {
        contenders.push(echo(OFFLOAD_OFF, &["--offload=off"]));
    }
    contenders
}

fn owing(peers: usize) -> Contender {
    let args = vec!["--mode=exchange", "--timeout=none", "--max-peers=131072"];
    Contender {
        owing: Some(peers),
        ..daemon(&format!("udp-echo, {peers} more owe"), args, 1)
    }
}

fn workers(number: usize) -> Contender {
    let name = if number == 1 {
        "1 worker".into()
    } else {
        format!("{number} workers")
    };
    daemon(&name, vec!["--mode=echo"], number)
}
