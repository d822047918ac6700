//! udp-echo, a UDP reflector for Linux:
//!
//! - [`record`], [`reflect`]: the core. What to do with a datagram; no socket, no clock.
//! - [`udp`]: sockets, and datagrams in batches. The one module with `unsafe`.
//! - [`worker`]: the loop between the two, a thread for each socket.
//! - [`metrics`]: every metric, declared once.
//! - [`probe`]: the client.
//! - `throttle`: warnings that repeat.
//! - `status_page`: what a browser sees.
//! - [`address`], [`cli`], `http`, `runtime`, [`systemd`], [`telemetry`]: one thing each.
//! - [`daemon`]: all of them put together.

pub mod address;
pub mod cli;
pub mod daemon;
mod http;
pub mod metrics;
pub mod probe;
pub mod record;
pub mod reflect;
mod runtime;
mod status_page;
pub mod systemd;
pub mod telemetry;
mod throttle;
pub mod udp;
pub mod worker;

#[cfg(test)]
#[path = "../tests/harness"]
mod harness {
    #[allow(unreachable_pub, reason = "the tests of the programs have it too")]
    pub mod skip;
}
