//! Manifests and tags: small, asked for first, and the only mutable thing in a pull.
//!
//! Invariants: a manifest is stored before it is answered (C2); a tag's answer comes from its own source or is marked
//! stale (C9); a failure is the leader's alone (D5).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use shoal_engine::tags::{self, Belief};
use shoal_engine::{Digest, Reference, Registry, Scope, SourceFault, Tag};
use shoal_store::{Blob, Content, Home, TagRecord, Visibility};
use tracing::{Instrument as _, field};

use super::access::Admitted;
use super::proof::{self, Standing};
use super::{FetchError, Inner, ManifestReply, PullError, display_reference, pull_error};
use crate::manifest::{self, Kind};
use crate::metrics::Served;
use crate::trace::{self, TARGET};
use crate::upstream::{ManifestGet, ManifestHead, own_type};

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
    pub digest: Digest,
    pub media_type: String,
    pub size: u64,
    pub bytes: Option<Bytes>,
    /// For a tag: how long the answer lives.
    pub ttl: Duration,
    /// How it was asked for.
    pub visibility: Visibility,
    /// For a tag: the mirror that told it, if it was one.
    pub mirror: Option<Registry>,
}

impl Inner {
    pub(super) async fn manifest(
        self: &Arc<Self>,
        admitted: &Admitted,
        reference: &Reference,
        body: bool,
    ) -> Result<ManifestReply, PullError> {
        let reply = self.manifest_reply(admitted, reference, body).await?;
        if body && let Some(bytes) = &reply.bytes {
            self.describe(admitted, &reply.media_type, bytes).await;
        }
        Ok(reply)
    }

    pub(super) async fn manifest_reply(
        self: &Arc<Self>,
        admitted: &Admitted,
        reference: &Reference,
        body: bool,
    ) -> Result<ManifestReply, PullError> {
        match reference {
            Reference::Digest(digest) => self.manifest_by_digest(admitted, *digest).await,
            Reference::Tag(tag) => self.manifest_by_tag(admitted, tag, body).await,
        }
    }

    async fn manifest_by_digest(
        self: &Arc<Self>,
        admitted: &Admitted,
        digest: Digest,
    ) -> Result<ManifestReply, PullError> {
        if let Some(reply) = self.stored_manifest(admitted, digest).await? {
            return Ok(reply);
        }
        admitted.local()?;
        // A `HEAD` by digest is followed by its `GET`, so one request upstream brings both.
        let fetched =
            self.fetch_manifest(admitted, Reference::Digest(digest), true).await.map_err(|e| e.pull)?;
        Ok(reply(fetched, None, None))
    }

    async fn manifest_by_tag(
        self: &Arc<Self>,
        admitted: &Admitted,
        tag: &Tag,
        body: bool,
    ) -> Result<ManifestReply, PullError> {
        let now = SystemTime::now();
        let record = self.tag_record(admitted, tag).await;
        let policy = &self.settings.tags;
        let age = record.as_ref().and_then(|r| now.duration_since(r.checked_at).ok());
        let ttl = record.as_ref().map_or(Duration::ZERO, ttl_of);
        if let Some(record) = &record
            && (policy.is_fresh(age, ttl) || admitted.local.is_some())
            && let Some(reply) = self.remembered(admitted, record, body).await
        {
            let left = ttl.saturating_sub(age.unwrap_or_default());
            return Ok(ManifestReply { max_age: Some(left), ..reply });
        }
        admitted.local()?;
        // With a digest in hand, or when only the digest is asked for, a `HEAD` is enough, and registries do not
        // count it as a pull.
        let needs_body = body && record.is_none();
        match self.fetch_manifest(admitted, Reference::Tag(tag.clone()), needs_body).await {
            Ok(fetched) => {
                let ttl = fetched.ttl;
                let complete = fetched.bytes.is_some() || !body;
                if complete {
                    return Ok(reply(fetched, Some(ttl), None));
                }
                let by_digest = self.manifest_by_digest(admitted, fetched.digest).await?;
                Ok(ManifestReply { max_age: Some(ttl), ..by_digest })
            }
            Err(error) => {
                let known = match record {
                    Some(record) if policy.serves_stale(&error.fault, age, ttl) => Some(record),
                    _ => self.remembered_by_homes(admitted, tag, &error.fault).await,
                };
                match known {
                    Some(record) => self.stale(admitted, tag, &record, body, error).await,
                    None => Err(error.pull),
                }
            }
        }
    }

    /// The old answer, because the source cannot be asked.
    async fn stale(
        self: &Arc<Self>,
        admitted: &Admitted,
        tag: &Tag,
        record: &TagRecord,
        body: bool,
        error: FetchError,
    ) -> Result<ManifestReply, PullError> {
        let asked = &admitted.asked;
        let Some(reply) = self.remembered(admitted, record, body).await else { return Err(error.pull) };
        tracing::warn!(scope = %asked.scope, %tag, error = %error.pull, "the tag's source cannot be asked; the last known digest is served");
        let why = format!("{} could not be asked; this is the last known digest", asked.scope.registry);
        // Not to be remembered by anybody: the next request asks the source again.
        Ok(ManifestReply { max_age: Some(Duration::ZERO), stale: Some(why), source: Served::Stale, ..reply })
    }

    /// A tag's remembered answer, with the manifest if it is wanted. A manifest that was evicted is fetched again by
    /// its digest.
    async fn remembered(
        self: &Arc<Self>,
        admitted: &Admitted,
        record: &TagRecord,
        body: bool,
    ) -> Option<ManifestReply> {
        if body {
            if let Some(reply) = self.stored_manifest(admitted, record.digest).await.ok()? {
                return Some(reply);
            }
            admitted.local().ok()?;
            let fetched = self.fetch_manifest(admitted, Reference::Digest(record.digest), true).await.ok()?;
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

    /// What is remembered of a tag, if it was obtained in a way that may be served.
    pub(super) async fn tag_record(&self, admitted: &Admitted, tag: &Tag) -> Option<TagRecord> {
        if !admitted.stores {
            return None;
        }
        let (scope, tag) = (admitted.asked.scope.clone(), tag.clone());
        let record = self.parts.health().on_disk(move |store| store.tag(&scope, &tag)).await.flatten();
        record.filter(|record| admitted.suffices(record.visibility))
    }

    /// The manifest, if it is on this node and the repository has it.
    async fn stored_manifest(
        &self,
        admitted: &Admitted,
        digest: Digest,
    ) -> Result<Option<ManifestReply>, PullError> {
        let Some((blob, standing)) = self.stored(admitted, digest).await else { return Ok(None) };
        if standing == Standing::Unknown && admitted.local.is_none() {
            // A registry that nobody knows has to send it, which a manifest's few bytes are no reason against.
            return Ok(None);
        }
        let source = if blob.home == Home::Own { Served::Store } else { Served::Runtime };
        let Some(bytes) = read_manifest(&blob).await else { return Ok(None) };
        let Some(media_type) = stored_type(&blob, &bytes) else { return Ok(None) };
        self.prove(admitted, &blob, standing, proof::Kind::Manifest).await?;
        let size = bytes.len() as u64;
        Ok(Some(ManifestReply {
            digest,
            media_type,
            size,
            bytes: Some(bytes),
            max_age: None,
            stale: None,
            source,
        }))
    }

    /// Fetches once for everybody who asks at the same time. A failure is not handed to the waiters: the next one leads.
    async fn fetch_manifest(
        self: &Arc<Self>,
        admitted: &Admitted,
        reference: Reference,
        body: bool,
    ) -> Result<Fetched, FetchError> {
        let key = Key { scope: admitted.asked.scope.clone(), reference, body };
        let fetch = || {
            let (this, admitted, key) = (Arc::clone(self), admitted.clone(), key.clone());
            Box::pin(async move { this.fetch_and_store(&admitted, &key.reference, key.body).await })
        };
        let span = tracing::info_span!(
            target: TARGET,
            "resolve",
            shoal.reference = display_reference(&key.scope, &key.reference),
            shoal.outcome = field::Empty,
            otel.status_code = field::Empty,
            otel.status_description = field::Empty
        );
        let fetched = self.manifests.run_until_done(key.clone(), fetch, FetchError::is_worth_a_retry);
        let fetched = fetched.instrument(span.clone()).await;
        match &fetched {
            Ok(_) => trace::outcome(&span, Ok::<_, &PullError>("found")),
            Err(error) => {
                trace::outcome(&span, Err(error.as_ref().map_or(&PullError::Draining, |error| &error.pull)))
            }
        }
        fetched.map_err(|error| {
            error.unwrap_or_else(|| FetchError {
                fault: SourceFault::Transient,
                pull: PullError::Exhausted(Vec::new()),
            })
        })
    }

    async fn fetch_and_store(
        self: &Arc<Self>,
        admitted: &Admitted,
        reference: &Reference,
        body: bool,
    ) -> Result<Fetched, FetchError> {
        // Somebody else's request may have ended between our look and our turn.
        if let Some(fetched) = self.come_meanwhile(admitted, reference, body).await {
            return Ok(fetched);
        }
        let fetched = match (self.from_home(admitted, reference, body).await, reference) {
            (Some(fetched), _) => fetched,
            (None, Reference::Tag(tag)) if !body => self.resolve(admitted, tag).await?,
            (None, _) => self.get(admitted, reference).await?,
        };
        let fetched = match reference {
            Reference::Tag(tag) => self.believed(admitted, tag, fetched).await?,
            Reference::Digest(_) => fetched,
        };
        if !admitted.suffices(fetched.visibility) {
            let fault = SourceFault::Denied { status: 404 };
            return Err(FetchError { fault, pull: admitted.not_public() });
        }
        if !admitted.stores {
            return Ok(fetched);
        }
        let (scope, digest) = (admitted.asked.scope.clone(), fetched.digest);
        if let Some(bytes) = fetched.bytes.clone() {
            let (media_type, visibility) = (fetched.media_type.clone(), fetched.visibility);
            // A store that cannot keep it is logged there; the client gets its manifest all the same.
            self.parts
                .health()
                .on_disk(move |store| {
                    // These bytes came through the repository, which a header that names a digest would not prove. Before they
                    // are stored: whoever finds them must find that, too.
                    store.link(&scope, &digest, visibility)?;
                    store.put(&digest, Some(&media_type), &bytes, SystemTime::now())
                })
                .await;
        }
        if let Reference::Tag(tag) = reference {
            self.remember_tag(&admitted.asked.scope, tag, &fetched, Duration::ZERO).await;
        }
        Ok(fetched)
    }

    /// What has been stored by another request just now, if it is all that is wanted.
    async fn come_meanwhile(
        &self,
        admitted: &Admitted,
        reference: &Reference,
        body: bool,
    ) -> Option<Fetched> {
        match reference {
            Reference::Tag(tag) => {
                let record = self.tag_record(admitted, tag).await?;
                let age = SystemTime::now().duration_since(record.checked_at).ok();
                let ttl = ttl_of(&record);
                if !self.settings.tags.is_fresh(age, ttl) {
                    return None;
                }
                let bytes = match body {
                    true => Some(self.come_by_digest(admitted, record.digest).await?.bytes?),
                    false => None,
                };
                Some(Fetched {
                    digest: record.digest,
                    media_type: record.media_type,
                    size: record.size,
                    bytes,
                    ttl: ttl.saturating_sub(age.unwrap_or_default()),
                    visibility: record.visibility,
                    mirror: record.mirror,
                })
            }
            Reference::Digest(digest) => self.come_by_digest(admitted, *digest).await,
        }
    }

    async fn come_by_digest(&self, admitted: &Admitted, digest: Digest) -> Option<Fetched> {
        let (blob, standing) = self.stored(admitted, digest).await?;
        let linked = proof::linked(self.parts.health(), admitted, digest).await;
        let visibility = linked.filter(|_| matches!(standing, Standing::Proved(_)))?;
        let bytes = read_manifest(&blob).await?;
        Some(Fetched {
            digest,
            media_type: stored_type(&blob, &bytes)?,
            size: blob.size,
            bytes: Some(bytes),
            ttl: self.settings.tags.time_to_live(None),
            visibility,
            mirror: None,
        })
    }

    /// What a source told of a tag, if it may move it. Where it contradicts somebody whose word counts more the registry
    /// itself decides; while that cannot be asked, the error leads to the last known answer (T4).
    pub(super) async fn believed(
        &self,
        admitted: &Admitted,
        tag: &Tag,
        told: Fetched,
    ) -> Result<Fetched, FetchError> {
        let Some(known) = self.tag_record(admitted, tag).await else { return Ok(told) };
        let upstream = self.parts.sources.upstream();
        let asked = &admitted.asked;
        let trust = |mirror: Option<&Registry>| upstream.trust(&asked.scope, tag, mirror);
        let (of_known, of_told) = (trust(known.mirror.as_ref()), trust(told.mirror.as_ref()));
        if tags::believes(Some((of_known, &known.digest)), (of_told, &told.digest)) == Belief::Accept {
            // A mirror that says what the registry has said before does not make it the mirror's word.
            let is_confirmed = told.digest == known.digest && of_known < of_told;
            return Ok(if is_confirmed { Fetched { mirror: known.mirror, ..told } } else { told });
        }
        let age = SystemTime::now().duration_since(known.checked_at).ok();
        if !self.settings.tags.serves_stale(&SourceFault::Transient, age, ttl_of(&known)) {
            return Ok(told);
        }
        tracing::warn!(
            scope = %asked.scope, %tag, mirror = ?told.mirror, told = %told.digest, known = %known.digest,
            "a mirror contradicts what is known of a tag; the registry itself is asked"
        );
        let said = upstream.get_tag_of_registry(asked, tag).await.map_err(|error| FetchError {
            // Where nobody may ask the registry, what is known stays for its time.
            fault: if error.is_nobody_to_ask() { SourceFault::Transient } else { error.fault() },
            pull: pull_error(&error),
        })?;
        self.got(said, None)
    }

    /// The digest behind a tag, by `HEAD`; by `GET` where the registry's `HEAD` does not tell.
    async fn resolve(&self, admitted: &Admitted, tag: &Tag) -> Result<Fetched, FetchError> {
        let known = self.tag_record(admitted, tag).await;
        let reference = Reference::Tag(tag.clone());
        let known_digest = known.as_ref().map(|record| &record.digest);
        let upstream = self.parts.sources.upstream();
        let (head, mirror) = upstream.head_manifest_from(&admitted.asked, &reference, known_digest).await?;
        let mirror = mirror.map(|mirror| mirror.registry().clone());
        match (head, known) {
            (ManifestHead::NotModified { max_age, visibility }, Some(record)) => Ok(Fetched {
                digest: record.digest,
                media_type: record.media_type,
                size: record.size,
                bytes: None,
                ttl: self.settings.tags.time_to_live(max_age),
                visibility,
                mirror,
            }),
            (
                ManifestHead::Found {
                    digest: Some(digest),
                    media_type: Some(media_type),
                    size: Some(size),
                    max_age,
                    visibility,
                },
                _,
            ) => Ok(Fetched {
                digest,
                media_type,
                size,
                bytes: None,
                ttl: self.settings.tags.time_to_live(max_age),
                visibility,
                mirror,
            }),
            (ManifestHead::Found { .. } | ManifestHead::NotModified { .. }, _) => {
                self.get(admitted, &reference).await
            }
        }
    }

    async fn get(&self, admitted: &Admitted, reference: &Reference) -> Result<Fetched, FetchError> {
        if let Reference::Digest(digest) = reference
            && let Some(fetched) = self.shared(admitted, *digest).await
        {
            return Ok(fetched);
        }
        let (got, sender) = self.parts.sources.get_manifest(&admitted.asked, reference).await?;
        let mirror = sender.mirror().map(|mirror| mirror.registry().clone());
        let fetched = self.got(got, mirror)?;
        if let Some(bytes) = fetched.bytes.as_ref().filter(|_| admitted.stores) {
            self.parts.sources.offer(fetched.digest, fetched.size, Content::Inline(bytes.clone()), &[sender]);
        }
        Ok(fetched)
    }

    fn got(&self, got: ManifestGet, mirror: Option<Registry>) -> Result<Fetched, FetchError> {
        match got {
            ManifestGet::Found { bytes, media_type, digest, max_age, visibility } => Ok(Fetched {
                digest,
                media_type,
                size: bytes.len() as u64,
                bytes: Some(bytes),
                ttl: self.settings.tags.time_to_live(max_age),
                visibility,
                mirror,
            }),
            ManifestGet::NotModified { .. } => {
                // Nothing was said to be known, so this is a registry that does not keep to HTTP.
                Err(FetchError { fault: SourceFault::Protocol, pull: PullError::Exhausted(Vec::new()) })
            }
        }
    }

    /// A manifest from the object store, which keeps no media types: one whose own text does not tell is fetched.
    async fn shared(&self, admitted: &Admitted, digest: Digest) -> Option<Fetched> {
        let (bytes, visibility) = self.parts.sources.shared_manifest(&admitted.asked, &digest).await?;
        let media_type = manifest::media_type_of(&bytes)?;
        let (size, ttl) = (bytes.len() as u64, self.settings.tags.time_to_live(None));
        Some(Fetched { digest, media_type, size, bytes: Some(bytes), ttl, visibility, mirror: None })
    }

    /// `age` is how long ago the source said so.
    pub(super) async fn remember_tag(&self, scope: &Scope, tag: &Tag, fetched: &Fetched, age: Duration) {
        let now = SystemTime::now();
        let record = TagRecord {
            digest: fetched.digest,
            media_type: fetched.media_type.clone(),
            size: fetched.size,
            checked_at: now.checked_sub(age).unwrap_or(now),
            expires_at: now + fetched.ttl,
            visibility: fetched.visibility,
            mirror: fetched.mirror.clone(),
        };
        let (scope, tag) = (scope.clone(), tag.clone());
        self.parts.health().on_disk(move |store| store.put_tag(&scope, &tag, &record)).await;
    }

    /// Remembers the sizes of everything the manifest names, and sets the layers of an image in motion: the client
    /// will ask for them next, three at a time.
    async fn describe(&self, admitted: &Admitted, media_type: &str, bytes: &Bytes) {
        let scope = &admitted.asked.scope;
        let parsed = match manifest::parse(media_type, bytes) {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::warn!(%scope, %error, "a manifest cannot be read; it is served as it is");
                return;
            }
        };
        let may_fetch = admitted.stores && admitted.local.is_none() && self.settings.prefetch_layers;
        let prefetch = (parsed.kind == Kind::Image && may_fetch).then_some(&admitted.asked);
        for descriptor in parsed.config.iter().chain(&parsed.layers).filter(|d| !d.is_foreign) {
            self.parts.driver.described(descriptor.digest, descriptor.size, prefetch).await;
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

/// What a stored manifest is: its own word, or where it says nothing, as what it was sent. What came as a blob, or lies in the
/// runtime's store, was sent as nothing; `None` if its text is no manifest's.
fn stored_type(blob: &Blob, bytes: &[u8]) -> Option<String> {
    match &blob.media_type {
        Some(sent_as) => own_type(bytes).or_else(|| Some(sent_as.clone())),
        None => manifest::media_type_of(bytes),
    }
}

/// A stored manifest's bytes; `None` if it is too large to be one or cannot be read.
async fn read_manifest(blob: &Blob) -> Option<Bytes> {
    match &blob.content {
        Content::Inline(bytes) => Some(bytes.clone()),
        Content::File(_) => {
            let blob = blob.clone();
            tokio::task::spawn_blocking(move || manifest::stored_bytes(&blob)).await.ok()?
        }
    }
}
