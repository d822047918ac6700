//! The kernel's interface: control messages, message headers, socket options, limits.

pub(super) mod adjtimex;
pub(super) mod boot;
pub(super) mod buffer_limits;
pub(super) mod cmsg;
pub(super) mod guard;
pub(super) mod inherit;
pub(super) mod interface;
pub(super) mod memory;
pub(super) mod msghdr;
pub(super) mod offload;
pub(super) mod rlimit;
#[cfg(all(test, miri))]
pub(super) mod simulated;
pub(super) mod sockopt;
pub(super) mod wake;
