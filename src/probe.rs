//! The client: sends requests to a reflector and counts what comes back.
//!
//! - [`wire`], [`tally`], [`rtt`], [`turns`], [`pace`]: the core. What is sent and when, what came
//!   and what that means; no socket, no clock.

pub mod pace;
pub mod rtt;
pub mod tally;
pub mod turns;
pub mod wire;
