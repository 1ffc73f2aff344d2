//! The swarm as this agent knows it: its members, and where a blob came from.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::blobs::{self, parsed};
use super::openapi::OfBlob;
use super::{AdminState, Refusal, on_disk};
use crate::driver::{BlobStory, Naming};
use crate::swarm::{Lately, MemberStatus};

/// The members of the swarm.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Peers {
    /// Whether this agent is a member of a swarm at all.
    pub enabled: bool,
    /// All members that are believed to be alive, this agent first, then by zone and name.
    pub members: Vec<MemberStatus>,
    /// Members that have left or died within the last hour, the last one first.
    #[serde(default)]
    pub gone: Vec<MemberStatus>,
    /// What has happened between this agent and others lately.
    #[serde(default)]
    pub lately: Lately,
}

/// Where a blob came from, who has it and who receives it.
#[utoipa::path(get, path = "/v1/blobs/{digest}/story", operation_id = "blob_story", tag = "swarm", params(OfBlob), responses(
    (status = 200, description = "What is known of it.", body = BlobStory),
    (status = 400, description = "That is no digest.", body = Refusal),
    (status = 503, description = "The agent is ending.", body = Refusal),
))]
pub(super) async fn story(
    State(state): State<AdminState>,
    Path(digest): Path<String>,
) -> Result<Json<BlobStory>, Refusal> {
    let digest = parsed(&digest)?;
    let story = state.driver.explain(digest).await;
    let mut story =
        story.ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending"))?;
    // A sick disk says nothing of what the driver and other members know.
    if let Ok(Some(blob)) = on_disk(&state.store, move |store| store.peek(&digest)).await {
        story.state = "stored".into();
        story.size = Some(blob.size);
        story.stored_at = Some(blobs::unix_seconds(blob.stored_at));
    }
    if let Some(swarm) = &state.swarm {
        story.books = swarm.books(digest, Naming::Full, &state.driver).await;
    }
    Ok(Json(story))
}

/// The members of the swarm.
#[utoipa::path(get, path = "/v1/peers", operation_id = "peers", tag = "swarm", responses(
    (status = 200, description = "As they are now.", body = Peers),
))]
pub(super) async fn list(State(state): State<AdminState>) -> Json<Peers> {
    let (mut members, gone) = match &state.swarm {
        Some(swarm) => swarm.members().await,
        None => Default::default(),
    };
    members.sort_by(|a, b| (!a.is_self, &a.zone, &a.peer).cmp(&(!b.is_self, &b.zone, &b.peer)));
    let lately = state.swarm.as_ref().map(|swarm| swarm.lately()).unwrap_or_default();
    Json(Peers { enabled: state.swarm.is_some(), members, gone, lately })
}
