//! Lists of tags and referrers: passed through from upstream, kept for a short time.
//!
//! Both are mutable, so a copy is fresh only for [`ListingSettings::ttl`]; after that it is served only while the
//! source cannot be asked, marked stale, and not longer than [`ListingSettings::stale_max`]. Both come from
//! `[tags]` of the configuration, but no list is fresh for longer than [`TTL_MAX`]. One request goes upstream for all
//! clients that ask the same at the same time, and goes on when the client that caused it leaves.
//! The cache is bounded in bytes; one list is bounded by [`LIST_BYTES_MAX`](crate::upstream::LIST_BYTES_MAX).

mod page;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::future::Cache;
use moka::ops::compute::Op;
use serde::Deserialize;
use serde::de::IgnoredAny;
use shoal_engine::tags::TagPolicy;
use shoal_engine::{Scope, SourceFault};
use tokio::time::Instant;

use crate::metrics::Served;
use crate::node::{Asked, Cause, Listing, PullError};
use crate::upstream::Upstream;

/// All lists that are kept, bytes: a fifth of what an idle agent may use, and some thousand lists of common length.
pub const CACHE_BYTES_MAX: u64 = 8 << 20;
/// What a kept list costs besides its body, bytes: key, links and the cache's own records, rounded up.
const ENTRY_OVERHEAD_BYTES: usize = 1024;
/// How long a failure is remembered. Long enough that clients that waited for one failed request do not repeat it
/// one after the other, short enough that nobody takes it for knowledge: a signature or tag may be pushed at any time.
/// For the same reason a list is kept at least this long, even if upstream says that it is out of date at once.
pub const FAILURE_TTL: Duration = Duration::from_secs(2);
/// Longest time for which a list is fresh, whatever `tags.ttl` and upstream say: in lists people and programs look for what was
/// just pushed, and a list says of what it lacks that it is not there.
pub const TTL_MAX: Duration = Duration::from_secs(30);
const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const JSON_MEDIA_TYPE: &str = "application/json";

/// How long lists are kept.
#[derive(Clone, Copy, Debug)]
pub struct ListingSettings {
    /// A copy is served without asking for this long, or shorter if upstream says so. Longer saves requests, and
    /// shows a new tag or signature later.
    pub ttl: Duration,
    /// How long after that a copy is still served while the source is down or limits us. Zero makes its outage ours.
    pub stale_max: Duration,
}

/// From `tags.ttl` and `tags.stale_max`. A `ttl` below [`FAILURE_TTL`] counts as that: clients that wait for one answer share it.
impl From<TagPolicy> for ListingSettings {
    fn from(tags: TagPolicy) -> Self {
        ListingSettings { ttl: tags.ttl.clamp(FAILURE_TTL, TTL_MAX), stale_max: tags.stale_max }
    }
}

/// A list for a client.
#[derive(Clone, Debug)]
pub struct ListingReply {
    /// The JSON.
    pub body: Bytes,
    /// Its media type.
    pub media_type: String,
    /// What to ask for the next page, if there is one.
    pub next: Option<Listing>,
    /// Whether `artifactType` has been applied.
    pub is_filtered: bool,
    /// How long it may be used.
    pub max_age: Duration,
    /// Why it may be out of date, if it may.
    pub stale: Option<String>,
    /// Where it came from.
    pub source: Served,
}

/// What upstream answered to a list request.
#[derive(Clone, Debug)]
pub struct RawList {
    /// Body, decoded.
    pub body: Bytes,
    /// Query of the next page's URL.
    pub next_query: Option<String>,
    /// `OCI-Filters-Applied`, as it came.
    pub filters_applied: Option<String>,
    /// How long upstream wants it to be used.
    pub max_age: Option<Duration>,
}

/// A list request that brought no answer.
#[derive(Clone, Debug)]
pub struct ListFailure {
    /// What it means.
    pub fault: SourceFault,
    /// What happened where.
    pub cause: Cause,
}

/// Who is asked for lists. [`Upstream`] is the one implementation outside of tests.
pub trait Lister: Clone + Send + Sync + 'static {
    /// One GET of `path_and_query`, which is what follows the repository in the URL.
    fn list(
        &self,
        asked: &Asked,
        path_and_query: &str,
    ) -> impl Future<Output = Result<RawList, ListFailure>> + Send;
}

impl Lister for Upstream {
    async fn list(&self, asked: &Asked, path_and_query: &str) -> Result<RawList, ListFailure> {
        match Upstream::list(self, asked, path_and_query).await {
            Ok(answer) => Ok(RawList {
                next_query: answer.next_query().map(str::to_owned),
                body: answer.bytes,
                filters_applied: answer.filters_applied,
                max_age: answer.max_age,
            }),
            Err(error) => Err(ListFailure { fault: error.fault(), cause: error.cause() }),
        }
    }
}

type Key = (Scope, String);

/// What is kept under a key.
#[derive(Clone)]
struct Kept {
    outcome: Result<List, PullError>,
    /// Served without asking until then.
    fresh_until: Instant,
    /// The list was fresh until then when upstream gave it.
    good_until: Instant,
    /// What went wrong when it was last asked for, if that is later.
    stale: Option<String>,
}

/// A list as it is kept.
#[derive(Clone)]
struct List {
    body: Bytes,
    next: Option<Listing>,
    is_filtered: bool,
}

/// The cache. Cheap to clone.
#[derive(Clone)]
pub struct Listings<L = Upstream> {
    lister: L,
    settings: ListingSettings,
    kept: Cache<Key, Arc<Kept>>,
}

impl<L: Lister> Listings<L> {
    /// An empty cache in front of `lister`.
    pub fn new(lister: L, settings: ListingSettings) -> Self {
        let kept = Cache::builder()
            .max_capacity(CACHE_BYTES_MAX)
            .weigher(|(_, path): &Key, kept: &Arc<Kept>| {
                let body = kept.outcome.as_ref().map_or(0, |list| list.body.len());
                u32::try_from(body + path.len() + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
            })
            // Freshness is judged here, on the clock that tests can move; this only frees what nobody asks for.
            .time_to_live(settings.ttl + settings.stale_max)
            .build();
        Listings { lister, settings, kept }
    }

    /// A list, from the cache if it is fresh.
    ///
    /// # Errors
    /// What upstream said if it refuses or does not know, and `Exhausted` if it failed and there is no copy.
    pub async fn get(&self, asked: &Asked, listing: &Listing) -> Result<ListingReply, PullError> {
        let key = (asked.scope.clone(), page::path_and_query(listing));
        let now = Instant::now();
        if let Some(kept) = self.kept.get(&key).await
            && now < kept.fresh_until
        {
            return reply(&kept, listing, Served::Store, now);
        }
        // On a task of its own, so that it ends whether or not this client waits for it.
        let (this, asked, asked_for) = (self.clone(), asked.clone(), listing.clone());
        let refreshed = tokio::spawn(async move { this.refresh(key, asked, asked_for).await }).await;
        match refreshed {
            Ok((kept, source)) => reply(&kept, listing, source, Instant::now()),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The task is never aborted; only a runtime that shuts down ends it early.
            Err(_) => Err(PullError::Draining),
        }
    }

    /// Asks upstream, unless somebody else has done so while this call waited its turn.
    async fn refresh(&self, key: Key, asked: Asked, listing: Listing) -> (Arc<Kept>, Served) {
        let path = key.1.clone();
        let mut source = Served::Shared;
        let source_of = &mut source;
        let entry = self
            .kept
            .entry(key)
            .and_compute_with(|entry| async move {
                let known = entry.map(moka::Entry::into_value);
                if known.as_ref().is_some_and(|known| Instant::now() < known.fresh_until) {
                    return Op::Nop;
                }
                *source_of = Served::Upstream;
                let answer = self.lister.list(&asked, &path).await;
                Op::Put(Arc::new(self.next_kept(known.as_deref(), answer, &asked, &listing)))
            })
            .await;
        use moka::ops::compute::CompResult::{Inserted, Removed, ReplacedWith, StillNone, Unchanged};
        match entry {
            Inserted(entry) | ReplacedWith(entry) | Unchanged(entry) | Removed(entry) => {
                (entry.into_value(), source)
            }
            StillNone(_) => unreachable!("without an entry the closure always puts one"),
        }
    }

    fn next_kept(
        &self,
        known: Option<&Kept>,
        answer: Result<RawList, ListFailure>,
        asked: &Asked,
        listing: &Listing,
    ) -> Kept {
        let now = Instant::now();
        let max_age = answer.as_ref().ok().and_then(|raw| raw.max_age);
        let answer = answer.and_then(|raw| check(raw, asked, listing));
        let failure = match answer {
            Ok(list) => {
                let ttl = max_age.unwrap_or(self.settings.ttl).max(FAILURE_TTL).min(self.settings.ttl);
                let good_until = now + ttl;
                return Kept { outcome: Ok(list), fresh_until: good_until, good_until, stale: None };
            }
            Err(failure) => failure,
        };
        let fresh_until = now + FAILURE_TTL;
        // A source that answers "no" is believed; one that cannot answer does not make a copy worthless.
        let cannot_answer =
            !matches!(failure.fault, SourceFault::Missing | SourceFault::Denied { .. } | SourceFault::Loop);
        if let Some(known) = known
            && known.outcome.is_ok()
            && cannot_answer
            && now < known.good_until + self.settings.stale_max
        {
            let Cause { source, reason } = failure.cause;
            let stale = Some(format!("{source} could not be asked: {reason}"));
            return Kept { fresh_until, stale, ..known.clone() };
        }
        let causes = vec![failure.cause];
        let error = match failure.fault {
            SourceFault::Missing => PullError::Unknown(causes),
            SourceFault::Denied { .. } => PullError::Denied(causes),
            SourceFault::Loop => PullError::Loop,
            SourceFault::Transient
            | SourceFault::Interrupted
            | SourceFault::RateLimited { .. }
            | SourceFault::Protocol
            | SourceFault::WrongContent
            | SourceFault::Stopped => PullError::Exhausted(causes),
        };
        Kept { outcome: Err(error), fresh_until, good_until: fresh_until, stale: None }
    }
}

fn reply(kept: &Kept, listing: &Listing, source: Served, now: Instant) -> Result<ListingReply, PullError> {
    let list = kept.outcome.clone()?;
    let media_type = match listing {
        Listing::Tags { .. } => JSON_MEDIA_TYPE,
        Listing::Referrers { .. } => INDEX_MEDIA_TYPE,
    };
    Ok(ListingReply {
        body: list.body,
        media_type: media_type.to_owned(),
        next: list.next,
        is_filtered: list.is_filtered,
        max_age: if kept.stale.is_some() {
            Duration::ZERO
        } else {
            kept.fresh_until.saturating_duration_since(now)
        },
        source: if kept.stale.is_some() { Served::Stale } else { source },
        stale: kept.stale.clone(),
    })
}

#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Referrers {
    #[serde(rename = "manifests")]
    _manifests: Vec<IgnoredAny>,
}

/// Turns an answer into a list, or says what is wrong with it. Some servers answer a path that they do not know with
/// a page for people and status 200; a client must not get that for a list.
fn check(raw: RawList, asked: &Asked, listing: &Listing) -> Result<List, ListFailure> {
    let not_a_list = |error: serde_json::Error| ListFailure {
        fault: SourceFault::Protocol,
        cause: Cause { source: asked.scope.to_string(), reason: format!("not a list: {error}") },
    };
    let query = raw.next_query.as_deref();
    match listing {
        Listing::Tags { n, .. } => {
            let list: TagList = serde_json::from_slice(&raw.body).map_err(not_a_list)?;
            if *n == Some(0) {
                return Ok(List {
                    body: page::no_tags(&asked.scope.repository),
                    next: None,
                    is_filtered: false,
                });
            }
            let tags = list.tags.unwrap_or_default();
            let next = query.and_then(|query| page::next_tags(query, *n, &tags, listing));
            Ok(List { body: raw.body, next, is_filtered: false })
        }
        Listing::Referrers { artifact_type, .. } => {
            let _: Referrers = serde_json::from_slice(&raw.body).map_err(not_a_list)?;
            let next = query.and_then(|query| page::next_referrers(query, listing));
            let body = match artifact_type {
                Some(artifact_type) if !page::says_filtered(raw.filters_applied.as_deref()) => {
                    page::filtered(&raw.body, artifact_type).map_err(not_a_list)?
                }
                _ => raw.body,
            };
            Ok(List { body, next, is_filtered: artifact_type.is_some() })
        }
    }
}

#[cfg(test)]
mod tests;
