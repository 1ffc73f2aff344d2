//! Making room.
//!
//! Question: which blobs go when there is no room? Answer: the least recently used that nobody uses now and nobody has
//! pinned, partial blobs that nobody has open among them; none if all of these together would not be enough. Prevents a full
//! disk, a pull that loses what it reads, and a store that is emptied for a size that somebody has merely claimed.
//!
//! Victims are found by reading the records, not from a list in memory: 100,000 records take a twentieth of a second, and
//! the distance between the watermarks makes that rare; a list would cost 10 MB all the time.

use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::path::Path;

use parking_lot::MutexGuard;
use shoal_engine::Digest;

use super::Inner;
use crate::error::StoreError;
use crate::index::Durability;
use crate::record::BlobRecord;
use crate::room::Line;

/// Victims chosen in one reading of the records, at most: bounds the memory this takes to some hundred KiB.
const VICTIMS_MAX: usize = 4096;
/// Victims at once where there is room already and only the watermark is passed. Others wait for it, and on a slow disk it takes
/// a second or two: what takes longer would be taken for a disk that hangs.
const STEP_MAX: usize = 256;
/// Readings of the records for one request for room. The first is enough unless blobs are many and tiny.
const ROUNDS_MAX: usize = 64;
/// Steps of one sweep.
const STEPS_MAX: usize = 1024;

/// Ordered by time of last use first, so that the newest is on top of a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Victim {
    used_at: u64,
    size: u64,
    digest: Digest,
    partial: bool,
}

/// The oldest candidates that are enough together.
struct Victims {
    wanted: u64,
    most: usize,
    bytes: u64,
    heap: BinaryHeap<Victim>,
}

impl Victims {
    fn new(wanted: u64, most: usize) -> Self {
        Victims { wanted, most, bytes: 0, heap: BinaryHeap::new() }
    }

    fn offer(&mut self, victim: Victim) {
        self.bytes += victim.size;
        self.heap.push(victim);
        // As long as the others are enough, the newest is spared.
        while let Some(newest) = self.heap.peek()
            && (self.bytes - newest.size >= self.wanted || self.heap.len() > self.most)
        {
            self.bytes -= newest.size;
            self.heap.pop();
        }
    }

    /// Oldest first.
    fn into_vec(self) -> Vec<Victim> {
        self.heap.into_sorted_vec()
    }
}

impl Inner {
    /// Reserves `bytes` of the capacity, of which `unwritten` are still to be written, and evicts what is needed for it.
    pub(crate) fn make_room(
        &self,
        operation: &'static str,
        path: &Path,
        bytes: u64,
        unwritten: u64,
    ) -> Result<(), StoreError> {
        let free =
            || self.layout.disk_free().map_err(StoreError::io("ask for free space", self.layout.root()));
        if self.room.reserve(bytes, unwritten, free()?, Line::Watermark).is_ok() {
            return Ok(());
        }
        let _one_at_a_time = self.evicting.lock();
        for round in 0..ROUNDS_MAX {
            // Asked again: the one before us may have made room enough for both.
            let Err(short) = self.room.reserve(bytes, unwritten, free()?, Line::Watermark) else {
                return Ok(());
            };
            let Some(wanted) = short.evict else { break };
            // The next one goes on where this one has its room, or the next sweep does.
            let has_room = short.evict_least == 0;
            let most = if has_room { STEP_MAX } else { VICTIMS_MAX };
            if has_room && round > 0 || self.evict(wanted, short.evict_least, most)? == 0 {
                break;
            }
        }
        self.room.reserve(bytes, unwritten, free()?, Line::Capacity).map_err(|short| StoreError::Full {
            operation,
            path: path.to_owned(),
            cause: short.cause,
        })
    }

    /// Evicts down to where nothing is in excess, step by step: a blob that comes meanwhile waits for one of them.
    pub(super) fn evict_excess(&self) -> Result<(), StoreError> {
        for _ in 0..STEPS_MAX {
            let one_at_a_time = self.evicting.lock();
            let free = self.layout.disk_free();
            let free = free.map_err(StoreError::io("ask for free space", self.layout.root()))?;
            let excess = self.room.excess(free);
            if excess == 0 || self.evict(excess, 0, STEP_MAX)? == 0 {
                break;
            }
            MutexGuard::unlock_fair(one_at_a_time);
        }
        Ok(())
    }

    /// Removes the least recently used until `wanted` bytes are free or `most` are gone, but nothing if there are fewer than `least`
    /// bytes to be had; says how many were.
    fn evict(&self, wanted: u64, least: u64, most: usize) -> Result<u64, StoreError> {
        let (mut victims, mut to_be_had) = (Victims::new(wanted, most), 0_u64);
        let visit = |digest: Digest, record: BlobRecord| {
            if !record.is_pinned() && !self.claims.is_busy(&digest) {
                to_be_had = to_be_had.saturating_add(record.size);
                let (used_at, _) = self.use_of(&digest, &record);
                victims.offer(Victim { used_at, size: record.size, digest, partial: false });
            }
            ControlFlow::Continue(())
        };
        self.index
            .each_blob(None, visit)
            .map_err(|fault| self.index_fault("look for blobs to evict", fault))?;
        // One that is just being opened cannot make room for itself.
        for idle in self.idle_partials().iter().filter(|idle| !self.claims.is_busy(&idle.digest)) {
            to_be_had = to_be_had.saturating_add(idle.reserved);
            // What has no record cannot be continued; it is worth nothing.
            let used_at = if idle.recorded { idle.written_at } else { 0 };
            victims.offer(Victim { used_at, size: idle.reserved, digest: idle.digest, partial: true });
        }
        if to_be_had < least {
            return Ok(0);
        }
        let mut freed = 0;
        let mut refused = None;
        for victim in victims.into_vec() {
            let taken = if victim.partial {
                self.take_idle_partial(&victim.digest)
            } else {
                // Pinned or used again since it was chosen: then it stays.
                let same = |record: &BlobRecord| {
                    !record.is_pinned() && self.use_of(&victim.digest, record).0 <= victim.used_at
                };
                self.take_blob(&victim.digest, same)
            };
            match taken {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    self.room.count_evicted(bytes);
                    freed += bytes;
                }
                // The index has no room to take note. The file is gone already, and more of that is what helps.
                Err(error @ StoreError::Full { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        match refused {
            Some(error) if freed == 0 => Err(error),
            _ => Ok(freed),
        }
    }

    /// Removes a blob that nobody uses and that is still what it was chosen for; says how many bytes it had.
    pub(super) fn take_blob(
        &self,
        digest: &Digest,
        still: impl FnOnce(&BlobRecord) -> bool,
    ) -> Result<Option<u64>, StoreError> {
        let Some(hold) = self.claims.try_hold_to_evict(digest) else { return Ok(None) };
        let Some(record) = self.record(digest)?.filter(still) else { return Ok(None) };
        // Should the file come back after a loss of power, it is a good one, and is adopted and evicted again.
        self.remove_blob(&hold, digest, &record, Durability::Kernel)?;
        Ok(Some(record.size))
    }

    /// Deletes a partial that nobody has open; says how many bytes were reserved for it.
    pub(super) fn take_idle_partial(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let Some(hold) = self.claims.try_hold(digest) else { return Ok(None) };
        let Some(reserved) = self.partials.idle_reserved(digest) else { return Ok(None) };
        self.delete_partial(&hold, digest)?;
        Ok(Some(reserved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn victim(used_at: u64, size: u64) -> Victim {
        let digest = format!("sha256:{used_at:064x}").parse().unwrap();
        Victim { used_at, size, digest, partial: false }
    }

    #[test]
    fn the_oldest_that_are_enough() {
        // Bytes wanted; times of last use of those that go. Each has ten bytes but the second oldest, which has 100.
        let table: [(u64, &[u64]); 5] =
            [(1, &[1]), (10, &[1]), (11, &[1, 2]), (110, &[1, 2]), (111, &[1, 2, 3])];
        for (wanted, gone) in table {
            let mut victims = Victims::new(wanted, VICTIMS_MAX);
            for used_at in [3, 1, 5, 2, 4] {
                victims.offer(victim(used_at, if used_at == 2 { 100 } else { 10 }));
            }
            let chosen: Vec<u64> = victims.into_vec().iter().map(|victim| victim.used_at).collect();
            assert_eq!(chosen, gone, "{wanted}");
        }
    }

    #[test]
    fn never_more_than_memory_allows_and_still_the_oldest() {
        let mut victims = Victims::new(u64::MAX, VICTIMS_MAX);
        for used_at in (1..=2 * VICTIMS_MAX as u64).rev() {
            victims.offer(victim(used_at, 1));
        }
        let chosen = victims.into_vec();
        assert_eq!(chosen.len(), VICTIMS_MAX);
        assert_eq!(chosen.last().unwrap().used_at, VICTIMS_MAX as u64);
    }
}
