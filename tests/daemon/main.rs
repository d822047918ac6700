//! The real daemon on loopback, seen from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests fail by panicking and wait with deadlines"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod backlog;
mod buffers;
mod check;
mod escapes;
mod help;
mod http;
mod inherited;
mod journal;
mod kernel_path;
mod limits;
mod log;
mod manager;
mod metrics;
mod mistakes;
mod model;
mod modes;
mod offload;
mod process;
mod reference_server;
mod refusals;
mod repeats;
mod residence;
mod running;
mod scarce;
mod sockets;
mod stamp;
mod timeouts;
mod unread;
mod usage;
mod variables;
mod warnings;
