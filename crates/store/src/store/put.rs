//! Adding a blob that is in memory: a manifest, a configuration.
//!
//! Invariant: whoever receives the same blob at the same time is not disturbed. Its partial stays its own; what is put is then kept
//! in the index, whatever its size, and is what the receiver's commit finds there.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use shoal_engine::Digest;

use super::{Inner, Store};
use crate::error::{BrokenCause, StoreError};
use crate::index::{Change, Durability};
use crate::record::{BlobRecord, kept_media_type, to_millis};

impl Store {
    /// Stores a verified blob, durably: in the index if it is small or somebody has a partial of it open, otherwise as a file.
    /// If there is such a blob already, this counts as a use of it, and of a small one the media type is the one that was told
    /// last.
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
        if self.put_file(digest, media_type, bytes, now)? {
            return Ok(());
        }
        self.inner.put_inline(digest, media_type, bytes, now)
    }

    /// Stores it through a partial of its own; says whether it did. It does not where somebody else receives the blob.
    fn put_file(
        &self,
        digest: &Digest,
        media_type: Option<&str>,
        bytes: &Bytes,
        now: SystemTime,
    ) -> Result<bool, StoreError> {
        let Some(partial) = self.inner.open_idle_partial(digest, bytes.len() as u64)? else {
            return Ok(false);
        };
        let partial = Arc::new(partial);
        let stored = partial
            .write_at(0, std::slice::from_ref(bytes))
            .and_then(|()| Arc::clone(&partial).commit(media_type, now));
        match stored {
            Ok(_) => Ok(true),
            // Somebody has begun to receive it since, and has taken the partial over.
            Err(StoreError::Broken { cause: BrokenCause::Closed(_), .. }) => Ok(false),
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
