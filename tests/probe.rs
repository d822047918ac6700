//! The client: its core against models, and the real one against reflectors of all kinds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests say what broke by panicking, and wait with deadlines"
)]

#[path = "probe/tally.rs"]
mod tally;
#[path = "probe/turns.rs"]
mod turns;
