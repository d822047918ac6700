//! Opens files that an option names.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The reason why a file cannot be used.
#[derive(Debug)]
pub(super) enum FileFault {
    /// It cannot be read.
    Unreadable(io::Error),
    /// It is a directory, a device or the like, or too large.
    Kind,
}

/// Opens a regular file of at most `max_bytes` for reading.
pub(super) fn open(path: &Path, max_bytes: u64) -> Result<(File, Metadata), FileFault> {
    // Without O_NONBLOCK, opening a FIFO would wait for its writer.
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(FileFault::Unreadable)?;
    let metadata = file.metadata().map_err(FileFault::Unreadable)?;
    if metadata.is_file() && metadata.len() <= max_bytes {
        Ok((file, metadata))
    } else {
        Err(FileFault::Kind)
    }
}
