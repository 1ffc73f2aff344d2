//! What a request can ask of this node. The registry front turns HTTP into these calls and their answers into HTTP.

mod access;
mod blobs;
mod manifests;
mod members;
mod proof;
mod single;
mod stock;
mod verdicts;
mod warming;

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use shoal_engine::access::Rules;
use shoal_engine::tags::TagPolicy;
use shoal_engine::{Digest, Reference, Registry, Scope, SourceFault};
use shoal_store::{Store, Visibility};

use crate::driver;
use crate::listing::{ListingReply, Listings};
use crate::metrics::{Metrics, Served};
use crate::sources::Sources;
use crate::store_health::StoreHealth;
use crate::swarm::Swarm;
use crate::upstream::{ClientToken, Hops, Sought, UpstreamError};

use access::Access;
use single::Single;

pub(crate) use members::{visibility_of, written};
pub use shoal_engine::demand::Part;
pub(crate) use warming::Held;

/// Who asks, and for which repository.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Registry and repository of the request.
    pub scope: Scope,
    /// Agents that have forwarded this request before us (C17).
    pub hops: Hops,
    /// The client's address, passed on as `X-Forwarded-For` where that is configured.
    pub client: Option<IpAddr>,
    /// The token that the client has shown.
    pub bearer: Option<ClientToken>,
}

impl Asked {
    /// Nobody's own request: what a client would ask that has no token.
    pub fn without_token(scope: Scope) -> Self {
        Asked { scope, hops: Hops::default(), client: None, bearer: None }
    }
}

/// A blob, or a part of one, on its way.
pub struct BlobReply {
    /// Size of the whole blob, bytes.
    pub size: u64,
    /// What the body carries, end exclusive.
    pub range: Range<u64>,
    /// The bytes, as they arrive.
    pub body: crate::driver::BlobBody,
    /// Where they come from.
    pub source: Served,
    /// How they are known to be in the repository.
    pub visibility: Visibility,
}

/// A manifest or what is known of it.
#[derive(Clone, Debug)]
pub struct ManifestReply {
    /// Digest of the bytes, in the algorithm it was asked by.
    pub digest: Digest,
    /// Media type without parameters.
    pub media_type: String,
    /// Size in bytes.
    pub size: u64,
    /// The stored bytes; `None` only where the caller said that it needs none.
    pub bytes: Option<Bytes>,
    /// How long the answer may be used; `None` for content asked by digest, which never changes.
    pub max_age: Option<Duration>,
    /// Why the answer may be out of date, if it may.
    pub stale: Option<String>,
    /// Where it came from.
    pub source: Served,
}

/// What one source said, for the `detail` of an error and for the log.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Cause {
    /// The source's URL without credentials and query.
    pub source: String,
    /// What happened there.
    pub reason: String,
}

/// Why a pull cannot be served. `registry::error` is the one place that turns it into HTTP.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    /// The range lies outside the blob. The client is at fault.
    #[error("the range lies outside the blob of {size} bytes")]
    Unsatisfiable {
        /// Size of the blob, bytes.
        size: u64,
    },
    /// No source has it. Asking again helps only after somebody has pushed it.
    #[error("no source has it")]
    Unknown(Vec<Cause>),
    /// The origin refuses us. An operator has to configure credentials, or the client asks the origin itself.
    #[error("the origin denies access")]
    Denied(Vec<Cause>),
    /// It is not served by this agent, though it may exist: a rule of the operator, or an image that is not public. The client
    /// asks the origin itself.
    #[error("this agent does not serve it")]
    Withheld(Vec<Cause>),
    /// The client has to show a token of its registry, and has shown none that is good for this.
    #[error("the registry's token is needed")]
    Unauthorized {
        /// The registry's own words: where a token is to be had.
        challenge: HeaderValue,
    },
    /// Every source failed or was rate limited. The client may ask the origin itself or come again.
    #[error("every source failed")]
    Exhausted(Vec<Cause>),
    /// No answer within the budget. The client may ask the origin itself or come again.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The request has been forwarded by agents before and would go round in a circle.
    #[error("the request came back to an agent that had already forwarded it")]
    Loop,
    /// The agent is shutting down.
    #[error("the agent is shutting down")]
    Draining,
}

/// A listing that passes through: tags or referrers.
#[derive(Clone, Debug)]
pub enum Listing {
    /// `tags/list` with `n` and `last`.
    Tags {
        /// At most this many.
        n: Option<u64>,
        /// Only tags after this one.
        last: Option<String>,
    },
    /// `referrers/<digest>`.
    Referrers {
        /// The subject.
        digest: Digest,
        /// Only artifacts of this type.
        artifact_type: Option<String>,
        /// The upstream's own paging parameters, passed back to it as they came.
        page: Option<String>,
    },
}

/// A reference with its scope, as a person writes it.
pub fn display_reference(scope: &Scope, reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => format!("{scope}:{tag}"),
        Reference::Digest(digest) => format!("{scope}@{digest}"),
    }
}

/// What a node is made of.
pub struct Parts {
    /// The blobs on disk.
    pub store: Store,
    /// Everything that is not here.
    pub sources: Sources,
    /// The driver of this node's engine.
    pub driver: driver::Handle,
    /// The other members, if there are any.
    pub swarm: Option<Swarm>,
    /// Tag lists and referrers.
    pub listings: Listings,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Parts {
    /// The way to the store: where it fails, the caller goes upstream.
    fn health(&self) -> &StoreHealth {
        self.driver.store_health()
    }
}

/// How a node behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest time until a request is answered with headers or an error.
    pub answer_timeout: Duration,
    /// A client that gets no byte for this long is cut off.
    pub body_idle_timeout: Duration,
    /// How long answers about tags live.
    pub tags: TagPolicy,
    /// Whether a manifest sets its layers in motion.
    pub prefetch_layers: bool,
    /// What may be served at all.
    pub rules: Rules,
}

/// This node, as requests see it. Cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    parts: Parts,
    settings: Settings,
    access: Access,
    manifests: Single<manifests::Key, Result<manifests::Fetched, FetchError>>,
    proofs: Single<proof::Key, Result<Visibility, FetchError>>,
    /// Sizes that other members ask for.
    sizes: Single<proof::Key, Result<u64, FetchError>>,
}

/// Why something could not be had from upstream.
#[derive(Clone, Debug)]
struct FetchError {
    fault: SourceFault,
    pull: PullError,
}

impl FetchError {
    fn is_worth_a_retry(&self) -> bool {
        self.fault.is_worth_a_retry()
    }

    /// What the client is told; nothing is known where the work ended without a word.
    fn told(error: Option<Self>) -> PullError {
        error.map_or(PullError::Exhausted(Vec::new()), |error| error.pull)
    }
}

impl From<UpstreamError> for FetchError {
    fn from(error: UpstreamError) -> Self {
        FetchError { fault: error.fault(), pull: pull_error(&error) }
    }
}

impl Node {
    /// Puts the parts together.
    pub fn new(parts: Parts, settings: Settings) -> Self {
        let access = Access::new(settings.rules.clone(), parts.sources.upstream().clone());
        let (manifests, proofs, sizes) = (Single::new(), Single::new(), Single::new());
        Node(Arc::new(Inner { parts, settings, access, manifests, proofs, sizes }))
    }

    /// A part of a blob. Resolves when the first byte is there, or when it is clear that there will be none.
    pub async fn open_blob(&self, asked: &Asked, digest: Digest, part: Part) -> Result<BlobReply, PullError> {
        self.in_time(async {
            let admitted = self.0.access.admit(asked, &Sought::Blob(digest)).await?;
            let result = self.0.open_blob(&admitted, digest, part).await;
            self.0.access.answered(&admitted, result).await
        })
        .await
    }

    /// The size of a blob and where it is.
    pub async fn blob_size(&self, asked: &Asked, digest: Digest) -> Result<(u64, Served), PullError> {
        self.in_time(async {
            let admitted = self.0.access.admit(asked, &Sought::Blob(digest)).await?;
            let result = self.0.blob_size(&admitted, digest).await;
            self.0.access.answered(&admitted, result).await
        })
        .await
    }

    /// A manifest; its bytes only if `body` is set, so that a tag that is only looked up costs upstream a `HEAD`.
    pub async fn manifest(
        &self,
        asked: &Asked,
        reference: &Reference,
        body: bool,
    ) -> Result<ManifestReply, PullError> {
        self.in_time(async {
            let admitted = self.0.access.admit(asked, &Sought::Manifest(reference.clone())).await?;
            let result = self.0.manifest(&admitted, reference, body).await;
            self.0.access.answered(&admitted, result).await
        })
        .await
    }

    /// A list of tags or referrers.
    pub async fn listing(&self, asked: &Asked, listing: &Listing) -> Result<ListingReply, PullError> {
        self.in_time(async {
            let admitted = self.0.access.admit(asked, &Sought::List(listing.clone())).await?;
            admitted.local()?;
            let result = self.0.parts.listings.get(&admitted.asked, listing).await;
            self.0.access.answered(&admitted, result).await
        })
        .await
    }

    /// What the version check says on a listener with a default registry.
    pub async fn ping(&self, registry: &Registry, token: Option<&ClientToken>) -> Result<(), PullError> {
        self.in_time(self.0.access.ping(registry, token)).await
    }

    /// Containerd before 2.3 waits for headers without end, so the budget is kept here.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, PullError>>) -> Result<T, PullError> {
        let budget = self.0.settings.answer_timeout;
        tokio::time::timeout(budget, work).await.unwrap_or(Err(PullError::TimedOut(budget)))
    }
}

/// One source's failure as the answer to a client.
fn pull_error(error: &UpstreamError) -> PullError {
    let causes = error.causes();
    match error.fault() {
        SourceFault::Missing => PullError::Unknown(causes),
        SourceFault::Denied { .. } => PullError::Denied(causes),
        SourceFault::Loop => PullError::Loop,
        SourceFault::Transient
        | SourceFault::Interrupted
        | SourceFault::RateLimited { .. }
        | SourceFault::Protocol
        | SourceFault::WrongContent
        | SourceFault::Stopped => PullError::Exhausted(causes),
    }
}
