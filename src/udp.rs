//! The socket room: UDP sockets, their options, and datagrams in batches.
//!
//! The one room with `unsafe`, because no safe crate has `recvmmsg` and `sendmmsg` with packet
//! info and reusable buffers: see `batch` for the datagrams and `option` for the rest.
//! `socket/connect`, `send`, `rejection`, `ready` and `files` are the client's.

mod array;
mod batch;
mod boot;
mod control;
mod drops;
mod files;
mod guard;
mod inherit;
mod interface;
mod limit;
mod offload;
mod option;
mod ready;
mod rejection;
mod replies;
mod send;
#[cfg(all(test, miri))]
mod simulated;
mod socket;

pub use batch::{Batch, Received, Wait};
pub use boot::since_boot;
pub use control::PacketInfo;
pub use drops::Drops;
pub use files::open_as_many_as_allowed;
pub use inherit::inherited;
pub use interface::{named, named_here};
pub use limit::BufferLimits;
pub use option::MemInfo;
pub use ready::Ready;
pub use rejection::{Icmp, Rejection};
pub use replies::{Pieces, Sent};
pub(crate) use socket::NO_PORT;
pub use socket::{AdoptError, Error, Options, Socket};
