//! The store itself: finding, adding and removing whole blobs.
//!
//! Invariant (I3): what is handed out is there. An entry whose file is gone or has another length is a miss, and is
//! removed when it is met.

mod evict;
mod open;
mod put;
mod sweep;
mod tags;
mod verify;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use shoal_engine::Digest;
use shoal_engine::pieces::BLOB_BYTES_MAX;

use crate::blob::{Blob, BlobInfo, Content, Home};
use crate::claims::{Claims, Hold};
use crate::error::{IndexFault, StoreError};
use crate::index::{Change, Durability, Index};
use crate::layout::{self, Layout};
use crate::partial::{Partial, Registry};
use crate::record::{BlobRecord, from_millis, to_millis};
use crate::room::{Room, Usage};
use crate::runtime::RuntimeContent;

pub use open::{OpenReport, Opened};
pub use sweep::{Swept, Taken};

/// Uses that are remembered before they are written to the index, at most: 100 bytes each.
const TOUCHED_MAX: usize = 16 * 1024;

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory. Made if it is not there; must belong to the user of this process.
    pub path: PathBuf,
    /// Most bytes of blobs, partial ones with their full size; `None`: as many as the disk takes. The index comes on top:
    /// about 200 bytes a blob.
    pub capacity: Option<u64>,
    /// Part of the capacity at which eviction starts.
    pub high_watermark: f64,
    /// Part of the capacity at which eviction stops.
    pub low_watermark: f64,
    /// Bytes always left free on the file system.
    pub disk_free_min: u64,
    /// Largest blob kept in the index, bytes.
    pub inline_max: u64,
    /// A blob that was not used for longer is removed by [`Store::sweep`]; `None`: only for want of room.
    pub max_age: Option<Duration>,
    /// A partial blob that nobody has open and that was not written for longer is removed by [`Store::sweep`].
    pub partial_max_age: Duration,
    /// containerd's `io.containerd.content.v1.content`, to serve from what the node has already. Never written to.
    pub runtime_content: Option<PathBuf>,
}

impl Options {
    /// The defaults: no cap, watermarks 0.9 and 0.8, 1 GiB left free, 64 KiB inline, no expiry, partials kept for a day.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Options {
            path: path.into(),
            capacity: None,
            high_watermark: 0.9,
            low_watermark: 0.8,
            disk_free_min: 1 << 30,
            inline_max: 64 << 10,
            max_age: None,
            partial_max_age: Duration::from_secs(24 * 60 * 60),
            runtime_content: None,
        }
    }
}

/// Blobs on disk. Cheap to clone; the directory is released when the last clone and the last [`Partial`] are gone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) layout: Arc<Layout>,
    pub(crate) index: Index,
    pub(crate) claims: Arc<Claims>,
    pub(crate) room: Arc<Room>,
    pub(crate) partials: Registry,
    /// Uses since they were last written to the index.
    touched: Mutex<HashMap<Digest, Touch>>,
    /// One thread at a time looks for what to evict; a second one would look for the same.
    evicting: Mutex<()>,
    sweeping: Mutex<sweep::Progress>,
    /// No pin ends before, in milliseconds since 1970; 0: not looked for yet.
    next_pin_end: AtomicU64,
    runtime: Option<RuntimeContent>,
    departures: Departures,
}

/// Who is told of blobs that leave.
#[derive(Default)]
struct Departures(OnceLock<Box<dyn Fn(&Digest) + Send + Sync>>);

impl fmt::Debug for Departures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Departures(told)" } else { "Departures(nobody)" })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Touch {
    at: u64,
    hits: u64,
}

/// What the index's word is worth.
enum Own {
    Blob(BlobRecord, Content),
    /// Not in the index.
    Absent,
    /// In the index, and the content is not what the index says.
    Lost(BlobRecord),
}

impl Store {
    /// A whole blob: ours, or else the runtime's. Counts as a use.
    pub fn get(&self, digest: &Digest, now: SystemTime) -> Result<Option<Blob>, StoreError> {
        match self.inner.own_blob(digest)? {
            Some(blob) => {
                self.inner.touch(digest, now);
                Ok(Some(blob))
            }
            None => Ok(self.inner.runtime_blob(digest)),
        }
    }

    /// The same for somebody who only looks: no use, which would keep it from being evicted.
    pub fn look(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        Ok(self.inner.own_blob(digest)?.or_else(|| self.inner.runtime_blob(digest)))
    }

    /// What is known of a whole blob, without counting it as a use.
    pub fn peek(&self, digest: &Digest) -> Result<Option<BlobInfo>, StoreError> {
        let inner = &*self.inner;
        if inner.own_blob(digest)?.is_some()
            && let Some(record) = inner.record(digest)?
        {
            return Ok(Some(inner.info(*digest, record)));
        }
        let found = inner.runtime.as_ref().and_then(|runtime| runtime.open(digest));
        Ok(found.map(|(_, meta)| {
            let written = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            BlobInfo {
                digest: *digest,
                size: meta.len(),
                media_type: None,
                home: Home::Runtime,
                inline: false,
                pinned: false,
                pinned_until: None,
                stored_at: written,
                used_at: written,
                hits: 0,
            }
        }))
    }

    /// Our blobs after `after`, `max` of them at most, ordered by digest. What the runtime has is not listed.
    pub fn list(&self, after: Option<&Digest>, max: usize) -> Result<Vec<BlobInfo>, StoreError> {
        let inner = &*self.inner;
        let mut found = Vec::new();
        let visit = |digest, record| {
            if found.len() >= max {
                return ControlFlow::Break(());
            }
            found.push(inner.info(digest, record));
            ControlFlow::Continue(())
        };
        inner.index.each_blob(after, visit).map_err(|fault| inner.index_fault("list the blobs", fault))?;
        Ok(found)
    }

    /// Calls `tell` for each of our blobs that is removed, evicted, expired or found to be broken from now on, on the thread
    /// that does it; it must not call the store. Only the first caller is told.
    pub fn on_departure(&self, tell: impl Fn(&Digest) + Send + Sync + 'static) {
        let _ = self.inner.departures.0.set(Box::new(tell));
    }

    /// Removes a blob, also a pinned one, and says whether there was one. Who reads it now can read it to its end.
    pub fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        let inner = &*self.inner;
        let hold = inner.claims.hold_to_remove(digest);
        let Some(record) = inner.record(digest)? else { return Ok(false) };
        inner.remove_blob(&hold, digest, &record, Durability::Disk)?;
        Ok(true)
    }

    /// Keeps a blob from being evicted and from expiring; says whether there is one. A rebuilt index has no pins.
    pub fn pin(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.inner.set_pinned(digest, true)
    }

    /// The same until `end`, or longer if it is pinned longer already. The pin is taken away by the first
    /// [`Store::sweep`] afterwards.
    pub fn pin_until(&self, digest: &Digest, end: SystemTime) -> Result<bool, StoreError> {
        let (inner, until) = (&*self.inner, to_millis(end));
        let hold = inner.claims.hold(digest);
        let Some(record) = inner.record(digest)? else { return Ok(false) };
        if record.pinned_until < until {
            let pinned = BlobRecord { pinned_until: until, ..record.clone() };
            inner.replace_record(&hold, digest, &record, &pinned, Durability::Disk)?;
            inner.next_pin_end.fetch_min(until, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Takes the pin away, one with an end too; says whether there is such a blob.
    pub fn unpin(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.inner.set_pinned(digest, false)
    }

    /// Opens a partial blob of known size: the one that is there, with what its record names, or a new one. Whoever had
    /// it open before cannot write any more.
    ///
    /// # Errors
    /// [`StoreError::Full`] if it does not fit after everything was evicted that may be.
    ///
    /// # Panics
    /// If `size` is larger than [`BLOB_BYTES_MAX`](shoal_engine::pieces::BLOB_BYTES_MAX): no source is asked for that.
    pub fn partial(&self, digest: &Digest, size: u64) -> Result<Partial, StoreError> {
        assert!(size <= BLOB_BYTES_MAX, "a blob of {size} bytes");
        self.inner.open_partial(digest, Some(size))
    }

    /// The size of the partial blob that an earlier transfer has left, if there is one: what to open it with.
    pub fn partial_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let fault = |fault| self.inner.index_fault("read the record of a partial blob", fault);
        Ok(self.inner.index.partial(digest).map_err(fault)?.map(|record| record.size))
    }

    /// Opens a partial blob whose size is not known yet; always a new one. It does not survive a restart before
    /// [`Partial::set_size`].
    pub fn partial_unsized(&self, digest: &Digest) -> Result<Partial, StoreError> {
        self.inner.open_partial(digest, None)
    }

    /// Bytes that can still be stored if all that may be evicted goes, but for `kept`. Reads the records of these, and sums.
    pub fn room_beside(&self, kept: &HashSet<Digest>) -> Result<u64, StoreError> {
        let inner = &*self.inner;
        let mut stays = inner.room.usage().pinned_bytes;
        for digest in kept {
            let record = inner.record(digest)?.filter(|record| !record.is_pinned());
            stays += record.map_or(0, |record| record.size);
        }
        let free =
            inner.layout.disk_free().map_err(StoreError::io("ask for free space", inner.layout.root()))?;
        Ok(inner.room.beside(stays, free))
    }

    /// What is stored. Reads sums, not the index.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let inner = &*self.inner;
        let free =
            inner.layout.disk_free().map_err(StoreError::io("ask for free space", inner.layout.root()))?;
        let (partials, partial_bytes) = inner.partials.sums();
        Ok(Usage { partials, partial_bytes, disk_free: free, ..inner.room.usage() })
    }
}

impl Inner {
    /// A whole blob of our own, kept from eviction as long as it lives.
    pub(crate) fn own_blob(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let Some(guard) = self.claims.begin_use(digest) else { return Ok(None) };
        match self.look_up(digest)? {
            Own::Blob(record, content) => Ok(Some(Blob {
                digest: *digest,
                size: record.size,
                media_type: record.media_type,
                content,
                home: Home::Own,
                _guard: Some(Arc::new(guard)),
            })),
            Own::Absent => Ok(None),
            Own::Lost(_) => {
                drop(guard);
                self.forget_lost(digest)?;
                Ok(None)
            }
        }
    }

    fn runtime_blob(&self, digest: &Digest) -> Option<Blob> {
        let (file, meta) = self.runtime.as_ref()?.open(digest)?;
        let content = Content::File(Arc::new(file));
        Some(Blob {
            digest: *digest,
            size: meta.len(),
            media_type: None,
            content,
            home: Home::Runtime,
            _guard: None,
        })
    }

    fn look_up(&self, digest: &Digest) -> Result<Own, StoreError> {
        let Some(record) = self.record(digest)? else { return Ok(Own::Absent) };
        let content = if record.inline {
            let fault = |fault| self.index_fault("read a small blob", fault);
            self.index
                .inline(digest)
                .map_err(fault)?
                .map(|bytes| (bytes.len() as u64, Content::Inline(bytes.into())))
        } else {
            let path = self.layout.blob(digest);
            let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
            match opened {
                Ok((meta, file)) if meta.is_file() => Some((meta.len(), Content::File(Arc::new(file)))),
                Ok(_) => None,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(StoreError::io("open a blob", &path)(error)),
            }
        };
        Ok(match content {
            Some((len, content)) if len == record.size => Own::Blob(record, content),
            _ => Own::Lost(record),
        })
    }

    /// Removes an entry whose content is gone or wrong, unless it has been made good in between.
    fn forget_lost(&self, digest: &Digest) -> Result<(), StoreError> {
        let hold = self.claims.hold_to_remove(digest);
        if let Own::Lost(record) = self.look_up(digest)? {
            tracing::warn!(%digest, size = record.size, "the content of a blob is gone or has another length; it is forgotten");
            self.remove_blob(&hold, digest, &record, Durability::Disk)?;
        }
        Ok(())
    }

    /// File first, index second: see the crate's first page. `durability` says whether the file may come back after a
    /// loss of power, to be adopted again.
    fn remove_blob(
        &self,
        _hold: &Hold,
        digest: &Digest,
        record: &BlobRecord,
        durability: Durability,
    ) -> Result<(), StoreError> {
        if !record.inline {
            let path = self.layout.blob(digest);
            layout::remove_file(&path).map_err(StoreError::io("delete a blob", &path))?;
            if durability == Durability::Disk {
                match layout::sync_dir(&self.layout.fan_out(digest)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(StoreError::io("sync the directory of a blob", &path)(error));
                    }
                    _ => {}
                }
            }
        }
        let counted = || self.room.subtract(record);
        self.index
            .apply(&[Change::DeleteBlob(digest)], durability, counted)
            .map_err(|fault| self.index_fault("remove a blob from the index", fault))?;
        self.touched.lock().remove(digest);
        if let Some(tell) = self.departures.0.get() {
            tell(digest);
        }
        Ok(())
    }

    /// Whether a blob that is to be added is there already. If so, it learns its media type, which may have been told wrongly.
    pub(crate) fn present(&self, hold: &Hold, digest: &Digest, new: &BlobRecord) -> Result<bool, StoreError> {
        match self.look_up(digest)? {
            Own::Absent => Ok(false),
            Own::Blob(old, _) if old.size == new.size => {
                if new.media_type.is_some() && new.media_type != old.media_type {
                    let taught = BlobRecord { media_type: new.media_type.clone(), ..old.clone() };
                    self.replace_record(hold, digest, &old, &taught, Durability::Kernel)?;
                }
                self.touch(digest, from_millis(new.used_at));
                Ok(true)
            }
            // Of two that have the same digest and not the same size one is wrong, and the new one was just verified.
            Own::Blob(old, _) | Own::Lost(old) => {
                self.remove_blob(hold, digest, &old, Durability::Disk)?;
                Ok(false)
            }
        }
    }

    fn set_pinned(&self, digest: &Digest, pinned: bool) -> Result<bool, StoreError> {
        let hold = self.claims.hold(digest);
        let Some(record) = self.record(digest)? else { return Ok(false) };
        let pinned_until = if pinned { record.pinned_until } else { 0 };
        if (record.pinned, record.pinned_until) != (pinned, pinned_until) {
            let changed = BlobRecord { pinned, pinned_until, ..record.clone() };
            self.replace_record(&hold, digest, &record, &changed, Durability::Disk)?;
        }
        Ok(true)
    }

    fn record(&self, digest: &Digest) -> Result<Option<BlobRecord>, StoreError> {
        self.index.blob(digest).map_err(|fault| self.index_fault("read the record of a blob", fault))
    }

    /// Writes a record in the place of the one that has been read under the same hold.
    fn replace_record(
        &self,
        _hold: &Hold,
        digest: &Digest,
        old: &BlobRecord,
        new: &BlobRecord,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.index
            .apply(&[Change::PutBlob(digest, new)], durability, || self.room.replace(old, new))
            .map_err(|fault| self.index_fault("write the record of a blob", fault))
    }

    /// Remembers a use; [`Inner::flush_touched`] writes it down.
    fn touch(&self, digest: &Digest, now: SystemTime) {
        let full = {
            let mut touched = self.touched.lock();
            let touch = touched.entry(*digest).or_insert(Touch { at: 0, hits: 0 });
            touch.at = touch.at.max(to_millis(now));
            touch.hits += 1;
            touched.len() > TOUCHED_MAX
        };
        if full && let Err(error) = self.flush_touched() {
            // The uses that do not fit are forgotten: that costs order of eviction, nothing else.
            tracing::warn!(%error, "uses of blobs could not be written down");
            self.touched.lock().clear();
        }
    }

    /// When a blob was last used, and how often, with what is not written down yet.
    fn use_of(&self, digest: &Digest, record: &BlobRecord) -> (u64, u64) {
        match self.touched.lock().get(digest) {
            Some(touch) => (record.used_at.max(touch.at), record.hits + touch.hits),
            None => (record.used_at, record.hits),
        }
    }

    fn info(&self, digest: Digest, record: BlobRecord) -> BlobInfo {
        let (used_at, hits) = self.use_of(&digest, &record);
        let pinned = record.is_pinned();
        BlobInfo {
            digest,
            size: record.size,
            media_type: record.media_type,
            home: Home::Own,
            inline: record.inline,
            pinned,
            pinned_until: (record.pinned_until > 0).then(|| from_millis(record.pinned_until)),
            stored_at: from_millis(record.stored_at),
            used_at: from_millis(used_at),
            hits,
        }
    }

    pub(crate) fn index_fault(&self, operation: &'static str, fault: IndexFault) -> StoreError {
        StoreError::index(operation, &self.index.path(), fault)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.flush_touched() {
            tracing::warn!(%error, "uses of blobs could not be written down");
        }
    }
}
