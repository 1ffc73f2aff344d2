//! Blobs: from the store, from the flight that brings them, or straight through.

use std::io;

use bytes::Bytes;
use shoal_engine::Digest;
use shoal_engine::io::{Outcome, PullFault};
use shoal_store::{Blob, Content, Home, Visibility};

use super::access::Admitted;
use super::proof::{self, Kind, Standing};
use super::{BlobReply, Cause, Inner, Part, PullError, pull_error};
use crate::driver::{BlobBody, Ending, Opened};
use crate::metrics::Served;
use crate::registry::sendfile::MappedFile;
use crate::store_health::StoredFile;
use crate::trace::TARGET;

/// Times a blob that the engine says is stored may be gone again when it is read. Eviction never takes what is in
/// use, so once is already unlikely.
const LOOKS_MAX: usize = 3;

/// Where a blob is that has been asked for.
pub(super) enum Come {
    /// In the store, or the runtime's.
    Stored {
        blob: Blob,
        visibility: Visibility,
        /// For this request.
        is_brought: bool,
    },
    /// On its way.
    Reply(BlobReply),
}

/// A stored blob that is a file cannot be handed out as one.
#[derive(Debug, thiserror::Error)]
#[error("cannot map the stored blob {digest}; the file system maps no files, or vm.max_map_count is reached")]
struct Unmapped {
    digest: Digest,
    source: io::Error,
}

impl Inner {
    pub(super) async fn open_blob(
        &self,
        admitted: &Admitted,
        digest: Digest,
        part: Part,
    ) -> Result<BlobReply, PullError> {
        let (blob, visibility, is_brought) = match self.come(admitted, digest, part).await? {
            Come::Reply(reply) => return Ok(reply),
            Come::Stored { blob, visibility, is_brought } => (blob, visibility, is_brought),
        };
        match self.stored_reply(blob, part, visibility, is_brought)? {
            Some(reply) => Ok(reply),
            None => {
                admitted.local()?;
                self.pass_through(admitted, digest, part).await
            }
        }
    }

    /// Has the blob come, unless it is here.
    pub(super) async fn come(
        &self,
        admitted: &Admitted,
        digest: Digest,
        part: Part,
    ) -> Result<Come, PullError> {
        if !admitted.stores {
            return self.pass_through(admitted, digest, part).await.map(Come::Reply);
        }
        let asked = &admitted.asked;
        let mut is_brought = false;
        for _ in 0..LOOKS_MAX {
            if let Some((blob, standing)) = self.stored(admitted, digest).await {
                let visibility = self.prove(admitted, &blob, standing, Kind::Blob).await?;
                return Ok(Come::Stored { blob, visibility, is_brought });
            }
            admitted.local()?;
            if self.parts.health().hangs() || self.parts.health().doubts(&digest) {
                // A flight begins with a look at the disk, and would wait for it, or find there what cannot be read.
                break;
            }
            let timeout = self.settings.body_idle_timeout;
            match self.parts.driver.open(asked, digest, part).await.opened(asked, digest, timeout).await {
                Opened::Reply { size, range, body, joined, proof } => {
                    // Nothing of the body has been read yet.
                    let visibility = self.prove_flight(admitted, digest, &proof).await?;
                    let source = if joined { Served::Shared } else { Served::Upstream };
                    return Ok(Come::Reply(BlobReply { size, range, body, source, visibility }));
                }
                Opened::Ended(Ending { outcome: Outcome::Stored, brought, .. }) => is_brought |= brought,
                Opened::Ended(Ending { outcome: Outcome::PassThrough, .. }) => break,
                Opened::Ended(ending) => return Err(ended(ending)),
            }
        }
        self.pass_through(admitted, digest, part).await.map(Come::Reply)
    }

    pub(super) async fn blob_size(
        &self,
        admitted: &Admitted,
        digest: Digest,
    ) -> Result<(u64, Served), PullError> {
        if let Some((blob, standing)) = self.stored(admitted, digest).await {
            self.prove(admitted, &blob, standing, Kind::Blob).await?;
            return Ok((blob.size, home(&blob)));
        }
        admitted.local()?;
        let (size, _) = self.upstream_size(admitted, digest).await?;
        self.parts.driver.described(digest, size, None).await;
        Ok((size, Served::Upstream))
    }

    /// A client must be told a length before it gets the first byte.
    async fn upstream_size(
        &self,
        admitted: &Admitted,
        digest: Digest,
    ) -> Result<(u64, Visibility), PullError> {
        let asked = &admitted.asked;
        let told = Box::pin(self.parts.sources.blob_size(asked, &digest)).await;
        let told = told.map_err(|e| pull_error(&e))?;
        if !admitted.suffices(told.visibility) {
            return Err(admitted.not_public());
        }
        let size = told.size.ok_or_else(|| {
            let source = asked.scope.to_string();
            PullError::Exhausted(vec![Cause {
                source,
                reason: "it does not tell how long the blob is".into(),
            }])
        })?;
        Ok((size, told.visibility))
    }

    /// The blob, if it is on this node and may be kept there, and what is known of the repository's right to it.
    pub(super) async fn stored(&self, admitted: &Admitted, digest: Digest) -> Option<(Blob, Standing)> {
        if !admitted.stores {
            return None;
        }
        let (terms, health) = (admitted.clone(), self.parts.health().clone());
        let found = self.parts.health().on_disk(move |store| {
            let Some(blob) = health.readable(store, &digest)? else { return Ok(None) };
            Ok(Some((blob, proof::standing(store, &terms, &digest)?)))
        });
        let found = found.await.flatten();
        // Not a span of its own: a hit is done sooner than a span is made.
        tracing::info!(target: TARGET, found = found.is_some(), "looked into the store");
        found
    }

    /// What is in the store; whether it was `brought` there for this request. `None` if it cannot be handed out, which is noted.
    fn stored_reply(
        &self,
        blob: Blob,
        part: Part,
        visibility: Visibility,
        brought: bool,
    ) -> Result<Option<BlobReply>, PullError> {
        let size = blob.size;
        let mapped = match &blob.content {
            // An empty file cannot be mapped, and there is nothing to send.
            Content::File(file) if size > 0 => {
                let patience = self.settings.body_idle_timeout;
                let stored = StoredFile::new(self.parts.health(), &blob, file, patience);
                match MappedFile::of_stored(stored, size) {
                    Ok(mapped) => Some(mapped),
                    Err(source) => {
                        self.parts.health().unreadable(&Unmapped { digest: blob.digest, source });
                        return Ok(None);
                    }
                }
            }
            Content::File(_) | Content::Inline(_) => None,
        };
        let source = if brought { Served::Upstream } else { home(&blob) };
        let range = part.resolve(size).ok_or(PullError::Unsatisfiable { size })?;
        let body = match (mapped, blob.content.clone()) {
            (Some(mapped), _) => BlobBody::from_file(mapped, range.clone(), blob),
            (None, Content::Inline(bytes)) => BlobBody::from_bytes(bytes, range.clone()),
            (None, Content::File(_)) => BlobBody::from_bytes(Bytes::new(), 0..0),
        };
        Ok(Some(BlobReply { size, range, body, source, visibility }))
    }

    async fn pass_through(
        &self,
        admitted: &Admitted,
        digest: Digest,
        part: Part,
    ) -> Result<BlobReply, PullError> {
        let (size, visibility) = self.upstream_size(admitted, digest).await?;
        let range = part.resolve(size).ok_or(PullError::Unsatisfiable { size })?;
        match self.parts.driver.pass_through(&admitted.asked, digest, size, range.clone()).await {
            Ok(body) => {
                let body = body.with_idle_timeout(self.settings.body_idle_timeout);
                Ok(BlobReply { size, range, body, source: Served::PassThrough, visibility })
            }
            Err(cause) => Err(PullError::Exhausted(vec![cause])),
        }
    }
}

fn home(blob: &Blob) -> Served {
    match blob.home {
        Home::Own => Served::Store,
        Home::Runtime => Served::Runtime,
    }
}

fn ended(ending: Ending) -> PullError {
    match ending.outcome {
        Outcome::Unsatisfiable { size } => PullError::Unsatisfiable { size },
        Outcome::Failed(PullFault::Unknown) => PullError::Unknown(ending.causes),
        Outcome::Failed(PullFault::Denied) => PullError::Denied(ending.causes),
        Outcome::Failed(PullFault::Loop) => PullError::Loop,
        Outcome::Failed(PullFault::Draining) => PullError::Draining,
        Outcome::Failed(PullFault::Exhausted | PullFault::WrongContent) => {
            PullError::Exhausted(ending.causes)
        }
        // A ticket that is delivered, stored or passed through has been answered and does not come here.
        Outcome::Delivered | Outcome::Stored | Outcome::PassThrough => PullError::Exhausted(ending.causes),
    }
}
