//! `/v1/blobs`: the store, blob by blob. Lists come in pages, so that neither side holds a large store in memory.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use shoal_engine::Digest;
use shoal_store::{BlobInfo, Home, Store, StoreError, Verification};

use super::openapi::{BlobRefusals, DigestText, OfBlob};
use super::{AdminState, Refusal, on_disk};

/// Most blobs of one page: 250 bytes each.
pub const PAGE_MAX: usize = 1000;

/// One blob, as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlobEntry {
    /// Its name.
    #[schema(value_type = DigestText)]
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Media type it came with.
    pub media_type: Option<String>,
    /// How often it was used.
    pub hits: u64,
    /// When it was stored, in Unix seconds.
    pub stored_at: u64,
    /// When it was last used, in Unix seconds.
    pub used_at: u64,
    /// Whether eviction and expiry leave it alone.
    pub pinned: bool,
    /// When a pin that has an end ends, in Unix seconds.
    #[serde(default)]
    pub pinned_until: Option<u64>,
    /// Whether it lies in the index itself.
    pub inline: bool,
    /// Whether it belongs to the container runtime.
    pub runtime: bool,
}

impl From<BlobInfo> for BlobEntry {
    fn from(info: BlobInfo) -> Self {
        BlobEntry {
            digest: info.digest,
            size: info.size,
            media_type: info.media_type,
            hits: info.hits,
            stored_at: unix_seconds(info.stored_at),
            used_at: unix_seconds(info.used_at),
            pinned: info.pinned,
            pinned_until: info.pinned_until.map(unix_seconds),
            inline: info.inline,
            runtime: info.home == Home::Runtime,
        }
    }
}

pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A part of the list, ordered by digest.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page {
    /// The blobs.
    pub blobs: Vec<BlobEntry>,
    /// What to ask for as `after` to go on; nothing at the end.
    #[schema(value_type = Option<DigestText>)]
    pub next: Option<Digest>,
}

/// What verifying has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Verified {
    /// The bytes match the digest.
    Good {
        /// Bytes read.
        size: u64,
    },
    /// They do not. A blob of the store has been removed; the runtime's is left alone.
    Wrong {
        /// What they match.
        #[schema(value_type = DigestText)]
        found: Digest,
        /// Whether it has been removed.
        removed: bool,
    },
    /// There is no such blob.
    Missing,
}

impl From<Verification> for Verified {
    fn from(verification: Verification) -> Self {
        match verification {
            Verification::Good { size } => Verified::Good { size },
            Verification::Wrong { found, home } => Verified::Wrong { found, removed: home == Home::Own },
            Verification::Missing => Verified::Missing,
        }
    }
}

/// One page of the list.
pub fn page(store: &Store, after: Option<&Digest>, max: usize) -> Result<Page, StoreError> {
    let blobs: Vec<BlobEntry> = store.list(after, max)?.into_iter().map(BlobEntry::from).collect();
    let next = blobs.last().filter(|_| blobs.len() == max).map(|last| last.digest);
    Ok(Page { blobs, next })
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Paging {
    /// The last digest of the page before.
    #[param(value_type = Option<DigestText>)]
    after: Option<Digest>,
    /// Most blobs of the page; 1,000 unless said.
    #[param(minimum = 1, maximum = 1000)]
    max: Option<usize>,
}

/// The stored blobs, ordered by digest, a page at a time.
#[utoipa::path(get, path = "/v1/blobs", operation_id = "blobs", tag = "blobs", params(Paging), responses(
    (status = 200, description = "A page.", body = Page),
    (status = 400, description = "The page is asked for in a wrong way.", body = Refusal),
    (status = 503, description = "The disk does not answer, or the agent is ending.", body = Refusal),
))]
pub(super) async fn list(
    State(state): State<AdminState>,
    paging: Result<Query<Paging>, QueryRejection>,
) -> Result<Json<Page>, Refusal> {
    let Query(paging) = paging?;
    let max = paging.max.unwrap_or(PAGE_MAX);
    if !(1..=PAGE_MAX).contains(&max) {
        let words = format!("a page has from 1 to {PAGE_MAX} blobs, not {max}");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, words));
    }
    Ok(Json(on_disk(&state.store, move |store| page(store, paging.after.as_ref(), max)).await?))
}

/// What is known of one stored blob.
#[utoipa::path(get, path = "/v1/blobs/{digest}", operation_id = "blob", tag = "blobs", params(OfBlob),
    responses((status = 200, description = "The blob.", body = BlobEntry), BlobRefusals))]
pub(super) async fn show(
    State(state): State<AdminState>,
    Path(digest): Path<String>,
) -> Result<Json<BlobEntry>, Refusal> {
    let digest = parsed(&digest)?;
    let found = on_disk(&state.store, move |store| store.peek(&digest)).await?;
    found.map(|info| Json(info.into())).ok_or_else(|| missing(&digest))
}

/// Removes a blob, a pinned one too.
#[utoipa::path(delete, path = "/v1/blobs/{digest}", operation_id = "remove_blob", tag = "blobs", params(OfBlob),
    responses((status = 204, description = "It is gone."), BlobRefusals))]
pub(super) async fn remove(
    State(state): State<AdminState>,
    Path(digest): Path<String>,
) -> Result<StatusCode, Refusal> {
    let digest = parsed(&digest)?;
    let was_there = on_disk(&state.store, move |store| store.remove(&digest)).await?;
    tracing::info!(%digest, was_there, "a blob was removed through the admin socket");
    done(was_there, &digest)
}

/// Hashes a blob again. A wrong one of the store is removed.
#[utoipa::path(post, path = "/v1/blobs/{digest}/verify", operation_id = "verify_blob", tag = "blobs", params(OfBlob),
    responses((status = 200, description = "What has been found.", body = Verified), BlobRefusals))]
pub(super) async fn verify(
    State(state): State<AdminState>,
    Path(digest): Path<String>,
) -> Result<Json<Verified>, Refusal> {
    let digest = parsed(&digest)?;
    Ok(Json(on_disk(&state.store, move |store| store.verify(&digest)).await?.into()))
}

/// Keeps a blob from being evicted and from expiring.
#[utoipa::path(put, path = "/v1/blobs/{digest}/pin", operation_id = "pin_blob", tag = "blobs", params(OfBlob),
    responses((status = 204, description = "It is kept."), BlobRefusals))]
pub(super) async fn pin(
    State(state): State<AdminState>,
    Path(digest): Path<String>,
) -> Result<StatusCode, Refusal> {
    let digest = parsed(&digest)?;
    done(on_disk(&state.store, move |store| store.pin(&digest)).await?, &digest)
}

/// Lets a blob be evicted again.
#[utoipa::path(delete, path = "/v1/blobs/{digest}/pin", operation_id = "unpin_blob", tag = "blobs", params(OfBlob),
    responses((status = 204, description = "It is kept no longer."), BlobRefusals))]
pub(super) async fn unpin(
    State(state): State<AdminState>,
    Path(digest): Path<String>,
) -> Result<StatusCode, Refusal> {
    let digest = parsed(&digest)?;
    done(on_disk(&state.store, move |store| store.unpin(&digest)).await?, &digest)
}

pub(super) fn parsed(digest: &str) -> Result<Digest, Refusal> {
    digest
        .parse()
        .map_err(|error: shoal_engine::DigestError| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
}

fn missing(digest: &Digest) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("{digest} is not in the store"))
}

fn done(was_there: bool, digest: &Digest) -> Result<StatusCode, Refusal> {
    if was_there { Ok(StatusCode::NO_CONTENT) } else { Err(missing(digest)) }
}
