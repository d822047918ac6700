//! UDP sockets that receive and send datagrams in batches.
//!
//! The only module with `unsafe`: no safe crate offers `recvmmsg` and `sendmmsg` with packet info
//! and reusable buffers. `batch` holds the datagrams, `sys` the rest of the kernel's interface.

mod batch;
mod buffers;
mod client;
mod drops;
mod error;
mod ip_header;
mod outgoing;
mod socket;
mod sys;

pub use batch::{Batch, RecvMeta, Wait};
pub use buffers::BufferSize;
pub use client::connect::{ConnectError, Fragmentation, IpOptions, Source};
pub(crate) use client::connect::{ConnectOptions, is_own};
pub(crate) use client::epoll::Poller;
pub(crate) use client::icmp::{Icmp, Rejection};
use drops::Drops;
pub use error::{AdoptError, SocketError};
pub(crate) use error::{NO_ADDRESS, NO_PORT, NO_PRIVILEGE};
pub use outgoing::{Sent, Transmit};
pub use socket::{Socket, SocketOptions};
pub use sys::adjtimex::clock_state;
pub(crate) use sys::boot::since_boot;
pub(crate) use sys::buffer_limits::BufferLimits;
pub use sys::cmsg::PacketInfo;
pub(crate) use sys::inherit::inherited;
pub use sys::interface::named;
pub(crate) use sys::interface::named_here;
pub(crate) use sys::rlimit::raise_open_file_limit;
use sys::sockopt::MemInfo;
pub use sys::wake::{prepare_wake, wake};
