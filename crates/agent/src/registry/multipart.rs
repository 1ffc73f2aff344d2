//! Several ranges of one blob as `multipart/byteranges` (RFC 9110 section 14.6), streamed part by part.
//!
//! Only one part is open at a time: a request for a thousand ranges costs one ticket, not a thousand. All lengths are
//! known before the first byte, so the answer has a `Content-Length`; what cannot be had afterwards cuts it short.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::BoxError;
use bytes::Bytes;
use http::HeaderValue;
use http_body::{Body, Frame, SizeHint};
use shoal_engine::Digest;

use crate::node::{Asked, Part, PullError};
use crate::registry::{Blob, Pulls, respond};

/// Why a body of several parts breaks off.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// A part could not be opened.
    #[error("opening part {part}: {error}")]
    Open {
        /// Its place, from 0.
        part: usize,
        /// Why.
        #[source]
        error: PullError,
    },
    /// A part broke.
    #[error("reading part {part}")]
    Read {
        /// Its place, from 0.
        part: usize,
        /// Why.
        #[source]
        error: BoxError,
    },
    /// A part is not the range that was announced: the blob changed its size between two requests.
    #[error("part {part} is {found:?}, announced was {announced:?}")]
    Mismatch {
        /// Its place, from 0.
        part: usize,
        /// What the head of the part says.
        announced: Range<u64>,
        /// What its bytes are.
        found: Range<u64>,
    },
}

/// The body.
pub struct Multipart<P: Pulls> {
    pulls: P,
    asked: Asked,
    digest: Digest,
    size: u64,
    boundary: String,
    ranges: Vec<Range<u64>>,
    at: usize,
    /// Bytes of the whole body that are still to come.
    left: u64,
    state: State<P::Body>,
}

enum State<B> {
    /// The head of part `at` comes next; its bytes may be open already.
    Head(Option<Blob<B>>),
    /// Part `at` is being opened.
    Opening(Pin<Box<dyn Future<Output = Result<Blob<B>, PullError>> + Send>>),
    /// Part `at` has so many bytes to come.
    Bytes(B, u64),
    /// The last boundary has been sent, or the body broke.
    Ended,
}

impl<P: Pulls> Multipart<P> {
    /// A body of `ranges`, none empty, all within a blob of `size` bytes; `first` carries the first of them.
    pub fn new(
        pulls: P,
        asked: Asked,
        digest: Digest,
        size: u64,
        ranges: Vec<Range<u64>>,
        first: Blob<P::Body>,
    ) -> Self {
        // Long enough that no content contains it by accident, and unknown in advance to whoever made the content.
        let boundary = format!("{:032x}", rand::random::<u128>());
        let state = State::Head(Some(first));
        let mut body = Multipart { pulls, asked, digest, size, boundary, ranges, at: 0, left: 0, state };
        let bytes: u64 = body.ranges.iter().map(|range| range.end - range.start).sum();
        let heads: usize = (0..body.ranges.len()).map(|part| body.head(part).len()).sum();
        body.left = bytes + heads as u64 + body.tail().len() as u64;
        body
    }

    /// `Content-Type` of the answer.
    pub fn media_type(&self) -> HeaderValue {
        let text = format!("multipart/byteranges; boundary={}", self.boundary);
        HeaderValue::from_str(&text).expect("hex digits are visible ASCII")
    }

    /// Bytes of the body, boundaries included.
    pub fn length(&self) -> u64 {
        self.left
    }

    fn head(&self, part: usize) -> String {
        let lead = if part == 0 { "" } else { "\r\n" };
        let range = respond::content_range(&self.ranges[part], self.size);
        let range = range.to_str().expect("digits are visible ASCII");
        let boundary = &self.boundary;
        format!(
            "{lead}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {range}\r\n\r\n"
        )
    }

    fn tail(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }

    fn open(&self) -> State<P::Body> {
        let (pulls, asked, digest) = (self.pulls.clone(), self.asked.clone(), self.digest);
        let range = &self.ranges[self.at];
        let part = Part::Bounded(range.start, range.end - 1);
        State::Opening(Box::pin(async move { pulls.open_blob(&asked, digest, part).await }))
    }

    fn opened(&mut self, blob: Blob<P::Body>) -> Result<(), PartError> {
        let announced = self.ranges[self.at].clone();
        if blob.range != announced || blob.size != self.size {
            return Err(PartError::Mismatch { part: self.at, announced, found: blob.range });
        }
        self.state = State::Bytes(blob.body, announced.end - announced.start);
        Ok(())
    }

    /// The part that was being read has ended or broken.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, PartError>> {
        let State::Bytes(body, left) = &mut self.state else { unreachable!("called while a part is open") };
        let part = self.at;
        let read = |error: BoxError| PartError::Read { part, error };
        let Some(frame) = ready!(Pin::new(body).poll_frame(cx)) else {
            let missing = *left;
            return Poll::Ready(if missing == 0 {
                Ok(None)
            } else {
                Err(read(format!("{missing} bytes are missing at its end").into()))
            });
        };
        let data = match frame.map_err(|error| read(error.into()))?.into_data() {
            Ok(data) => data,
            // Trailers: a blob has none that anybody would read.
            Err(_) => Bytes::new(),
        };
        *left = match left.checked_sub(data.len() as u64) {
            Some(left) => left,
            None => return Poll::Ready(Err(read("it is longer than announced".into()))),
        };
        Poll::Ready(Ok(Some(data)))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, PartError>> {
        loop {
            match &mut self.state {
                State::Head(first) => {
                    let first = first.take();
                    let head = Bytes::from(self.head(self.at));
                    match first {
                        Some(blob) => self.opened(blob)?,
                        None => self.state = self.open(),
                    }
                    return Poll::Ready(Ok(Some(head)));
                }
                State::Opening(opening) => {
                    let blob = ready!(opening.as_mut().poll(cx));
                    let blob = blob.map_err(|error| PartError::Open { part: self.at, error })?;
                    self.opened(blob)?;
                }
                State::Bytes(..) => {
                    if let Some(data) = ready!(self.poll_bytes(cx))? {
                        return Poll::Ready(Ok(Some(data)));
                    }
                    self.at += 1;
                    if self.at == self.ranges.len() {
                        self.state = State::Ended;
                        return Poll::Ready(Ok(Some(Bytes::from(self.tail()))));
                    }
                    self.state = State::Head(None);
                }
                State::Ended => return Poll::Ready(Ok(None)),
            }
        }
    }
}

impl<P: Pulls> Body for Multipart<P> {
    type Data = Bytes;
    type Error = PartError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PartError>>> {
        let this = self.get_mut();
        Poll::Ready(match ready!(this.poll_next(cx)) {
            Ok(None) => None,
            Ok(Some(data)) => {
                this.left -= data.len() as u64;
                Some(Ok(Frame::data(data)))
            }
            Err(error) => {
                this.state = State::Ended;
                Some(Err(error))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
