//! udp-echo, a UDP reflector for Linux.

pub mod record;
pub mod exchange;
