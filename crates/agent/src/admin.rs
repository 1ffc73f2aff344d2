//! What the agent tells about itself, and what it can be told to do: the admin API on a unix socket for the command line, and
//! on a TLS port if one is configured; metrics, health and the status page on a port of their own.
//!
//! Invariants: nobody reaches the admin API but the agent's own user, root, and on the TLS port whoever shows the token; nothing
//! on the port for watchers changes anything; no handler blocks an async thread. The types of the API are shared with the
//! command line, so the two cannot disagree.

pub mod blobs;
mod caller;
pub mod client;
mod client_events;
pub mod events;
mod hooks;
pub mod observe;
pub mod openapi;
pub mod peers;
mod proof;
pub mod remote;
mod socket;
pub mod status;
pub mod stock;
#[cfg(test)]
mod tests;
pub mod warm;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::FromRef;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde::{Deserialize, Serialize};
use shoal_store::{Store, StoreError};

use crate::driver;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::registry::proof::Proofs;
use crate::swarm::Swarm;
use crate::upstream::Upstream;
use crate::warm::Warmer;
use crate::watch::Feed;

pub use client_events::Events;
pub use observe::{Instance, ObserveState, Readiness, observe_router, serve_observe};
pub use socket::{SocketError, bind, serve};

/// What the admin API works on.
#[derive(Clone)]
pub struct AdminState {
    /// The blobs.
    pub store: Store,
    /// Knows the flights under way.
    pub driver: driver::Handle,
    /// Knows which sources are well.
    pub upstream: Upstream,
    /// The other members, if there are any.
    pub swarm: Option<Swarm>,
    /// This node.
    pub node: Node,
    /// Warms this node and others.
    pub warmer: Warmer,
    /// Tells whoever watches.
    pub feed: Feed,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// When the agent started.
    pub started: Instant,
    /// Where clients connect.
    pub listeners: Vec<SocketAddr>,
    /// What the registry ports answer to whoever asks whose they are.
    pub proofs: Proofs,
}

impl FromRef<AdminState> for Feed {
    fn from_ref(state: &AdminState) -> Feed {
        state.feed.clone()
    }
}

/// The admin API, see [`openapi`].
pub fn admin_router(state: AdminState) -> Router {
    let (routes, _) = openapi::routes().split_for_parts();
    let refused = |status, words: &'static str| async move { Refusal::new(status, words) };
    routes
        .method_not_allowed_fallback(move || {
            refused(StatusCode::METHOD_NOT_ALLOWED, "this path has other methods; see the header Allow")
        })
        .fallback(move || {
            refused(StatusCode::NOT_FOUND, "there is no such path in the admin API of this version")
        })
        .with_state(state)
}

/// `GET /v1/blobs/{digest}/story` alone, for the status page.
pub fn stories(state: AdminState) -> MethodRouter {
    get(peers::story).with_state(state)
}

/// Why a request to the admin API was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Refusal {
    /// One line for the operator.
    pub error: String,
    #[serde(skip, default = "internal")]
    #[schema(ignore)]
    status: StatusCode,
}

fn internal() -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Refusal { error: error.into(), status }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, axum::Json(self)).into_response()
    }
}

/// The body is not what is asked for; the error says where.
impl From<JsonRejection> for Refusal {
    fn from(error: JsonRejection) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, error.body_text())
    }
}

/// The query is not what is asked for.
impl From<QueryRejection> for Refusal {
    fn from(error: QueryRejection) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, error.body_text())
    }
}

/// The disk said no, and why.
impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, crate::causes::chain(&error))
    }
}

/// Runs a call of the store on a thread that may wait for the disk.
async fn on_disk<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Refusal> {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Refusal::new(internal(), "the store's thread panicked; the agent's log says why")),
    }
}
