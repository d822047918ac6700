//! The client: its core against models, and the real one against reflectors of all kinds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    reason = "tests say what broke by panicking, and wait with deadlines"
)]

mod harness;

#[path = "probe/attribution.rs"]
mod attribution;
#[path = "probe/faults.rs"]
mod faults;
#[path = "probe/measuring.rs"]
mod measuring;
#[path = "probe/picture.rs"]
mod picture;
#[path = "probe/reflectors.rs"]
mod reflectors;
#[path = "probe/tally.rs"]
mod tally;
#[path = "probe/terminal.rs"]
mod terminal;
#[path = "probe/turns.rs"]
mod turns;
#[path = "probe/using.rs"]
mod using;
