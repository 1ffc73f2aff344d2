//! Opening a store: what a crash left behind is put in order before anybody sees it.

use std::fs;
use std::sync::Arc;

use shoal_engine::Digest;

use super::{Inner, Options, Store};
use crate::error::{IndexFault, OpenError};
use crate::index::{Change, Durability, Index, IndexCondition, record_of_file};
use crate::layout::{self, Layout, partial_digest};
use crate::record::{BlobRecord, PartialRecord};
use crate::room::{Limits, Room};
use crate::runtime::RuntimeContent;

/// A store, and what was found when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// What was found.
    pub report: OpenReport,
}

/// What was found when a store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// In what condition the index was.
    pub index: IndexCondition,
    /// Whole blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Partial blobs that can be continued.
    pub partials: u64,
    /// Blobs whose commit a crash interrupted after they had become whole.
    pub adopted: u64,
    /// Partial files that no record names; deleted.
    pub dropped: u64,
}

impl Store {
    /// Opens a data directory, or makes one.
    pub fn open(options: Options) -> Result<Opened, OpenError> {
        let layout = Arc::new(Layout::open(&options.path)?);
        let (index, survey, condition) = Index::open(Arc::clone(&layout))?;
        let room = Room::new(limits(&options));
        room.recount(&survey);
        let runtime = options.runtime_content.clone().map(RuntimeContent::new);
        let inner = Arc::new(Inner {
            options,
            layout,
            index,
            claims: Arc::default(),
            room: Arc::new(room),
            partials: crate::partial::Registry::default(),
            touched: parking_lot::Mutex::default(),
            evicting: parking_lot::Mutex::default(),
            sweeping: parking_lot::Mutex::default(),
            next_pin_end: std::sync::atomic::AtomicU64::new(0),
            runtime,
            departures: super::Departures::default(),
        });
        let mut adopted = 0;
        for (digest, record) in survey.partials {
            adopted += u64::from(inner.settle_partial(&digest, &record)?);
        }
        let dropped = inner.drop_unnamed_partials()?;
        let usage = inner.room.usage();
        let report = OpenReport {
            index: condition,
            blobs: usage.blobs,
            bytes: usage.file_bytes + usage.inline_bytes,
            partials: inner.partials.sums().0,
            adopted,
            dropped,
        };
        Ok(Opened { store: Store { inner }, report })
    }
}

fn limits(options: &Options) -> Limits {
    let high = options.high_watermark.clamp(0.0, 1.0);
    let low = options.low_watermark.clamp(0.0, high);
    // Rounding by some bytes does not matter; more than 2^53 of them are not stored.
    let part = |of: f64| options.capacity.map_or(u64::MAX, |capacity| (capacity as f64 * of) as u64);
    Limits {
        capacity: options.capacity,
        high: part(high),
        low: part(low),
        disk_free_min: options.disk_free_min,
    }
}

impl Inner {
    /// Keeps a partial whose file is there, adopts one that became a blob, forgets any other; says whether one was adopted.
    fn settle_partial(&self, digest: &Digest, record: &PartialRecord) -> Result<bool, OpenError> {
        let failed = |source: IndexFault| OpenError::Index { path: self.index.path(), source };
        let path = self.layout.partial(digest);
        let file = record_of_file(&path).map_err(OpenError::io("look at", &path))?;
        if file.is_some_and(|file| file.size == record.size) {
            self.partials.found(*digest, record.size);
            self.room.found_reserved(record.size);
            return Ok(false);
        }
        let path = self.layout.blob(digest);
        let blob = record_of_file(&path).map_err(OpenError::io("look at", &path))?;
        let indexed = self.index.blob(digest).map_err(failed)?.is_some();
        let adopted =
            blob.filter(|blob| blob.size == record.size && !indexed).map(|blob| match &record.committing {
                Some(commit) => BlobRecord {
                    media_type: commit.media_type.clone(),
                    stored_at: commit.at,
                    used_at: commit.at,
                    ..blob
                },
                None => blob,
            });
        let mut changes = vec![Change::DeletePartial(digest)];
        changes.extend(adopted.as_ref().map(|blob| Change::PutBlob(digest, blob)));
        let counted = || {
            if let Some(blob) = &adopted {
                self.room.add(blob);
            }
        };
        // Synced, because a new file may get the name that the record was about.
        self.index.apply(&changes, Durability::Disk, counted).map_err(failed)?;
        Ok(adopted.is_some())
    }

    /// Deletes partial files that no record names; says how many.
    fn drop_unnamed_partials(&self) -> Result<u64, OpenError> {
        let dir = self.layout.partials();
        let mut dropped = 0;
        for entry in fs::read_dir(&dir).map_err(OpenError::io("read", &dir))? {
            let entry = entry.map_err(OpenError::io("read", &dir))?;
            let digest = entry.file_name().to_str().and_then(partial_digest);
            if digest.is_some_and(|digest| self.partials.idle_reserved(&digest).is_none()) {
                let path = entry.path();
                layout::remove_file(&path).map_err(OpenError::io("delete the partial blob", &path))?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}
