//! A blob that is being received: a sparse file with one writer, and a record of the pieces that are on disk.
//!
//! Invariants:
//! - A record names only bytes that were synced before it was written (see the crate's first page).
//! - There is one writer. Whoever opens a partial again takes it over; the one before cannot write any more. So what
//!   was hashed on its way into the file is what the file holds.
//! - Nothing is written to a file after it was sealed for its commit.

pub(crate) mod map;
mod registry;

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::RwLock;
use shoal_engine::{Digest, Scope};

use crate::blob::{Blob, Content, Home, Visibility};
use crate::error::{BrokenCause, StoreError};
use crate::index::Durability;
use crate::layout;
use crate::record::{BlobRecord, Committing, Origin, PartialRecord, kept_media_type, to_millis};
use crate::room::Room;
use crate::store::Inner;

pub(crate) use registry::Registry;

/// Slices given to one `pwritev`; the kernel takes no more than 1024.
const SLICES_MAX: usize = 256;
/// Room that an unsized partial reserves at a time, bytes.
const UNSIZED_STEP_BYTES: u64 = 16 << 20;

/// A blob that is being received. Dropping it keeps what was checkpointed for whoever opens it next, also after a
/// restart; what was never checkpointed is deleted by the next [`Store::sweep`](crate::Store::sweep).
#[derive(Debug)]
pub struct Partial {
    inner: Arc<Inner>,
    shared: Arc<Shared>,
}

/// What the registry looks at to see whether somebody has it open.
#[derive(Debug)]
pub(crate) struct Shared {
    digest: Digest,
    path: PathBuf,
    file: Arc<File>,
    size: OnceLock<u64>,
    found: Vec<Range<u64>>,
    origin: OnceLock<Origin>,
    /// Shared by writes, which go to different places; exclusive to end them.
    state: RwLock<State>,
    /// Bytes promised to this partial and not yet written.
    unwritten: AtomicU64,
    /// The directory that names the file has been synced since the file was made.
    named: AtomicBool,
    room: Arc<Room>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Being committed.
    Sealed,
    /// A sync has failed.
    Poisoned,
    Committed,
    Discarded,
    /// Opened again by somebody else.
    TakenOver,
}

impl Partial {
    /// The file, for reading what has arrived. It stays readable after a commit, a discard and an eviction.
    pub fn file(&self) -> &Arc<File> {
        &self.shared.file
    }

    /// The blob's name.
    pub fn digest(&self) -> &Digest {
        &self.shared.digest
    }

    /// The blob's size in bytes, if it is known.
    pub fn size(&self) -> Option<u64> {
        self.shared.size.get().copied()
    }

    /// What was on disk when it was opened, by its record: whole pieces, ascending. The bytes have not been hashed.
    pub fn have(&self) -> Vec<Range<u64>> {
        self.shared.found.clone()
    }

    /// The repository that its bytes were obtained through, and how; unknown for those of before that was kept.
    pub fn origin(&self) -> Option<(&Scope, Visibility)> {
        self.shared.origin.get().map(|origin| (&origin.scope, origin.visibility))
    }

    /// Says where its bytes come from, which from the next checkpoint on survives a restart. The first word counts.
    pub fn set_origin(&self, scope: &Scope, visibility: Visibility) {
        let _ = self.shared.origin.set(Origin { scope: scope.clone(), visibility });
    }

    /// Writes all chunks, one after the other, from `offset` on. Different threads may write at different places.
    ///
    /// # Panics
    /// If the chunks reach beyond the blob's size: its source must be stopped before that.
    pub fn write_at(&self, offset: u64, chunks: &[Bytes]) -> Result<(), StoreError> {
        const OPERATION: &str = "write a partial blob";
        let shared = &*self.shared;
        let len: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let state = shared.state.read();
        shared.check(*state, State::Open, OPERATION)?;
        match shared.size.get() {
            Some(size) => assert!(
                offset.checked_add(len).is_some_and(|end| end <= *size),
                "{len} bytes at {offset} of a blob of {size}"
            ),
            None => self.inner.grow_partial(shared, offset + len, UNSIZED_STEP_BYTES)?,
        }
        write_all_at(&shared.file, chunks, offset).map_err(StoreError::io(OPERATION, &shared.path))?;
        shared.settle(len);
        Ok(())
    }

    /// Says how large an unsized partial turned out to be. Does nothing if that is known.
    ///
    /// # Errors
    /// [`StoreError::Full`] if that is more than there is room for.
    pub fn set_size(&self, size: u64) -> Result<(), StoreError> {
        const OPERATION: &str = "set the size of a partial blob";
        let shared = &*self.shared;
        let state = shared.state.write();
        shared.check(*state, State::Open, OPERATION)?;
        if shared.size.get().is_some() {
            return Ok(());
        }
        self.inner.grow_partial(shared, size, 0)?;
        shared.file.set_len(size).map_err(StoreError::io(OPERATION, &shared.path))?;
        self.inner.shrink_partial(shared, size);
        shared.size.set(size).expect("only set here, under the lock");
        Ok(())
    }

    /// Makes the whole pieces within `have` survive a restart and the loss of power. `have` may only name what has been
    /// written by calls that have returned. Does nothing while the size is not known.
    pub fn checkpoint(&self, have: &[Range<u64>]) -> Result<(), StoreError> {
        const OPERATION: &str = "checkpoint a partial blob";
        let shared = &*self.shared;
        let Some(size) = self.size() else { return Ok(()) };
        let record = PartialRecord { origin: shared.origin.get().cloned(), ..map::record(size, have, None) };
        shared.check(*shared.state.read(), State::Open, OPERATION)?;
        shared.sync(OPERATION)?;
        if !shared.named.load(Ordering::Acquire) {
            let dir = self.inner.layout.partials();
            layout::sync_dir(&dir).map_err(StoreError::io(OPERATION, &dir))?;
            shared.named.store(true, Ordering::Release);
        }
        // Held during the index write, so that nobody ends this partial and deletes its record before it is written.
        let state = shared.state.read();
        shared.check(*state, State::Open, OPERATION)?;
        self.inner.record_partial(&shared.digest, &record, Durability::Disk, OPERATION)
    }

    /// Makes it a whole blob, durably. The caller has verified all of it. Small ones move into the index. If there is
    /// such a blob already, that one stays and is returned.
    ///
    /// # Errors
    /// The partial can only be discarded after an error.
    pub fn commit(self: Arc<Self>, media_type: Option<&str>, now: SystemTime) -> Result<Blob, StoreError> {
        const OPERATION: &str = "commit a blob";
        let (shared, inner) = (&*self.shared, &self.inner);
        let broken = |cause| shared.broken(OPERATION, cause);
        {
            let mut state = shared.state.write();
            shared.check(*state, State::Open, OPERATION)?;
            *state = State::Sealed;
        }
        let size = self.size().ok_or_else(|| broken(BrokenCause::NoSize))?;
        let found = shared.file.metadata().map_err(StoreError::io(OPERATION, &shared.path))?.len();
        if found != size {
            return Err(broken(BrokenCause::Length { expected: size, found }));
        }
        let inline = size <= inner.options.inline_max;
        if !inline {
            shared.sync(OPERATION)?;
        }
        let hold = inner.claims.hold(&shared.digest);
        shared.check(*shared.state.read(), State::Sealed, OPERATION)?;
        let now = to_millis(now);
        let record = BlobRecord {
            size,
            media_type: kept_media_type(media_type),
            inline,
            pinned: false,
            stored_at: now,
            used_at: now,
            hits: 0,
            pinned_until: 0,
        };
        if inner.present(&hold, &shared.digest, &record)? {
            inner.delete_partial(&hold, &shared.digest)?;
        } else if inline {
            self.commit_inline(&record)?;
        } else {
            self.commit_file(&record)?;
        }
        *shared.state.write() = State::Committed;
        drop(hold);
        let blob = inner.own_blob(&shared.digest)?;
        // Somebody may have removed it at once; the bytes are there nevertheless.
        Ok(blob.unwrap_or_else(|| Blob {
            digest: shared.digest,
            size,
            media_type: record.media_type,
            content: Content::File(Arc::clone(&shared.file)),
            home: Home::Own,
            _guard: None,
        }))
    }

    fn commit_inline(&self, record: &BlobRecord) -> Result<(), StoreError> {
        let (shared, inner) = (&*self.shared, &self.inner);
        let mut bytes = vec![0; usize::try_from(record.size).expect("an inline blob fits into memory")];
        std::os::unix::fs::FileExt::read_exact_at(&*shared.file, &mut bytes, 0)
            .map_err(StoreError::io("read back a small blob", &shared.path))?;
        inner.index_partial_as_blob(&shared.digest, record, Some(&bytes))?;
        // The index no longer names it: if this fails, the next start deletes it.
        if let Err(error) = layout::remove_file(&shared.path) {
            tracing::warn!(path = %shared.path.display(), %error, "a partial file of a stored blob is left behind");
        }
        Ok(())
    }

    /// The second, third and fourth step of the order on the crate's first page; the first has been done.
    fn commit_file(&self, record: &BlobRecord) -> Result<(), StoreError> {
        let (shared, inner) = (&*self.shared, &self.inner);
        let (digest, layout) = (&shared.digest, &inner.layout);
        let committing = Committing { media_type: record.media_type.clone(), at: record.stored_at };
        let whole = map::record(record.size, std::slice::from_ref(&(0..record.size)), Some(committing));
        inner.record_partial(digest, &whole, Durability::Kernel, "mark a blob as committing")?;
        let (dir, path) = (layout.fan_out(digest), layout.blob(digest));
        layout.make_fan_out(digest).map_err(StoreError::io("make the directory", &dir))?;
        std::fs::rename(&shared.path, &path).map_err(StoreError::io("rename a blob", &path))?;
        // The source directory needs no sync: if the old name comes back it is a file without a record.
        layout::sync_dir(&dir).map_err(StoreError::io("sync the directory", &dir))?;
        inner.index_partial_as_blob(digest, record, None)
    }

    /// Deletes file and record. Does nothing if it has been committed, discarded or taken over.
    pub fn discard(&self) -> Result<(), StoreError> {
        let shared = &*self.shared;
        {
            let mut state = shared.state.write();
            if matches!(*state, State::Committed | State::Discarded | State::TakenOver) {
                return Ok(());
            }
            *state = State::Discarded;
        }
        let hold = self.inner.claims.hold(&shared.digest);
        if !self.inner.partials.is_live(&shared.digest, &self.shared) {
            // Taken over in between: what is there now belongs to somebody else.
            return Ok(());
        }
        self.inner.delete_partial(&hold, &shared.digest)
    }
}

impl Shared {
    fn check(&self, state: State, wanted: State, operation: &'static str) -> Result<(), StoreError> {
        let cause = match state {
            state if state == wanted => return Ok(()),
            State::Open => BrokenCause::Closed("reopened"),
            State::Poisoned => BrokenCause::Poisoned,
            State::Sealed | State::Committed => BrokenCause::Closed("committed"),
            State::Discarded => BrokenCause::Closed("discarded"),
            State::TakenOver => BrokenCause::Closed("taken over by another writer"),
        };
        Err(self.broken(operation, cause))
    }

    fn broken(&self, operation: &'static str, cause: BrokenCause) -> StoreError {
        StoreError::Broken { operation, path: self.path.clone(), cause }
    }

    /// Syncs the file; a failure ends this partial for good.
    fn sync(&self, operation: &'static str) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|error| {
            let mut state = self.state.write();
            if matches!(*state, State::Open | State::Sealed) {
                *state = State::Poisoned;
            }
            StoreError::io(operation, &self.path)(error)
        })
    }

    /// `len` bytes have been written; bytes that are written twice were promised once.
    fn settle(&self, len: u64) {
        let mut settled = 0;
        let less = |unwritten: u64| {
            settled = unwritten.min(len);
            Some(unwritten - settled)
        };
        self.unwritten.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).expect("never refused");
        self.room.settle(settled);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.room.settle(*self.unwritten.get_mut());
    }
}

fn write_all_at(file: &File, chunks: &[Bytes], mut offset: u64) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = &mut slices[..];
    // Takes empty slices off the front, so that nothing to write is not mistaken for a full disk.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let some = &rest[..rest.len().min(SLICES_MAX)];
        match rustix::io::pwritev(file, some, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
