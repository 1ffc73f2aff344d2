//! What can go wrong, and who is to blame. Two enums: opening the store is the operator's matter, everything after that
//! is a local fault that the pull survives by going straight upstream.

use std::io;
use std::path::{Path, PathBuf};

use shoal_engine::LocalFault;

use crate::record::RecordError;

/// Why a data directory cannot be used. Nothing in it has been changed, except that a broken index may have been moved
/// aside. Trying again helps only after the operator has done what the message says.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory belongs to another user: files made by us would be in that user's way, and theirs in ours.
    #[error("{path} belongs to user {owner}, this process runs as user {ours}; run as the owner, or chown -R {ours} {path}", path = path.display())]
    ForeignOwner {
        /// The data directory.
        path: PathBuf,
        /// Its owner's uid.
        owner: u32,
        /// The uid of this process.
        ours: u32,
    },
    /// Another process works in this directory.
    #[error("{path} is in use by {holder}; stop it, or configure another data directory", path = path.display(), holder = holder(*pid))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, if it has written its number.
        pid: Option<u32>,
    },
    /// The directory was written by another version of the format.
    #[error("{path} says {found:?}, this program reads and writes {ours:?}; run the version that wrote it, or move the directory away to start with an empty store", path = path.display())]
    Format {
        /// The `FORMAT` file.
        path: PathBuf,
        /// Its first line.
        found: String,
        /// What this program writes there.
        ours: &'static str,
    },
    /// There are blobs or an index, and no `FORMAT`: not a directory this program has made.
    #[error("{path} holds {entry} and no FORMAT file, so it was not made by shoal; configure an empty directory", path = path.display())]
    NotAStore {
        /// The data directory.
        path: PathBuf,
        /// The entry that should not be there.
        entry: &'static str,
    },
    /// The file system refused.
    #[error("cannot {operation} {path}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// The index can neither be opened nor be made anew.
    #[error("cannot open the index {path}", path = path.display())]
    Index {
        /// The index directory.
        path: PathBuf,
        /// The answer.
        source: IndexFault,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

impl OpenError {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Io { operation, path: path.to_owned(), source }
    }
}

/// Why the store could not do what it was asked. Always a local fault: neither client nor source is to blame.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No space left, no quota left, or the size cap cannot be met by evicting. Nothing was changed. The same call may
    /// succeed when something has been evicted or a blob is no longer in use.
    #[error("no room to {operation} at {path}", path = path.display())]
    Full {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// Which limit was met.
        #[source]
        cause: FullCause,
    },
    /// The disk or the index answered with an error. What was acknowledged before still holds. [`Store::sweep`]
    /// (crate::Store::sweep) tries to get a failed index to work again.
    #[error("cannot {operation} at {path}", path = path.display())]
    Broken {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What answered.
        #[source]
        cause: BrokenCause,
    },
}

/// Which limit leaves no room.
#[derive(Debug, thiserror::Error)]
pub enum FullCause {
    /// ENOSPC or EDQUOT from a content file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// ENOSPC or EDQUOT from the index.
    #[error(transparent)]
    Index(IndexFault),
    /// The size cap, with everything evicted that may be.
    #[error("{needed} bytes are needed, {stored} of {capacity} are taken by what cannot be evicted now")]
    Capacity {
        /// Bytes asked for.
        needed: u64,
        /// Bytes stored or reserved.
        stored: u64,
        /// The cap in bytes.
        capacity: u64,
    },
    /// The free space that must be left on the file system.
    #[error("{needed} bytes are needed, {free} are free and not promised, {keep} must be left")]
    DiskFree {
        /// Bytes asked for.
        needed: u64,
        /// Bytes free, less what other partial blobs will still take.
        free: u64,
        /// `disk_free_min`.
        keep: u64,
    },
}

/// What answered with an error.
#[derive(Debug, thiserror::Error)]
pub enum BrokenCause {
    /// A content file or directory.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The index.
    #[error(transparent)]
    Index(IndexFault),
    /// A partial that is to be committed does not have the length it was opened with.
    #[error("the file has {found} bytes instead of {expected}")]
    Length {
        /// The blob's size.
        expected: u64,
        /// The file's length.
        found: u64,
    },
    /// A partial that is to be committed was opened without a size, and none was set.
    #[error("the size is not known")]
    NoSize,
    /// A sync of this partial has failed before. The kernel may have dropped the data and would say that a second sync
    /// went well, so nothing of it can be believed any more.
    #[error("an earlier sync of this file has failed")]
    Poisoned,
    /// The partial was committed, discarded, or opened again by somebody else, who is its one writer now.
    #[error("this partial blob has been {0}")]
    Closed(&'static str),
}

impl StoreError {
    /// The family of local faults the engine decides on.
    pub fn fault(&self) -> LocalFault {
        match self {
            StoreError::Full { .. } => LocalFault::StoreFull,
            StoreError::Broken { .. } => LocalFault::StoreBroken,
        }
    }

    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |error| {
            let path = path.to_owned();
            if is_no_space(&error) {
                StoreError::Full { operation, path, cause: FullCause::Io(error) }
            } else {
                StoreError::Broken { operation, path, cause: BrokenCause::Io(error) }
            }
        }
    }

    pub(crate) fn index(operation: &'static str, path: &Path, fault: IndexFault) -> StoreError {
        let path = path.to_owned();
        if fault.kind() == FaultKind::NoSpace {
            StoreError::Full { operation, path, cause: FullCause::Index(fault) }
        } else {
            StoreError::Broken { operation, path, cause: BrokenCause::Index(fault) }
        }
    }
}

pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An error of the index, as its engine words it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct IndexFault(Fault);

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Engine(rocksdb::Error),
    #[error("a record cannot be read: {0}")]
    Record(#[from] RecordError),
    #[error("{0}")]
    Missing(&'static str),
    #[error("the index could not be opened again after a fault")]
    Closed,
}

/// What an [`IndexFault`] calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// Wait for space.
    NoSpace,
    /// Permissions, a lock, too many open files: a new index would fare no better.
    Refused,
    /// The contents are wrong or incomplete: only a new index helps.
    Corrupt,
    /// Anything else, EIO first of all: opening it again may help.
    Io,
}

impl IndexFault {
    pub(crate) fn missing(what: &'static str) -> Self {
        IndexFault(Fault::Missing(what))
    }

    pub(crate) fn closed() -> Self {
        IndexFault(Fault::Closed)
    }

    /// RocksDB gives a coarse kind and, for system calls, the operating system's words.
    pub(crate) fn kind(&self) -> FaultKind {
        const REFUSED: [&str; 5] = [
            "Permission denied",
            "Operation not permitted",
            "Read-only file system",
            "Too many open files",
            "While lock file",
        ];
        let error = match &self.0 {
            Fault::Engine(error) => error,
            Fault::Record(_) | Fault::Missing(_) => return FaultKind::Corrupt,
            Fault::Closed => return FaultKind::Io,
        };
        let text: &str = error.as_ref();
        if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
            FaultKind::NoSpace
        } else if REFUSED.iter().any(|words| text.contains(words)) {
            FaultKind::Refused
        } else if error.kind() == rocksdb::ErrorKind::Corruption {
            FaultKind::Corrupt
        } else {
            FaultKind::Io
        }
    }
}

impl From<rocksdb::Error> for IndexFault {
    fn from(error: rocksdb::Error) -> Self {
        IndexFault(Fault::Engine(error))
    }
}

impl From<RecordError> for IndexFault {
    fn from(error: RecordError) -> Self {
        IndexFault(Fault::Record(error))
    }
}
