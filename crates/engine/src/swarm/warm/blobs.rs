//! The blobs of a warm set on this node: which are there, which are on their way, which will not come.
//!
//! Invariant: a blob is begun once, and once more for each new run after it has failed.

use std::collections::BTreeSet;

use crate::ids::Digest;
use crate::limits::{WARM_FLIGHTS_MAX, WARM_TRIES_MAX};
use crate::wire::WarmFault;

/// How a blob, or a member, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not decided yet.
    Waiting,
    /// It is there.
    Ready,
    /// It will not come.
    Failed(WarmFault),
}

struct Blob {
    digest: Digest,
    size: u64,
    standing: Standing,
    flying: bool,
    tries: u32,
    /// It was there, and has left the store since.
    gone: bool,
}

/// See the module's head.
pub struct Blobs {
    blobs: Vec<Blob>,
}

impl Blobs {
    /// Blobs of which nothing is known; one that stands twice counts once.
    pub fn new(blobs: impl IntoIterator<Item = (Digest, u64)>) -> Self {
        let mut seen = BTreeSet::new();
        let blob = |(digest, size)| Blob {
            digest,
            size,
            standing: Standing::Waiting,
            flying: false,
            tries: 0,
            gone: false,
        };
        Blobs { blobs: blobs.into_iter().filter(|(digest, _)| seen.insert(*digest)).map(blob).collect() }
    }

    // ---- getters ----

    /// The blobs and their sizes.
    pub fn list(&self) -> Vec<(Digest, u64)> {
        self.blobs.iter().map(|b| (b.digest, b.size)).collect()
    }

    /// Size of all of them, bytes.
    pub fn size(&self) -> u64 {
        self.blobs.iter().fold(0, |sum, b| sum.saturating_add(b.size))
    }

    /// Ready if all are there; failed when all are decided and one has failed.
    pub fn standing(&self) -> Standing {
        if self.blobs.iter().any(|b| b.standing == Standing::Waiting) {
            return Standing::Waiting;
        }
        let failed = self.blobs.iter().map(|b| b.standing).find(|s| *s != Standing::Ready);
        failed.unwrap_or(Standing::Ready)
    }

    /// Bytes that are there; `received` says how many are of a blob on its way.
    pub fn bytes(&self, received: &dyn Fn(&Digest, u64) -> u64) -> u64 {
        let bytes = |b: &Blob| match b.standing {
            Standing::Ready => b.size,
            _ if b.flying => received(&b.digest, b.size),
            _ => 0,
        };
        self.blobs.iter().fold(0, |sum, b| sum.saturating_add(bytes(b)))
    }

    /// Those that are there.
    pub fn ready(&self) -> impl Iterator<Item = Digest> + '_ {
        self.blobs.iter().filter(|b| b.standing == Standing::Ready).map(|b| b.digest)
    }

    /// Whether a blob is on its way for this set.
    pub fn flies(&self, digest: &Digest) -> bool {
        self.blobs.iter().any(|b| b.flying && b.digest == *digest)
    }

    // ---- mutators ----

    /// Lets blobs begin as far as there is room among those that fly on this node, for whichever set.
    pub fn begin(&mut self, flying: &mut BTreeSet<Digest>, mut begin: impl FnMut(Digest, u64)) {
        for blob in self.blobs.iter_mut().filter(|b| b.standing == Standing::Waiting && !b.flying) {
            if flying.len() >= WARM_FLIGHTS_MAX && !flying.contains(&blob.digest) {
                return;
            }
            flying.insert(blob.digest);
            blob.flying = true;
            blob.tries += 1;
            begin(blob.digest, blob.size);
        }
    }

    /// A blob's flight has ended. Whether it was one of these.
    pub fn handle_over(&mut self, digest: &Digest, result: Result<(), WarmFault>) -> bool {
        let Some(blob) = self.blobs.iter_mut().find(|b| b.flying && b.digest == *digest) else {
            return false;
        };
        blob.flying = false;
        blob.standing = match result {
            Ok(()) => Standing::Ready,
            Err(WarmFault::WrongContent) if blob.tries < WARM_TRIES_MAX => Standing::Waiting,
            Err(fault) => Standing::Failed(fault),
        };
        true
    }

    /// A blob could not be begun; it is begun later.
    pub fn handle_postponed(&mut self, digest: &Digest) -> bool {
        let Some(blob) = self.blobs.iter_mut().find(|b| b.flying && b.digest == *digest) else {
            return false;
        };
        blob.flying = false;
        blob.tries -= 1;
        true
    }

    /// Nothing more is to come. Those that were on their way.
    pub fn stop(&mut self, why: WarmFault) -> Vec<Digest> {
        let mut flying = Vec::new();
        for blob in self.blobs.iter_mut().filter(|b| b.standing == Standing::Waiting) {
            blob.standing = Standing::Failed(why);
            if std::mem::take(&mut blob.flying) {
                flying.push(blob.digest);
            }
        }
        flying
    }

    /// A blob has left the store. It counts as there until the next run: a store that is too small for a set would fetch
    /// and lose its blobs in turn.
    pub fn handle_evicted(&mut self, digest: &Digest) {
        for blob in self.blobs.iter_mut().filter(|b| b.digest == *digest) {
            blob.gone = blob.standing == Standing::Ready;
        }
    }

    /// What has failed is tried again, and what has gone since it was there.
    pub fn renew(&mut self) {
        for blob in self.blobs.iter_mut().filter(|b| b.gone || matches!(b.standing, Standing::Failed(_))) {
            (blob.standing, blob.tries, blob.gone) = (Standing::Waiting, 0, false);
        }
    }
}
