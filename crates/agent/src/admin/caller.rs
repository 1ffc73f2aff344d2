//! One connection of somebody who watches the agent, or tells it what to do, over TCP.
//!
//! Question: for how long does a caller have its place? Answer: as long as it asks and takes what it is sent; a request's head
//! that does not come ends the connection, and so does the agent's end, soon after. Prevents: that half a request keeps a
//! place for ever, or the agent from ending.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

/// Longest time for the head of a request, also of the next one on the same connection.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer under way may take once the agent ends.
pub(super) const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// Answers on a connection to its end, or until `stop` is cancelled.
pub(super) async fn answer<S>(stream: S, from: SocketAddr, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut router = router.clone();
        async move { router.call(request.map(Body::new)).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let Ok(ended) = tokio::time::timeout(LAST_WORDS_MAX, connection).await else { return };
            ended
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%from, %error, "a caller's connection ended early");
    }
}
