//! `/v1/stock` and `/v1/gc`: images of the store, and what is due in it.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use shoal_store::{Store, StoreError};

use super::{AdminState, Refusal, on_disk};
use crate::image::ImageError;
use crate::stock::{self, Contents, Name, StockAnswer, StockRequest};

/// What to clean up beyond what is due.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// Blobs that nobody has used for so many seconds go, except those that are pinned.
    #[serde(default)]
    #[schema(maximum = 3155695200_i64)]
    pub unused_for_seconds: Option<u64>,
}

/// Longest such time, seconds: a century, beyond which no blob is that old and more likely a unit is wrong.
const UNUSED_FOR_MAX: u64 = 3_155_695_200;

/// Things removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Removed {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was cleaned up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GcReport {
    /// Blobs that nobody had used for long.
    pub expired: Removed,
    /// Partial blobs that nobody had continued.
    pub partials: Removed,
    /// Blobs that went because the store was too full.
    pub evicted: Removed,
}

impl From<shoal_store::Taken> for Removed {
    fn from(taken: shoal_store::Taken) -> Self {
        Removed { count: taken.count, bytes: taken.bytes }
    }
}

/// Cleans up. Reads and writes the disk.
///
/// # Errors
/// The store failed.
pub fn collect(store: &Store, request: &GcRequest) -> Result<GcReport, StoreError> {
    let now = SystemTime::now();
    let swept = store.sweep(now)?;
    let mut report = GcReport {
        expired: swept.expired.into(),
        partials: swept.partials.into(),
        evicted: swept.evicted.into(),
    };
    if let Some(seconds) = request.unused_for_seconds {
        let more = store.expire(now, Duration::from_secs(seconds))?;
        report.expired.count += more.count;
        report.expired.bytes += more.bytes;
    }
    Ok(report)
}

/// Which image is meant.
#[derive(Clone, Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OfImage {
    /// As for a runtime, or a digest.
    image: String,
}

/// What an image is made of, as far as its manifests are on this node.
#[utoipa::path(get, path = "/v1/contents", operation_id = "contents", tag = "blobs", params(OfImage), responses(
    (status = 200, description = "Its blobs.", body = Contents),
    (status = 400, description = "That is no image.", body = Refusal),
    (status = 503, description = "The disk does not answer, or the agent is ending.", body = Refusal),
))]
pub(super) async fn contents(
    State(state): State<AdminState>,
    query: Result<Query<OfImage>, QueryRejection>,
) -> Result<Json<Contents>, Refusal> {
    let Query(OfImage { image }) = query?;
    let name: Name = image
        .parse()
        .map_err(|error: ImageError| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
    Ok(Json(on_disk(&state.store, move |store| stock::contents(store, &name)).await?))
}

/// Evicts, pins or unpins images, here or everywhere.
#[utoipa::path(post, path = "/v1/stock", operation_id = "stock", tag = "blobs", request_body = StockRequest, responses(
    (status = 200, description = "What became of it, node by node.", body = StockAnswer),
    (status = 400, description = "The request is wrong.", body = Refusal),
))]
pub(super) async fn stock(
    State(state): State<AdminState>,
    request: Result<Json<StockRequest>, JsonRejection>,
) -> Result<Json<StockAnswer>, Refusal> {
    let Json(request) = request?;
    let done = state.node.stock(&request).await;
    done.map(Json).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
}

/// Cleans up now what is due.
#[utoipa::path(post, path = "/v1/gc", operation_id = "gc", tag = "blobs", request_body = GcRequest, responses(
    (status = 200, description = "What was cleaned up.", body = GcReport),
    (status = 400, description = "The request is wrong.", body = Refusal),
    (status = 503, description = "The disk does not answer, or the agent is ending.", body = Refusal),
))]
pub(super) async fn gc(
    State(state): State<AdminState>,
    request: Result<Json<GcRequest>, JsonRejection>,
) -> Result<Json<GcReport>, Refusal> {
    let Json(request) = request?;
    if let Some(seconds) = request.unused_for_seconds.filter(|seconds| *seconds > UNUSED_FOR_MAX) {
        let words = format!("unused_for_seconds: {seconds} is more than a century ({UNUSED_FOR_MAX} s)");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, words));
    }
    let report = on_disk(&state.store, move |store| collect(store, &request)).await?;
    tracing::info!(?report, "the store was cleaned up through the admin socket");
    Ok(Json(report))
}
