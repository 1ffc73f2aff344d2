//! What has to be done from time to time: expiry, eviction, adoption, healing, writing down uses.
//!
//! Expiry: a blob goes when nobody has used it for `max_age`, not when it is that old; content asked by digest does not
//! go stale (C10). A partial goes when nobody has it open and nothing was written to it for `partial_max_age`.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use shoal_engine::{Algorithm, Digest};

use super::{Inner, Store};
use crate::claims::Hold;
use crate::error::{BrokenCause, OpenError, StoreError, is_no_space};
use crate::index::{Change, Durability, Family, IndexCondition, record_of_file};
use crate::record::{self, BlobRecord, to_millis};

/// Time between two searches for tags and links that lead nowhere. They are few and harmless, and finding them means
/// reading all of them.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Expired blobs removed after one reading of the records, at most.
const EXPIRED_MAX: usize = 4096;

/// What a sweep has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs that nobody had used for `max_age`.
    pub expired: Taken,
    /// Partial blobs that nobody had continued for `partial_max_age`, or that could not be continued.
    pub partials: Taken,
    /// Blobs and partials removed because the store was too full.
    pub evicted: Taken,
    /// Content files without an index entry that got one.
    pub adopted: u64,
    /// Set if the index had failed and was opened again.
    pub index: Option<IndexCondition>,
}

/// Blobs and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Taken {
    pub(super) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// Where the sweeps have got to.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Next fan-out directory to be looked through.
    fan_out: u8,
    pruned_at: Option<SystemTime>,
    /// Blobs that had links and were not there at the last such search.
    dangling: HashSet<Digest>,
}

impl Store {
    /// Does what is due. To be called about once a minute; `now` decides what has expired.
    pub fn sweep(&self, now: SystemTime) -> Result<Swept, StoreError> {
        let inner = &*self.inner;
        let mut progress = inner.sweeping.lock();
        let mut swept = Swept { index: inner.heal_index()?, ..Swept::default() };
        // Before everything that writes: on a full disk nothing else would succeed.
        let before = inner.room.usage();
        inner.evict_excess()?;
        let after = inner.room.usage();
        // What others evicted meanwhile to make room is counted too; it was this store all the same.
        swept.evicted = Taken {
            count: after.evicted - before.evicted,
            bytes: after.evicted_bytes - before.evicted_bytes,
        };
        inner.end_pins(now)?;
        inner.expire_partials(now, &mut swept.partials)?;
        if let Some(max_age) = inner.options.max_age {
            inner.expire_blobs(now, max_age, &mut swept.expired)?;
        }
        inner.flush_touched()?;
        swept.adopted = inner.adopt_from(progress.fan_out)?;
        progress.fan_out = progress.fan_out.wrapping_add(1);
        let due =
            progress.pruned_at.is_none_or(|at| now.duration_since(at).is_ok_and(|age| age >= PRUNE_INTERVAL));
        if due {
            inner.prune(now, &mut progress.dangling)?;
            progress.pruned_at = Some(now);
        }
        Ok(swept)
    }

    /// Removes what nobody has used for `max_age` and nobody has pinned, whatever the options say.
    pub fn expire(&self, now: SystemTime, max_age: Duration) -> Result<Taken, StoreError> {
        let mut expired = Taken::default();
        self.inner.expire_blobs(now, max_age, &mut expired)?;
        Ok(expired)
    }

    /// Writes down the uses that are only in memory. Also done by [`Store::sweep`] and when the store is dropped.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush_touched()
    }
}

impl Inner {
    fn heal_index(&self) -> Result<Option<IndexCondition>, StoreError> {
        if !self.index.is_sick() {
            return Ok(None);
        }
        match self.layout.probe() {
            Ok(()) => {}
            // Eviction may help, and comes next.
            Err(error) if is_no_space(&error) => return Ok(None),
            Err(error) => {
                return Err(StoreError::io("write to the data directory", self.layout.root())(error));
            }
        }
        self.index.heal(|survey| self.room.recount(survey)).map_err(|error| match error {
            OpenError::Index { source, .. } => self.index_fault("open the index again", source),
            OpenError::Io { operation, path, source } => StoreError::io(operation, &path)(source),
            // The directory has been ours since the start.
            other => StoreError::Broken {
                operation: "open the index again",
                path: self.index.path(),
                cause: BrokenCause::Io(std::io::Error::other(other)),
            },
        })
    }

    /// Writes uses down, each under a hold, so that a record that is being removed does not come back.
    pub(super) fn flush_touched(&self) -> Result<(), StoreError> {
        let touched: Vec<_> = self.touched.lock().iter().map(|(digest, touch)| (*digest, *touch)).collect();
        for (digest, touch) in touched {
            // Whoever changes it now has used it now.
            let Some(hold) = self.claims.try_hold(&digest) else { continue };
            if let Some(record) = self.record(&digest)? {
                let used_at = record.used_at.max(touch.at);
                let hits = record.hits + touch.hits;
                let used = BlobRecord { used_at, hits, ..record.clone() };
                self.replace_record(&hold, &digest, &record, &used, Durability::Kernel)?;
            }
            let mut table = self.touched.lock();
            if let Some(since) = table.get_mut(&digest) {
                since.hits -= touch.hits.min(since.hits);
                if since.hits == 0 {
                    table.remove(&digest);
                }
            }
        }
        Ok(())
    }

    /// Takes away the pins that have ended. Looks through the index only when one is due.
    fn end_pins(&self, now: SystemTime) -> Result<(), StoreError> {
        let now = to_millis(now);
        if self.next_pin_end.load(Ordering::Relaxed) > now {
            return Ok(());
        }
        // What is pinned meanwhile lowers it again.
        self.next_pin_end.store(u64::MAX, Ordering::Relaxed);
        let next = self.end_pins_of(now);
        self.next_pin_end.fetch_min(*next.as_ref().unwrap_or(&0), Ordering::Relaxed);
        next.map(|_| ())
    }

    /// Says when the next pin ends.
    fn end_pins_of(&self, now: u64) -> Result<u64, StoreError> {
        let (mut ended, mut next) = (Vec::new(), u64::MAX);
        let visit = |digest: Digest, record: BlobRecord| {
            match record.pinned_until {
                0 => {}
                until if until <= now => ended.push(digest),
                until => next = next.min(until),
            }
            ControlFlow::Continue(())
        };
        self.index.each_blob(None, visit).map_err(|fault| self.index_fault("look for ended pins", fault))?;
        for digest in ended {
            let Some(hold) = self.claims.try_hold(&digest) else {
                next = now;
                continue;
            };
            let Some(record) = self.record(&digest)? else { continue };
            if record.pinned_until <= now {
                let free = BlobRecord { pinned_until: 0, ..record.clone() };
                self.replace_record(&hold, &digest, &record, &free, Durability::Kernel)?;
            }
        }
        Ok(next)
    }

    fn expire_blobs(
        &self,
        now: SystemTime,
        max_age: Duration,
        expired: &mut Taken,
    ) -> Result<(), StoreError> {
        let Some(oldest) = now.checked_sub(max_age).map(to_millis) else { return Ok(()) };
        let is_old = |digest: &Digest, record: &BlobRecord| {
            !record.is_pinned() && self.use_of(digest, record).0 < oldest
        };
        loop {
            let mut old = Vec::new();
            let visit = |digest: Digest, record: BlobRecord| {
                if is_old(&digest, &record) && !self.claims.is_busy(&digest) {
                    old.push(digest);
                }
                if old.len() < EXPIRED_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            self.index
                .each_blob(None, visit)
                .map_err(|fault| self.index_fault("look for expired blobs", fault))?;
            let before = expired.count;
            for digest in &old {
                if let Some(bytes) = self.take_blob(digest, |record| is_old(digest, record))? {
                    expired.add(bytes);
                    self.room.count_expired(bytes);
                }
            }
            if old.len() < EXPIRED_MAX || expired.count == before {
                return Ok(());
            }
        }
    }

    fn expire_partials(&self, now: SystemTime, expired: &mut Taken) -> Result<(), StoreError> {
        let oldest = now.checked_sub(self.options.partial_max_age).map_or(0, to_millis);
        for idle in self.idle_partials() {
            if idle.recorded && idle.written_at >= oldest {
                continue;
            }
            if let Some(bytes) = self.take_idle_partial(&idle.digest)? {
                expired.add(bytes);
                self.room.count_expired(bytes);
            }
        }
        Ok(())
    }

    /// Gives the content files of one fan-out directory their entries, should they have lost them. All directories
    /// have their turn within some hours; looking through all of them at each start would cost seconds.
    fn adopt_from(&self, first: u8) -> Result<u64, StoreError> {
        let mut adopted = 0;
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.layout.fan_out_of(algorithm, first);
            let io = |error| StoreError::io("read the directory", &dir)(error);
            for file in self.layout.content_files(algorithm, first).map_err(io)? {
                let (digest, _) = file.map_err(io)?;
                if self.record(&digest)?.is_some() {
                    continue;
                }
                // Whoever holds it is about to add or remove the entry.
                let Some(hold) = self.claims.try_hold(&digest) else { continue };
                adopted += u64::from(self.adopt(&hold, &digest)?);
            }
        }
        Ok(adopted)
    }

    fn adopt(&self, _hold: &Hold, digest: &Digest) -> Result<bool, StoreError> {
        // Looked at again under the hold: both may have changed.
        let path = self.layout.blob(digest);
        let found = record_of_file(&path).map_err(StoreError::io("look at a content file", &path))?;
        let (Some(blob), None) = (found, self.record(digest)?) else { return Ok(false) };
        tracing::info!(%digest, size = blob.size, "a content file without an index entry is adopted");
        let counted = || self.room.add(&blob);
        self.index
            .apply(&[Change::PutBlob(digest, &blob)], Durability::Kernel, counted)
            .map_err(|fault| self.index_fault("adopt a blob", fault))?;
        Ok(true)
    }

    /// Removes tags that have expired and whose manifest is gone, and links to blobs that are gone: nothing can be
    /// served by them any more, and nothing else bounds their number. A link is written before its blob, so only what led
    /// nowhere at the last search as well is gone.
    fn prune(&self, now: SystemTime, dangling: &mut HashSet<Digest>) -> Result<(), StoreError> {
        let fault = |fault| self.index_fault("look for records that lead nowhere", fault);
        let mut tags = Vec::new();
        self.index
            .each_entry(Family::Tags, |key, value| {
                let tag = record::decode_tag(value)?;
                if tag.expires_at < now {
                    tags.push((key.to_vec(), tag.digest));
                }
                Ok(())
            })
            .map_err(fault)?;
        let mut links = HashSet::new();
        self.index
            .each_entry(Family::Links, |key, _| {
                links.insert(record::link_of_key(key)?.0);
                Ok(())
            })
            .map_err(fault)?;
        for (key, digest) in tags {
            if !self.is_anywhere(&digest)? {
                self.index.apply(&[Change::DeleteTag(&key)], Durability::Kernel, || ()).map_err(fault)?;
            }
        }
        let before = std::mem::take(dangling);
        for digest in links {
            if self.is_anywhere(&digest)? {
                continue;
            }
            if before.contains(&digest) {
                self.index
                    .apply(&[Change::DeleteLinks(&digest)], Durability::Kernel, || ())
                    .map_err(fault)?;
            } else {
                dangling.insert(digest);
            }
        }
        Ok(())
    }

    fn is_anywhere(&self, digest: &Digest) -> Result<bool, StoreError> {
        let in_runtime = || self.runtime.as_ref().is_some_and(|runtime| runtime.open(digest).is_some());
        Ok(self.record(digest)?.is_some() || in_runtime())
    }
}
