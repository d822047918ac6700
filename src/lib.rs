//! udp-echo, a UDP reflector for Linux.

pub mod record;
pub mod exchange;
pub mod address;
pub mod udp;
pub mod metrics;
pub mod worker;
