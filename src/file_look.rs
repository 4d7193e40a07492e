//! What a look at a file sees, so that two looks tell whether it is another one. Looking works on every file
//! system and through every way of replacing a file, which notifications do not.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a look at a file has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Seen {
    #[default]
    Missing,
    /// Device, inode, length, and when its content and its inode changed, in seconds and nanoseconds.
    File(u64, u64, u64, [i64; 4]),
    Unreadable(io::ErrorKind),
}

/// Looks at a file.
pub(crate) fn see(path: &Path) -> Seen {
    match fs::metadata(path) {
        // Reading from a pipe or a device may never end.
        Ok(metadata) if !metadata.is_file() => Seen::Unreadable(io::ErrorKind::InvalidInput),
        Ok(metadata) => Seen::File(
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            [
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ],
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Seen::Missing,
        Err(error) => Seen::Unreadable(error.kind()),
    }
}
