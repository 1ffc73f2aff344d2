//! Hashing a stored blob again, and the end of one that cannot be read.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use ring::digest::{Context, SHA256, SHA512};
use rustix::io::Errno;
use shoal_engine::{Algorithm, Digest};

use super::{Own, Store};
use crate::blob::{Blob, Content, Home, Verification};
use crate::error::StoreError;
use crate::index::Durability;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// The operation in the error for a blob that is gone because of it.
const READ_OF_REMOVED: &str = "read a blob (removed now; the next pull fetches it again)";

/// What a disk or its file system says of bytes that are lost: the medium, its checksums, what names the blocks, a server that has no
/// such file any more.
const LOST: [Errno; 8] = [
    Errno::IO,
    Errno::UCLEAN,
    Errno::BADMSG,
    Errno::NODATA,
    Errno::ILSEQ,
    Errno::NXIO,
    Errno::REMOTEIO,
    Errno::STALE,
];

impl Store {
    /// Whether an error of reading a blob's file says that its bytes are lost: the disk's word, or `UnexpectedEof` for a file that
    /// ends too early. A lack of memory, for one, says nothing of the file.
    pub fn is_unreadable(error: &io::Error) -> bool {
        let is_lost = |code| LOST.iter().any(|lost| lost.raw_os_error() == code);
        error.kind() == io::ErrorKind::UnexpectedEof || error.raw_os_error().is_some_and(is_lost)
    }

    /// Removes a blob of our own, also a pinned one, whose `file` could not be read, and says whether there was one. One that has come
    /// in its place meanwhile stays.
    pub fn remove_unreadable(&self, digest: &Digest, file: &File) -> Result<bool, StoreError> {
        let inner = &*self.inner;
        let hold = inner.claims.hold_to_remove(digest);
        let record = match inner.look_up(digest)? {
            Own::Blob(record, Content::File(present)) if is_same(&present, file) => record,
            Own::Lost(record) => record,
            Own::Blob(..) | Own::Absent => return Ok(false),
        };
        inner.remove_blob(&hold, digest, &record, Durability::Disk)?;
        Ok(true)
    }

    /// Reads a whole blob and hashes it. One of our own that is wrong is removed, also if it is in use or pinned.
    ///
    /// # Errors
    /// Also where it cannot be read. One of our own whose bytes are lost has been removed then.
    pub fn verify(&self, digest: &Digest) -> Result<Verification, StoreError> {
        let inner = &*self.inner;
        let Some(blob) = inner.own_blob(digest)?.or_else(|| inner.runtime_blob(digest)) else {
            return Ok(Verification::Missing);
        };
        let path = inner.layout.blob(digest);
        let found = match hash(&blob) {
            Ok(found) => found,
            Err(error) => {
                let is_removed = self.remove_lost(&blob, &error)?;
                let operation = if is_removed { READ_OF_REMOVED } else { "read a blob" };
                return Err(StoreError::io(operation, &path)(error));
            }
        };
        if found == *digest {
            return Ok(Verification::Good { size: blob.size });
        }
        tracing::warn!(%digest, %found, home = ?blob.home, "a stored blob does not hash to its digest");
        let home = blob.home;
        drop(blob);
        if home == Home::Own {
            let hold = inner.claims.hold_to_remove(digest);
            if let Some(record) = inner.record(digest)? {
                inner.remove_blob(&hold, digest, &record, Durability::Disk)?;
            }
        }
        Ok(Verification::Wrong { found, home })
    }

    /// Removes a blob that could not be read, if it is our own and its bytes are lost.
    fn remove_lost(&self, blob: &Blob, error: &io::Error) -> Result<bool, StoreError> {
        let Content::File(file) = &blob.content else { return Ok(false) };
        if blob.home != Home::Own || !Store::is_unreadable(error) {
            return Ok(false);
        }
        tracing::error!(digest = %blob.digest, %error, "a stored blob cannot be read; it is removed");
        self.remove_unreadable(&blob.digest, file)
    }
}

fn is_same(one: &File, other: &File) -> bool {
    let name = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
    matches!((name(one), name(other)), (Ok(one), Ok(other)) if one == other)
}

fn hash(blob: &Blob) -> io::Result<Digest> {
    let algorithm = blob.digest.algorithm();
    let mut context = Context::new(match algorithm {
        Algorithm::Sha256 => &SHA256,
        Algorithm::Sha512 => &SHA512,
    });
    match &blob.content {
        Content::Inline(bytes) => context.update(bytes),
        Content::File(file) => hash_file(file, &mut context)?,
    }
    Ok(Digest::new(algorithm, context.finish().as_ref()))
}

/// To the end of the file, wherever that is: a file that has grown is wrong too.
fn hash_file(file: &File, context: &mut Context) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                context.update(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;

    use super::*;
    use crate::store::Options;

    #[test]
    fn errors_of_the_disk_and_others() {
        let table: [(io::Error, bool); 9] = [
            (Errno::IO.into(), true),
            (Errno::UCLEAN.into(), true),
            (Errno::BADMSG.into(), true),
            (io::ErrorKind::UnexpectedEof.into(), true),
            (Errno::NOMEM.into(), false),
            (Errno::PIPE.into(), false),
            (Errno::CONNRESET.into(), false),
            (Errno::TIMEDOUT.into(), false),
            (io::ErrorKind::TimedOut.into(), false),
        ];
        for (error, expected) in table {
            assert_eq!(Store::is_unreadable(&error), expected, "{error}");
        }
    }

    #[test]
    fn what_cannot_be_read_goes_and_not_what_came_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { disk_free_min: 0, inline_max: 0, ..Options::new(folder.path()) };
        let store = Store::open(options).unwrap().store;
        let (digest, now) = (Digest::new(Algorithm::Sha256, &[1; 32]), SystemTime::now());
        let stored = || {
            store.put(&digest, None, &Bytes::from(vec![7; 1000]), now).unwrap();
            match store.get(&digest, now).unwrap().unwrap().content {
                Content::File(file) => file,
                Content::Inline(_) => unreachable!("nothing is kept in the index"),
            }
        };
        let first = stored();
        assert!(store.remove_unreadable(&digest, &first).unwrap());
        assert!(store.get(&digest, now).unwrap().is_none());
        assert!(!store.remove_unreadable(&digest, &first).unwrap());

        let second = stored();
        assert!(!store.remove_unreadable(&digest, &first).unwrap());
        assert!(store.get(&digest, now).unwrap().is_some());
        assert!(store.remove_unreadable(&digest, &second).unwrap());
    }
}
