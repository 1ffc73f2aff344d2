//! `/v1/warm`: requests to warm, how far they are, and an end to them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::openapi::OfRequest;
use super::{AdminState, Refusal};
use crate::warm::{Cancelled, Phase, RequestError, StandingOrder, WarmPlan, WarmRequest, WarmStatus};

/// Media type of the news: one JSON object in each line.
const LINES: &str = "application/x-ndjson";

/// Least pause between two news: a person cannot follow more.
const NEWS_PAUSE: Duration = Duration::from_millis(100);

/// Pause after which something is said although there are no news, so that whoever listens knows that the agent lives.
const NEWS_CALM: Duration = Duration::from_secs(5);

/// The requests that the agent knows, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WarmList {
    /// The requests.
    pub requests: Vec<Arc<WarmStatus>>,
    /// Those that others go on with if the agent that was asked is gone, of any agent, as far as this one knows of them.
    #[serde(default)]
    pub standing: Vec<StandingOrder>,
}

/// Begins to warm, or with `dry_run` tells what would be done.
#[utoipa::path(post, path = "/v1/warm", operation_id = "warm", tag = "warm", request_body = WarmRequest, responses(
    (status = 200, description = "With `dry_run`: what would be done.", body = WarmPlan),
    (status = 202, description = "It is under way.", body = WarmStatus),
    (status = 400, description = "The request is wrong.", body = Refusal),
    (status = 429, description = "As many as may be are under way; wait for one or cancel it.", body = Refusal),
    (status = 503, description = "The agent is ending.", body = Refusal),
))]
pub(super) async fn begin(
    State(state): State<AdminState>,
    request: Result<Json<WarmRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(request) = request?;
    if request.dry_run {
        let plan = state.warmer.plan(&request).await.map_err(refused)?;
        return Ok(Json(plan).into_response());
    }
    let status = state.warmer.begin(&request).map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(status)).into_response())
}

/// Whose requests are wanted.
#[derive(Clone, Copy, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Whose {
    /// Also those that other members were asked for: each is asked, and of those that are over only the latest are told.
    #[serde(default)]
    cluster: bool,
}

/// The requests to warm that the agent knows, newest first; with `cluster`, then those of all other members.
#[utoipa::path(get, path = "/v1/warm", operation_id = "warm_requests", tag = "warm", params(Whose), responses(
    (status = 200, description = "The requests.", body = WarmList),
    (status = 400, description = "The question is wrong.", body = Refusal),
))]
pub(super) async fn list(
    State(state): State<AdminState>,
    whose: Result<Query<Whose>, QueryRejection>,
) -> Result<Json<WarmList>, Refusal> {
    let Query(whose) = whose?;
    let mut requests = state.warmer.list();
    if whose.cluster {
        requests.extend(state.warmer.list_elsewhere().await);
    }
    Ok(Json(WarmList { requests, standing: state.warmer.standing() }))
}

/// How far a request to warm is, whichever member was asked for it.
#[utoipa::path(get, path = "/v1/warm/{id}", operation_id = "warm_request", tag = "warm", params(OfRequest), responses(
    (status = 200, description = "As it is now.", body = WarmStatus),
    (status = 404, description = "No request has that name.", body = Refusal),
))]
pub(super) async fn show(
    State(state): State<AdminState>,
    Path(id): Path<String>,
) -> Result<Json<Arc<WarmStatus>>, Refusal> {
    let here = state.warmer.watch(&id).map(|news| Arc::clone(&news.borrow()));
    match here {
        Some(status) => Ok(Json(status)),
        None => Ok(Json(Arc::new(state.warmer.status_elsewhere(&id).await.ok_or_else(|| unknown(&id))?))),
    }
}

/// How far it is, now and whenever that changes, until it is over: one object in each line.
#[utoipa::path(get, path = "/v1/warm/{id}/events", operation_id = "warm_events", tag = "warm", params(OfRequest), responses(
    (status = 200, description = "A `WarmStatus` in each line.", body = WarmStatus, content_type = LINES),
    (status = 404, description = "No request has that name.", body = Refusal),
))]
pub(super) async fn events(
    State(state): State<AdminState>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let news = state.warmer.watch(&id).ok_or_else(|| unknown(&id))?;
    let lines = stream::unfold(Some(News::new(news, state.warmer.stopped())), |news| async {
        let mut news = news?;
        let status = news.next().await?;
        let mut line = serde_json::to_vec(&*status).ok()?;
        line.push(b'\n');
        let next = (status.phase == Phase::Warming).then_some(news);
        Some((Ok::<_, Infallible>(Bytes::from(line)), next))
    });
    Ok(([(header::CONTENT_TYPE, LINES)], Body::from_stream(lines)).into_response())
}

/// Ends a request to warm, whichever member was asked for it, also for nodes that join later; what has come stays.
#[utoipa::path(delete, path = "/v1/warm/{id}", operation_id = "cancel_warm", tag = "warm", params(OfRequest), responses(
    (status = 204, description = "It is cancelled, or is not gone on with for nodes that join later."),
    (status = 404, description = "No request has that name.", body = Refusal),
    (status = 409, description = "It had ended before.", body = Refusal),
))]
pub(super) async fn cancel(
    State(state): State<AdminState>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    match state.warmer.cancel_everywhere(&id).await {
        Cancelled::Now => Ok(StatusCode::NO_CONTENT),
        Cancelled::Unknown => Err(unknown(&id)),
        Cancelled::Over => {
            let said = format!(
                "{id} had ended before, so nothing is cancelled: shoal prewarm status {id} tells how"
            );
            Err(Refusal::new(StatusCode::CONFLICT, said))
        }
    }
}

struct News {
    from: watch::Receiver<Arc<WarmStatus>>,
    stopped: CancellationToken,
    is_first: bool,
}

impl News {
    fn new(from: watch::Receiver<Arc<WarmStatus>>, stopped: CancellationToken) -> Self {
        News { from, stopped, is_first: true }
    }

    /// `None` when the agent ends.
    async fn next(&mut self) -> Option<Arc<WarmStatus>> {
        if !std::mem::take(&mut self.is_first) {
            let stopped = self.stopped.clone();
            stopped.run_until_cancelled(self.changed()).await?;
        }
        Some(Arc::clone(&self.from.borrow_and_update()))
    }

    async fn changed(&mut self) {
        tokio::time::sleep(NEWS_PAUSE).await;
        // An error means that the request is forgotten; then it is over, and its last news are still there.
        let _ = tokio::time::timeout(NEWS_CALM, self.from.changed()).await;
    }
}

pub(super) fn refused(error: RequestError) -> Refusal {
    let status = match error {
        RequestError::Busy => StatusCode::TOO_MANY_REQUESTS,
        RequestError::Draining => StatusCode::SERVICE_UNAVAILABLE,
        RequestError::Empty
        | RequestError::TooMany(_)
        | RequestError::Image(_)
        | RequestError::Platform(_)
        | RequestError::Time { .. }
        | RequestError::Rate { .. }
        | RequestError::RateAlone
        | RequestError::Select(_) => StatusCode::BAD_REQUEST,
    };
    Refusal::new(status, error.to_string())
}

fn unknown(id: &str) -> Refusal {
    let id: String = id.chars().take(40).collect();
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!(
            "no request to warm has the name {id:?}, here or at a member that answers; an agent that has restarted has forgotten \
             those that were over (shoal prewarm ls --cluster lists all)"
        ),
    )
}
