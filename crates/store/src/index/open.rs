//! Opening the index, and making a new one when the old one is broken.
//!
//! Question: what if the index cannot be opened, or can be opened and its records not be read? Answer: it is moved
//! aside and a new one is filled from the content files, whose presence is proof enough (see the crate's first page).
//! Prevents: a node that has all its blobs and serves none, or that has to be cleaned by hand.
//!
//! Trouble that a new index would meet as well (no space, no permission, a lock) is reported, and nothing is moved.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rocksdb::{DB, WriteBatch};
use shoal_engine::{Algorithm, Digest};

use super::{Family, family};
use crate::error::{FaultKind, IndexFault, OpenError};
use crate::layout::{BROKEN_INDEX, Layout, sync_dir};
use crate::record::{self, BlobRecord, PartialRecord, to_millis};
use crate::room::Pinned;

/// Records written together while an index is filled; bounds the memory this takes.
const FILL_BATCH: usize = 1000;

/// What the index holds, counted by reading every record once: this also finds out whether they can be read.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub blobs: u64,
    pub file_bytes: u64,
    pub inline_bytes: u64,
    pub pinned: Pinned,
    pub partials: Vec<(Digest, PartialRecord)>,
}

/// In what condition the index was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexCondition {
    /// It was there and in order.
    Good,
    /// There was none, and nothing that it should have named.
    New,
    /// It was broken or missing and has been made out of the content files. Tags, pins, media types, inline blobs and
    /// partial blobs of before are gone.
    Rebuilt {
        /// What was wrong with it.
        reason: String,
        /// Where the broken one is kept; the next one takes its place.
        moved_to: Option<PathBuf>,
    },
}

/// What is known before the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    None,
    /// A record or a table has turned out to be unreadable: opening would succeed and help nobody.
    Corrupt,
}

pub(super) fn open(layout: &Layout, suspicion: Suspicion) -> Result<(DB, Survey, IndexCondition), OpenError> {
    let dir = layout.index();
    let failed = |source| OpenError::Index { path: dir.clone(), source };
    let fault = match (suspicion, exists(&dir)?) {
        (_, false) => None,
        (Suspicion::Corrupt, true) => {
            Some(IndexFault::missing("it was found to be corrupt while it was in use"))
        }
        (Suspicion::None, true) => match open_existing(&dir) {
            Ok((db, survey)) => return Ok((db, survey, IndexCondition::Good)),
            Err(fault) if matches!(fault.kind(), FaultKind::NoSpace | FaultKind::Refused) => {
                return Err(failed(fault));
            }
            Err(fault) => Some(fault),
        },
    };
    let moved_to = match &fault {
        Some(fault) => {
            tracing::warn!(path = %dir.display(), %fault, "the index is broken; a new one is made from the content files");
            Some(move_aside(layout)?)
        }
        None => None,
    };
    let (db, survey) = make_new(layout)?;
    let condition = match fault {
        Some(fault) => IndexCondition::Rebuilt { reason: fault.to_string(), moved_to },
        None if survey.blobs == 0 => IndexCondition::New,
        None => IndexCondition::Rebuilt { reason: "it was missing".into(), moved_to: None },
    };
    Ok((db, survey, condition))
}

fn exists(dir: &Path) -> Result<bool, OpenError> {
    dir.try_exists().map_err(OpenError::io("look at", dir))
}

fn open_existing(dir: &Path) -> Result<(DB, Survey), IndexFault> {
    // RocksDB would take a directory that lost this file for an empty one.
    if !dir.join("CURRENT").exists() {
        return Err(IndexFault::missing("there is no CURRENT file"));
    }
    let db = DB::open_cf_descriptors(&super::tuning::database(false), dir, super::tuning::families())?;
    let survey = survey(&db)?;
    Ok((db, survey))
}

fn survey(db: &DB) -> Result<Survey, IndexFault> {
    let mut found = Survey::default();
    super::each(db, Family::Blobs, None, |key, value| {
        record::digest_of_key(key)?;
        let blob = record::decode_blob(value)?;
        found.blobs += 1;
        found.pinned.add(&blob);
        *if blob.inline { &mut found.inline_bytes } else { &mut found.file_bytes } += blob.size;
        Ok(ControlFlow::Continue(()))
    })?;
    super::each(db, Family::Partials, None, |key, value| {
        found.partials.push((record::digest_of_key(key)?, record::decode_partial(value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Renames the index out of the way. Only the latest broken one is kept: they are as large as the index.
fn move_aside(layout: &Layout) -> Result<PathBuf, OpenError> {
    let root = layout.root();
    for entry in fs::read_dir(root).map_err(OpenError::io("read", root))? {
        let entry = entry.map_err(OpenError::io("read", root))?;
        if entry.file_name().to_string_lossy().starts_with(BROKEN_INDEX) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(OpenError::io("remove", &path))?;
        }
    }
    let aside = root.join(format!("{BROKEN_INDEX}{}", to_millis(SystemTime::now()) / 1000));
    let dir = layout.index();
    fs::rename(&dir, &aside).map_err(OpenError::io("move aside", &dir))?;
    Ok(aside)
}

/// Makes an index, fills it, and only then gives it its name: an index that has it was finished, whenever the process
/// dies or the power goes.
fn make_new(layout: &Layout) -> Result<(DB, Survey), OpenError> {
    let (new, dir) = (layout.new_index(), layout.index());
    if exists(&new)? {
        fs::remove_dir_all(&new).map_err(OpenError::io("remove the unfinished index", &new))?;
    }
    let failed = |source: IndexFault| OpenError::Index { path: new.clone(), source };
    let db = DB::open_cf_descriptors(&super::tuning::database(true), &new, super::tuning::families());
    let db = db.map_err(|error| failed(error.into()))?;
    fill(&db, layout)?;
    db.flush_wal(true).map_err(|error| failed(error.into()))?;
    // Closed, because it cannot be renamed under RocksDB's feet.
    drop(db);
    fs::rename(&new, &dir).map_err(OpenError::io("rename the new index to", &dir))?;
    sync_dir(layout.root()).map_err(OpenError::io("sync", layout.root()))?;
    open_existing(&dir).map_err(|source| OpenError::Index { path: dir, source })
}

fn fill(db: &DB, layout: &Layout) -> Result<(), OpenError> {
    let failed =
        |source: rocksdb::Error| OpenError::Index { path: layout.new_index(), source: source.into() };
    let mut batch = WriteBatch::default();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for first in 0..=u8::MAX {
            let dir = layout.fan_out_of(algorithm, first);
            for file in layout.content_files(algorithm, first).map_err(OpenError::io("read", &dir))? {
                let (digest, path) = file.map_err(OpenError::io("read", &dir))?;
                let Some(blob) = record_of_file(&path).map_err(OpenError::io("look at", &path))? else {
                    continue;
                };
                batch.put_cf(
                    family(db, Family::Blobs),
                    record::digest_key(&digest),
                    record::encode_blob(&blob),
                );
                if batch.len() >= FILL_BATCH {
                    db.write(std::mem::take(&mut batch)).map_err(failed)?;
                }
            }
        }
    }
    db.write(batch).map_err(failed)
}

/// What can be said of a content file without an index: its size, and that nobody has used it since it was written.
pub(crate) fn record_of_file(path: &Path) -> io::Result<Option<BlobRecord>> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !meta.is_file() {
        return Ok(None);
    }
    let written = to_millis(meta.modified()?);
    Ok(Some(BlobRecord {
        size: meta.len(),
        media_type: None,
        inline: false,
        pinned: false,
        stored_at: written,
        used_at: written,
        hits: 0,
        pinned_until: 0,
    }))
}
