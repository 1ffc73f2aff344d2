//! Manifests and tags from other members, and for them.
//!
//! Invariants: a member is believed about what a tag points to, because it belongs to the cluster, and about a manifest's
//! bytes only as far as they match their digest; a request with a client's token is not passed on.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected};
use shoal_engine::{Digest, Reference, Scope, SourceFault, Tag};
use shoal_store::{Blob, Content, TagRecord, Visibility};

use super::access::Admitted;
use super::blobs::Come;
use super::manifests::Fetched;
use super::{Asked, Cause, FetchError, Inner, Node, Part};
use crate::driver::{is_named, read_at};
use crate::swarm::{Answer, SMALL_BLOB_BYTES_MAX};
use crate::upstream::{Sought, own_type};

/// A stored blob cannot be read for another member.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the stored blob {digest}")]
struct Unreadable {
    digest: Digest,
    source: io::Error,
}

impl Node {
    /// What another member asks for: it is looked up here or, unless only what is `stored` counts, upstream, never at a
    /// third member.
    pub(crate) async fn manifest_for_member(
        &self,
        scope: Scope,
        reference: &Reference,
        body: bool,
        stored: bool,
    ) -> Option<(Answer, Option<Bytes>)> {
        let admitted = self.admit_member(scope, &Sought::Manifest(reference.clone())).await?;
        if !admitted.stores {
            return None;
        }
        let local = admitted.local.clone().or_else(|| {
            let source = "another member".into();
            stored.then(|| Cause { source, reason: "only what is stored was asked for".into() })
        });
        let admitted = Admitted { local, ..admitted };
        let reply = self.in_time(self.0.manifest_reply(&admitted, reference, body)).await.ok()?;
        if reply.stale.is_some() || (body && reply.bytes.is_none()) {
            // Whoever has to make do with what is out of date decides that for itself.
            return None;
        }
        let (visibility, mirror, age) = self.0.known_of(&admitted, reference, &reply.digest).await?;
        let answer = Answer {
            digest: reply.digest.to_string(),
            media_type: reply.media_type,
            size: reply.size,
            ttl_ms: reply.max_age.unwrap_or_default().as_millis() as u64,
            visibility: written(visibility).into(),
            mirror,
            age_ms: age.map(|age| age.as_millis() as u64),
        };
        Some((answer, reply.bytes.filter(|_| body)))
    }

    /// What another member tells of a tag whose home this node is. It is taken as if this node had asked that member, unless
    /// what is known here is younger.
    pub(crate) async fn tag_from_member(&self, scope: Scope, tag: Tag, answer: Answer) {
        let reference = Reference::Tag(tag.clone());
        let Some(admitted) = self.admit_member(scope, &Sought::Manifest(reference)).await else { return };
        let Some((told, age)) =
            Inner::told(answer, None).filter(|(told, _)| admitted.suffices(told.visibility))
        else {
            return;
        };
        let known = self.0.tag_record(&admitted, &tag).await;
        let known_age = known.and_then(|known| SystemTime::now().duration_since(known.checked_at).ok());
        if !admitted.stores || known_age.is_some_and(|known| known <= age) {
            return;
        }
        if let Ok(believed) = self.0.believed(&admitted, &tag, told).await {
            self.0.remember_tag(&admitted.asked.scope, &tag, &believed, age).await;
        }
    }

    /// Tells the homes of a tag what it points to, so that they still know it when its source is down. For a tag that all nodes
    /// are to serve although they have never asked for it.
    pub(crate) fn spread_tag(&self, scope: &Scope, tag: &Tag) {
        let (inner, scope, tag) = (Arc::clone(&self.0), scope.clone(), tag.clone());
        tokio::spawn(async move {
            let Some(swarm) = &inner.parts.swarm else { return };
            let asked = Asked::without_token(scope.clone());
            let Ok(admitted) =
                inner.access.admit(&asked, &Sought::Manifest(Reference::Tag(tag.clone()))).await
            else {
                return;
            };
            let Some(record) = inner.tag_record(&admitted, &tag).await else { return };
            let now = SystemTime::now();
            let answer = Answer {
                digest: record.digest.to_string(),
                media_type: record.media_type,
                size: record.size,
                ttl_ms: record.expires_at.duration_since(now).unwrap_or_default().as_millis() as u64,
                visibility: written(record.visibility).into(),
                mirror: record.mirror.map(|mirror| mirror.to_string()),
                age_ms: Some(now.duration_since(record.checked_at).unwrap_or_default().as_millis() as u64),
            };
            swarm.tell_tag(&scope, &tag, answer).await;
        });
    }

    /// How big a blob is, for another member. Those who ask at the same time cost upstream one request.
    pub(crate) async fn size_for_member(&self, scope: Scope, digest: Digest) -> Option<u64> {
        let admitted = self.admit_member(scope.clone(), &Sought::Blob(digest)).await?;
        if let Some(size) = self.0.parts.driver.known_size(digest).await {
            return Some(size);
        }
        let ask = || {
            let (this, admitted) = (Arc::clone(&self.0), admitted.clone());
            Box::pin(async move {
                let told = this.blob_size(&admitted, digest).await;
                told.map(|(size, _)| size).map_err(|pull| FetchError { fault: SourceFault::Transient, pull })
            })
        };
        let told = self.0.sizes.run_until_done((scope, digest), ask, |_| false);
        self.in_time(async { Ok(told.await.ok()) }).await.ok().flatten()
    }

    /// A small blob for another member, and how it is known to be in the repository. It is fetched as for a client of this node.
    pub(crate) async fn small_blob_for_member(
        &self,
        scope: Scope,
        digest: Digest,
        size: u64,
    ) -> Option<(Bytes, Visibility)> {
        let admitted = self.admit_member(scope, &Sought::Blob(digest)).await?;
        if !admitted.stores || size > SMALL_BLOB_BYTES_MAX {
            return None;
        }
        // Nobody has to be asked for it then.
        self.0.parts.driver.described(digest, size, None).await;
        let come = self.in_time(async {
            Ok(match self.0.come(&admitted, digest, Part::Whole).await? {
                Come::Stored { blob, .. } if blob.size > SMALL_BLOB_BYTES_MAX => None,
                Come::Stored { blob, visibility, .. } => {
                    self.0.small_bytes(blob).await.map(|bytes| (bytes, visibility))
                }
                Come::Reply(reply) if reply.size > SMALL_BLOB_BYTES_MAX => None,
                Come::Reply(reply) => {
                    let bytes = reply.body.collect().await.ok().map(Collected::to_bytes);
                    bytes.map(|bytes| (bytes, reply.visibility))
                }
            })
        });
        let (bytes, visibility) = come.await.ok().flatten()?;
        if let Some(swarm) = &self.0.parts.swarm {
            swarm.throttles().0.pass(bytes.len()).await;
        }
        self.0.parts.metrics.peer_sent_bytes.inc_by(bytes.len() as u64);
        Some((bytes, visibility))
    }

    /// On what terms another member is answered: those of a client without a token.
    async fn admit_member(&self, scope: Scope, sought: &Sought) -> Option<Admitted> {
        let admitted = self.0.access.admit(&Asked::without_token(scope), sought).await.ok()?;
        Some(Admitted { asks_members: false, ..admitted })
    }
}

impl Inner {
    /// The bytes of a small blob that is stored; `None` if they cannot be read, which is noted.
    async fn small_bytes(&self, blob: Blob) -> Option<Bytes> {
        let digest = blob.digest;
        match read(blob).await? {
            Ok(bytes) => Some(bytes),
            Err(source) => {
                self.parts.health().unreadable(&Unreadable { digest, source });
                None
            }
        }
    }

    /// What the home of a tag or manifest says; `None` if upstream is to be asked.
    pub(super) async fn from_home(
        self: &Arc<Self>,
        admitted: &Admitted,
        reference: &Reference,
        body: bool,
    ) -> Option<Fetched> {
        let swarm = self.parts.swarm.as_ref().filter(|_| admitted.asks_members && admitted.stores)?;
        if admitted.asked.bearer.is_some() {
            return None;
        }
        let (answer, bytes) = swarm.ask(&admitted.asked.scope, reference, body, &self.parts.driver).await?;
        let (fetched, _) = Self::told(answer, bytes)?;
        let is_asked_for = match reference {
            Reference::Digest(digest) => *digest == fetched.digest,
            Reference::Tag(_) => true,
        };
        let is_right = |bytes: &Bytes| is_named(bytes, fetched.digest, fetched.size);
        if is_asked_for && fetched.bytes.as_ref().is_none_or(is_right) {
            return Some(fetched);
        }
        tracing::warn!(scope = %admitted.asked.scope, digest = %fetched.digest, "a member sent a manifest that is not what was asked for");
        None
    }

    /// What the homes of a tag remember of it, remembered here as well; `None` if nobody does, or what they have is too old for
    /// what its source has failed with.
    pub(super) async fn remembered_by_homes(
        &self,
        admitted: &Admitted,
        tag: &Tag,
        fault: &SourceFault,
    ) -> Option<TagRecord> {
        let swarm = self.parts.swarm.as_ref().filter(|_| admitted.asks_members && admitted.stores)?;
        // Others would refuse it as well, and it costs them time.
        if admitted.asked.bearer.is_some() || !self.settings.tags.serves_stale(fault, None, Duration::ZERO) {
            return None;
        }
        let answer = swarm.ask_remembered(&admitted.asked.scope, tag).await?;
        let (told, age) = Self::told(answer, None)?;
        let is_young = self.settings.tags.serves_stale(fault, Some(age), Duration::ZERO);
        if !is_young || !admitted.suffices(told.visibility) {
            return None;
        }
        self.remember_tag(&admitted.asked.scope, tag, &told, age).await;
        self.tag_record(admitted, tag).await
    }

    /// A member's answer, and for a tag how long ago its source said so.
    fn told(answer: Answer, bytes: Option<Bytes>) -> Option<(Fetched, Duration)> {
        let mirror = match answer.mirror {
            Some(mirror) => Some(mirror.parse().ok()?),
            None => None,
        };
        let fetched = Fetched {
            digest: answer.digest.parse().ok()?,
            media_type: bytes.as_deref().and_then(own_type).unwrap_or(answer.media_type),
            size: answer.size,
            bytes,
            ttl: Duration::from_millis(answer.ttl_ms),
            visibility: visibility_of(&answer.visibility)?,
            mirror,
        };
        Some((fetched, Duration::from_millis(answer.age_ms.unwrap_or_default())))
    }

    /// How something that was just answered is known, for another member. For a tag also the mirror that told, and how long ago
    /// that was.
    async fn known_of(
        &self,
        admitted: &Admitted,
        reference: &Reference,
        digest: &Digest,
    ) -> Option<(Visibility, Option<String>, Option<Duration>)> {
        if let Reference::Tag(tag) = reference {
            let record = self.tag_record(admitted, tag).await?;
            let age = SystemTime::now().duration_since(record.checked_at).unwrap_or_default();
            return Some((record.visibility, record.mirror.map(|mirror| mirror.to_string()), Some(age)));
        }
        let (scope, digest) = (admitted.asked.scope.clone(), *digest);
        let linked = self.parts.health().on_disk(move |store| {
            let own = store.linked(&scope, &digest)?;
            let any = store.links(&digest)?.iter().any(|(_, found)| *found == Visibility::Public);
            Ok(if any { Some(Visibility::Public) } else { own })
        });
        linked.await.flatten().map(|visibility| (visibility, None, None))
    }
}

/// The bytes of a stored blob that go over TLS. They are read: of a mapping, an error of the disk or a file that has been shortened
/// would end the process.
async fn read(blob: Blob) -> Option<io::Result<Bytes>> {
    match &blob.content {
        Content::Inline(bytes) => Some(Ok(bytes.clone())),
        Content::File(file) => {
            let file = Arc::clone(file);
            tokio::task::spawn_blocking(move || read_at(&file, 0..blob.size)).await.ok()
        }
    }
}

/// A visibility as members write it.
pub(crate) fn written(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Private => "private",
        Visibility::Mirrored => "mirrored",
        Visibility::Public => "public",
    }
}

/// What a member has written.
pub(crate) fn visibility_of(text: &str) -> Option<Visibility> {
    [Visibility::Private, Visibility::Mirrored, Visibility::Public].into_iter().find(|v| written(*v) == text)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use shoal_engine::Algorithm;
    use shoal_store::{Options, Store};

    use super::*;

    /// Where a mapping was touched, this would be the end of the process.
    #[tokio::test]
    async fn a_stored_file_that_has_been_shortened_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { disk_free_min: 0, inline_max: 0, ..Options::new(folder.path()) };
        let store = Store::open(options).unwrap().store;
        let (bytes, now) = (Bytes::from(vec![7; 20_000]), SystemTime::now());
        let hash = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let digest = Digest::new(Algorithm::Sha256, hash.as_ref());
        store.put(&digest, None, &bytes, now).unwrap();
        let blob = store.get(&digest, now).unwrap().unwrap();
        assert_eq!(read(blob.clone()).await.unwrap().unwrap(), bytes);
        let hex = digest.hex();
        let path = folder.path().join("blobs/sha256").join(&hex[..2]).join(&hex);
        File::options().write(true).open(path).unwrap().set_len(100).unwrap();
        assert_eq!(read(blob).await.unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_manifest_knows_its_type_better_than_a_member() {
        let manifest = Bytes::from_static(br#"{"schemaVersion":2,"config":{},"layers":[]}"#);
        let answer = Answer {
            digest: format!("sha256:{}", "11".repeat(32)),
            media_type: "text/html".into(),
            size: manifest.len() as u64,
            ttl_ms: 0,
            visibility: "public".into(),
            mirror: None,
            age_ms: None,
        };
        let of_the_bytes = "application/vnd.oci.image.manifest.v1+json";
        for (bytes, expected) in [(Some(manifest), of_the_bytes), (None, "text/html")] {
            let (told, _) = Inner::told(answer.clone(), bytes).unwrap();
            assert_eq!(told.media_type, expected);
        }
    }
}
