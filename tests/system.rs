//! What needs root: network namespaces, firewall rules, other people's programs. `.ci/run` runs
//! these; `cargo test --test system -- --ignored` does by hand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests say what broke by panicking, and wait with deadlines"
)]

mod harness;

#[path = "system/activated.rs"]
mod activated;
#[path = "system/balanced.rs"]
mod balanced;
#[path = "system/booted.rs"]
mod booted;
#[path = "system/changed.rs"]
mod changed;
#[path = "system/client.rs"]
mod client;
#[path = "system/dashboard.rs"]
mod dashboard;
#[path = "system/hostile.rs"]
mod hostile;
#[path = "system/lasting.rs"]
mod lasting;
#[path = "system/machine.rs"]
mod machine;
#[path = "system/memcheck.rs"]
mod memcheck;
#[path = "system/namespace.rs"]
mod namespace;
#[path = "system/network.rs"]
mod network;
#[path = "system/offload.rs"]
mod offload;
#[path = "system/package.rs"]
mod package;
#[path = "system/page.rs"]
mod page;
#[path = "system/probe.rs"]
mod probe;
#[path = "system/prometheus.rs"]
mod prometheus;
#[path = "system/readme.rs"]
mod readme;
#[path = "system/surviving.rs"]
mod surviving;
#[path = "system/unread.rs"]
mod unread;
#[path = "system/watching.rs"]
mod watching;
