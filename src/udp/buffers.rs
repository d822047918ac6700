//! The sizes of a socket's buffers.

use std::io;

use super::sys::sockopt;
use super::{BufferLimits, Socket};

/// The size to request for a socket buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferSize {
    /// Request nothing: the kernel's default, or the size of a socket that was passed in.
    Default,
    /// Request [`Self::AUTO`] unless the buffer is at least as large.
    Auto,
    /// Request this many bytes.
    Bytes(usize),
}

impl From<Option<usize>> for BufferSize {
    fn from(bytes: Option<usize>) -> Self {
        bytes.map_or(Self::Default, Self::Bytes)
    }
}

impl BufferSize {
    /// The kernel's default queues only 256 small datagrams.
    pub const AUTO: usize = 4 << 20;

    /// The size that the user asked for, in bytes.
    pub fn given(self) -> Option<usize> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Default | Self::Auto => None,
        }
    }
}

impl Socket {
    /// The sizes of the receive and the send buffer in bytes (`SO_RCVBUF`, `SO_SNDBUF`). The kernel
    /// doubles the requested size, for its own overhead (socket(7)).
    ///
    /// # Errors
    /// The errors of getsockopt(2).
    pub fn buffer_sizes(&self) -> io::Result<[usize; 2]> {
        Ok([
            self.inner.recv_buffer_size()?,
            self.inner.send_buffer_size()?,
        ])
    }

    /// Requests sizes for the receive and the send buffer.
    pub(super) fn size_buffers(&self, wanted: [BufferSize; 2]) -> io::Result<()> {
        let options = [
            [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF],
            [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF],
        ];
        let present = self.buffer_sizes()?;
        for (buffer, limit) in BufferLimits::BOTH.into_iter().enumerate() {
            self.size_buffer(wanted[buffer], present[buffer] / 2, limit, options[buffer])?;
        }
        Ok(())
    }

    /// Requests a buffer size. `present` is the size that would have to be requested for the
    /// present buffer.
    fn size_buffer(
        &self,
        wanted: BufferSize,
        present: usize,
        limit: fn(&BufferLimits) -> io::Result<usize>,
        [force, within_limit]: [libc::c_int; 2],
    ) -> io::Result<()> {
        let request = match wanted {
            BufferSize::Bytes(bytes) => bytes,
            BufferSize::Auto if present < BufferSize::AUTO => BufferSize::AUTO,
            BufferSize::Auto | BufferSize::Default => return Ok(()),
        };
        let size = libc::c_int::try_from(request).unwrap_or(libc::c_int::MAX);
        let request_within_limit = || {
            // The service manager may have set a size above the limit: do not shrink it.
            if request < present || limit(&BufferLimits::new()?)? > present {
                sockopt::set(self, libc::SOL_SOCKET, within_limit, size)?;
            }
            Ok(())
        };
        match sockopt::set(self, libc::SOL_SOCKET, force, size) {
            Err(denied) if denied.kind() == io::ErrorKind::PermissionDenied => {
                let requested = request_within_limit();
                // The present size is good enough for a user who named none.
                if wanted == BufferSize::Auto {
                    Ok(())
                } else {
                    requested
                }
            }
            done => done,
        }
    }
}
