//! `POST /v1/proofs`: a challenge that the registry port will answer, for whoever wants to be sure whose port it is, and that it
//! serves.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::{AdminState, Refusal};
use crate::registry::proof::Proof;

/// How long the driver may take to answer, which is microseconds when it is well.
const DRIVER_ANSWER_MAX: Duration = Duration::from_secs(3);

/// A challenge that the registry ports will answer, for whoever wants to be sure whose port it is.
#[utoipa::path(post, path = "/v1/proofs", operation_id = "proof", tag = "agent", responses(
    (status = 200, description = "The challenge, and what a port of this agent says to it.", body = Proof),
    (status = 503, description = "The agent cannot serve: what decides about blobs does not answer.", body = Refusal),
))]
pub(super) async fn hand_out(State(state): State<AdminState>) -> Result<Json<Proof>, Refusal> {
    // A port behind which every request waits for ever is none that a runtime should ask.
    match tokio::time::timeout(DRIVER_ANSWER_MAX, state.driver.answers()).await {
        Ok(true) => Ok(Json(state.proofs.hand_out(Instant::now()))),
        _ => Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent cannot serve: its driver does not answer",
        )),
    }
}
