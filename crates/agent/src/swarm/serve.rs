//! The port where other members open streams.
//!
//! Invariants: nobody gets an answer but a 403 without a word, which ends the connection, before its key and its proof have been
//! seen; connections that have not come that far leave places for members, and are short-lived.

mod strangers;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::{StatusCode, header};
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
use strangers::{Stranger, Strangers};

/// Connections at a time: a member holds some for each of its streams.
const CONNECTIONS_MAX: usize = 8192;
/// Those of them that have not proved to be a member's. In a rollout all members of a cluster may connect at the same moment.
const STRANGERS_MAX: usize = CONNECTIONS_MAX / 2;
/// Longest time for such a proof, the handshake included. Longer than a member keeps a connection that it has made for a
/// request that went elsewhere.
const PROOF_TIMEOUT: Duration = Duration::from_secs(25);
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
    let (strangers, stopped) = (Strangers::new(STRANGERS_MAX), stop.clone());
    let connection = move |tcp, _| {
        let connection = connection(tcp, acceptor.clone(), app.clone(), strangers.come());
        let stopped = stopped.clone();
        async move {
            let _ = stopped.run_until_cancelled(connection).await;
        }
    };
    accept_each(move |cx| listener.poll_accept(cx), connection, CONNECTIONS_MAX, stop).await;
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, app: Router, stranger: Stranger) {
    let (remote, stranger) = (tcp.peer_addr(), Arc::new(stranger));
    // On the heap: it holds a whole exchange, and waits for as long as the other end wants.
    let served = Box::pin(serve_one(tcp, acceptor, app, Arc::clone(&stranger)));
    tokio::select! {
        () = served => {}
        () = stranger.outstays(PROOF_TIMEOUT) => {
            tracing::debug!(?remote, "a data connection that has proved nothing was ended");
        }
    }
}

async fn serve_one(tcp: TcpStream, acceptor: TlsAcceptor, app: Router, stranger: Arc<Stranger>) {
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
        request.extensions_mut().insert(Arc::clone(&stranger));
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
            if let Some(stranger) = request.extensions().get::<Arc<Stranger>>() {
                stranger.proved();
            }
            let span = answer_span(&peer, &request);
            next.run(request).instrument(span).await
        }
        // Its place is for somebody else.
        _ => (StatusCode::FORBIDDEN, [(header::CONNECTION, "close")]).into_response(),
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
    let (digest, class, wanted) = match Wanted::of(&message) {
        Ok(wanted) => wanted,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let stream = state.outlets.open((from, digest, class), wanted, state.driver.clone());
    state.driver.input(Input::Heard { from, message }).await;
    Body::new(StreamBody::new(stream)).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rustls::pki_types::ServerName;
    use shoal_net::{Secret, client_tls};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;

    /// A port at which members are told `in`.
    struct Port {
        identity: Identity,
        admission: Arc<Admission>,
        address: SocketAddr,
    }

    impl Port {
        async fn open() -> Self {
            let identity = Identity::ephemeral().unwrap();
            let secret = Secret::new(b"the secret of this test").unwrap();
            let admission = Arc::new(Admission::new(secret, None));
            let app = Router::new()
                .route("/", post(|| async { "in" }))
                .layer(middleware::from_fn_with_state(Arc::clone(&admission), admit));
            let acceptor = TlsAcceptor::from(Arc::new(server_tls(&identity)));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let strangers = Strangers::new(STRANGERS_MAX);
                while let Ok((tcp, _)) = listener.accept().await {
                    tokio::spawn(connection(tcp, acceptor.clone(), app.clone(), strangers.come()));
                }
            });
            Port { identity, admission, address }
        }

        async fn connect(&self, who: &Identity) -> TlsStream<TcpStream> {
            let tls = TlsConnector::from(Arc::new(client_tls(who, self.identity.peer())));
            let tcp = TcpStream::connect(self.address).await.unwrap();
            tls.connect(ServerName::from(self.address.ip()), tcp).await.unwrap()
        }
    }

    /// Whether the answer is `in`.
    async fn is_let_in(stream: &mut TlsStream<TcpStream>, proof: &str) -> bool {
        let request =
            format!("POST / HTTP/1.1\r\nhost: x\r\nshoal-proof: {proof}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let is_in = head.starts_with(b"HTTP/1.1 200");
        assert!(is_in || head.starts_with(b"HTTP/1.1 403"), "{}", head.escape_ascii());
        if is_in {
            stream.read_exact(&mut [0; 2]).await.unwrap();
        }
        is_in
    }

    /// Whether the other end hangs up within this time. Nobody does so cleanly who cuts.
    async fn ends(stream: &mut TlsStream<TcpStream>, within: Duration) -> bool {
        tokio::time::timeout(within, stream.read_to_end(&mut Vec::new())).await.is_ok()
    }

    #[tokio::test]
    async fn strangers_keep_no_place() {
        let port = Port::open().await;
        let who = Identity::ephemeral().unwrap();
        let proof = port.admission.proof(&who.peer());

        let mut refused = port.connect(&who).await;
        assert!(!is_let_in(&mut refused, "00").await);
        assert!(ends(&mut refused, Duration::from_secs(10)).await, "a place after a 403");

        let (mut member, mut silent) = (port.connect(&who).await, port.connect(&who).await);
        assert!(is_let_in(&mut member, &proof).await);
        tokio::time::pause();
        assert!(ends(&mut silent, 2 * PROOF_TIMEOUT).await, "a place for nothing");
        assert!(!ends(&mut member, Duration::ZERO).await);
        tokio::time::resume();
        assert!(is_let_in(&mut member, &proof).await, "members keep theirs");
    }
}
