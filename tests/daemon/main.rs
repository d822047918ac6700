//! The real daemon on loopback, seen from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests say what broke by panicking, and wait with deadlines"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod backlog;
mod escapes;
mod http;
mod journal;
mod limits;
mod log;
mod model;
mod modes;
mod offload;
mod recipe;
mod repeats;
mod running;
mod scarce;
mod unread;
mod usage;
