//! The port for everybody who watches: metrics, alive, ready, and the status page.
//!
//! Nothing here changes anything. `/healthz` names this very process, so that whoever writes a runtime's mirror
//! configuration can compare it with what the admin socket says and be sure that the port is not somebody else's.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use parking_lot::RwLock;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::caller;
use crate::metrics::Metrics;
use crate::registry::listen::accept_each;

/// Names this process on `/healthz`, `/readyz` and `/metrics`.
pub const INSTANCE_HEADER: HeaderName = HeaderName::from_static("shoal-instance");

/// What `prometheus-client` writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long a scrape waits for the disk's figures; a sick disk must not hide the other ones.
const REFRESH_WAIT: Duration = Duration::from_secs(1);

/// Connections at a time: probes, scrapers, and some people with the page open.
const CONNECTIONS_MAX: usize = 128;

/// How long a watcher may take nothing of what it was sent.
const STALL_MAX: Duration = Duration::from_secs(30);

/// A name that no other process can guess: 128 random bits in hex, new at each start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance(Arc<str>);

impl Instance {
    /// The name of this process.
    pub fn of_this_process() -> Self {
        static NAME: OnceLock<Instance> = OnceLock::new();
        NAME.get_or_init(|| Instance(format!("{:032x}", rand::random::<u128>()).into())).clone()
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the agent takes requests, and why not. Clones say the same.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<RwLock<Option<&'static str>>>);

impl Readiness {
    /// Not ready yet.
    #[allow(clippy::new_without_default, reason = "there is a story behind it: the agent is starting")]
    pub fn new() -> Self {
        Readiness(Arc::new(RwLock::new(Some("the agent is starting"))))
    }

    /// It takes requests.
    pub fn ready(&self) {
        *self.0.write() = None;
    }

    /// It takes none, and why.
    pub fn not_ready(&self, reason: &'static str) {
        *self.0.write() = Some(reason);
    }

    /// Why it takes no requests, if it takes none.
    pub fn reason(&self) -> Option<&'static str> {
        *self.0.read()
    }
}

/// What the port shows.
#[derive(Clone)]
pub struct ObserveState {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    refresh: Arc<dyn Fn() + Send + Sync>,
    page: Option<Router>,
}

impl ObserveState {
    /// `refresh` brings the figures that are sums rather than counts up to date before a scrape; it may wait for the disk.
    pub fn new(
        metrics: Arc<Metrics>,
        readiness: Readiness,
        refresh: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        ObserveState { metrics, readiness, refresh: Arc::new(refresh), page: None }
    }

    /// Serves the status page as well, see [`page::router`](crate::page::router).
    #[must_use]
    pub fn with_page(self, page: Router) -> Self {
        ObserveState { page: Some(page), ..self }
    }
}

/// Answers on the port until `drain` is cancelled; requests under way then have a moment to end.
pub async fn serve_observe(listener: TcpListener, state: ObserveState, drain: CancellationToken) {
    let (router, stopped) = (observe_router(state), drain.clone());
    let each = move |tcp: TcpStream, from| {
        give_up_on_the_stalled(&tcp);
        caller::answer(tcp, from, router.clone(), stopped.clone())
    };
    accept_each(move |cx| listener.poll_accept(cx), each, CONNECTIONS_MAX, drain).await;
}

/// Whoever takes nothing for so long is gone: events must not wait for it for ever.
pub(super) fn give_up_on_the_stalled(stream: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(STALL_MAX)) {
        tracing::debug!(%error, "a watcher that stalls will be noticed late");
    }
}

/// `/metrics`, `/healthz`, `/readyz`, and the status page if there is one.
pub fn observe_router(mut state: ObserveState) -> Router {
    let page = state.page.take();
    let paths = match page {
        Some(_) => "there are /metrics, /healthz, /readyz and the status page at /\n",
        None => "there are /metrics, /healthz and /readyz\n",
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(state)
        .merge(page.unwrap_or_default())
        .fallback(move || async move { (StatusCode::NOT_FOUND, paths) })
}

async fn metrics(State(state): State<ObserveState>) -> impl IntoResponse {
    let refresh = Arc::clone(&state.refresh);
    // What is late is in the next scrape.
    let _ = tokio::time::timeout(REFRESH_WAIT, tokio::task::spawn_blocking(move || refresh())).await;
    ([(header::CONTENT_TYPE, OPENMETRICS.to_owned()), named()], state.metrics.encode())
}

async fn healthz() -> impl IntoResponse {
    ([named()], Json(json!({ "alive": true, "instance": Instance::of_this_process().to_string() })))
}

async fn readyz(State(state): State<ObserveState>) -> impl IntoResponse {
    let (status, body) = match state.readiness.reason() {
        None => (StatusCode::OK, json!({ "ready": true })),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "ready": false, "reason": reason })),
    };
    (status, [named()], Json(body))
}

fn named() -> (HeaderName, String) {
    (INSTANCE_HEADER, Instance::of_this_process().to_string())
}
