//! udp-echo, a UDP reflector for Linux:
//!
//! - [`record`], [`reflect`]: the core, which decides about each datagram; no socket, no clock.
//! - [`udp`]: sockets, and datagrams in batches.
//! - [`kernel_echo`]: the XDP program, what attaches it, what reads its counts. Only these two have `unsafe`.
//! - [`worker`]: the loop between core and socket, one thread per socket.
//! - [`metrics`]: every metric, declared once.
//! - [`probe`]: the client.
//! - [`monitor`]: the continuous client.
//! - `service`: signals, intervals and clocks of the daemon and the monitor.
//! - `throttle`: limits repeated warnings.
//! - `status_page`: the HTML page at `/`.
//! - [`address`], [`cli`], `http`, `runtime`, [`systemd`], [`telemetry`]: as their names say.
//! - [`daemon`]: puts all of them together.

pub mod address;
pub mod cli;
pub mod daemon;
mod http;
pub mod kernel_echo;
pub mod metrics;
pub mod monitor;
pub mod probe;
pub mod record;
pub mod reflect;
mod runtime;
mod service;
mod status_page;
pub mod systemd;
pub mod telemetry;
mod throttle;
pub mod udp;
pub mod worker;

#[cfg(test)]
#[path = "../tests/harness"]
mod harness {
    #[allow(unreachable_pub, reason = "the integration tests use this file too")]
    pub mod skip;
}
