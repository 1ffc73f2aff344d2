//! The port where other members open streams.
//!
//! Invariants: nobody gets an answer but a 403 without a word before its key and its proof have been seen; connections
//! that have not come that far are few and short-lived.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body_util::StreamBody;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use shoal_engine::Input;
use shoal_engine::peer::PeerId;
use shoal_engine::wire::Message;
use shoal_net::{Admission, FRAME_BYTES_MAX, Identity, peer_of, server_tls};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::{Instrument as _, Span, field};

use super::dial::settle_socket;
use super::outlets::{Outlets, Wanted};
use super::patience::Patient;
use super::wire::{PROOF_HEADER, STREAM_PATH, TRACE_HEADER};
use crate::driver::{Handle, brief_name};
use crate::registry::listen::accept_each;
use crate::trace::{self, TARGET};

/// Connections at a time: a member holds some for each of its streams.
const CONNECTIONS_MAX: usize = 8192;
/// Longest time for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept, and how long the head of a request may take.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a member may take nothing of a stream before it is cut.
const WRITE_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// What the handlers need.
#[derive(Clone)]
pub struct ServeState {
    pub admission: Arc<Admission>,
    pub outlets: Outlets,
    pub driver: Handle,
}

/// Serves other members until `stop` is cancelled.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    state: ServeState,
    routes: Router,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(Arc::new(server_tls(&identity)));
    let admission = Arc::clone(&state.admission);
    let app = Router::new()
        .route(STREAM_PATH, post(open_stream))
        .layer(DefaultBodyLimit::max(FRAME_BYTES_MAX))
        .with_state(state)
        .merge(routes)
        .layer(middleware::from_fn_with_state(admission, admit));
    let stopped = stop.clone();
    let connection = move |tcp, _| {
        let connection = connection(tcp, acceptor.clone(), app.clone());
        let stopped = stopped.clone();
        async move {
            let _ = stopped.run_until_cancelled(connection).await;
        }
    };
    accept_each(move |cx| listener.poll_accept(cx), connection, CONNECTIONS_MAX, stop).await;
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, app: Router) {
    settle_socket(&tcp);
    let remote = tcp.peer_addr();
    let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(?remote, %error, "a data connection was refused"),
        Err(_) => return tracing::debug!(?remote, "a data connection said nothing"),
    };
    let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let Ok(peer) = peer_of(certificates) else { return };
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(PeerId(peer)));
        let mut app = app.clone();
        // A router is always ready.
        async move { Ok::<_, Infallible>(app.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT).max_buf_size(64 << 10).writev(true);
    let stream = TokioIo::new(Patient::new(tls, WRITE_IDLE_TIMEOUT));
    if let Err(error) = http.serve_connection(stream, service).await {
        tracing::debug!(?remote, %error, "a data connection ended early");
    }
}

/// Whose key the other end has.
#[derive(Clone, Copy)]
pub struct Peer(pub PeerId);

async fn admit(State(admission): State<Arc<Admission>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let proof = request.headers().get(PROOF_HEADER).and_then(|proof| proof.to_str().ok());
    match (peer, proof) {
        (Some(peer), Some(proof)) if admission.admits(&peer.0, proof) => {
            let span = answer_span(&peer, &request);
            next.run(request).instrument(span).await
        }
        _ => StatusCode::FORBIDDEN.into_response(),
    }
}

/// What is done here for a member's request, as a part of its trace; nothing where that has none.
fn answer_span(peer: &PeerId, request: &Request) -> Span {
    if !request.headers().contains_key(TRACE_HEADER) {
        return Span::none();
    }
    let span = tracing::info_span!(
        target: TARGET,
        "answer",
        otel.kind = "server",
        otel.name = format!("answer {}", request.uri().path()),
        shoal.member = brief_name(peer),
        shoal.digest = field::Empty,
        shoal.bytes = field::Empty
    );
    trace::adopt(&span, request.headers());
    span
}

async fn open_stream(
    State(state): State<ServeState>,
    Extension(Peer(from)): Extension<Peer>,
    frame: Bytes,
) -> Response {
    let Ok(message) = Message::decode(&frame) else { return StatusCode::BAD_REQUEST.into_response() };
    let Some((digest, class, wanted)) = Wanted::of(&message) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let stream = state.outlets.open((from, digest, class), wanted, state.driver.clone());
    state.driver.input(Input::Heard { from, message }).await;
    Body::new(StreamBody::new(stream)).into_response()
}
