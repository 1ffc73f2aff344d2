//! A server on loopback and a plain client for it, for the tests of the connection layer.

use std::fs::File;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{Response, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{ConnectionLimits, bind, serve};
use crate::metrics::Metrics;

/// Longest that anything here may take. Only a failing test gets near it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails the test if `future` hangs. Not for tests with a paused clock, which would jump to the deadline.
pub(in crate::registry) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

/// Waits for a condition that another task or thread brings about.
pub(in crate::registry) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        tokio::task::yield_now().await;
    }
}

/// A server under test.
pub(in crate::registry) struct Server {
    pub(in crate::registry) address: SocketAddr,
    pub(in crate::registry) metrics: Arc<Metrics>,
    pub(in crate::registry) drain: CancellationToken,
    pub(in crate::registry) task: JoinHandle<()>,
}

impl Server {
    pub(in crate::registry) fn start(app: Router) -> Self {
        Self::start_with(app, ConnectionLimits::default())
    }

    pub(in crate::registry) fn start_with(app: Router, limits: ConnectionLimits) -> Self {
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let metrics = Metrics::new();
        let drain = CancellationToken::new();
        let task = tokio::spawn(serve(listener, app, limits, Arc::clone(&metrics), drain.clone()));
        Server { address, metrics, drain, task }
    }

    pub(in crate::registry) async fn client(&self) -> Client {
        Client(TcpStream::connect(self.address).await.expect("it listens"))
    }

    /// Ends the server; hangs if a connection does not end.
    pub(in crate::registry) async fn stop(self) {
        self.drain.cancel();
        soon(self.task).await.expect("the server does not panic");
        assert_eq!(self.metrics.connections.get(), 0);
    }
}

/// A client that sees the bytes as they are.
pub(in crate::registry) struct Client(pub(in crate::registry) TcpStream);

impl Client {
    pub(in crate::registry) async fn ask(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.expect("the request is sent");
    }

    /// The head of a response, without reading beyond it.
    pub(in crate::registry) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.expect("a whole head"));
        }
        String::from_utf8(head).expect("heads are ASCII")
    }

    pub(in crate::registry) async fn body(&mut self, len: u64) -> Vec<u8> {
        let mut body = vec![0; usize::try_from(len).expect("it fits")];
        self.0.read_exact(&mut body).await.expect("a whole body");
        body
    }

    /// Asks for `path` and expects a 200 with `len` bytes.
    pub(in crate::registry) async fn get(&mut self, path: &str, len: u64) -> Vec<u8> {
        self.ask(path).await;
        let head = self.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        self.body(len).await
    }

    /// Everything until the server closes, cleanly or not.
    pub(in crate::registry) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest).await;
        rest
    }
}

/// A 200 of exactly `len` bytes from frames.
pub(in crate::registry) fn sized<S>(len: u64, frames: S) -> Response<Body>
where
    S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
{
    Response::builder()
        .header(header::CONTENT_LENGTH, len)
        .body(Body::from_stream(frames))
        .expect("a valid response")
}

/// `range` in steps of `step`.
pub(in crate::registry) fn steps(range: Range<u64>, step: u64) -> impl Stream<Item = Range<u64>> + Send {
    let end = range.end;
    let starts = (range.start..end).step_by(usize::try_from(step).expect("it fits"));
    futures_util::stream::iter(starts).map(move |start| start..end.min(start + step))
}

/// The bytes that test files hold at `range`: different everywhere, the same in every run.
pub(in crate::registry) fn content(range: Range<u64>) -> Vec<u8> {
    let word = |at: u64| {
        let mixed = (at ^ (at >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes()
    };
    let first = range.start / 8;
    let words = (first..range.end.div_ceil(8)).flat_map(word);
    let skip = usize::try_from(range.start - first * 8).expect("less than 8");
    words.skip(skip).take(usize::try_from(range.end - range.start).expect("it fits")).collect()
}

/// A file of `len` bytes of [`content`], of which `written` is written.
pub(in crate::registry) fn file(len: u64, written: Range<u64>) -> Arc<File> {
    let file = tempfile::tempfile().expect("a temporary file");
    file.set_len(len).expect("room");
    file.write_all_at(&content(written.clone()), written.start).expect("room");
    Arc::new(file)
}
