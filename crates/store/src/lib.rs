//! Blobs on disk: content files, an index in RocksDB, partial blobs that survive the death of the process.
//!
//! This crate does *not* hash what it is given (its caller has verified every blob before it commits it), does not
//! talk to anybody, runs no thread and no timer of its own (call [`Store::sweep`] from time to time), and is not a
//! registry: it knows digests, sizes and media types, and remembers tags because they must survive a restart. All calls
//! block and are safe from any thread; call them where blocking is allowed.
//!
//! # On disk
//! ```text
//! <path>/FORMAT                    "shoal-store 1": another version is refused, never guessed at
//! <path>/LOCK                      flock of the one process that may be here; holds its pid
//! <path>/blobs/<alg>/<2 hex>/<hex> a whole, verified blob; read-only from the moment it has this name
//! <path>/partial/<alg>-<hex>       a blob that is being received: sparse, of its full size
//! <path>/index/                    RocksDB: blobs, inline, partials, tags, links, meta
//! <path>/index.new/                an index that is being made; it gets its name when it is complete and synced
//! <path>/index.broken-<unix time>  the last index that could not be read, for whoever wants to know why
//! ```
//! Blobs up to `inline_max` live in the index itself: a manifest costs no file, no directory and one sync. So does a larger one that
//! is put while somebody else receives it.
//!
//! # Order of writes
//! A crash is the death of the process (what the kernel was given survives) or the loss of power (only what was synced
//! survives, and unsynced writes may have happened in any order).
//!
//! A piece of a blob becomes believed in this order:
//! 1. the bytes are written to the partial file;
//! 2. the file is synced, and once the directory that names it;
//! 3. the piece map is recorded in the index, synced.
//!
//! After a restart only what a record names counts. A file without a record is deleted. A record is deleted, synced,
//! *before* its file is deleted or replaced, so that a record can never speak about another file of the same name.
//!
//! A partial becomes a blob in this order:
//! 1. no write is accepted any more; the file is synced;
//! 2. the partial's record is marked as committing (not synced: this is for the death of the process only);
//! 3. the file is renamed into `blobs/`; the directory is synced;
//! 4. one index write, synced, adds the blob and removes the partial's record.
//!
//! A crash after 3 leaves a content file without an index entry. If its committing record survived, opening adopts it
//! by one look at one path. If power was lost and the record with it, [`Store::sweep`] adopts it, which walks one
//! fan-out directory at a time. Adopting is safe because a file gets its name in `blobs/` only after it was verified and synced.
//!
//! A blob is removed file first, index second: what a crash leaves is an entry without a file, which is a miss, is
//! removed when it is asked for, and is never an empty answer. Where the content was found to be wrong the directory
//! is synced in between, so that a wrong file cannot come back and be adopted.
//!
//! # Goals
//! - A crash at any system call loses at most what was received since the last checkpoint (`tests/crash.rs` tries all).
//! - The size cap holds at all times, counting the full size of what is still being received.
//! - Memory does not grow with the number of blobs: start reads every index record once, eviction reads them again.
//! - A broken index costs its tags, pins and inline blobs, never a content file.
//!
//! # Non-goals
//! - Sharing a directory between processes. Reading blobs without the index. Deduplication below whole blobs.
//! - Keeping exact use times over a crash: they are flushed by [`Store::sweep`] and when the store is dropped.

mod blob;
mod claims;
mod error;
mod index;
mod layout;
mod partial;
mod record;
mod room;
mod runtime;
mod store;

pub use blob::{Blob, BlobInfo, Content, Home, TagRecord, Verification, Visibility};
pub use error::{BrokenCause, FullCause, IndexFault, OpenError, StoreError};
pub use index::IndexCondition;
pub use layout::{Glance, glance};
pub use partial::Partial;
pub use room::Usage;
pub use store::{OpenReport, Opened, Options, Store, Swept, Taken};
