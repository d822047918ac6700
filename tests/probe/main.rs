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

#[path = "../harness/mod.rs"]
mod harness;

mod attribution;
mod credentials;
mod exchange;
mod faults;
mod header;
mod json;
mod measuring;
mod output;
mod own_host;
mod picture;
mod reflectors;
mod running;
mod stamp;
mod tally;
mod targets;
mod terminal;
mod using;
