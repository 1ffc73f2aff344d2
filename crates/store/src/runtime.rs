//! The container runtime's own blobs, read-only.
//!
//! containerd keeps committed content in `<root>/blobs/<algorithm>/<hex>`; it has verified the digest and synced the file
//! before it gave it that name. What it is still receiving lies under `ingest/` and is never looked at. Nothing here is
//! ever written, locked or deleted, and a file that containerd deletes while we serve it stays readable.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use shoal_engine::Digest;

#[derive(Debug)]
pub(crate) struct RuntimeContent {
    root: PathBuf,
}

impl RuntimeContent {
    pub(crate) fn new(root: PathBuf) -> Self {
        RuntimeContent { root }
    }

    /// The blob's file. `None` when there is none: also when there is no such directory or it may not be read, because
    /// then the runtime's blobs are just not there for us.
    pub(crate) fn open(&self, digest: &Digest) -> Option<(File, Metadata)> {
        let path = self.root.join("blobs").join(digest.algorithm().as_str()).join(digest.hex());
        // Not blocking, so that a pipe of that name does not hold us up.
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).expect("open flags are small");
        let found = OpenOptions::new().read(true).custom_flags(flags).open(&path).and_then(|file| {
            let meta = file.metadata()?;
            Ok((file, meta))
        });
        match found {
            // A power cut can leave an empty file under any name; and nobody needs us for the empty blob.
            Ok((file, meta)) if meta.is_file() && meta.len() > 0 => Some((file, meta)),
            Ok(_) => None,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::debug!(path = %path.display(), %error, "the runtime's blob cannot be read");
                }
                None
            }
        }
    }
}
