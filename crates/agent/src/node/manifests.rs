//! Manifests and tags: small, asked for first, and the only mutable thing in a pull.
//!
//! Invariants: a manifest is stored before it is answered (C2); a tag's answer comes from its own source or is marked
//! stale (C9); a failure is the leader's alone (D5).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use shoal_engine::{Digest, Reference, Scope, SourceFault, Tag};
use shoal_store::{Blob, Content, Home, TagRecord};

use super::single::Role;
use super::{Asked, Inner, ManifestReply, PullError, on_disk, pull_error};
use crate::manifest::{self, Kind};
use crate::metrics::Served;
use crate::upstream::{ManifestGet, ManifestHead, UpstreamError};

/// Times a waiter leads after leaders before it have failed.
const LEADS_MAX: usize = 3;

/// What is fetched once for everybody: a manifest by reference, or only the digest behind a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    scope: Scope,
    reference: Reference,
    body: bool,
}

/// A manifest's answer from upstream.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    digest: Digest,
    media_type: String,
    size: u64,
    bytes: Option<Bytes>,
    /// For a tag: how long the answer lives.
    ttl: Duration,
}

/// Why it could not be fetched.
#[derive(Clone, Debug)]
pub(super) struct FetchError {
    fault: SourceFault,
    pull: PullError,
}

impl From<UpstreamError> for FetchError {
    fn from(error: UpstreamError) -> Self {
        FetchError { fault: error.fault(), pull: pull_error(&error) }
    }
}

impl Inner {
    pub(super) async fn manifest(
        self: &std::sync::Arc<Self>,
        asked: &Asked,
        reference: &Reference,
        body: bool,
    ) -> Result<ManifestReply, PullError> {
        let reply = match reference {
            Reference::Digest(digest) => self.manifest_by_digest(asked, *digest).await?,
            Reference::Tag(tag) => self.manifest_by_tag(asked, tag, body).await?,
        };
        if body && let Some(bytes) = &reply.bytes {
            self.describe(&asked.scope, &reply.media_type, bytes).await;
        }
        Ok(reply)
    }

    async fn manifest_by_digest(
        self: &std::sync::Arc<Self>,
        asked: &Asked,
        digest: Digest,
    ) -> Result<ManifestReply, PullError> {
        if let Some(reply) = self.stored_manifest(digest).await {
            self.parts.metrics.hit(reply.source);
            return Ok(reply);
        }
        self.parts.metrics.miss();
        // A `HEAD` by digest is followed by its `GET`, so one request upstream brings both.
        let fetched =
            self.fetch_manifest(asked, Reference::Digest(digest), true).await.map_err(|e| e.pull)?;
        Ok(reply(fetched, None, None))
    }

    async fn manifest_by_tag(
        self: &std::sync::Arc<Self>,
        asked: &Asked,
        tag: &Tag,
        body: bool,
    ) -> Result<ManifestReply, PullError> {
        let now = SystemTime::now();
        let record = {
            let (scope, tag) = (asked.scope.clone(), tag.clone());
            on_disk(&self.parts.store, move |store| store.tag(&scope, &tag)).await.flatten()
        };
        let policy = &self.settings.tags;
        let age = record.as_ref().and_then(|r| now.duration_since(r.checked_at).ok());
        let ttl = record.as_ref().map_or(Duration::ZERO, ttl_of);
        if let Some(record) = &record
            && policy.is_fresh(age, ttl)
            && let Some(reply) = self.remembered(asked, record, body).await
        {
            let left = ttl.saturating_sub(age.unwrap_or_default());
            self.parts.metrics.hit(reply.source);
            return Ok(ManifestReply { max_age: Some(left), ..reply });
        }
        self.parts.metrics.miss();
        // With a digest in hand, or when only the digest is asked for, a `HEAD` is enough, and registries do not
        // count it as a pull.
        let needs_body = body && record.is_none();
        match self.fetch_manifest(asked, Reference::Tag(tag.clone()), needs_body).await {
            Ok(fetched) => {
                let ttl = fetched.ttl;
                let complete = fetched.bytes.is_some() || !body;
                if complete {
                    return Ok(reply(fetched, Some(ttl), None));
                }
                let by_digest = self.manifest_by_digest(asked, fetched.digest).await?;
                Ok(ManifestReply { max_age: Some(ttl), ..by_digest })
            }
            Err(error) => match record {
                Some(record) if policy.serves_stale(&error.fault, age, ttl) => {
                    self.stale(asked, tag, &record, body, error).await
                }
                _ => Err(error.pull),
            },
        }
    }

    /// The old answer, because the source cannot be asked.
    async fn stale(
        self: &std::sync::Arc<Self>,
        asked: &Asked,
        tag: &Tag,
        record: &TagRecord,
        body: bool,
        error: FetchError,
    ) -> Result<ManifestReply, PullError> {
        let Some(reply) = self.remembered(asked, record, body).await else { return Err(error.pull) };
        tracing::warn!(scope = %asked.scope, %tag, error = %error.pull, "the tag's source cannot be asked; the last known digest is served");
        self.parts.metrics.hit(Served::Stale);
        let why = format!("{} could not be asked; this is the last known digest", asked.scope.registry);
        // Not to be remembered by anybody: the next request asks the source again.
        Ok(ManifestReply { max_age: Some(Duration::ZERO), stale: Some(why), source: Served::Stale, ..reply })
    }

    /// A tag's remembered answer, with the manifest if it is wanted. A manifest that was evicted is fetched again by
    /// its digest.
    async fn remembered(
        self: &std::sync::Arc<Self>,
        asked: &Asked,
        record: &TagRecord,
        body: bool,
    ) -> Option<ManifestReply> {
        if body {
            if let Some(reply) = self.stored_manifest(record.digest).await {
                return Some(reply);
            }
            let fetched = self.fetch_manifest(asked, Reference::Digest(record.digest), true).await.ok()?;
            return Some(reply(fetched, None, None));
        }
        Some(ManifestReply {
            digest: record.digest,
            media_type: record.media_type.clone(),
            size: record.size,
            bytes: None,
            max_age: None,
            stale: None,
            source: Served::Store,
        })
    }

    async fn stored_manifest(&self, digest: Digest) -> Option<ManifestReply> {
        let blob = self.stored(digest).await?;
        let source = if blob.home == Home::Own { Served::Store } else { Served::Runtime };
        let bytes = read_manifest(&blob).await?;
        let media_type = match blob.media_type {
            Some(media_type) => media_type,
            // It came as a blob, or from the runtime, which keeps no media types; its own text tells.
            None => media_type_of(&bytes)?,
        };
        let size = bytes.len() as u64;
        Some(ManifestReply {
            digest,
            media_type,
            size,
            bytes: Some(bytes),
            max_age: None,
            stale: None,
            source,
        })
    }

    /// Fetches once for everybody who asks at the same time. A failure is not handed to the waiters: the next one leads.
    async fn fetch_manifest(
        self: &std::sync::Arc<Self>,
        asked: &Asked,
        reference: Reference,
        body: bool,
    ) -> Result<Fetched, FetchError> {
        let key = Key { scope: asked.scope.clone(), reference, body };
        let mut last = None;
        for _ in 0..LEADS_MAX {
            let (this, asked, key2) = (std::sync::Arc::clone(self), asked.clone(), key.clone());
            let work = move || async move { this.fetch_and_store(&asked, &key2.reference, key2.body).await };
            match self.manifests.run(key.clone(), work).await {
                (_, Some(Ok(fetched))) => return Ok(fetched),
                // With nobody else waiting one request is all that a sick source is asked (F10).
                (Role::Leader { alone: true }, Some(Err(error))) => return Err(error),
                (_, Some(Err(error))) if !error.fault.is_worth_a_retry() => return Err(error),
                (_, Some(Err(error))) => last = Some(error),
                (_, None) => {}
            }
        }
        Err(last
            .unwrap_or(FetchError { fault: SourceFault::Transient, pull: PullError::Exhausted(Vec::new()) }))
    }

    async fn fetch_and_store(
        &self,
        asked: &Asked,
        reference: &Reference,
        body: bool,
    ) -> Result<Fetched, FetchError> {
        let fetched = match reference {
            Reference::Tag(tag) if !body => self.resolve(asked, tag).await?,
            _ => self.get(asked, reference).await?,
        };
        if let Some(bytes) = fetched.bytes.clone() {
            let (digest, media_type) = (fetched.digest, fetched.media_type.clone());
            // A store that cannot keep it is logged there; the client gets its manifest all the same.
            on_disk(&self.parts.store, move |s| s.put(&digest, Some(&media_type), &bytes, SystemTime::now()))
                .await;
        }
        let (scope, digest) = (asked.scope.clone(), fetched.digest);
        on_disk(&self.parts.store, move |store| store.link(&scope, &digest)).await;
        if let Reference::Tag(tag) = reference {
            self.remember_tag(&asked.scope, tag, &fetched).await;
        }
        Ok(fetched)
    }

    /// The digest behind a tag, by `HEAD`; by `GET` where the registry's `HEAD` does not tell.
    async fn resolve(&self, asked: &Asked, tag: &Tag) -> Result<Fetched, FetchError> {
        let known = {
            let (scope, tag) = (asked.scope.clone(), tag.clone());
            on_disk(&self.parts.store, move |store| store.tag(&scope, &tag)).await.flatten()
        };
        let reference = Reference::Tag(tag.clone());
        let head = self
            .parts
            .sources
            .upstream()
            .head_manifest(asked, &reference, known.as_ref().map(|r| &r.digest))
            .await?;
        match (head, known) {
            (ManifestHead::NotModified { max_age }, Some(record)) => Ok(Fetched {
                digest: record.digest,
                media_type: record.media_type,
                size: record.size,
                bytes: None,
                ttl: self.settings.tags.time_to_live(max_age),
            }),
            (
                ManifestHead::Found {
                    digest: Some(digest),
                    media_type: Some(media_type),
                    size: Some(size),
                    max_age,
                },
                _,
            ) => Ok(Fetched {
                digest,
                media_type,
                size,
                bytes: None,
                ttl: self.settings.tags.time_to_live(max_age),
            }),
            (ManifestHead::Found { .. } | ManifestHead::NotModified { .. }, _) => {
                self.get(asked, &reference).await
            }
        }
    }

    async fn get(&self, asked: &Asked, reference: &Reference) -> Result<Fetched, FetchError> {
        if let Reference::Digest(digest) = reference
            && let Some(fetched) = self.shared(asked, *digest).await
        {
            return Ok(fetched);
        }
        let (got, sender) = self.parts.sources.get_manifest(asked, reference).await?;
        match got {
            ManifestGet::Found { bytes, media_type, digest, max_age } => {
                let size = bytes.len() as u64;
                let content = Content::Inline(bytes.clone());
                self.parts.sources.offer(digest, size, content, &[sender]);
                let ttl = self.settings.tags.time_to_live(max_age);
                Ok(Fetched { digest, media_type, size, bytes: Some(bytes), ttl })
            }
            ManifestGet::NotModified { .. } => {
                // Nothing was said to be known, so this is a registry that does not keep to HTTP.
                Err(FetchError { fault: SourceFault::Protocol, pull: PullError::Exhausted(Vec::new()) })
            }
        }
    }

    /// A manifest from the object store, which keeps no media types: one whose own text does not tell is fetched.
    async fn shared(&self, asked: &Asked, digest: Digest) -> Option<Fetched> {
        let bytes = self.parts.sources.shared_manifest(asked, &digest).await?;
        let media_type = media_type_of(&bytes)?;
        let (size, ttl) = (bytes.len() as u64, self.settings.tags.time_to_live(None));
        Some(Fetched { digest, media_type, size, bytes: Some(bytes), ttl })
    }

    async fn remember_tag(&self, scope: &Scope, tag: &Tag, fetched: &Fetched) {
        let now = SystemTime::now();
        let record = TagRecord {
            digest: fetched.digest,
            media_type: fetched.media_type.clone(),
            size: fetched.size,
            checked_at: now,
            expires_at: now + fetched.ttl,
        };
        let (scope, tag) = (scope.clone(), tag.clone());
        on_disk(&self.parts.store, move |store| store.put_tag(&scope, &tag, &record)).await;
    }

    /// Remembers the sizes of everything the manifest names, and sets the layers of an image in motion: the client
    /// will ask for them next, three at a time.
    async fn describe(&self, scope: &Scope, media_type: &str, bytes: &Bytes) {
        let parsed = match manifest::parse(media_type, bytes) {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::warn!(%scope, %error, "a manifest cannot be read; it is served as it is");
                return;
            }
        };
        let prefetch = (parsed.kind == Kind::Image && self.settings.prefetch_layers).then_some(scope);
        for descriptor in parsed.config.iter().chain(&parsed.layers).filter(|d| !d.is_foreign) {
            self.parts.driver.described(descriptor.digest, descriptor.size, prefetch.cloned()).await;
        }
        for (descriptor, _) in &parsed.children {
            self.parts.driver.described(descriptor.digest, descriptor.size, None).await;
        }
    }
}

fn ttl_of(record: &TagRecord) -> Duration {
    record.expires_at.duration_since(record.checked_at).unwrap_or_default()
}

fn reply(fetched: Fetched, max_age: Option<Duration>, stale: Option<String>) -> ManifestReply {
    ManifestReply {
        digest: fetched.digest,
        media_type: fetched.media_type,
        size: fetched.size,
        bytes: fetched.bytes,
        max_age,
        stale,
        source: Served::Upstream,
    }
}

/// The media type of a manifest by its own text: the field, or else the form that the OCI image specification gives
/// documents without one. `None` if it is no manifest.
fn media_type_of(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        schema_version: u8,
        media_type: Option<String>,
        layers: Option<serde::de::IgnoredAny>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).ok()?;
    if shape.schema_version != 2 {
        return None;
    }
    let by_form = match (&shape.layers, &shape.manifests) {
        (Some(_), None) => Some(oci_spec::image::MediaType::ImageManifest.to_string()),
        (None, Some(_)) => Some(oci_spec::image::MediaType::ImageIndex.to_string()),
        _ => None,
    };
    shape.media_type.or(by_form)
}

/// A stored manifest's bytes; `None` if it is too large to be one or cannot be read.
async fn read_manifest(blob: &Blob) -> Option<Bytes> {
    if blob.size > manifest::MANIFEST_BYTES_MAX as u64 {
        return None;
    }
    match &blob.content {
        Content::Inline(bytes) => Some(bytes.clone()),
        Content::File(file) => {
            let (file, size) = (std::sync::Arc::clone(file), usize::try_from(blob.size).ok()?);
            let read = move || {
                let mut bytes = vec![0; size];
                std::os::unix::fs::FileExt::read_exact_at(&*file, &mut bytes, 0).map(|()| Bytes::from(bytes))
            };
            tokio::task::spawn_blocking(read).await.ok()?.ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::media_type_of;

    #[test]
    fn a_manifest_tells_its_type() {
        let table = [
            (r#"{"schemaVersion":2,"mediaType":"a/b","layers":[]}"#, Some("a/b")),
            (r#"{"schemaVersion":2,"layers":[]}"#, Some("application/vnd.oci.image.manifest.v1+json")),
            (r#"{"schemaVersion":2,"manifests":[]}"#, Some("application/vnd.oci.image.index.v1+json")),
            (r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#, None),
            (r#"{"schemaVersion":1,"layers":[]}"#, None),
            ("a layer", None),
        ];
        for (text, media_type) in table {
            assert_eq!(media_type_of(text.as_bytes()).as_deref(), media_type, "{text}");
        }
    }
}
