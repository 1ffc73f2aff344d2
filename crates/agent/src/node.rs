//! What a request can ask of this node. The registry front turns HTTP into these calls and their answers into HTTP.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use shoal_engine::{Digest, Reference, Scope};

use crate::metrics::Served;

/// Who asks, and for which repository.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Registry and repository of the request.
    pub scope: Scope,
    /// Agents that have forwarded this request before us (C17).
    pub hops: u32,
    /// The client's address, passed on as `X-Forwarded-For` where that is configured.
    pub client: Option<IpAddr>,
}

/// The part of a blob that a request wants; the blob's size may not be known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it (no `Range`).
    Whole,
    /// `bytes=first-`.
    From(u64),
    /// `bytes=first-last`, both inclusive; `last` may lie beyond the end.
    Bounded(u64, u64),
    /// `bytes=-n`.
    Suffix(u64),
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
