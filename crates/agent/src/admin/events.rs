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
