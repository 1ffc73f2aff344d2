//! `/v1/hooks/push`: a registry tells that something was pushed, and the cluster is warmed with it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use shoal_engine::access::Pattern;
use utoipa::IntoParams;

use super::warm::refused;
use super::{AdminState, Refusal};
use crate::config::Rate;
use crate::image::Image;
use crate::warm::push::pushed;
use crate::warm::select::{Selection, labelled, term};
use crate::warm::{WarmRequest, WarmStatus};

/// What a push leads to. It stands in the URL, because a registry cannot be told what to send.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Hook {
    /// Name of the registry, as nodes pull from it. Without it: the one that the notification names.
    registry: Option<String>,
    /// Only images that one of these patterns matches, such as `registry.example.com/team/**`; comma-separated.
    #[serde(rename = "match")]
    #[param(rename = "match")]
    patterns: Option<String>,
    /// Platforms, comma-separated; without them that of the agent.
    platform: Option<String>,
    /// Nodes with these labels: `zone=a,pool=gpu`.
    select: Option<String>,
    /// At most so many nodes.
    count: Option<usize>,
    /// So many of a hundred nodes.
    percent: Option<u8>,
    /// How long the blobs are kept from eviction: `24h`.
    pin: Option<String>,
    /// Time after which whoever is not ready has failed: `10m`.
    deadline: Option<String>,
    /// At most so much a second from upstream, all nodes together: `200MB/s`.
    max_upstream: Option<String>,
    /// At most so much a second into each node: `100MB/s`.
    max_per_node: Option<String>,
}

/// Begins to warm what was pushed. Nothing of it is nothing to do, and no error: a registry tells of everything.
#[utoipa::path(post, path = "/v1/hooks/push", operation_id = "pushed", tag = "warm", params(Hook),
    request_body(content = serde_json::Value,
        description = "A notification of Docker Distribution, or a webhook of Harbor in its own form or as a CloudEvent."),
    responses(
        (status = 202, description = "It is under way.", body = WarmStatus),
        (status = 204, description = "Nothing that matches was pushed."),
        (status = 400, description = "The URL or the notification is wrong.", body = Refusal),
        (status = 429, description = "As many as may be are under way; a registry tries again.", body = Refusal),
        (status = 503, description = "The agent is ending.", body = Refusal),
    ))]
pub(super) async fn push(
    State(state): State<AdminState>,
    hook: Result<Query<Hook>, QueryRejection>,
    body: Bytes,
) -> Result<(StatusCode, Json<Option<Arc<WarmStatus>>>), Refusal> {
    let wrong = |words: String| Refusal::new(StatusCode::BAD_REQUEST, words);
    let Query(hook) = hook?;
    let images = pushed(&body, hook.registry.as_deref()).map_err(|error| wrong(error.to_string()))?;
    let request = hook.request(&images).map_err(wrong)?;
    if request.images.is_empty() {
        return Ok((StatusCode::NO_CONTENT, Json(None)));
    }
    tracing::info!(images = ?request.images, "a registry tells of a push");
    let status = state.warmer.begin(&request).map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(Some(status))))
}

impl Hook {
    fn request(&self, images: &[Image]) -> Result<WarmRequest, String> {
        let patterns = listed(self.patterns.as_deref())
            .map(|text| text.parse::<Pattern>().map_err(|error| format!("match: {text:?} {error}")))
            .collect::<Result<Vec<_>, _>>()?;
        let matches = |image: &&Image| {
            patterns.is_empty()
                || patterns.iter().any(|pattern| pattern.matches(&image.scope, image.tag.as_ref()))
        };
        let terms = listed(self.select.as_deref())
            .map(|text| term(text).map_err(|how| format!("select: {text:?}: {how}")))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(WarmRequest {
            images: images.iter().filter(matches).map(ToString::to_string).collect(),
            platforms: listed(self.platform.as_deref()).map(str::to_owned).collect(),
            nodes: Selection {
                names: Vec::new(),
                labels: labelled(terms),
                count: self.count,
                percent: self.percent,
            },
            pin_seconds: time("pin", self.pin.as_deref())?.map(|time| time.as_secs()),
            deadline_seconds: time("deadline", self.deadline.as_deref())?.map(|time| time.as_secs()),
            grace_seconds: None,
            max_upstream_bytes_per_second: rate("max_upstream", self.max_upstream.as_deref())?,
            max_per_node_bytes_per_second: rate("max_per_node", self.max_per_node.as_deref())?,
            dry_run: false,
        })
    }
}

fn listed(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').filter(|part| !part.is_empty())
}

fn rate(key: &str, text: Option<&str>) -> Result<Option<u64>, String> {
    text.map(|text| text.parse::<Rate>().map(|rate| rate.0).map_err(|how| format!("{key}: {how}")))
        .transpose()
}

fn time(key: &str, text: Option<&str>) -> Result<Option<Duration>, String> {
    text.map(|text| humantime::parse_duration(text).map_err(|error| format!("{key}: {text:?}: {error}")))
        .transpose()
}
