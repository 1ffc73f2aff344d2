//! What the store hands out.

use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use shoal_engine::{Digest, Registry};

use crate::claims::UseGuard;

/// A whole blob. Eviction does not take it as long as this value or a clone of it lives; if it is removed on purpose
/// meanwhile, `content` can still be read to its end.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Media type it came with, if it came with one and the index has not been rebuilt since.
    pub media_type: Option<String>,
    /// The bytes, or where they are.
    pub content: Content,
    /// Whose they are.
    pub home: Home,
    /// Held for its drop alone.
    pub(crate) _guard: Option<Arc<UseGuard>>,
}

/// The bytes of a blob.
#[derive(Clone, Debug)]
pub enum Content {
    /// A small blob, in memory.
    Inline(Bytes),
    /// A file that holds exactly the blob, opened for reading. Its offset is shared: read with `pread` or map it.
    File(Arc<File>),
}

/// Where a blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Home {
    /// In this store.
    Own,
    /// In the container runtime's content store, which is only read.
    Runtime,
}

/// What the index knows of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Media type it came with.
    pub media_type: Option<String>,
    /// Where it lies.
    pub home: Home,
    /// Whether it lies in the index itself.
    pub inline: bool,
    /// Whether eviction and expiry leave it alone.
    pub pinned: bool,
    /// When a pin that has an end ends.
    pub pinned_until: Option<SystemTime>,
    /// When it was stored; the file's time of modification for the runtime's blobs and after a rebuild.
    pub stored_at: SystemTime,
    /// When it was last used.
    pub used_at: SystemTime,
    /// How often it was used.
    pub hits: u64,
}

/// Outcome of [`Store::verify`](crate::Store::verify).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// The bytes hash to the digest.
    Good {
        /// Bytes read.
        size: u64,
    },
    /// The bytes do not hash to the digest. A blob of our own has been removed; the runtime's is left alone.
    Wrong {
        /// What the bytes hash to.
        found: Digest,
        /// Whose bytes they are.
        home: Home,
    },
    /// There is no such blob.
    Missing,
}

/// How something was obtained, which says who may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Visibility {
    /// With somebody's credentials: for the repository that it was obtained through.
    Private,
    /// From a mirror, whose word is not the registry's: for the repository that it was obtained through, also where only
    /// public things are served.
    Mirrored,
    /// Anonymously: everybody could have got it the same way.
    Public,
}

/// What a tag was last seen to point to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    /// The manifest.
    pub digest: Digest,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest's size in bytes.
    pub size: u64,
    /// When the source was last asked. Kept to the millisecond.
    pub checked_at: SystemTime,
    /// Until when it need not be asked again. Kept to the millisecond.
    pub expires_at: SystemTime,
    /// How the source was asked.
    pub visibility: Visibility,
    /// The mirror that has told it; none if it was the registry itself.
    pub mirror: Option<Registry>,
}
