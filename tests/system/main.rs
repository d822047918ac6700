//! Tests that need root or other programs: network namespaces, firewall rules, Prometheus, systemd.
//! `.ci/run` runs them, as does `cargo test --test system -- --ignored`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests say what broke by panicking, and wait with deadlines"
)]

#[path = "../harness/mod.rs"]
mod harness;

mod activated;
mod balanced;
mod booted;
mod browser;
mod changed;
mod client;
mod compose;
mod container;
mod dashboard;
mod debian;
mod hostile;
mod kernel;
mod kubernetes;
mod lasting;
mod listening;
mod machine;
mod memcheck;
mod mesh;
mod monitor;
mod monitored;
mod moving;
mod namespace;
mod network;
mod offload;
mod operated;
mod package;
mod page;
mod podman;
mod probe;
mod prometheus;
mod proxied;
mod readme;
mod release;
mod routed;
mod stamp;
mod surviving;
mod unread;
mod watching;
mod workflows;
