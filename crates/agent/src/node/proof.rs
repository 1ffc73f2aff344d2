//! Proof that a repository has a blob, before something that is here anyway is served under its name.
//!
//! Question: the bytes are on this node; may a client that asks for them through *this* repository have them? A digest
//! alone is no right: it stands in logs and in pod states. Answer: if they were obtained through the repository before, or
//! anonymously through any (then they are public); otherwise its registry is asked, once, and the answer is remembered with the
//! blob (a *link*). A registry that the operator has configured, or that has itself sent these bytes before, is believed
//! when it says that the repository has them. Any other is a name that a client has made up, perhaps together with the
//! registry behind it: it has to show some of the bytes.
//!
//! Links are written only once the bytes that came through a repository have been verified, or by this proof; never because
//! a manifest names a digest, and never on the word of a header.

use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use shoal_engine::{Digest, Reference, Scope, SourceFault};
use shoal_store::{Blob, Content, Store, StoreError, Visibility};

use super::access::Admitted;
use super::{Cause, FetchError, Inner, PullError};
use crate::driver::FlightProof;
use crate::store_health::StoreHealth;
use crate::upstream::{Upstream, UpstreamError};

/// Bytes that a stranger has to show, at a place that it cannot know before. Layers are compressed, so these cannot be
/// guessed without having the blob.
const SAMPLE_BYTES: u64 = 4096;

/// What is known of a repository's right to a blob that is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may be served; it was obtained like this.
    Proved(Visibility),
    /// Its registry has sent these bytes before, or the operator has named it: its word is enough.
    Believed,
    /// Nothing.
    Unknown,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Blob,
    Manifest,
}

/// A scope and a digest that are being asked about.
pub(super) type Key = (Scope, Digest);

/// Looks the standing up. Blocks on the index: one point look-up where the link is there.
pub(super) fn standing(store: &Store, admitted: &Admitted, digest: &Digest) -> Result<Standing, StoreError> {
    let scope = &admitted.asked.scope;
    if let Some(found) = store.linked(scope, digest)?.filter(|found| admitted.suffices(*found)) {
        return Ok(Standing::Proved(found));
    }
    let links = store.links(digest)?;
    if links.iter().any(|(_, found)| *found == Visibility::Public) {
        return Ok(Standing::Proved(Visibility::Public));
    }
    let is_believed =
        admitted.is_configured || links.iter().any(|(other, _)| other.registry == scope.registry);
    Ok(if is_believed { Standing::Believed } else { Standing::Unknown })
}

impl Inner {
    /// Has the repository prove that it has a blob that is stored, if it has not yet, and remembers that.
    pub(super) async fn prove(
        &self,
        admitted: &Admitted,
        blob: &Blob,
        standing: Standing,
        kind: Kind,
    ) -> Result<Visibility, PullError> {
        if let Standing::Proved(found) = standing {
            return Ok(found);
        }
        admitted.local()?;
        let ask = || {
            let (upstream, health) = (self.parts.sources.upstream().clone(), self.parts.health().clone());
            let (admitted, blob) = (admitted.clone(), blob.clone());
            Box::pin(async move {
                let known = linked(&health, &admitted, blob.digest).await;
                // Somebody else's proof may have ended between our look and our turn.
                if let Some(found) = known.filter(|found| admitted.suffices(*found)) {
                    return Ok(found);
                }
                let found = match (standing, kind) {
                    (Standing::Unknown, Kind::Blob) if blob.size > 0 => {
                        shows_bytes(&upstream, &admitted, &blob).await?
                    }
                    (_, Kind::Blob) => match upstream.blob_size(&admitted.asked, &blob.digest).await? {
                        told if told.size == Some(blob.size) => told.visibility,
                        // A log-in page has an address and a status, too.
                        told if told.size.is_some() || blob.size == 0 => {
                            return Err(other_content(&admitted));
                        }
                        _ => shows_bytes(&upstream, &admitted, &blob).await?,
                    },
                    (_, Kind::Manifest) => has_manifest(&upstream, &admitted, blob.digest).await?,
                };
                if !admitted.suffices(found) {
                    return Err(withheld(&admitted));
                }
                let (scope, digest) = (admitted.asked.scope, blob.digest);
                health.on_disk(move |store| store.link(&scope, &digest, found)).await;
                Ok(found)
            })
        };
        self.proving(admitted, blob.digest, ask).await
    }

    /// The same for a blob that is on its way through another repository of the same registry.
    pub(super) async fn prove_flight(
        &self,
        admitted: &Admitted,
        digest: Digest,
        flight: &FlightProof,
    ) -> Result<Visibility, PullError> {
        let known = |flight: &FlightProof, admitted: &Admitted| {
            flight.known(&admitted.asked.scope).filter(|found| admitted.suffices(*found))
        };
        if let Some(found) = known(flight, admitted) {
            return Ok(found);
        }
        let ask = || {
            let (upstream, admitted) = (self.parts.sources.upstream().clone(), admitted.clone());
            let flight = flight.clone();
            Box::pin(async move {
                if let Some(found) = known(&flight, &admitted) {
                    return Ok(found);
                }
                let told = upstream.blob_size(&admitted.asked, &digest).await?;
                if told.size.is_none() || told.size != flight.size() {
                    return Err(other_content(&admitted));
                }
                let found = told.visibility;
                if !admitted.suffices(found) {
                    return Err(withheld(&admitted));
                }
                // Remembered with the blob once it has been verified.
                flight.vouch(&admitted.asked.scope, found);
                Ok(found)
            })
        };
        self.proving(admitted, digest, ask).await
    }

    async fn proving<F>(
        &self,
        admitted: &Admitted,
        digest: Digest,
        ask: impl Fn() -> F,
    ) -> Result<Visibility, PullError>
    where
        F: Future<Output = Result<Visibility, FetchError>> + Send + 'static,
    {
        let key = (admitted.asked.scope.clone(), digest);
        let proved = self.proofs.run_until_done(key, ask, FetchError::is_worth_a_retry).await;
        proved.map_err(FetchError::told)
    }
}

/// How the blob was obtained through the repository, if it was.
pub(super) async fn linked(health: &StoreHealth, admitted: &Admitted, digest: Digest) -> Option<Visibility> {
    let scope = admitted.asked.scope.clone();
    health.on_disk(move |store| store.linked(&scope, &digest)).await.flatten()
}

fn withheld(admitted: &Admitted) -> FetchError {
    FetchError { fault: SourceFault::Denied { status: 404 }, pull: admitted.not_public() }
}

async fn has_manifest(
    upstream: &Upstream,
    admitted: &Admitted,
    digest: Digest,
) -> Result<Visibility, UpstreamError> {
    use crate::upstream::{ManifestGet, ManifestHead};
    let reference = Reference::Digest(digest);
    match upstream.head_manifest(&admitted.asked, &reference, None).await? {
        ManifestHead::NotModified { visibility, .. }
        | ManifestHead::Found { digest: Some(_), visibility, .. } => Ok(visibility),
        // It does not answer the question, or a page for people answers it: the manifest itself is proof.
        ManifestHead::Found { digest: None, .. } => {
            match upstream.get_manifest(&admitted.asked, &reference, None).await? {
                ManifestGet::NotModified { visibility, .. } | ManifestGet::Found { visibility, .. } => {
                    Ok(visibility)
                }
            }
        }
    }
}

fn other_content(admitted: &Admitted) -> FetchError {
    let cause = Cause {
        source: admitted.asked.scope.to_string(),
        reason: "what it has under this digest is not what the digest names".into(),
    };
    FetchError { fault: SourceFault::WrongContent, pull: PullError::Exhausted(vec![cause]) }
}

/// Compares a part of the blob with what the source has there.
async fn shows_bytes(
    upstream: &Upstream,
    admitted: &Admitted,
    blob: &Blob,
) -> Result<Visibility, FetchError> {
    let length = blob.size.min(SAMPLE_BYTES);
    let start = rand::random_range(0..=blob.size - length);
    let mut stream = upstream.open_blob(&admitted.asked, &blob.digest, start, Some(start + length)).await?;
    let mut shown = Vec::new();
    while let Some(chunk) = stream.next().await? {
        shown.extend_from_slice(&chunk);
    }
    let stored = read(blob, start, length).await;
    if stored.as_deref() == Some(&shown[..]) {
        return Ok(stream.visibility);
    }
    Err(other_content(admitted))
}

/// A part of a stored blob; `None` if it cannot be read.
async fn read(blob: &Blob, start: u64, length: u64) -> Option<Bytes> {
    let (from, length) = (usize::try_from(start).ok()?, usize::try_from(length).ok()?);
    match &blob.content {
        Content::Inline(bytes) => Some(bytes.slice(from..from + length)),
        Content::File(file) => {
            let file = std::sync::Arc::clone(file);
            let read = move || {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, start).map(|()| Bytes::from(bytes))
            };
            tokio::task::spawn_blocking(read).await.ok()?.ok()
        }
    }
}
