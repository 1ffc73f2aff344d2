//! Has a file changed since it was read? Answered without reading it again.
//!
//! A stamp is taken *before* the file is read: a change in between shows in the next stamp, and costs one more reading.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

/// Identity of a file's content. A replaced file has another inode even within one tick of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    /// The stamp of a file; `None` if there is none. For threads that may wait for a disk.
    pub fn of(path: &Path) -> Option<Self> {
        Self::from(std::fs::metadata(path))
    }

    /// As [`Stamp::of`], for async code.
    pub async fn look(path: &Path) -> Option<Self> {
        Self::from(tokio::fs::metadata(path).await)
    }

    fn from(found: io::Result<Metadata>) -> Option<Self> {
        let meta = found.ok()?;
        Some(Stamp { modified: meta.modified().ok(), length: meta.len(), inode: meta.ino() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_within_a_tick_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join("token"), folder.path().join("next"));
        assert_eq!(Stamp::of(&path), None);
        std::fs::write(&path, "old").unwrap();
        let old = Stamp::of(&path);
        assert!(old.is_some());
        assert_eq!(Stamp::of(&path), old);
        std::fs::write(&next, "new").unwrap();
        let moment = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::File::options().write(true).open(&next).unwrap().set_modified(moment).unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert_ne!(Stamp::of(&path), old);
    }
}
