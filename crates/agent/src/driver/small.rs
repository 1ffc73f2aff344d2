//! Small blobs, which the first home is asked for before anything else is done about them.
//!
//! Invariants: what the home sends is stored only if it is what the digest names; whatever the home does, the blob is still had as
//! any other one is.

use std::time::SystemTime;

use bytes::Bytes;
use shoal_engine::homes::homes;
use shoal_engine::peer::PeerId;
use shoal_engine::{Digest, Scope};

use super::story::Source;
use super::{Command, Driver, Handle, hash_function};
use crate::swarm::{SMALL_BLOB_BYTES_MAX, Swarm, name};

/// A blob that is to be asked for.
pub(super) struct SmallBlob {
    swarm: Swarm,
    home: PeerId,
    scope: Scope,
    digest: Digest,
    size: u64,
}

impl Driver {
    /// Whom to ask for a blob, if it is known to be small and its first home is somebody else who lives.
    pub(super) fn small_blob(&self, digest: Digest) -> Option<SmallBlob> {
        let size = self.engine.size_hint(&digest).filter(|size| *size <= SMALL_BLOB_BYTES_MAX)?;
        let swarm = self.swarm.clone()?;
        let home = homes(&digest, &swarm.roster()).first().filter(|home| *home != swarm.me())?;
        let scope = self.engine.flight(&digest)?.first_scope()?.clone();
        // A client's token is between this node and the registry.
        let is_anonymous = self.asked_for(digest, scope.clone()).bearer.is_none();
        let lives = !self.engine.swarm()?.says_nothing(self.now(), &home);
        (is_anonymous && lives).then_some(SmallBlob { swarm, home, scope, digest, size })
    }
}

impl SmallBlob {
    /// Asks for it. Whether it is in the store now.
    pub(super) async fn bring(self, driver: &Handle) -> bool {
        let SmallBlob { swarm, home, scope, digest, size } = self;
        let Some((bytes, visibility)) = swarm.ask_small_blob(home, &scope, (&digest, size), driver).await
        else {
            return false;
        };
        if !is_named(&bytes, digest, size) {
            let home = name(&home);
            tracing::warn!(%scope, digest = %digest.short(), %home, "a member sent a small blob that is not what was asked for");
            return false;
        }
        let kept = move |store: &shoal_store::Store| {
            // Before it is stored: whoever finds it must find its repository, too.
            store.link(&scope, &digest, visibility)?;
            store.put(&digest, None, &bytes, SystemTime::now())
        };
        let is_kept = driver.store_health().on_disk(kept).await.is_some();
        if is_kept {
            // An error means that the driver has ended.
            let _ = driver.inbox.send(Command::Brought(digest, Source::Member(home), size)).await;
        }
        is_kept
    }
}

/// Whether these are the bytes that a digest and a size name.
pub(crate) fn is_named(bytes: &Bytes, digest: Digest, size: u64) -> bool {
    bytes.len() as u64 == size && ring::digest::digest(hash_function(digest), bytes).as_ref() == digest.hash()
}

#[cfg(test)]
mod tests {
    use shoal_engine::Algorithm;

    use super::*;

    #[test]
    fn only_what_the_digest_and_the_manifest_name_is_taken() {
        let right = Bytes::from_static(b"a configuration");
        let hash = ring::digest::digest(&ring::digest::SHA256, &right);
        let digest = Digest::new(Algorithm::Sha256, hash.as_ref());
        let size = right.len() as u64;
        assert!(is_named(&right, digest, size));
        assert!(!is_named(&right, digest, size + 1));
        assert!(!is_named(&Bytes::from_static(b"a Configuration"), digest, size));
        assert!(!is_named(&Bytes::new(), digest, size));
    }
}
