//! Reads the keys of authenticated STAMP.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::regular_file::{self, FileFault};
use crate::reflect::stamp::{KeyFileError, StampKeys};

/// A key file of STAMP that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableKeyFile {
    /// It cannot be read.
    #[error("cannot read the STAMP key file {0}: {1}; check its path and owner")]
    Unreadable(PathBuf, #[source] io::Error),
    /// It is a directory, a device or the like, or too large.
    #[error("cannot use the STAMP key file {0}: it is not a regular file of at most 16 MiB")]
    Kind(PathBuf),
    /// Other users have access. The group may only read: the credentials of systemd
    /// (`LoadCredential=`) have mode 0440.
    #[error(
        "cannot use the STAMP key file {0}: mode {1:04o} lets other users access it or its group \
         write it; run `chmod 600` on it"
    )]
    Mode(PathBuf, u32),
    /// It has no key for the SSID of the requests.
    #[error("cannot use the STAMP key file {0}: it has no key for SSID {1}; add one, or one for *")]
    NoKey(PathBuf, u16),
    /// A line of it is wrong.
    #[error("cannot use the STAMP key file {0}: {1}")]
    Text(PathBuf, #[source] KeyFileError),
}

/// The bits of a mode that no key file may have.
const REFUSED: u32 = 0o027;

/// More than the keys of all SSIDs take.
const MAX_BYTES: u64 = 16 << 20;

/// Reads a key file. Checks the mode of the file that is open, so that it cannot be replaced in
/// between.
pub(in crate::cli) fn read(path: &Path) -> Result<StampKeys, UnusableKeyFile> {
    let unreadable = |cause| UnusableKeyFile::Unreadable(path.to_owned(), cause);
    let (file, metadata) = regular_file::open(path, MAX_BYTES).map_err(|fault| match fault {
        FileFault::Unreadable(cause) => unreadable(cause),
        FileFault::Kind => UnusableKeyFile::Kind(path.to_owned()),
    })?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & REFUSED != 0 {
        return Err(UnusableKeyFile::Mode(path.to_owned(), mode));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    StampKeys::parse(&text).map_err(|cause| UnusableKeyFile::Text(path.to_owned(), cause))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn key_file_is_refused_by_its_mode() {
        let path = std::env::temp_dir().join(format!("udp-echo-keys-{}", std::process::id()));
        fs::write(&path, format!("* {}\n", "ab".repeat(16))).unwrap();
        for (mode, is_usable) in [
            (0o600, true),
            (0o400, true),
            (0o440, true),
            (0o640, true),
            (0o660, false),
            (0o604, false),
            (0o601, false),
            (0o642, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let refused =
                matches!(read(&path), Err(UnusableKeyFile::Mode(_, shown)) if shown == mode);
            assert_eq!(refused, !is_usable, "{mode:o}");
            assert_eq!(read(&path).is_ok(), is_usable, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "7 secret\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.ends_with("line 1: the key has a character that is not a hexadecimal digit"));
        fs::remove_file(&path).unwrap();
        assert!(matches!(read(&path), Err(UnusableKeyFile::Unreadable(..))));
        for other in ["/dev/zero", "/"] {
            let refused = read(Path::new(other));
            assert!(matches!(refused, Err(UnusableKeyFile::Kind(_))), "{other}");
        }
    }
}
