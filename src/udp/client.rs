//! The client's sockets: connected to one peer, polled together, with ICMP errors.

pub(super) mod connect;
pub(super) mod epoll;
pub(super) mod icmp;
pub(super) mod send;
