//! `POST /v1/proofs`: a challenge that the registry port will answer, for whoever wants to be sure whose port it is.

use std::time::Instant;

use axum::Json;
use axum::extract::State;

use super::AdminState;
use crate::registry::proof::Proof;

/// A challenge that the registry ports will answer, for whoever wants to be sure whose port it is.
#[utoipa::path(post, path = "/v1/proofs", operation_id = "proof", tag = "agent", responses(
    (status = 200, description = "The challenge, and what a port of this agent says to it.", body = Proof),
))]
pub(super) async fn hand_out(State(state): State<AdminState>) -> Json<Proof> {
    Json(state.proofs.hand_out(Instant::now()))
}
