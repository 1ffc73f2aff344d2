//! What warming asks of a node: manifests without what usually follows from them, blobs that nobody reads, and what is here.
//!
//! Invariant: nothing is fetched here for a warm set that a client without a token would not get.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt as _;
use shoal_engine::{Digest, Input, Reference, Scope};
use shoal_store::Store;

use super::{Asked, BlobReply, Cause, ManifestReply, Node, Part, PullError};
use crate::driver::{self, BodyError};
use crate::manifest::{self, Platform};
use crate::metrics::Served;
use crate::upstream::Sought;

/// Longest time from a blob's last byte until the store has it: a disk that is busy syncs a large one for long.
const STORED_MAX: Duration = Duration::from_secs(60);
/// Pause between two looks whether it has.
const STORED_LOOK: Duration = Duration::from_millis(25);

/// What a node has of some blobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Whether each is here, whole, in the order they were asked for.
    pub here: Vec<bool>,
    /// Bytes of them that this node itself has received from upstream lately.
    pub upstream_bytes: u64,
    /// Bytes that the store can take beside those of them that are here, if it was asked.
    pub room: Option<u64>,
}

/// Why a blob did not come while it was warmed on this node alone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WarmError {
    /// It cannot be had.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// It broke off.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// It came, and the store did not keep it.
    #[error("this node's store does not keep it: look at `shoal status` and the log")]
    NotStored,
}

impl Node {
    /// A manifest with its bytes, stored, and its digest made known to the members that keep who has what. Other than
    /// for a client, its layers do not begin to move: this node may not be one of those that shall have them.
    pub(crate) async fn manifest_to_warm(
        &self,
        scope: &Scope,
        reference: &Reference,
    ) -> Result<ManifestReply, PullError> {
        let asked = Asked::without_token(scope.clone());
        let reply = self.in_time(async {
            let admitted = self.0.access.admit(&asked, &Sought::Manifest(reference.clone())).await?;
            if !admitted.stores {
                let reason = "what it has is not stored here (cache = false), so no node can be warm".into();
                return Err(PullError::Withheld(vec![Cause { source: scope.registry.to_string(), reason }]));
            }
            let result = self.0.manifest_reply(&admitted, reference, true).await;
            self.0.access.answered(&admitted, result).await
        });
        let reply = reply.await?;
        self.driver().input(Input::Stored { digest: reply.digest, size: reply.size }).await;
        Ok(reply)
    }

    /// Receives a blob for nobody, until it is in the store. `progress` hears of each batch.
    pub(crate) async fn warm_blob(
        &self,
        scope: &Scope,
        digest: Digest,
        progress: impl Fn(u64),
    ) -> Result<(), WarmError> {
        let asked = Asked::without_token(scope.clone());
        let admitted = self.0.access.admit(&asked, &Sought::Blob(digest)).await?;
        let result = self.0.open_blob(&admitted, digest, Part::Whole).await;
        let BlobReply { mut body, source, .. } = self.0.access.answered(&admitted, result).await?;
        match source {
            Served::Store | Served::Runtime => return Ok(()),
            Served::PassThrough => return Err(WarmError::NotStored),
            _ => {}
        }
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                progress(bytes.len() as u64);
            }
        }
        // The last byte is ready a moment before the store has the blob for good.
        let stored = async {
            while self.0.stored(&admitted, digest).await.is_none() {
                tokio::time::sleep(STORED_LOOK).await;
            }
        };
        tokio::time::timeout(STORED_MAX, stored).await.map_err(|_| WarmError::NotStored)
    }

    /// Which of some blobs are here, and what of them came from upstream to this node within the last `age`.
    pub(crate) async fn held(&self, digests: Vec<Digest>, age: Duration) -> Held {
        let known: HashSet<Digest> = digests.iter().copied().collect();
        let here = self.0.parts.health().on_disk(move |store| {
            digests.iter().map(|digest| Ok(store.peek(digest)?.is_some())).collect::<Result<Vec<_>, _>>()
        });
        let (here, upstream_bytes) = tokio::join!(here, self.driver().upstream_bytes(known, age));
        Held { here: here.unwrap_or_default(), upstream_bytes, room: None }
    }

    /// The same, and how much more the store can take while these stay where they are here.
    pub(crate) async fn held_and_room(&self, digests: Vec<Digest>) -> Held {
        let kept: HashSet<Digest> = digests.iter().copied().collect();
        let room = self.0.parts.health().on_disk(move |store| store.room_beside(&kept));
        let (held, room) = tokio::join!(self.held(digests, Duration::ZERO), room);
        Held { room, ..held }
    }

    /// What an image runs on, by its configuration. It is fetched unless `stored` says that only what is here counts.
    pub(crate) async fn platform_to_warm(
        &self,
        scope: &Scope,
        config: Digest,
        stored: bool,
    ) -> Option<Platform> {
        if !stored {
            self.warm_blob(scope, config, |_| ()).await.ok()?;
        }
        let read = move |store: &Store| {
            let blob = store.get(&config, SystemTime::now())?;
            Ok(blob.as_ref().and_then(manifest::stored_bytes))
        };
        self.0.parts.health().on_disk(read).await.flatten().and_then(|bytes| manifest::platform_of(&bytes))
    }

    /// Keeps blobs that are here until then.
    pub(crate) async fn keep(&self, digests: Vec<Digest>, until: SystemTime) {
        self.0
            .parts
            .health()
            .on_disk(move |store| {
                digests.iter().try_for_each(|digest| store.pin_until(digest, until).map(|_| ()))
            })
            .await;
    }

    pub(crate) fn driver(&self) -> &driver::Handle {
        &self.0.parts.driver
    }
}
