//! UDP sockets, and datagrams in batches.
//!
//! The one module with `unsafe`, because no safe crate has `recvmmsg` and `sendmmsg` with packet
//! info and reusable buffers: see `batch` for the datagrams and `sys` for the rest.

mod batch;
mod client;
mod drops;
mod error;
mod outgoing;
mod socket;
mod sys;

pub use batch::{Batch, RecvMeta, Wait};
pub use client::epoll::Poller;
pub use client::icmp::{Icmp, Rejection};
pub use drops::Drops;
pub(crate) use error::NO_PORT;
pub use error::{AdoptError, SocketError};
pub use outgoing::{Sent, Transmit};
pub use socket::{Socket, SocketOptions};
pub use sys::boot::since_boot;
pub use sys::buffer_limits::BufferLimits;
pub use sys::cmsg::PacketInfo;
pub use sys::inherit::inherited;
pub use sys::interface::{named, named_here};
pub use sys::rlimit::open_as_many_as_allowed;
pub use sys::sockopt::MemInfo;
pub use sys::wake::{prepare_wake, wake};
