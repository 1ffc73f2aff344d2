//! Adding a blob that is in memory: a manifest, a configuration.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use shoal_engine::Digest;

use super::{Inner, Store};
use crate::error::StoreError;
use crate::index::{Change, Durability};
use crate::record::{BlobRecord, kept_media_type, to_millis};

impl Store {
    /// Stores a verified blob, durably: in the index if it is small, otherwise as a file. If there is such a blob
    /// already, this counts as a use of it, and of a small one the media type is the one that was told last.
    pub fn put(
        &self,
        digest: &Digest,
        media_type: Option<&str>,
        bytes: &Bytes,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let size = bytes.len() as u64;
        if size <= self.inner.options.inline_max {
            return self.inner.put_inline(digest, media_type, bytes, now);
        }
        if self.inner.own_blob(digest)?.is_some_and(|blob| blob.size == size) {
            self.inner.touch(digest, now);
            return Ok(());
        }
        let partial = Arc::new(self.partial(digest, size)?);
        let stored = partial
            .write_at(0, std::slice::from_ref(bytes))
            .and_then(|()| Arc::clone(&partial).commit(media_type, now));
        match stored {
            Ok(_) => Ok(()),
            Err(error) => {
                // The first error is the one to report; what is left behind is found by the next start.
                let _ = partial.discard();
                Err(error)
            }
        }
    }
}

impl Inner {
    fn put_inline(
        &self,
        digest: &Digest,
        media_type: Option<&str>,
        bytes: &Bytes,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        const OPERATION: &str = "store a small blob";
        let size = bytes.len() as u64;
        let now = to_millis(now);
        let record = BlobRecord {
            size,
            media_type: kept_media_type(media_type),
            inline: true,
            pinned: false,
            stored_at: now,
            used_at: now,
            hits: 0,
            pinned_until: 0,
        };
        let hold = self.claims.hold(digest);
        if self.present(&hold, digest, &record)? {
            return Ok(());
        }
        self.make_room(OPERATION, &self.index.path(), size, size)?;
        let changes = [Change::PutBlob(digest, &record), Change::PutInline(digest, bytes)];
        let stored = self.index.apply(&changes, Durability::Disk, || self.room.add(&record));
        self.room.settle(size);
        self.room.release(size);
        stored.map_err(|fault| self.index_fault(OPERATION, fault))
    }
}
