//! All partial blobs, active or waiting to be continued.
//!
//! There are as many as transfers that run or were broken off, so the table is small and kept in memory. Invariant: each
//! entry has its full reservation in [`Room`], and each record in the index has an entry.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};
use shoal_engine::Digest;

use super::{Partial, Shared, State, map};
use crate::claims::Hold;
use crate::error::StoreError;
use crate::index::{Change, Durability};
use crate::layout;
use crate::record::{BlobRecord, Origin, PartialRecord, to_millis};
use crate::store::Inner;

#[derive(Debug, Default)]
pub(crate) struct Registry {
    table: Mutex<HashMap<Digest, Entry>>,
}

#[derive(Debug)]
struct Entry {
    /// Bytes of the capacity.
    reserved: u64,
    /// The index has a record. Only then it can be continued.
    recorded: bool,
    live: Weak<Shared>,
}

/// A partial that nobody has open.
#[derive(Debug)]
pub(crate) struct Idle {
    pub digest: Digest,
    pub reserved: u64,
    pub recorded: bool,
    /// When the file was last written, milliseconds since 1970.
    pub written_at: u64,
}

impl Registry {
    /// Enters a partial that was found at start.
    pub(crate) fn found(&self, digest: Digest, reserved: u64) {
        self.table.lock().insert(digest, Entry { reserved, recorded: true, live: Weak::new() });
    }

    /// How many, and the bytes reserved for them.
    pub(crate) fn sums(&self) -> (u64, u64) {
        let table = self.table.lock();
        (table.len() as u64, table.values().map(|entry| entry.reserved).sum())
    }

    /// The one that somebody has open.
    fn live(&self, digest: &Digest) -> Option<Arc<Shared>> {
        self.table.lock().get(digest).and_then(|entry| entry.live.upgrade())
    }

    /// Whether it is this one that is open.
    pub(crate) fn is_live(&self, digest: &Digest, shared: &Arc<Shared>) -> bool {
        self.table.lock().get(digest).is_some_and(|entry| entry.live.as_ptr() == Arc::as_ptr(shared))
    }

    /// Bytes reserved for a partial, if nobody has it open.
    pub(crate) fn idle_reserved(&self, digest: &Digest) -> Option<u64> {
        self.table
            .lock()
            .get(digest)
            .filter(|entry| entry.live.strong_count() == 0)
            .map(|entry| entry.reserved)
    }
}

impl Inner {
    /// Partials that nobody has open.
    pub(crate) fn idle_partials(&self) -> Vec<Idle> {
        let mut idle: Vec<Idle> = {
            let table = self.partials.table.lock();
            let idle = table.iter().filter(|(_, entry)| entry.live.strong_count() == 0);
            idle.map(|(digest, entry)| Idle {
                digest: *digest,
                reserved: entry.reserved,
                recorded: entry.recorded,
                written_at: 0,
            })
            .collect()
        };
        for partial in &mut idle {
            // One that cannot be looked at is as old as can be: the first to go.
            let written = self.layout.partial(&partial.digest).metadata().and_then(|meta| meta.modified());
            partial.written_at = written.map(to_millis).unwrap_or(0);
        }
        idle
    }

    /// Opens a partial: continues the one that is there, if its record is of this size, or makes a new file.
    pub(crate) fn open_partial(
        self: &Arc<Self>,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<Partial, StoreError> {
        let hold = self.claims.hold(digest);
        if let Some(before) = self.partials.live(digest) {
            // Waits for writes under way; from here on there is one writer.
            let mut state = before.state.write();
            if matches!(*state, State::Open | State::Sealed | State::Poisoned) {
                *state = State::TakenOver;
            }
        }
        self.open_held_partial(&hold, digest, size)
    }

    /// The same, unless somebody has it open.
    pub(crate) fn open_idle_partial(
        self: &Arc<Self>,
        digest: &Digest,
        size: u64,
    ) -> Result<Option<Partial>, StoreError> {
        let hold = self.claims.hold(digest);
        if self.partials.live(digest).is_some() {
            return Ok(None);
        }
        self.open_held_partial(&hold, digest, Some(size)).map(Some)
    }

    fn open_held_partial(
        self: &Arc<Self>,
        hold: &Hold,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<Partial, StoreError> {
        if let Some(size) = size
            && let Some(partial) = self.continue_partial(hold, digest, size)?
        {
            return Ok(partial);
        }
        self.delete_partial(hold, digest)?;
        self.new_partial(hold, digest, size)
    }

    fn continue_partial(
        self: &Arc<Self>,
        _hold: &Hold,
        digest: &Digest,
        size: u64,
    ) -> Result<Option<Partial>, StoreError> {
        let path = self.layout.partial(digest);
        let fault = |fault| self.index_fault("read the record of a partial blob", fault);
        let Some(record) = self.index.partial(digest).map_err(fault)?.filter(|record| record.size == size)
        else {
            return Ok(None);
        };
        let opened = OpenOptions::new().read(true).write(true).open(&path).and_then(|file| {
            let meta = file.metadata()?;
            Ok((file, meta))
        });
        let (file, meta) = match opened {
            Ok((file, meta)) if meta.len() == size => (file, meta),
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open a partial blob", &path)(error)),
        };
        // Its bytes of the capacity are still reserved; the disk knows only of what has been written.
        let unwritten = size.saturating_sub(meta.blocks().saturating_mul(512));
        self.make_room("continue a partial blob", &path, 0, unwritten)?;
        let found = map::ranges(&record);
        let partial = self.enter(*digest, path, file, Some(size), found, unwritten, size, true);
        if let Some(Origin { scope, visibility }) = &record.origin {
            partial.set_origin(scope, *visibility);
        }
        Ok(Some(partial))
    }

    fn new_partial(
        self: &Arc<Self>,
        _hold: &Hold,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<Partial, StoreError> {
        const OPERATION: &str = "make a partial blob";
        let path = self.layout.partial(digest);
        let reserved = size.unwrap_or(0);
        self.make_room(OPERATION, &path, reserved, reserved)?;
        let made =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).and_then(
                |file| {
                    file.set_len(reserved)?;
                    Ok(file)
                },
            );
        match made {
            Ok(file) => Ok(self.enter(*digest, path, file, size, Vec::new(), reserved, reserved, false)),
            Err(error) => {
                self.room.settle(reserved);
                self.room.release(reserved);
                // Without an entry nobody would delete it before the next start.
                let _ = layout::remove_file(&path);
                Err(StoreError::io(OPERATION, &path)(error))
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the two ways to open a partial differ in all of them")]
    fn enter(
        self: &Arc<Self>,
        digest: Digest,
        path: PathBuf,
        file: File,
        size: Option<u64>,
        found: Vec<std::ops::Range<u64>>,
        unwritten: u64,
        reserved: u64,
        recorded: bool,
    ) -> Partial {
        let shared = Arc::new(Shared {
            digest,
            path,
            file: Arc::new(file),
            size: size.map_or_else(OnceLock::new, OnceLock::from),
            found,
            origin: OnceLock::new(),
            state: RwLock::new(State::Open),
            unwritten: AtomicU64::new(unwritten),
            named: AtomicBool::new(recorded),
            room: Arc::clone(&self.room),
        });
        let entry = Entry { reserved, recorded, live: Arc::downgrade(&shared) };
        self.partials.table.lock().insert(digest, entry);
        Partial { inner: Arc::clone(self), shared }
    }

    /// Reserves more for an unsized partial, so that it may reach `end`; `step` bytes at a time.
    pub(super) fn grow_partial(&self, shared: &Shared, end: u64, step: u64) -> Result<(), StoreError> {
        let reserved = self.partials.table.lock().get(&shared.digest).map_or(0, |entry| entry.reserved);
        let Some(missing) = end.checked_sub(reserved).filter(|missing| *missing > 0) else { return Ok(()) };
        const OPERATION: &str = "write a partial blob";
        let mut more = missing.max(step);
        if let Err(error) = self.make_room(OPERATION, &shared.path, more, more) {
            if more == missing {
                return Err(error);
            }
            // A whole step does not fit; what is needed now may.
            more = missing;
            self.make_room(OPERATION, &shared.path, more, more)?;
        }
        shared.unwritten.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
        if let Some(entry) = self.partials.table.lock().get_mut(&shared.digest) {
            entry.reserved += more;
        }
        Ok(())
    }

    /// Gives back what an unsized partial reserved beyond its size.
    pub(super) fn shrink_partial(&self, shared: &Shared, size: u64) {
        let mut table = self.partials.table.lock();
        let Some(entry) = table.get_mut(&shared.digest) else { return };
        let spare = entry.reserved.saturating_sub(size);
        entry.reserved -= spare;
        self.room.release(spare);
        shared.settle(spare);
    }

    pub(super) fn record_partial(
        &self,
        digest: &Digest,
        record: &PartialRecord,
        durability: Durability,
        operation: &'static str,
    ) -> Result<(), StoreError> {
        self.index
            .apply(&[Change::PutPartial(digest, record)], durability, || {
                if let Some(entry) = self.partials.table.lock().get_mut(digest) {
                    entry.recorded = true;
                }
            })
            .map_err(|fault| self.index_fault(operation, fault))
    }

    /// The one index write that makes a partial a blob.
    pub(super) fn index_partial_as_blob(
        &self,
        digest: &Digest,
        record: &BlobRecord,
        inline: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let mut changes = vec![Change::PutBlob(digest, record), Change::DeletePartial(digest)];
        changes.extend(inline.map(|bytes| Change::PutInline(digest, bytes)));
        let counted = || {
            self.room.add(record);
            self.leave_registry(digest);
        };
        self.index
            .apply(&changes, Durability::Disk, counted)
            .map_err(|fault| self.index_fault("add a blob to the index", fault))
    }

    /// Deletes record and file, in this order, and gives back what was reserved.
    pub(crate) fn delete_partial(&self, _hold: &Hold, digest: &Digest) -> Result<(), StoreError> {
        let path = self.layout.partial(digest);
        let recorded = self.partials.table.lock().get(digest).is_none_or(|entry| entry.recorded);
        let fault = |fault| self.index_fault("remove the record of a partial blob", fault);
        // Without an entry there is no record, as a rule; looking costs less than believing a wrong one.
        if recorded && self.index.partial(digest).map_err(fault)?.is_some() {
            self.index.apply(&[Change::DeletePartial(digest)], Durability::Disk, || ()).map_err(fault)?;
        }
        layout::remove_file(&path).map_err(StoreError::io("delete a partial blob", &path))?;
        self.leave_registry(digest);
        Ok(())
    }

    fn leave_registry(&self, digest: &Digest) {
        if let Some(entry) = self.partials.table.lock().remove(digest) {
            self.room.release(entry.reserved);
        }
    }
}
