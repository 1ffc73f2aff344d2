//! `GET /v1/events`: what the agent and its cluster look like, and then whenever that changes, as server-sent events.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::Refusal;
use crate::watch::{Busy, Feed};

/// Media type of the events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Seconds after which one that was turned away may ask again.
const RETRY_SECONDS: &str = "10";

/// What the agent and its cluster look like, and then whenever that changes, at most once a second: one event `snapshot`, then
/// events `change`, and a comment after ten seconds without one. A listener that does not keep up is hung up on.
#[utoipa::path(get, path = "/v1/events", operation_id = "events", tag = "agent", responses(
    (status = 200, description = "Events, each with a `Snapshot` or a `Change` as its data.", body = String, content_type = EVENT_STREAM),
    (status = 503, description = "There are as many listeners as there may be.", body = Refusal),
))]
pub(crate) async fn events(State(feed): State<Feed>) -> Response {
    let listener = match feed.listen() {
        Ok(listener) => listener,
        Err(busy) => return refused(busy),
    };
    let events = stream::unfold(listener, |mut listener| async {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(event), listener))
    });
    // A proxy that gathers an answer before it passes it on would show nothing at all.
    let headers = [
        (header::CONTENT_TYPE, EVENT_STREAM),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

fn refused(busy: Busy) -> Response {
    let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, busy.to_string());
    ([(header::RETRY_AFTER, RETRY_SECONDS)], refusal).into_response()
}
