//! Blobs: a stream that starts exactly where it was asked to and ends exactly where it was asked to, whatever the
//! server makes of the range. It never ends early without an error.

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use http::{HeaderValue, Method};
use shoal_engine::{Digest, SourceFault};
use shoal_store::Visibility;
use url::Url;

use super::body::{Body, Gate};
use super::error::{Reason, UpstreamError};
use super::exchange::{Answer, Exchange, Question};
use super::headers::{self, Coding};
use super::place::Place;
use super::source::Source;
use super::transport::Transport;
use super::trouble::Watch;

const ACCEPT_ANY: &str = "*/*";

/// What a source tells of a blob that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobSize {
    /// Bytes; `None` if the source does not tell.
    pub size: Option<u64>,
    /// Who else would have been told.
    pub visibility: Visibility,
}

/// A blob, or the asked part of it, on its way from a source.
pub struct BlobStream {
    /// Size of the whole blob, if the source told.
    pub total: Option<u64>,
    /// Who else would have got it.
    pub visibility: Visibility,
    url: Url,
    pub(super) source: Arc<Source>,
    pub(super) is_mirror: bool,
    /// Tells when the transfer breaks off, where somebody else could go on.
    pub(super) watch: Option<Watch>,
    state: State,
    /// What has come already, and was not handed out.
    first: Option<Bytes>,
    /// Bytes still to be dropped because the source sends from an earlier byte on.
    skip: u64,
    start: u64,
    /// Offset in the blob of the next byte handed out.
    at: u64,
    /// Offset at which the stream is complete; unknown where neither caller nor source told.
    end: Option<u64>,
}

enum State {
    Open(Box<Body>),
    /// All that was asked for has been handed out.
    Complete,
    /// An error has been reported; there is nothing after it.
    Failed,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let BlobStream { total, start, at, end, .. } = self;
        write!(f, "BlobStream {{ total: {total:?}, start: {start}, at: {at}, end: {end:?} }}")
    }
}

impl BlobStream {
    /// The next bytes; `None` when all that was asked for has come. After an error there is nothing more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self.first.take() {
            Some(bytes) => Ok(Some(bytes)),
            None => self.receive().await,
        }
    }

    /// Waits for the first bytes: a source that sends headers and then nothing has not answered.
    pub(super) async fn begun(mut self) -> Result<Self, UpstreamError> {
        self.first = self.receive().await?;
        Ok(self)
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let State::Open(body) = &mut self.state else {
                return match self.state {
                    State::Failed => Err(self.short()),
                    _ => Ok(None),
                };
            };
            let left = self.end.map(|end| end - self.at);
            if left == Some(0) {
                self.state = State::Complete;
                continue;
            }
            match body.chunk().await {
                Ok(Some(mut bytes)) => {
                    let dropped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                    bytes.advance(dropped);
                    self.skip -= dropped as u64;
                    if let Some(left) = left {
                        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    }
                    if bytes.is_empty() {
                        continue;
                    }
                    self.at += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(None) if self.end.is_none() && self.skip == 0 => self.state = State::Complete,
                Ok(None) => return Err(self.broken(self.short()).await),
                Err(error) => return Err(self.broken(error).await),
            }
        }
    }

    async fn broken(&mut self, error: UpstreamError) -> UpstreamError {
        self.state = State::Failed;
        if let Some(watch) = &self.watch {
            let stalled = matches!(error.reason(), Reason::Stalled { .. });
            watch.broke(self.at - self.start, stalled).await;
        }
        error
    }

    fn short(&self) -> UpstreamError {
        let expected = self.end.map_or(self.at + self.skip - self.start + 1, |end| end - self.start);
        UpstreamError::new(&self.url, Reason::Short { received: self.at - self.start, expected })
    }
}

impl Exchange {
    /// Opens a blob at `start`; resolves when the headers have arrived.
    pub async fn open_blob(
        &self,
        place: &Place,
        digest: &Digest,
        start: u64,
        end: Option<u64>,
    ) -> Result<BlobStream, UpstreamError> {
        assert!(end.is_none_or(|end| start < end), "an empty range needs no transfer");
        let mut question = blob_question(place, digest, Method::GET, "blob-get")?;
        question.statuses = &[200, 206, 416];
        question.range = range(start, end);
        let mut answer = self.ask(&question).await?;
        let coded = headers::coding(answer.headers()) != Ok(Coding::Identity);
        if (answer.status() == 206 && coded) || (answer.status() == 416 && question.range.is_some()) {
            // A range of the coded form counts other bytes than those that were asked for, and may seem to lie
            // outside; some object stores answer 416 to any range. Whole, then: what lies before `start` is dropped.
            question.range = None;
            answer = self.ask(&question).await?;
        }
        stream(answer, start, end, &self.transport, place)
    }

    /// Whether the source has a blob, and its size.
    ///
    /// HEAD costs nothing but is broken in places (a URL signed for GET, ECR Public), so a HEAD that is refused or
    /// lacks the length is followed by a GET for one byte.
    pub async fn blob_size(&self, place: &Place, digest: &Digest) -> Result<BlobSize, UpstreamError> {
        let question = blob_question(place, digest, Method::HEAD, "blob-head")?;
        match self.ask(&question).await {
            Ok(answer) => {
                if let Some(length) = headers::length(answer.headers()) {
                    return Ok(BlobSize { size: Some(length), visibility: answer.visibility });
                }
            }
            Err(error)
                if matches!(error.fault(), SourceFault::Denied { .. }) || error.is_method_refused() => {}
            Err(error) => return Err(error),
        }
        let mut question = blob_question(place, digest, Method::GET, "blob-get")?;
        question.statuses = &[200, 206, 416];
        question.range = range(0, Some(1));
        let answer = self.ask(&question).await?;
        let size = match answer.status() {
            _ if headers::coding(answer.headers()) != Ok(Coding::Identity) => None,
            200 => headers::length(answer.headers()),
            // 416 is how a server says that an empty blob has no first byte.
            _ => headers::extent(answer.headers()).and_then(|extent| extent.total),
        };
        Ok(BlobSize { size, visibility: answer.visibility })
    }
}

fn blob_question<'a>(
    place: &'a Place,
    digest: &Digest,
    method: Method,
    kind: &'static str,
) -> Result<Question<'a>, UpstreamError> {
    let url = place.url(&format!("blobs/{digest}"))?;
    Ok(Question {
        place,
        kind,
        method,
        url,
        accept: ACCEPT_ANY,
        range: None,
        if_none_match: None,
        statuses: &[200],
    })
}

/// `Range`, or none where all is wanted: some servers answer `bytes=0-` with less than everything.
fn range(start: u64, end: Option<u64>) -> Option<HeaderValue> {
    let text = match end {
        None if start == 0 => return None,
        None => format!("bytes={start}-"),
        Some(end) => format!("bytes={start}-{}", end - 1),
    };
    Some(HeaderValue::try_from(text).expect("digits are plain ASCII"))
}

/// Judges the headers against what was asked.
fn stream(
    answer: Answer,
    start: u64,
    end: Option<u64>,
    transport: &Transport,
    place: &Place,
) -> Result<BlobStream, UpstreamError> {
    let status = answer.status();
    let Answer { response, url, visibility, .. } = answer;
    let found = headers::extent(response.headers());
    let (total, skip, told_end) = match status {
        416 => {
            let total = found.and_then(|extent| extent.total);
            return Err(UpstreamError::new(&url, Reason::OutOfRange { start, total }));
        }
        206 => {
            let extent = found.and_then(|extent| Some((extent.range?, extent.total)));
            let Some(((_, last), total)) = extent.filter(|((first, _), _)| *first == start) else {
                let found = headers::extent_text(response.headers());
                return Err(UpstreamError::new(&url, Reason::ContentRange { start, found }));
            };
            // A window shorter than asked ends in an error, so that the caller goes on behind it.
            (total, 0, total.or(if end.is_none() { Some(last.saturating_add(1)) } else { None }))
        }
        _ => {
            let total = headers::length(response.headers());
            if let Some(total) = total.filter(|total| start > 0 && *total <= start) {
                return Err(UpstreamError::new(&url, Reason::OutOfRange { start, total: Some(total) }));
            }
            // The range was ignored: what lies before it is received and dropped.
            (total, start, total)
        }
    };
    let end = match (end, told_end) {
        (Some(asked), Some(told)) => Some(asked.min(told)),
        (one, other) => one.or(other),
    };
    let gate = Gate { bytes: place.source.bytes.clone(), throttle: transport.throttle.clone() };
    let body = Body::new(url.clone(), response, transport.idle_timeout, Some(gate))?;
    let (source, is_mirror) = (Arc::clone(&place.source), place.is_mirror);
    Ok(BlobStream {
        total,
        visibility,
        url,
        source,
        is_mirror,
        watch: None,
        state: State::Open(Box::new(body)),
        first: None,
        skip,
        start,
        at: start,
        end,
    })
}
