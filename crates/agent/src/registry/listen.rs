//! Client connections: accepting them, HTTP/1.1 on them, and their end.
//!
//! Invariant: one client cannot hurt another. Every connection has its own task, its buffers are bounded, it ends when
//! its client neither asks nor takes anything, and a lack of file descriptors makes accepting wait, never stop.

mod bind;
#[cfg(test)]
pub(super) mod fixture;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

pub use bind::{BindError, bind, bind_own_family};

use super::sendfile::FileStream;
use crate::metrics::Metrics;

/// What client connections may use.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Connections open at once. Further ones wait in the kernel's queue until one ends.
    pub connections_max: usize,
    /// Bytes of a request's head. Requests to a registry have no bodies worth reading, so this also bounds the read
    /// buffer of a connection.
    pub head_bytes_max: usize,
    /// From the moment a connection becomes idle to the end of the next request's head. Also how long an idle
    /// connection is kept.
    pub head_timeout: Duration,
    /// How long a client may take nothing of an answer before it is cut; it takes up to twice as long to notice.
    pub write_idle_timeout: Duration,
    /// How long requests in flight may go on after the drain began.
    pub drain_deadline: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        ConnectionLimits {
            // A connection needs up to three descriptors (itself, a blob's file, a transfer's share) of the 20,000
            // that services commonly get. Clients keep 2 to 10 connections each.
            connections_max: 4096,
            // Five times the longest head seen from real clients, which is a bearer token of several KiB.
            head_bytes_max: 64 * 1024,
            // Clients keep idle connections for up to 120 s and must never find one closed that they are about to
            // use. A head that comes slowly costs no more than an idle connection, hence one limit for both.
            head_timeout: Duration::from_secs(150),
            // Clients pause while they unpack, at most until their own progress timeout (5 min) hits.
            write_idle_timeout: Duration::from_secs(300),
            // Half of the 30 s that service managers commonly wait before they kill is left for the store.
            drain_deadline: Duration::from_secs(15),
        }
    }
}

/// Pause after an `accept` that failed for want of descriptors or memory: long enough not to spin, short enough to be
/// there when a connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `app` to the clients of `listener` until `drain` is cancelled; requests in flight then go on until
/// `drain_deadline`. Returns when the last connection has ended.
///
/// Handlers find the client's address as `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
) {
    accept_loop(move |cx| listener.poll_accept(cx), app, limits, metrics, drain).await;
}

async fn accept_loop(
    poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>>,
    app: Router,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
) {
    let (most, stop) = (limits.connections_max, drain.clone());
    let connection = move |tcp, peer| {
        let open = OpenConnection::new(Arc::clone(&metrics));
        let connection = connection(tcp, peer, app.clone(), limits.clone(), drain.clone());
        async move {
            connection.await;
            drop(open);
        }
    };
    accept_each(poll_accept, connection, most, stop).await;
}

/// Spawns `connection` for everybody who connects, at most `connections_max` at a time, until `drain` is cancelled. Returns
/// when the last one has ended.
pub(crate) async fn accept_each<F>(
    mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>>,
    connection: impl Fn(TcpStream, SocketAddr) -> F,
    connections_max: usize,
    drain: CancellationToken,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(connections_max));
    let connections = TaskTracker::new();
    let mut exhausted = false;
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
            (slot, std::future::poll_fn(&mut poll_accept).await)
        };
        let (slot, outcome) = tokio::select! {
            biased;
            () = drain.cancelled() => break,
            accepted = accepted => accepted,
        };
        match outcome {
            Ok((tcp, peer)) => {
                exhausted = false;
                let connection = connection(tcp, peer);
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) if is_clients_fault(&error) => {
                tracing::debug!(%error, "a client left before it was accepted")
            }
            Err(error) => {
                // Once per episode: under load this would be ten lines a second.
                if !std::mem::replace(&mut exhausted, true) {
                    tracing::warn!(%error, "cannot accept connections for now; raise the limit of open files if this persists");
                }
                tokio::select! {
                    () = drain.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    // Closes the listener: new clients are refused at once and go elsewhere.
    drop(poll_accept);
    connections.close();
    connections.wait().await;
}

/// Whether `accept` failed because of the one connection it was about to return.
fn is_clients_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut)
        // Linux passes network errors of the new connection on, as accept(2) lists.
        || matches!(error.kind(), io::ErrorKind::NetworkDown | io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
}

/// One client's connection, to its end.
async fn connection(
    tcp: TcpStream,
    peer: SocketAddr,
    app: Router,
    limits: ConnectionLimits,
    drain: CancellationToken,
) {
    let stream = TokioIo::new(FileStream::new(tcp, limits.write_idle_timeout));
    let service = hyper::service::service_fn(move |request| answer(app.clone(), peer, request));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_bytes_max)
        // Queues body frames as they are instead of copying them: what `FileStream` needs to see.
        .writev(true);
    let mut connection = pin!(http.serve_connection(stream, service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(limits.drain_deadline, connection).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::info!(%peer, "cut a request that was still in flight at the drain deadline");
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a connection ended early");
    }
}

async fn answer(
    mut app: Router,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    // A router is always ready.
    app.call(request).await
}

/// Counts a connection for as long as it lives, however it ends.
struct OpenConnection(Arc<Metrics>);

impl OpenConnection {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.connections.inc();
        OpenConnection(metrics)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}
