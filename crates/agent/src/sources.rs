//! Where content comes from when it is not on this node: the object store that nodes share, then mirrors and registries.
//! And what goes back: verified content that came from a registry or a mirror is offered to the store.
//!
//! Question: who is asked first for content by digest? Answer: the store, if this agent may use what it has for the
//! repository; whatever goes wrong there, the walk over mirrors and registry is next, and hears nothing of it. Names
//! that may change (tags, lists) are never asked of the store. Prevents: that a bucket decides what a tag means, that
//! it fails a pull, and that it gives an agent what this agent's own registry would refuse to it.

use std::ops::Range;

use bytes::Bytes;
use shoal_engine::{Digest, Reference, Scope};
use shoal_store::{Content, Visibility};

use crate::driver::hash_function;
use crate::node::Asked;
use crate::tier::{self, Offer, Tier, TierBlob, TierStream};
use crate::upstream::{
    BlobSize, BlobStream, MANIFEST_BYTES_MAX, ManifestGet, Mirror, Upstream, UpstreamError,
};

/// All sources of an agent. Cheap to clone.
#[derive(Clone)]
pub struct Sources {
    upstream: Upstream,
    tier: Option<Tier>,
}

impl From<Upstream> for Sources {
    fn from(upstream: Upstream) -> Self {
        Sources { upstream, tier: None }
    }
}

/// Who has sent bytes of a blob: to be blamed if they are wrong.
#[derive(Clone, PartialEq)]
pub enum Sender {
    /// The object store.
    Tier,
    /// A mirror or the registry itself.
    Upstream {
        /// The mirror, if it was one.
        mirror: Option<Mirror>,
        /// The repository that was meant.
        scope: Scope,
        /// Whether anybody could have got the same.
        visibility: tier::Visibility,
    },
}

impl Sender {
    /// For a person: the object store, the mirror, or the registry.
    pub fn name(&self) -> String {
        match self {
            Sender::Tier => "object store".to_owned(),
            Sender::Upstream { mirror: Some(mirror), .. } => mirror.registry().to_string(),
            Sender::Upstream { mirror: None, scope, .. } => scope.registry.to_string(),
        }
    }

    /// What kind of source it is: `object store`, `mirror` or `registry`.
    pub fn kind(&self) -> &'static str {
        match self {
            Sender::Tier => "object store",
            Sender::Upstream { mirror: Some(_), .. } => "mirror",
            Sender::Upstream { mirror: None, .. } => "registry",
        }
    }

    /// The mirror, if it is one.
    pub fn mirror(&self) -> Option<&Mirror> {
        match self {
            Sender::Tier => None,
            Sender::Upstream { mirror, .. } => mirror.as_ref(),
        }
    }
}

/// A blob, or the asked part of it, on its way. The bytes are unverified.
pub struct Incoming {
    /// Size of the whole blob in bytes, if the source told.
    pub total: Option<u64>,
    /// Who sends it.
    pub sender: Sender,
    /// Who may have it.
    pub visibility: Visibility,
    body: Body,
}

enum Body {
    Tier(TierStream),
    Upstream(Box<BlobStream>),
    /// What is left of something that came in one.
    Whole(Option<Bytes>),
}

impl Incoming {
    /// The next bytes; `None` when all that was asked for has come. After an error there is nothing more.
    ///
    /// # Errors
    /// The transfer broke, stalled or ended early. Worth going on at the byte reached.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match &mut self.body {
            Body::Tier(stream) => stream.next().await.map_err(UpstreamError::of_tier),
            Body::Upstream(stream) => stream.next().await,
            Body::Whole(bytes) => Ok(bytes.take()),
        }
    }
}

impl Sources {
    /// The registries and mirrors, and the object store if there is one.
    pub fn new(upstream: Upstream, tier: Option<Tier>) -> Self {
        Sources { upstream, tier }
    }

    /// The registries and mirrors alone, for what has no digest.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Opens a blob at byte `start`, up to `end` (exclusive) or to its end.
    ///
    /// # Errors
    /// What mirrors and registry said.
    ///
    /// # Panics
    /// If the range is empty.
    pub async fn open_blob(
        &self,
        asked: &Asked,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
    ) -> Result<Incoming, UpstreamError> {
        let scope = &asked.scope;
        if let Some((tier, blob)) = self.usable(scope, digest).await
            && let Some(stream) = given(tier.open(scope, digest, start, end).await)
        {
            let (total, visibility) = (Some(stream.total()), of_tier(blob.visibility));
            return Ok(Incoming { total, visibility, sender: Sender::Tier, body: Body::Tier(stream) });
        }
        let stream = self.upstream.open_blob(asked, digest, start, end).await?;
        let (total, visibility) = (stream.total, stream.visibility);
        let sender = sender(scope, stream.mirror(), visibility);
        Ok(Incoming { total, visibility, sender, body: Body::Upstream(Box::new(stream)) })
    }

    /// A part of a manifest, as the manifests' own endpoint has it: registries do not give manifests as blobs, and who
    /// receives one for a warm set knows its digest and nothing else.
    ///
    /// # Errors
    /// What mirrors and registry said.
    pub async fn open_manifest(
        &self,
        asked: &Asked,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Option<Incoming>, UpstreamError> {
        let (got, sender) = self.get_manifest(asked, &Reference::Digest(*digest)).await?;
        let ManifestGet::Found { bytes, visibility, .. } = got else { return Ok(None) };
        let total = Some(bytes.len() as u64);
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let part = bytes.slice(at(range.start)..at(range.end.max(range.start)));
        Ok(Some(Incoming { total, sender, visibility, body: Body::Whole(Some(part)) }))
    }

    /// Whether a source has a blob, and its size.
    ///
    /// # Errors
    /// What mirrors and registry said.
    pub async fn blob_size(&self, asked: &Asked, digest: &Digest) -> Result<BlobSize, UpstreamError> {
        if let Some((_, blob)) = self.usable(&asked.scope, digest).await {
            return Ok(BlobSize { size: Some(blob.size), visibility: of_tier(blob.visibility) });
        }
        self.upstream.blob_size(asked, digest).await
    }

    /// A manifest as the object store has it, checked against its digest.
    pub async fn shared_manifest(&self, asked: &Asked, digest: &Digest) -> Option<(Bytes, Visibility)> {
        let (tier, blob) = self.usable(&asked.scope, digest).await?;
        let bytes = given(tier.get_small(&asked.scope, digest, MANIFEST_BYTES_MAX).await)?;
        if ring::digest::digest(hash_function(*digest), &bytes).as_ref() != digest.hash() {
            tier.distrust(digest).await;
            return None;
        }
        Some((bytes, of_tier(blob.visibility)))
    }

    /// Fetches a manifest from a mirror or the registry and checks its digest.
    ///
    /// # Errors
    /// What mirrors and registry said.
    pub async fn get_manifest(
        &self,
        asked: &Asked,
        reference: &Reference,
    ) -> Result<(ManifestGet, Sender), UpstreamError> {
        let (found, mirror) = self.upstream.get_manifest_from(asked, reference, None).await?;
        let (ManifestGet::Found { visibility, .. } | ManifestGet::NotModified { visibility, .. }) = &found;
        let sender = sender(&asked.scope, mirror, *visibility);
        Ok((found, sender))
    }

    /// The bytes that these have sent do not hash to the digest: they are not asked for it again for a while.
    pub async fn blame(&self, digest: &Digest, senders: &[Sender]) {
        let mut mirrors = Vec::new();
        for sender in senders {
            match sender {
                Sender::Tier => {
                    if let Some(tier) = &self.tier {
                        tier.distrust(digest).await;
                    }
                }
                Sender::Upstream { mirror, .. } => {
                    let new = mirror.clone().filter(|mirror| !mirrors.contains(mirror));
                    mirrors.extend(new);
                }
            }
        }
        self.upstream.quarantine(digest, &mirrors).await;
    }

    /// Whether verified content is worth offering to the object store: there is one, and not all came from it.
    pub fn wants(&self, senders: &[Sender]) -> bool {
        self.tier.is_some() && senders.iter().any(|sender| *sender != Sender::Tier)
    }

    /// Offers verified content to the object store, in the background. What came from there is not offered again.
    pub fn offer(&self, digest: Digest, size: u64, content: Content, senders: &[Sender]) {
        let Some(tier) = &self.tier else { return };
        let pulled = senders.iter().filter_map(|sender| match sender {
            Sender::Tier => None,
            Sender::Upstream { scope, visibility, .. } => Some((scope, *visibility)),
        });
        // What somebody gave to us without credentials is public, whoever sent the rest.
        if let Some((scope, visibility)) = pulled.max_by_key(|(_, visibility)| *visibility) {
            tier.offer(Offer { scope: scope.clone(), digest, size, visibility, content });
        }
    }

    /// The object store, if it has the blob and this agent may use it.
    async fn usable(&self, scope: &Scope, digest: &Digest) -> Option<(&Tier, TierBlob)> {
        let tier = self.tier.as_ref()?;
        let blob = given(tier.stat(scope, digest).await)?;
        // What was pulled with credentials is for those who have some themselves.
        let may_use =
            blob.visibility == tier::Visibility::Public || self.upstream.has_credentials_for(scope).await;
        may_use.then_some((tier, blob))
    }
}

fn sender(scope: &Scope, mirror: Option<Mirror>, visibility: Visibility) -> Sender {
    let visibility = match visibility {
        Visibility::Public => tier::Visibility::Public,
        // What a mirror gives may have cost it credentials that are not ours.
        Visibility::Mirrored | Visibility::Private => tier::Visibility::Private,
    };
    Sender::Upstream { mirror, scope: scope.clone(), visibility }
}

const fn of_tier(visibility: tier::Visibility) -> Visibility {
    match visibility {
        tier::Visibility::Public => Visibility::Public,
        tier::Visibility::Private => Visibility::Private,
    }
}

/// What the object store gave; whatever it failed with is no more than a miss, and has been counted.
fn given<T>(answer: Result<Option<T>, crate::tier::TierError>) -> Option<T> {
    answer.unwrap_or_else(|error| {
        tracing::debug!(%error, "the object store did not answer");
        None
    })
}
