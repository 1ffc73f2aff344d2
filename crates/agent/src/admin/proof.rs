//! `POST /v1/proofs`: a challenge that the registry port will answer, for whoever wants to be sure whose port it is.

use std::time::Instant;

use axum::Json;
use axum::extract::State;

use super::AdminState;
use crate::registry::proof::Proof;

pub(super) async fn hand_out(State(state): State<AdminState>) -> Json<Proof> {
    Json(state.proofs.hand_out(Instant::now()))
}
