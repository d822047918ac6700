//! The claims about the figures.

use crate::plan::{BARE, BUSY_POLL, DAEMON, Figure, GRO, KERNEL, MMSG, RECVFROM, SPIN, SUITE};

/// A claim that the figures must confirm.
pub struct Claim {
    pub load: &'static str,
    /// The load and the server, as the table shows them.
    pub title: &'static str,
    pub contender: &'static str,
    pub figure: Figure,
    pub against: &'static str,
    pub bound: Bound,
}

/// The bound of a ratio.
#[derive(Clone, Copy)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Claims, in the order of the table that ends the output.
pub const CLAIMS: [Claim; 12] = [
    Claim {
        load: "echo",
        title: "echo, 16 × 16",
        contender: DAEMON,
        figure: Figure::Cpu,
        against: MMSG,
        bound: Bound::AtMost(1.10),
    },
    Claim {
        load: "exchange",
        title: "exchange, 64 peers × 1",
        contender: DAEMON,
        figure: Figure::Cpu,
        against: MMSG,
        bound: Bound::AtMost(1.25),
    },
    Claim {
        load: "gso",
        title: "GSO senders, 16 × 64",
        contender: DAEMON,
        figure: Figure::Cpu,
        against: GRO,
        bound: Bound::AtMost(1.25),
    },
    Claim {
        load: "gso",
        title: "GSO senders, 16 × 64",
        contender: DAEMON,
        figure: Figure::Rate,
        against: MMSG,
        bound: Bound::AtLeast(10.0),
    },
    Claim {
        load: "one",
        title: "one in flight",
        contender: DAEMON,
        figure: Figure::Median,
        against: RECVFROM,
        bound: Bound::AtMost(1.10),
    },
    Claim {
        load: "one",
        title: "one in flight, `--busy-poll 1ms`",
        contender: BUSY_POLL,
        figure: Figure::Median,
        against: RECVFROM,
        bound: Bound::AtMost(0.50),
    },
    // A plain loop that polls shows the best that this machine can do.
    Claim {
        load: "one",
        title: "one in flight, `--busy-poll 1ms`",
        contender: BUSY_POLL,
        figure: Figure::Median,
        against: SPIN,
        bound: Bound::AtMost(1.10),
    },
    // The pause is long enough for a server to sleep.
    Claim {
        load: "paced",
        title: "one in flight, 500 µs apart, `--busy-poll 1ms`",
        contender: BUSY_POLL,
        figure: Figure::Median,
        against: RECVFROM,
        bound: Bound::AtMost(0.50),
    },
    Claim {
        load: crate::stamp::NAME,
        title: "STAMP, 16 × 16",
        contender: DAEMON,
        figure: Figure::Cpu,
        against: SUITE,
        bound: Bound::AtMost(0.50),
    },
    Claim {
        load: "veth",
        title: "veth, 128 flows × 1, kernel path",
        contender: KERNEL,
        figure: Figure::Cpu,
        against: DAEMON,
        bound: Bound::AtMost(0.06),
    },
    Claim {
        load: "veth",
        title: "veth, 128 flows × 1, kernel path",
        contender: KERNEL,
        figure: Figure::Cpu,
        against: BARE,
        bound: Bound::AtMost(1.15),
    },
    Claim {
        load: "veth-one",
        title: "veth, one in flight, kernel path",
        contender: KERNEL,
        figure: Figure::Median,
        against: DAEMON,
        bound: Bound::AtMost(0.35),
    },
];
