//! Files as `Bytes`, and the way back from an address to its file.
//!
//! Invariant: an entry of [`MAPPINGS`] lies inside a live mapping. It is added after the mapping is made and taken away
//! before it is undone, so an address that is found always belongs to the file that is found with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};
use parking_lot::RwLock;

use crate::store_health::StoredFile;

/// Live mappings by their first address. Read once per `sendfile` of up to a megabyte and written once per mapped
/// file, so one lock is enough.
static MAPPINGS: RwLock<BTreeMap<usize, Arc<Source>>> = RwLock::new(BTreeMap::new());

/// The file behind a mapping.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: Arc<File>,
    len: usize,
    sent: AtomicU64,
    /// Who is told what cannot be read; nobody for a file that is still being received.
    stored: Option<StoredFile>,
}

impl Source {
    /// Length of the mapping, bytes.
    pub(super) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Counts bytes that the kernel took straight from the file.
    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The blob of which this is the file, once it is stored.
    pub(super) fn stored(&self) -> Option<&StoredFile> {
        self.stored.as_ref()
    }

    /// Sending this part has failed; by whose fault, the error says.
    pub(super) fn failed(&self, range: Range<u64>, error: &io::Error) {
        if let Some(stored) = &self.stored {
            stored.failed(range, error);
        }
    }
}

/// A file whose content can be put into an HTTP body without being read.
///
/// The file may still grow into its length: only ranges that have been written may be asked for with
/// [`MappedFile::bytes`]. It must never be shortened while this lives; if somebody does so all the same, the connection
/// that needs the missing part is cut.
#[derive(Debug)]
pub struct MappedFile {
    map: MmapRaw,
    source: Arc<Source>,
}

impl MappedFile {
    /// Maps the first `len` bytes of `file`, which may lie beyond its present end.
    ///
    /// # Errors
    /// Of `mmap(2)`: the file system cannot map files, the address space or the process's mappings are used up. The
    /// blob can still be served by reading it.
    pub fn new(file: Arc<File>, len: u64) -> io::Result<Arc<Self>> {
        MappedFile::map(file, len, None)
    }

    /// The same for the file of a stored blob. It is told when a part of it cannot be read, which then costs one client one answer.
    ///
    /// # Errors
    /// As for [`MappedFile::new`].
    pub(crate) fn of_stored(stored: StoredFile, len: u64) -> io::Result<Arc<Self>> {
        MappedFile::map(Arc::clone(stored.file()), len, Some(stored))
    }

    fn map(file: Arc<File>, len: u64, stored: Option<StoredFile>) -> io::Result<Arc<Self>> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let map = MmapOptions::new().len(len).map_raw_read_only(&*file)?;
        let source = Arc::new(Source { file, len, sent: AtomicU64::new(0), stored });
        let before = MAPPINGS.write().insert(map.as_ptr().addr(), Arc::clone(&source));
        assert!(before.is_none(), "two live mappings at one address");
        Ok(Arc::new(MappedFile { map, source }))
    }

    /// A part of the file, to be yielded by a body. The mapping lives until the last of these is dropped.
    ///
    /// # Panics
    /// If `range` lies outside the mapped length.
    pub fn bytes(self: &Arc<Self>, range: Range<u64>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} lies outside {}", self.len());
        if range.is_empty() {
            return Bytes::new();
        }
        // Both ends are at most `len`, which is a `usize`.
        let range = range.start as usize..range.end as usize;
        Bytes::from_owner(Part { file: Arc::clone(self), range })
    }

    /// Length of the mapping, bytes.
    pub fn len(&self) -> u64 {
        self.source.len as u64
    }

    /// Whether the mapping is empty.
    pub fn is_empty(&self) -> bool {
        self.source.len == 0
    }

    /// Bytes of this mapping that went from the file to a socket by `sendfile(2)` so far.
    pub fn sent_bytes(&self) -> u64 {
        self.source.sent.load(Ordering::Relaxed)
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // Fields are dropped, and the mapping undone, only after this.
        let known = MAPPINGS.write().remove(&self.map.as_ptr().addr());
        assert!(known.is_some(), "a live mapping was not registered");
    }
}

/// What keeps the mapping alive while a `Bytes` points into it.
struct Part {
    file: Arc<MappedFile>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        let start = self.file.map.as_ptr();
        // SAFETY: `range` lies inside the mapping (checked in `bytes`), the mapping is readable and lives as long as
        // `self.file`, and the part was written before it was asked for, so that it does not change any more. A file
        // shortened by others would make a read fault; nothing on this path reads.
        unsafe { std::slice::from_raw_parts(start.add(self.range.start), self.range.len()) }
    }
}

/// The file and the offset in it that `slice` is mapped from, if it is a part of a [`MappedFile`].
pub(super) fn find(slice: &[u8]) -> Option<(Arc<Source>, u64)> {
    let address = slice.as_ptr().addr();
    let mappings = MAPPINGS.read();
    let (start, source) = mappings.range(..=address).next_back()?;
    let offset = address - start;
    let inside = offset < source.len && slice.len() <= source.len - offset;
    inside.then(|| (Arc::clone(source), offset as u64))
}
