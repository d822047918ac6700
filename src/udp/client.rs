//! What only the client needs: sockets connected to one peer, many of them, and ICMP errors.

mod connect;
pub(super) mod epoll;
pub(super) mod icmp;
pub(super) mod send;
