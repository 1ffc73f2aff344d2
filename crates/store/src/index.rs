//! The index: which blobs there are, in RocksDB.
//!
//! Invariants: RocksDB is spoken to nowhere else; all changes of one [`Index::apply`] become visible and durable
//! together; a directory that is called `index` holds an index that was finished.

mod open;
mod tuning;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::RwLock;
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, ReadOptions, WriteBatch, WriteOptions};
use shoal_engine::{Digest, Scope, Tag};

use crate::blob::{TagRecord, Visibility};
use crate::error::{FaultKind, IndexFault, OpenError};
use crate::layout::Layout;
use crate::record::{self, BlobRecord, PartialRecord};

pub use open::IndexCondition;
pub(crate) use open::{Survey, record_of_file};

/// Key in family `meta`: written to find out whether the index takes writes again.
const PROBE: &[u8] = b"probe";

/// The column families. `meta` is the one that RocksDB demands to be called `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Meta,
    Blobs,
    Inline,
    Partials,
    Tags,
    Links,
}

impl Family {
    const ALL: [Family; 6] =
        [Family::Meta, Family::Blobs, Family::Inline, Family::Partials, Family::Tags, Family::Links];

    const fn name(self) -> &'static str {
        match self {
            Family::Meta => rocksdb::DEFAULT_COLUMN_FAMILY_NAME,
            Family::Blobs => "blobs",
            Family::Inline => "inline",
            Family::Partials => "partials",
            Family::Tags => "tags",
            Family::Links => "links",
        }
    }
}

/// One change.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    PutBlob(&'a Digest, &'a BlobRecord),
    /// With its inline content and its links.
    DeleteBlob(&'a Digest),
    PutInline(&'a Digest, &'a [u8]),
    PutPartial(&'a Digest, &'a PartialRecord),
    DeletePartial(&'a Digest),
    PutTag(&'a Scope, &'a Tag, &'a TagRecord),
    /// By its key.
    DeleteTag(&'a [u8]),
    PutLink(&'a Digest, &'a Scope, Visibility),
    DeleteLinks(&'a Digest),
}

/// What a change survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The death of the process.
    Kernel,
    /// The loss of power.
    Disk,
}

#[derive(Debug)]
pub(crate) struct Index {
    layout: Arc<Layout>,
    /// Shared by every operation, so syncs do not wait for each other; exclusive only while the index is opened again.
    /// `None` if that has failed.
    db: RwLock<Option<DB>>,
    /// The worst fault since the index was opened.
    health: AtomicU8,
}

const HEALTHY: u8 = 0;
const SICK: u8 = 1;
const CORRUPT: u8 = 2;

impl Index {
    /// Opens the index, or makes a new one out of the content files.
    pub(crate) fn open(layout: Arc<Layout>) -> Result<(Index, Survey, IndexCondition), OpenError> {
        let (db, survey, condition) = open::open(&layout, open::Suspicion::None)?;
        let index = Index { layout, db: RwLock::new(Some(db)), health: AtomicU8::new(HEALTHY) };
        Ok((index, survey, condition))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.layout.index()
    }

    /// Makes all changes, or none. `counted` runs before anybody can open the index again, so that sums which it
    /// updates are never counted twice.
    pub(crate) fn apply(
        &self,
        changes: &[Change<'_>],
        durability: Durability,
        counted: impl FnOnce(),
    ) -> Result<(), IndexFault> {
        self.with(|db| {
            let mut batch = WriteBatch::default();
            for change in changes {
                add(db, &mut batch, change)?;
            }
            let mut options = WriteOptions::default();
            options.set_sync(durability == Durability::Disk);
            db.write_opt(batch, &options)?;
            counted();
            Ok(())
        })
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<BlobRecord>, IndexFault> {
        self.with(|db| {
            let found = db.get_pinned_cf(family(db, Family::Blobs), record::digest_key(digest))?;
            Ok(found.map(|bytes| record::decode_blob(&bytes)).transpose()?)
        })
    }

    pub(crate) fn inline(&self, digest: &Digest) -> Result<Option<Vec<u8>>, IndexFault> {
        self.with(|db| {
            let mut options = ReadOptions::default();
            // Contents would push the records out of the small cache; the kernel caches them as well as we could.
            options.fill_cache(false);
            Ok(db.get_cf_opt(family(db, Family::Inline), record::digest_key(digest), &options)?)
        })
    }

    pub(crate) fn partial(&self, digest: &Digest) -> Result<Option<PartialRecord>, IndexFault> {
        self.with(|db| {
            let found = db.get_pinned_cf(family(db, Family::Partials), record::digest_key(digest))?;
            Ok(found.map(|bytes| record::decode_partial(&bytes)).transpose()?)
        })
    }

    pub(crate) fn tag(&self, scope: &Scope, tag: &Tag) -> Result<Option<TagRecord>, IndexFault> {
        self.with(|db| {
            let found = db.get_pinned_cf(family(db, Family::Tags), record::tag_key(scope, tag))?;
            Ok(found.map(|bytes| record::decode_tag(&bytes)).transpose()?)
        })
    }

    pub(crate) fn link(&self, digest: &Digest, scope: &Scope) -> Result<Option<Visibility>, IndexFault> {
        self.with(|db| {
            let found = db.get_pinned_cf(family(db, Family::Links), record::link_key(digest, scope))?;
            Ok(found.map(|value| record::decode_link(&value)).transpose()?)
        })
    }

    pub(crate) fn links(&self, digest: &Digest) -> Result<Vec<(Scope, Visibility)>, IndexFault> {
        self.with(|db| {
            let entries = link_entries(db, digest)?;
            entries
                .iter()
                .map(|(key, value)| Ok((record::link_of_key(key)?.1, record::decode_link(value)?)))
                .collect()
        })
    }

    /// Visits the blobs after `after`, in the order of their keys, until the visitor breaks off.
    pub(crate) fn each_blob(
        &self,
        after: Option<&Digest>,
        mut visit: impl FnMut(Digest, BlobRecord) -> ControlFlow<()>,
    ) -> Result<(), IndexFault> {
        let after = after.map(record::digest_key);
        self.with(|db| {
            each(db, Family::Blobs, after.as_deref(), |key, value| {
                Ok(visit(record::digest_of_key(key)?, record::decode_blob(value)?))
            })
        })
    }

    /// Visits every entry of a family that holds no blobs.
    pub(crate) fn each_entry(
        &self,
        of: Family,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), IndexFault>,
    ) -> Result<(), IndexFault> {
        self.with(|db| each(db, of, None, |key, value| visit(key, value).map(ControlFlow::Continue)))
    }

    /// Whether a fault has been met that [`Index::heal`] may cure.
    pub(crate) fn is_sick(&self) -> bool {
        self.health.load(Ordering::Relaxed) != HEALTHY
    }

    /// Gets an index that has failed to work again: sees whether it takes writes by now, else opens it again, else makes
    /// a new one; everybody else waits meanwhile. Not to be called while the disk itself takes no writes: an index that
    /// can only be read is better than none. `recount` gets what is in the index now, before anybody can change it.
    pub(crate) fn heal(&self, recount: impl FnOnce(&Survey)) -> Result<Option<IndexCondition>, OpenError> {
        let was_corrupt = self.health.load(Ordering::Relaxed) == CORRUPT;
        if !was_corrupt && self.takes_writes() {
            // It was full, and there is space again.
            self.health.store(HEALTHY, Ordering::Relaxed);
            return Ok(None);
        }
        let mut slot = self.db.write();
        // Closed first: RocksDB does not open a directory twice.
        drop(slot.take());
        let suspicion = if was_corrupt { open::Suspicion::Corrupt } else { open::Suspicion::None };
        let (db, survey, condition) = open::open(&self.layout, suspicion)?;
        recount(&survey);
        *slot = Some(db);
        self.health.store(HEALTHY, Ordering::Relaxed);
        Ok(Some(condition))
    }

    fn takes_writes(&self) -> bool {
        let db = self.db.read();
        let mut options = WriteOptions::default();
        options.set_sync(true);
        db.as_ref().is_some_and(|db| db.put_opt(PROBE, b"", &options).is_ok())
    }

    fn with<T>(&self, work: impl FnOnce(&DB) -> Result<T, IndexFault>) -> Result<T, IndexFault> {
        let db = self.db.read();
        let db = db.as_ref().ok_or_else(IndexFault::closed)?;
        work(db).inspect_err(|fault| {
            let health = if fault.kind() == FaultKind::Corrupt { CORRUPT } else { SICK };
            self.health.fetch_max(health, Ordering::Relaxed);
        })
    }
}

fn family(db: &DB, of: Family) -> &ColumnFamily {
    db.cf_handle(of.name()).expect("every family was opened")
}

fn add(db: &DB, batch: &mut WriteBatch, change: &Change<'_>) -> Result<(), IndexFault> {
    let key = record::digest_key;
    match change {
        Change::PutBlob(digest, blob) => {
            batch.put_cf(family(db, Family::Blobs), key(digest), record::encode_blob(blob));
        }
        Change::DeleteBlob(digest) => {
            batch.delete_cf(family(db, Family::Blobs), key(digest));
            batch.delete_cf(family(db, Family::Inline), key(digest));
            add(db, batch, &Change::DeleteLinks(digest))?;
        }
        Change::PutInline(digest, bytes) => batch.put_cf(family(db, Family::Inline), key(digest), bytes),
        Change::PutPartial(digest, partial) => {
            batch.put_cf(family(db, Family::Partials), key(digest), record::encode_partial(partial));
        }
        Change::DeletePartial(digest) => batch.delete_cf(family(db, Family::Partials), key(digest)),
        Change::PutTag(scope, tag, found) => {
            batch.put_cf(family(db, Family::Tags), record::tag_key(scope, tag), record::encode_tag(found));
        }
        Change::DeleteTag(key) => batch.delete_cf(family(db, Family::Tags), key),
        Change::PutLink(digest, scope, visibility) => {
            let value = record::encode_link(*visibility);
            batch.put_cf(family(db, Family::Links), record::link_key(digest, scope), value);
        }
        Change::DeleteLinks(digest) => {
            for (link, _) in link_entries(db, digest)? {
                batch.delete_cf(family(db, Family::Links), link);
            }
        }
    }
    Ok(())
}

/// Keys and values.
type Entries = Vec<(Box<[u8]>, Box<[u8]>)>;

fn link_entries(db: &DB, digest: &Digest) -> Result<Entries, IndexFault> {
    let prefix = record::digest_key(digest);
    let mut entries = Vec::new();
    for entry in db.iterator_cf(family(db, Family::Links), IteratorMode::From(&prefix, Direction::Forward)) {
        let (key, value) = entry?;
        if !key.starts_with(&prefix) {
            break;
        }
        entries.push((key, value));
    }
    Ok(entries)
}

/// Walks a family without letting it push everything else out of the cache.
fn each(
    db: &DB,
    of: Family,
    after: Option<&[u8]>,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, IndexFault>,
) -> Result<(), IndexFault> {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    let mut entries = db.raw_iterator_cf_opt(family(db, of), options);
    match after {
        None => entries.seek_to_first(),
        Some(after) => {
            entries.seek(after);
            if entries.key() == Some(after) {
                entries.next();
            }
        }
    }
    while let Some((key, value)) = entries.item() {
        if visit(key, value)?.is_break() {
            return Ok(());
        }
        entries.next();
    }
    Ok(entries.status()?)
}
