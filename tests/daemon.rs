//! The real daemon on loopback, seen from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests say what broke by panicking, and wait with deadlines"
)]

mod harness;

#[path = "daemon/backlog.rs"]
mod backlog;
#[path = "daemon/escapes.rs"]
mod escapes;
#[path = "daemon/http.rs"]
mod http;
#[path = "daemon/journal.rs"]
mod journal;
#[path = "daemon/limits.rs"]
mod limits;
#[path = "daemon/log.rs"]
mod log;
#[path = "daemon/model.rs"]
mod model;
#[path = "daemon/modes.rs"]
mod modes;
#[path = "daemon/offload.rs"]
mod offload;
#[path = "daemon/recipe.rs"]
mod recipe;
#[path = "daemon/repeats.rs"]
mod repeats;
#[path = "daemon/running.rs"]
mod running;
#[path = "daemon/scarce.rs"]
mod scarce;
#[path = "daemon/unread.rs"]
mod unread;
#[path = "daemon/usage.rs"]
mod usage;
