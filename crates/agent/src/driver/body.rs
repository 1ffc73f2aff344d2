//! The body of an answer: bytes of a blob as they become ready.
//!
//! Invariant (L4): a body ends cleanly after exactly the bytes that were promised, or with an error that makes the
//! connection close short of `Content-Length`; it never pads, and it never stays silent for ever.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use shoal_engine::Digest;
use shoal_engine::io::Outcome;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tracing::Span;

use super::Handle;
use super::flight::FlightProof;
use super::pass::{PassError, PassThrough, Rest};
use super::ticket::{Ending, Serving, Ticket};
use crate::node::{Asked, Cause};
use crate::registry::sendfile::MappedFile;

/// Bytes in one frame, at most: large enough that frames cost nothing, small enough that what a client received is
/// counted about right when it leaves.
const FRAME_BYTES_MAX: u64 = 2 << 20;

/// Why a body ends short. The client sees a connection closed early; the text is for the log.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The flight failed after bytes had been sent.
    #[error("the transfer failed in the middle: {0:?}")]
    Failed(Outcome),
    /// Upstream failed in pass-through.
    #[error("pass-through failed: {0}")]
    PassThrough(String),
    /// No byte became ready for too long; the client's runtime can ask elsewhere.
    #[error("no byte for {0:?}")]
    Idle(Duration),
    /// The file cannot be read.
    #[error("cannot read the stored blob: {0}")]
    Io(#[from] std::io::Error),
}

/// What became of a request for a blob that was not in the store.
pub enum Opened {
    /// The first byte is there.
    Reply {
        /// Size of the whole blob, bytes.
        size: u64,
        /// What the body carries.
        range: Range<u64>,
        /// The bytes.
        body: BlobBody,
        /// Whether another request had already set the blob in motion.
        joined: bool,
        /// Through which repositories the bytes come.
        proof: FlightProof,
    },
    /// There is no body; the ending says why.
    Ended(Ending),
}

impl Ticket {
    /// Waits for the first byte, or for the ticket's end.
    pub async fn opened(self, asked: &Asked, digest: Digest, idle_timeout: Duration) -> Opened {
        match self.served().await {
            Ok(serving) => {
                let (size, range, joined) = (serving.size, serving.range.clone(), self.joined());
                let proof = FlightProof(Arc::clone(&serving.flight));
                let body = BlobBody::from_flight(serving, self, asked.clone(), digest, idle_timeout);
                Opened::Reply { size, range, body, joined, proof }
            }
            Err(ending) => Opened::Ended(ending),
        }
    }
}

impl Handle {
    /// A blob straight from upstream. Resolves when the first bytes are there.
    pub async fn pass_through(
        &self,
        asked: &Asked,
        digest: Digest,
        size: u64,
        range: Range<u64>,
    ) -> Result<BlobBody, Cause> {
        let rest = Rest {
            asked: asked.clone(),
            digest,
            size,
            range: range.clone(),
            from: range.start,
            flight: None,
        };
        let mut chunks = self.pass.start(rest);
        let first = match chunks.recv().await {
            Some(Ok(first)) => first,
            Some(Err(error)) => return Err(error.into_cause()),
            None => Bytes::new(),
        };
        let pass = FromPass { first: Some(first), chunks, idle: None };
        Ok(BlobBody { at: range.start, end: range.end, from: From::Pass(pass) })
    }
}

/// See the module's head.
pub struct BlobBody {
    at: u64,
    end: u64,
    from: From,
}

enum From {
    /// Bytes in memory; `base` is the offset of the first.
    Memory { bytes: Bytes, base: u64 },
    /// A whole file.
    File { mapped: Arc<MappedFile>, _in_use: Box<dyn std::any::Any + Send> },
    /// A flight under way.
    Flight(Box<FromFlight>),
    /// Straight from upstream.
    Pass(FromPass),
}

struct FromFlight {
    serving: Serving,
    ticket: Ticket,
    asked: Asked,
    digest: Digest,
    ready_to: u64,
    idle: Idle,
    pass: PassThrough,
    /// The request's.
    span: Span,
}

struct FromPass {
    first: Option<Bytes>,
    chunks: mpsc::Receiver<Result<Bytes, PassError>>,
    /// None until somebody has said how long a client may be kept waiting.
    idle: Option<Idle>,
}

/// How long a client has waited for its next bytes. Runs only while the client waits for us, never while we wait for the client.
struct Idle {
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl BlobBody {
    /// A range of bytes in memory.
    pub fn from_bytes(bytes: Bytes, range: Range<u64>) -> Self {
        BlobBody { at: range.start, end: range.end, from: From::Memory { bytes, base: 0 } }
    }

    /// A range of a whole file; `in_use` lives as long as the body.
    pub(crate) fn from_file(mapped: Arc<MappedFile>, range: Range<u64>, in_use: impl Send + 'static) -> Self {
        BlobBody { at: range.start, end: range.end, from: From::File { mapped, _in_use: Box::new(in_use) } }
    }

    /// The same body, which ends if no byte comes straight from upstream for so long while the client waits. One that comes from a
    /// flight knows that already.
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        if let From::Pass(pass) = &mut self.from {
            pass.idle = Some(Idle::new(timeout));
        }
        self
    }

    fn from_flight(
        serving: Serving,
        ticket: Ticket,
        asked: Asked,
        digest: Digest,
        idle_timeout: Duration,
    ) -> Self {
        let range = serving.range.clone();
        let pass = ticket.handle().pass.clone();
        let from = FromFlight {
            ready_to: range.start,
            idle: Idle::new(idle_timeout),
            serving,
            ticket,
            asked,
            digest,
            pass,
            span: Span::current(),
        };
        BlobBody { at: range.start, end: range.end, from: From::Flight(Box::new(from)) }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        let upto = self.end.min(self.at.saturating_add(FRAME_BYTES_MAX));
        match &mut self.from {
            From::Memory { bytes, base } => {
                let at = |offset: u64| usize::try_from(offset - *base).expect("bytes in memory");
                Poll::Ready(Ok(bytes.slice(at(self.at)..at(upto))))
            }
            From::File { mapped, .. } => Poll::Ready(Ok(mapped.bytes(self.at..upto))),
            From::Flight(flight) => match ready!(flight.poll_ready(cx, self.at)) {
                Ok(ready_to) => Poll::Ready(Ok(flight.serving.flight.bytes(self.at..upto.min(ready_to))?)),
                Err(Some(chunks)) => {
                    let idle = Some(Idle::new(flight.idle.timeout));
                    self.from = From::Pass(FromPass { first: None, chunks, idle });
                    self.poll_bytes(cx)
                }
                Err(None) => Poll::Ready(Err(flight.failure())),
            },
            From::Pass(pass) => {
                let mut bytes = ready!(pass.poll_next(cx))?;
                bytes.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
                Poll::Ready(Ok(bytes))
            }
        }
    }
}

impl FromPass {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        let next = match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.chunks.poll_recv(cx),
        };
        let Poll::Ready(next) = next else {
            let Some(idle) = &mut self.idle else { return Poll::Pending };
            ready!(idle.poll(cx));
            return Poll::Ready(Err(BodyError::Idle(idle.timeout)));
        };
        if let Some(idle) = &mut self.idle {
            idle.stop();
        }
        Poll::Ready(match next {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => Err(BodyError::PassThrough(error.to_string())),
            None => Err(BodyError::PassThrough("upstream ended early".into())),
        })
    }
}

impl Idle {
    fn new(timeout: Duration) -> Self {
        Idle { timeout, timer: Box::pin(tokio::time::sleep(timeout)), waiting: false }
    }

    /// There are bytes.
    fn stop(&mut self) {
        self.waiting = false;
    }

    /// There is nothing; ready when that has been so for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.waiting, true) {
            self.timer.as_mut().reset(tokio::time::Instant::now() + self.timeout);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl FromFlight {
    /// Bytes ready beyond `at`; `Err(Some)` when the rest comes straight from upstream; `Err(None)` when it failed.
    fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        at: u64,
    ) -> Poll<Result<u64, Option<mpsc::Receiver<Result<Bytes, PassError>>>>> {
        if self.ready_to > at {
            return Poll::Ready(Ok(self.ready_to));
        }
        match self.ticket.shared.poll_ready(cx, at) {
            Poll::Ready(Ok(ready_to)) => {
                self.ready_to = ready_to;
                self.idle.stop();
                Poll::Ready(Ok(ready_to))
            }
            Poll::Ready(Err(Ending { outcome: Outcome::PassThrough, .. })) => {
                let health = self.ticket.handle().store_health().clone();
                let rest = Rest {
                    asked: self.asked.clone(),
                    digest: self.digest,
                    size: self.serving.size,
                    range: self.serving.range.clone(),
                    from: at,
                    flight: Some((Arc::clone(&self.serving.flight), health)),
                };
                Poll::Ready(Err(Some(self.span.in_scope(|| self.pass.start(rest)))))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(None)),
            Poll::Pending => {
                ready!(self.idle.poll(cx));
                Poll::Ready(Err(None))
            }
        }
    }

    fn failure(&self) -> BodyError {
        match self.ticket.ending() {
            Some(ending) => BodyError::Failed(ending.outcome),
            None => BodyError::Idle(self.idle.timeout),
        }
    }
}

impl Body for BlobBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.at >= self.end {
            return Poll::Ready(None);
        }
        let bytes = match ready!(self.poll_bytes(cx)) {
            Ok(bytes) => bytes,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        self.at += bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    async fn next(body: &mut BlobBody) -> Result<Bytes, BodyError> {
        let frame = body.frame().await.expect("there is more to come")?;
        Ok(frame.into_data().expect("there are no trailers"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_straight_from_upstream_is_not_waited_for_for_ever() {
        let (upstream, chunks) = mpsc::channel(1);
        let pass = FromPass { first: Some(Bytes::from_static(b"a")), chunks, idle: None };
        let mut body = BlobBody { at: 0, end: 3, from: From::Pass(pass) }.with_idle_timeout(TIMEOUT);
        assert_eq!(next(&mut body).await.unwrap(), "a");
        let late = async {
            tokio::time::sleep(TIMEOUT / 2).await;
            assert!(upstream.send(Ok(Bytes::from_static(b"b"))).await.is_ok());
        };
        assert_eq!(tokio::join!(next(&mut body), late).0.unwrap(), "b");
        // It is the client that takes its time.
        tokio::time::sleep(2 * TIMEOUT).await;
        let begun = tokio::time::Instant::now();
        let error = next(&mut body).await.unwrap_err();
        assert!(matches!(error, BodyError::Idle(timeout) if timeout == TIMEOUT), "{error}");
        assert!(begun.elapsed() >= TIMEOUT && begun.elapsed() < TIMEOUT + Duration::from_secs(1));
    }
}
