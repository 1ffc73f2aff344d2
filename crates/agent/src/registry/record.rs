//! One log line and one set of counts per request, written when the request has really ended: when the last byte of
//! its body was taken, or the body was dropped before. A request whose client leaves before there is an answer is
//! written as well.
//!
//! A request that failed here is a warning and all others are information, so that whoever wants no line for each request
//! (`info,shoal::request=warn`) still has those for which somebody looks into the log.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use shoal_engine::{Digest, Reference, Scope};
use tracing::{Level, Span, field};

use crate::metrics::{Metrics, Served};
use crate::registry::path::Kind;
use crate::trace;

/// Target of the request lines, for filters.
pub const TARGET: &str = "shoal::request";

/// Times are told to a tenth of a millisecond. Smaller steps would print the times of hits with an exponent.
const STEPS_PER_SECOND: f64 = 1e4;

/// What a request named.
#[derive(Clone, Debug)]
pub enum Named {
    /// A manifest.
    Manifest(Reference),
    /// A blob, or the subject of referrers.
    Digest(Digest),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Named::Manifest(Reference::Tag(tag)) => tag.fmt(f),
            Named::Manifest(Reference::Digest(digest)) | Named::Digest(digest) => digest.fmt(f),
        }
    }
}

/// The part of the content that is sent.
#[derive(Clone, Debug)]
pub enum Sent {
    /// One range and the size of the whole.
    Range(Range<u64>, u64),
    /// Several ranges.
    Parts {
        /// How many.
        count: usize,
        /// Whether one of them begins at 0.
        has_start: bool,
    },
}

impl Sent {
    /// Whether the first byte is part of it.
    fn has_start(&self) -> bool {
        match self {
            Sent::Range(range, _) => range.start == 0,
            Sent::Parts { has_start, .. } => *has_start,
        }
    }
}

/// What is known of one request. Dropping it writes the line.
pub struct Record {
    metrics: Arc<Metrics>,
    method: Method,
    client: Option<IpAddr>,
    begun: Instant,
    /// Status and time to the head; `None` while there is no answer.
    answered: Option<(StatusCode, Duration)>,
    bytes: u64,
    bytes_expected: u64,
    is_cut: bool,
    span: Span,
    /// Endpoint.
    pub kind: Kind,
    /// Registry and repository.
    pub scope: Option<Scope>,
    /// Reference or digest.
    pub named: Option<Named>,
    /// Where the content comes from.
    pub source: Option<Served>,
    /// Part that is sent.
    pub sent: Option<Sent>,
    /// Why the request was refused or its body cut.
    pub failure: Option<String>,
}

impl Record {
    /// A request has arrived.
    pub fn begin(metrics: Arc<Metrics>, method: Method, client: Option<IpAddr>, span: Span) -> Self {
        Record {
            metrics,
            method,
            client,
            begun: Instant::now(),
            answered: None,
            bytes: 0,
            bytes_expected: 0,
            is_cut: false,
            span,
            kind: Kind::Other,
            scope: None,
            named: None,
            source: None,
            sent: None,
            failure: None,
        }
    }

    /// The head is ready; the record goes on with the body, which it counts.
    pub fn answered(mut self, status: StatusCode, body: Body) -> Body {
        let seconds_to_head = self.begun.elapsed();
        self.metrics.request(self.kind.as_str(), status.as_u16(), seconds_to_head.as_secs_f64());
        if status.is_success() {
            self.count_content();
        }
        self.answered = Some((status, seconds_to_head));
        // Every body here has an exact length; without one, only its end would tell that it is complete.
        self.bytes_expected = body.size_hint().exact().unwrap_or(u64::MAX);
        Body::new(Watched { body, record: self })
    }

    /// Counts a hit or a miss for each time that somebody gets a blob or a manifest. A `HEAD` is the question whether to get
    /// it, and of the ranges that a client takes one by one only the first stands for the whole.
    fn count_content(&self) {
        let is_content = matches!(self.kind, Kind::Blob | Kind::Manifest) && self.method == Method::GET;
        let is_first = self.sent.as_ref().is_none_or(Sent::has_start);
        match self.source.filter(|_| is_content && is_first) {
            Some(source) if source.is_hit() => self.metrics.hit(source),
            Some(_) => self.metrics.miss(),
            None => {}
        }
    }

    fn ended(&self) -> &'static str {
        if self.is_cut {
            "cut"
        } else if self.answered.is_some() && self.bytes >= self.bytes_expected {
            "complete"
        } else {
            "client-left"
        }
    }

    /// Whether the client did not get what it asked for, and that is not its own doing.
    fn has_failed(&self) -> bool {
        self.is_cut || self.answered.is_some_and(|(status, _)| status.is_server_error())
    }
}

/// For a line of the log.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * STEPS_PER_SECOND).round() / STEPS_PER_SECOND
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(source) = self.source
            && self.bytes > 0
        {
            self.metrics.served(source, self.bytes);
        }
        self.end_span();
        let is_told = match self.has_failed() {
            true => tracing::enabled!(target: TARGET, Level::WARN),
            false => tracing::enabled!(target: TARGET, Level::INFO),
        };
        if !is_told {
            return;
        }
        let named = self.named.as_ref().map(|named| match named {
            Named::Manifest(Reference::Tag(tag)) => tag.to_string(),
            Named::Manifest(Reference::Digest(digest)) | Named::Digest(digest) => digest.short(),
        });
        let range = self.sent.as_ref().map(|sent| match sent {
            Sent::Range(range, size) => format!("{}-{}/{size}", range.start, range.end.saturating_sub(1)),
            Sent::Parts { count, .. } => format!("{count} parts"),
        });
        // The level of a line is part of its place in the program, so there are two of them.
        macro_rules! tell {
            ($level:expr) => {
                tracing::event!(
                    target: TARGET,
                    $level,
                    method = %self.method,
                    kind = self.kind.as_str(),
                    registry = self.scope.as_ref().map(|scope| scope.registry.as_str()),
                    repository = self.scope.as_ref().map(|scope| scope.repository.as_str()),
                    reference = named,
                    range,
                    status = self.answered.map(|(status, _)| status.as_u16()),
                    bytes = self.bytes,
                    source = self.source.map(Served::as_str),
                    client = self.client.map(field::display),
                    seconds_to_head = self.answered.map(|(_, time)| seconds(time)),
                    seconds = seconds(self.begun.elapsed()),
                    error = self.failure.as_deref(),
                    ended = self.ended(),
                    trace = trace::id(&self.span),
                    "request"
                )
            };
        }
        if self.has_failed() { tell!(Level::WARN) } else { tell!(Level::INFO) }
    }
}

impl Record {
    fn end_span(&self) {
        let span = &self.span;
        if span.is_disabled() {
            return;
        }
        if let Some((status, _)) = self.answered {
            span.record("http.response.status_code", status.as_u16());
        }
        if let Some(scope) = &self.scope {
            span.record("shoal.registry", scope.registry.as_str());
            span.record("shoal.repository", scope.repository.as_str());
        }
        if let Some(named) = &self.named {
            span.record("shoal.reference", field::display(named));
        }
        if let Some(source) = self.source {
            span.record("shoal.source", source.as_str());
        }
        span.record("shoal.bytes", self.bytes);
        span.record("shoal.outcome", self.ended());
        if let Some(failure) = self.failure.as_deref().filter(|_| self.has_failed()) {
            span.record("otel.status_code", "ERROR");
            span.record("otel.status_description", failure);
        }
        trace::end(span);
    }
}

/// A body that counts what is taken from it. Frames pass through as they are, because the connection recognises
/// slices of mapped files by their address.
struct Watched {
    body: Body,
    record: Record,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(Some(Err(error))) => {
                self.record.is_cut = true;
                self.record.failure = Some(error.to_string());
            }
            Poll::Ready(None) if self.record.bytes < self.record.bytes_expected => {
                // An end short of the announced length, which the connection turns into a cut.
                self.record.is_cut = self.record.bytes_expected != u64::MAX;
                self.record.bytes_expected = self.record.bytes_expected.min(self.record.bytes);
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
