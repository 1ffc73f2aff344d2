//! What is known of a source and one blob: a lie, or bodies that break off.
//!
//! Invariant (I9): a mirror whose bytes did not hash to a blob's digest is not asked for that blob again while this
//! memory lasts, so it can spoil one pull and not two.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use shoal_engine::limits::PROGRESS_BYTES_MIN;
use shoal_engine::{Digest, Registry};

/// Pairs of blob and source that are remembered: a hundred bytes each.
const TROUBLES_MAX: u64 = 16 * 1024;

/// How long a lie is remembered. A mirror that has been repaired meanwhile is asked for all other blobs anyway.
const QUARANTINE: Duration = Duration::from_secs(6 * 3600);

/// How long a source is passed over for a blob whose transfer broke off there: longer than the pull, not much longer.
const BREAK_MEMORY: Duration = Duration::from_secs(60);

type Key = (Digest, Registry);

/// See the module's head. Clones share what they know.
#[derive(Clone)]
pub(super) struct Troubles {
    lies: Cache<Key, ()>,
    breaks: Cache<Key, ()>,
}

/// Why a source is not asked for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It has sent other bytes than the digest names.
    Lied,
    /// It has broken off without getting on.
    Broke,
}

impl Troubles {
    pub fn new() -> Self {
        let cache = |memory| Cache::builder().max_capacity(TROUBLES_MAX).time_to_live(memory).build();
        Troubles { lies: cache(QUARANTINE), breaks: cache(BREAK_MEMORY) }
    }

    /// The source has sent wrong bytes for the blob.
    pub async fn lied(&self, digest: &Digest, source: &Registry) {
        self.lies.insert((*digest, source.clone()), ()).await;
    }

    /// The source has broken off in the middle of the blob.
    pub async fn broke(&self, digest: &Digest, source: &Registry) {
        self.breaks.insert((*digest, source.clone()), ()).await;
    }

    /// Whether the source is passed over for the blob.
    pub fn of(&self, digest: &Digest, source: &Registry) -> Option<Trouble> {
        let key = (*digest, source.clone());
        if self.lies.contains_key(&key) {
            Some(Trouble::Lied)
        } else {
            self.breaks.contains_key(&key).then_some(Trouble::Broke)
        }
    }
}

/// Follows one transfer, to tell when it breaks off.
#[derive(Clone)]
pub(super) struct Watch {
    pub troubles: Troubles,
    pub digest: Digest,
    pub source: Arc<super::source::Source>,
}

impl Watch {
    /// The transfer broke after so many bytes. The same source is asked once more where it was getting on; one that
    /// stalled has let everybody wait long enough.
    pub async fn broke(&self, received: u64, stalled: bool) {
        if stalled || received < PROGRESS_BYTES_MIN {
            self.troubles.broke(&self.digest, &self.source.registry).await;
        }
    }
}
