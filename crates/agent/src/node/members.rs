//! Manifests and tags from other members, and for them.
//!
//! Invariants: a member is believed about what a tag points to, because it belongs to the cluster, and about a manifest's
//! bytes only as far as they match their digest; a request with a client's token is not passed on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_engine::{Digest, Reference, Scope, SourceFault};
use shoal_store::Visibility;

use super::access::Admitted;
use super::manifests::Fetched;
use super::{Asked, Cause, FetchError, Inner, Node, on_disk};
use crate::driver::hash_function;
use crate::swarm::Answer;
use crate::upstream::Sought;

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
        let (visibility, mirror) = self.0.known_of(&admitted, reference, &reply.digest).await?;
        let answer = Answer {
            digest: reply.digest.to_string(),
            media_type: reply.media_type,
            size: reply.size,
            ttl_ms: reply.max_age.unwrap_or_default().as_millis() as u64,
            visibility: written(visibility).into(),
            mirror,
        };
        Some((answer, reply.bytes.filter(|_| body)))
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

    /// On what terms another member is answered: those of a client without a token.
    async fn admit_member(&self, scope: Scope, sought: &Sought) -> Option<Admitted> {
        let admitted = self.0.access.admit(&Asked::without_token(scope), sought).await.ok()?;
        Some(Admitted { asks_members: false, ..admitted })
    }
}

impl Inner {
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
        let (answer, bytes) = swarm.ask(&admitted.asked.scope, reference, body).await?;
        let fetched = Fetched {
            digest: answer.digest.parse().ok()?,
            media_type: answer.media_type,
            size: answer.size,
            bytes,
            ttl: Duration::from_millis(answer.ttl_ms),
            visibility: read(&answer.visibility)?,
            mirror: match answer.mirror {
                Some(mirror) => Some(mirror.parse().ok()?),
                None => None,
            },
        };
        let is_asked_for = match reference {
            Reference::Digest(digest) => *digest == fetched.digest,
            Reference::Tag(_) => true,
        };
        let is_right = |bytes: &Bytes| {
            let hash = ring::digest::digest(hash_function(fetched.digest), bytes);
            hash.as_ref() == fetched.digest.hash() && bytes.len() as u64 == fetched.size
        };
        if is_asked_for && fetched.bytes.as_ref().is_none_or(is_right) {
            return Some(fetched);
        }
        tracing::warn!(scope = %admitted.asked.scope, digest = %fetched.digest, "a member sent a manifest that is not what was asked for");
        None
    }

    /// How something that was just answered is known, for another member. For a tag also the mirror that told.
    async fn known_of(
        &self,
        admitted: &Admitted,
        reference: &Reference,
        digest: &Digest,
    ) -> Option<(Visibility, Option<String>)> {
        if let Reference::Tag(tag) = reference {
            let record = self.tag_record(admitted, tag).await?;
            return Some((record.visibility, record.mirror.map(|mirror| mirror.to_string())));
        }
        let (scope, digest) = (admitted.asked.scope.clone(), *digest);
        let linked = on_disk(&self.parts.store, move |store| {
            let own = store.linked(&scope, &digest)?;
            let any = store.links(&digest)?.iter().any(|(_, found)| *found == Visibility::Public);
            Ok(if any { Some(Visibility::Public) } else { own })
        });
        linked.await.flatten().map(|visibility| (visibility, None))
    }
}

fn written(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Private => "private",
        Visibility::Mirrored => "mirrored",
        Visibility::Public => "public",
    }
}

fn read(text: &str) -> Option<Visibility> {
    [Visibility::Private, Visibility::Mirrored, Visibility::Public].into_iter().find(|v| written(*v) == text)
}
