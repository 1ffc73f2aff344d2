//! How many bytes are stored and promised, and whether more may come.
//!
//! Question: does a blob of this size fit, and if not, how much has to be evicted first? Answer: sums, kept up to date
//! with every change and reckoned anew at each start. A partial counts with its full size from the moment it is opened,
//! so that two large blobs that arrive together cannot both be let in where only one has room.
//!
//! Invariant: stored plus reserved bytes never exceed the capacity, unless the capacity was lowered below what is stored.

use parking_lot::Mutex;

use crate::error::FullCause;
use crate::index::Survey;
use crate::record::BlobRecord;

/// Limits in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub capacity: Option<u64>,
    /// Eviction starts here...
    pub high: u64,
    /// ...and stops here.
    pub low: u64,
    pub disk_free_min: u64,
}

/// What is stored, and what has become of the rest. Counters count from the opening of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Whole blobs.
    pub blobs: u64,
    /// Bytes of whole blobs in files.
    pub file_bytes: u64,
    /// Bytes of whole blobs in the index.
    pub inline_bytes: u64,
    /// Whole blobs that are pinned.
    pub pinned: u64,
    /// Their bytes, in files and in the index.
    pub pinned_bytes: u64,
    /// Partial blobs, active or not.
    pub partials: u64,
    /// Bytes reserved for partial blobs: their full size, whatever has arrived of it.
    pub partial_bytes: u64,
    /// The size cap, if there is one.
    pub capacity: Option<u64>,
    /// Bytes free on the file system.
    pub disk_free: u64,
    /// Counter: blobs and partials removed to make room.
    pub evicted: u64,
    /// Counter: their bytes.
    pub evicted_bytes: u64,
    /// Counter: blobs and partials removed because nobody used them for too long.
    pub expired: u64,
    /// Counter: their bytes.
    pub expired_bytes: u64,
}

impl Usage {
    /// Bytes that count against the capacity.
    pub fn bytes(&self) -> u64 {
        self.file_bytes + self.inline_bytes + self.partial_bytes
    }
}

#[derive(Debug, Default)]
struct Totals {
    blobs: u64,
    file_bytes: u64,
    inline_bytes: u64,
    pinned: Pinned,
    /// For partials and for puts under way.
    reserved: u64,
    /// The part of `reserved` that will still be written: the disk does not know of it yet.
    promised: u64,
    evicted: (u64, u64),
    expired: (u64, u64),
}

impl Totals {
    fn bytes_of(&mut self, record: &BlobRecord) -> &mut u64 {
        if record.inline { &mut self.inline_bytes } else { &mut self.file_bytes }
    }
}

/// What is pinned, of what is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pinned {
    pub blobs: u64,
    pub bytes: u64,
}

impl Pinned {
    /// Counts a record, if it is that of a pinned blob.
    pub(crate) fn add(&mut self, record: &BlobRecord) {
        if record.is_pinned() {
            self.blobs += 1;
            self.bytes += record.size;
        }
    }

    fn subtract(&mut self, record: &BlobRecord) {
        if record.is_pinned() {
            debug_assert!(self.blobs > 0 && self.bytes >= record.size);
            self.blobs = self.blobs.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(record.size);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Room {
    limits: Limits,
    totals: Mutex<Totals>,
}

/// There is no room yet.
#[derive(Debug)]
pub(crate) struct Short {
    /// Bytes to evict. `None`: that would not help, or there is nothing to evict.
    pub evict: Option<u64>,
    /// Fewer do not help: so many are missing even if nothing is left free for what comes next.
    pub evict_least: u64,
    pub cause: FullCause,
}

/// How strictly the high watermark is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Ask for eviction as soon as the watermark is passed.
    Watermark,
    /// Nothing more can be evicted: go up to the capacity itself.
    Capacity,
}

impl Room {
    pub(crate) fn new(limits: Limits) -> Self {
        Room { limits, totals: Mutex::default() }
    }

    /// Reserves `bytes` of the capacity, of which `unwritten` are still to be written to a disk with `free` bytes free.
    pub(crate) fn reserve(&self, bytes: u64, unwritten: u64, free: u64, line: Line) -> Result<(), Short> {
        let mut totals = self.totals.lock();
        let stored = totals.file_bytes + totals.inline_bytes + totals.reserved;
        let limits = &self.limits;
        let wanted = stored.saturating_add(bytes);
        let capacity = limits.capacity.filter(|_| bytes > 0);
        let disk = match unwritten {
            0 => 0,
            _ => (limits.disk_free_min + totals.promised).saturating_add(unwritten).saturating_sub(free),
        };
        let evict_least = disk.max(capacity.map_or(0, |capacity| wanted.saturating_sub(capacity)));
        if disk > 0 {
            let free = free.saturating_sub(totals.promised);
            let cause = FullCause::DiskFree { needed: unwritten, free, keep: limits.disk_free_min };
            return Err(Short { evict: (disk <= stored).then_some(disk), evict_least, cause });
        }
        if let Some(capacity) = capacity {
            let line = if line == Line::Capacity { capacity } else { limits.high };
            if wanted > line {
                let evict = (wanted - limits.low.min(wanted)).min(stored);
                let evict = (bytes <= capacity && evict > 0).then_some(evict);
                let cause = FullCause::Capacity { needed: bytes, stored, capacity };
                return Err(Short { evict, evict_least, cause });
            }
        }
        totals.reserved += bytes;
        totals.promised += unwritten;
        Ok(())
    }

    /// Bytes to evict now that nothing new is asked for: down to the low watermark once the high one is passed.
    pub(crate) fn excess(&self, free: u64) -> u64 {
        let totals = self.totals.lock();
        let stored = totals.file_bytes + totals.inline_bytes + totals.reserved;
        let over = match self.limits.capacity {
            Some(_) if stored > self.limits.high => stored - self.limits.low,
            _ => 0,
        };
        over.max((self.limits.disk_free_min + totals.promised).saturating_sub(free))
    }

    /// Bytes that can still be let in if all that is stored goes but `stays`, on a disk with `free` bytes free.
    pub(crate) fn beside(&self, stays: u64, free: u64) -> u64 {
        let totals = self.totals.lock();
        let goes = (totals.file_bytes + totals.inline_bytes).saturating_sub(stays);
        let disk = (free + goes).saturating_sub(self.limits.disk_free_min + totals.promised);
        let capacity = self.limits.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(stays));
        disk.min(capacity)
    }

    /// Gives back a reservation.
    pub(crate) fn release(&self, bytes: u64) {
        let mut totals = self.totals.lock();
        debug_assert!(totals.reserved >= bytes);
        totals.reserved = totals.reserved.saturating_sub(bytes);
    }

    /// Promised bytes have been written, or never will be.
    pub(crate) fn settle(&self, bytes: u64) {
        let mut totals = self.totals.lock();
        debug_assert!(totals.promised >= bytes);
        totals.promised = totals.promised.saturating_sub(bytes);
    }

    /// Counts what is reserved since before the start: a partial that was found.
    pub(crate) fn found_reserved(&self, bytes: u64) {
        self.totals.lock().reserved += bytes;
    }

    /// Counts a blob whose record is new.
    pub(crate) fn add(&self, record: &BlobRecord) {
        let mut totals = self.totals.lock();
        totals.blobs += 1;
        *totals.bytes_of(record) += record.size;
        totals.pinned.add(record);
    }

    /// Counts no more a blob whose record is gone.
    pub(crate) fn subtract(&self, record: &BlobRecord) {
        let mut totals = self.totals.lock();
        debug_assert!(totals.blobs > 0);
        totals.blobs = totals.blobs.saturating_sub(1);
        let sum = totals.bytes_of(record);
        debug_assert!(*sum >= record.size);
        *sum = sum.saturating_sub(record.size);
        totals.pinned.subtract(record);
    }

    /// A record takes the place of another one of the same blob.
    pub(crate) fn replace(&self, old: &BlobRecord, new: &BlobRecord) {
        debug_assert_eq!((old.size, old.inline), (new.size, new.inline));
        if old.is_pinned() != new.is_pinned() {
            let mut totals = self.totals.lock();
            totals.pinned.subtract(old);
            totals.pinned.add(new);
        }
    }

    /// Starts from a fresh count of the index.
    pub(crate) fn recount(&self, found: &Survey) {
        let mut totals = self.totals.lock();
        (totals.blobs, totals.pinned) = (found.blobs, found.pinned);
        (totals.file_bytes, totals.inline_bytes) = (found.file_bytes, found.inline_bytes);
    }

    pub(crate) fn count_evicted(&self, bytes: u64) {
        let mut totals = self.totals.lock();
        totals.evicted.0 += 1;
        totals.evicted.1 += bytes;
    }

    pub(crate) fn count_expired(&self, bytes: u64) {
        let mut totals = self.totals.lock();
        totals.expired.0 += 1;
        totals.expired.1 += bytes;
    }

    /// All sums; what concerns partials and the disk is the caller's to fill in.
    pub(crate) fn usage(&self) -> Usage {
        let totals = self.totals.lock();
        Usage {
            blobs: totals.blobs,
            file_bytes: totals.file_bytes,
            inline_bytes: totals.inline_bytes,
            pinned: totals.pinned.blobs,
            pinned_bytes: totals.pinned.bytes,
            capacity: self.limits.capacity,
            evicted: totals.evicted.0,
            evicted_bytes: totals.evicted.1,
            expired: totals.expired.0,
            expired_bytes: totals.expired.1,
            ..Usage::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: u64 = 10_000;

    fn blob(size: u64) -> BlobRecord {
        BlobRecord {
            size,
            media_type: None,
            inline: false,
            pinned: false,
            stored_at: 0,
            used_at: 0,
            hits: 0,
            pinned_until: 0,
        }
    }

    fn room() -> Room {
        Room::new(Limits { capacity: Some(1000), high: 900, low: 800, disk_free_min: 100 })
    }

    #[test]
    fn what_is_evicted_before_something_is_let_in() {
        // stored, asked for, line, answer: let in, or bytes to evict, or hopeless.
        let table = [
            (0, 900, Line::Watermark, Ok(())),
            (0, 901, Line::Watermark, Err(None)),
            (0, 1000, Line::Capacity, Ok(())),
            (0, 1001, Line::Watermark, Err(None)),
            (800, 101, Line::Watermark, Err(Some(101))),
            (800, 101, Line::Capacity, Ok(())),
            (800, 201, Line::Capacity, Err(Some(201))),
            (500, 950, Line::Watermark, Err(Some(500))),
            (500, 1001, Line::Watermark, Err(None)),
        ];
        for (stored, bytes, line, answer) in table {
            let room = room();
            room.add(&blob(stored));
            let found = room.reserve(bytes, bytes, FREE, line).map_err(|short| short.evict);
            assert_eq!(found, answer, "{stored} {bytes} {line:?}");
        }
    }

    #[test]
    fn what_is_missing_at_least() {
        // Of 1000 bytes 800 are stored. What is asked for, free on the disk, answer.
        let table = [(101, FREE, 0), (250, FREE, 50), (250, 320, 50), (250, 150, 200)];
        for (bytes, free, answer) in table {
            let room = room();
            room.add(&blob(800));
            let short = room.reserve(bytes, bytes, free, Line::Watermark).unwrap_err();
            assert_eq!(short.evict_least, answer, "{bytes} {free}");
        }
    }

    #[test]
    fn two_that_arrive_together_do_not_overrun_the_cap() {
        let room = room();
        room.reserve(600, 600, FREE, Line::Watermark).unwrap();
        let short = room.reserve(600, 600, FREE, Line::Capacity).unwrap_err();
        assert!(matches!(short.cause, FullCause::Capacity { needed: 600, stored: 600, capacity: 1000 }));
    }

    #[test]
    fn promised_bytes_are_not_free() {
        let room = Room::new(Limits { capacity: None, high: u64::MAX, low: u64::MAX, disk_free_min: 100 });
        room.reserve(500, 500, 1000, Line::Watermark).unwrap();
        let short = room.reserve(500, 500, 1000, Line::Watermark).unwrap_err();
        assert!(matches!(short.cause, FullCause::DiskFree { needed: 500, free: 500, keep: 100 }));
        // Written now, so the disk says so itself.
        room.settle(500);
        assert!(room.reserve(400, 400, 500, Line::Watermark).is_ok());
    }

    #[test]
    fn room_beside_what_stays() {
        // Stored, of which so much stays, free on the disk, room.
        let table = [
            (0, 0, FREE, 1000),
            (900, 0, FREE, 1000),
            (900, 700, FREE, 300),
            (900, 900, 150, 50),
            (900, 100, 150, 850),
        ];
        for (stored, stays, free, expected) in table {
            let room = room();
            room.add(&blob(stored));
            assert_eq!(room.beside(stays, free), expected, "{stored} {stays} {free}");
        }
    }

    #[test]
    fn excess() {
        let room = room();
        room.add(&blob(900));
        assert_eq!(room.excess(FREE), 0);
        room.add(&BlobRecord { inline: true, ..blob(1) });
        assert_eq!(room.excess(FREE), 101);
        assert_eq!(room.excess(0), 101);
        room.subtract(&blob(900));
        assert_eq!(room.excess(40), 60);
    }
    #[test]
    fn what_is_pinned() {
        let room = room();
        let (free, pinned) = (blob(10), BlobRecord { pinned: true, ..blob(10) });
        let for_a_while = BlobRecord { pinned_until: 7, ..blob(10) };
        let sums = |room: &Room| (room.usage().pinned, room.usage().pinned_bytes);
        room.add(&free);
        room.add(&pinned);
        assert_eq!(sums(&room), (1, 10));
        for (old, new, expected) in [
            (&free, &free, (1, 10)),
            (&free, &for_a_while, (2, 20)),
            (&for_a_while, &pinned, (2, 20)),
            (&pinned, &free, (1, 10)),
        ] {
            room.replace(old, new);
            assert_eq!(sums(&room), expected, "{old:?} {new:?}");
        }
        room.subtract(&free);
        room.subtract(&pinned);
        assert_eq!(sums(&room), (0, 0));
    }
}
