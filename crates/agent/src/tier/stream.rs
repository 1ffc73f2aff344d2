//! A blob on its way out of the store: it starts exactly where it was asked to, ends exactly where it was asked to, and
//! never ends early without an error. The bytes are unverified.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::{GetOptions, GetResultPayload};
use prometheus_client::metrics::counter::Counter;
use shoal_engine::Digest;

use super::error::{TierFault, fault_of};
use super::limits::FILE_CHUNK_BYTES;
use super::{Inner, TierError};

/// A blob, or the asked part of it.
pub struct TierStream {
    inner: Arc<Inner>,
    digest: Digest,
    total: u64,
    range: Range<u64>,
    /// Offset in the blob of the next byte handed out.
    at: u64,
    state: State,
    bytes: Counter,
}

enum State {
    Body(BoxStream<'static, object_store::Result<Bytes>>),
    /// The library reads files in small steps; a file on another machine wants larger ones.
    File(Arc<File>),
    /// All that was asked for has been handed out.
    Complete,
    /// An error has been reported; there is nothing after it.
    Failed,
}

impl std::fmt::Debug for TierStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TierStream { digest, total, range, at, .. } = self;
        write!(f, "TierStream {{ digest: {digest}, total: {total}, range: {range:?}, at: {at} }}")
    }
}

impl TierStream {
    /// Opens an object of which `total` bytes are expected; `None` if it is not there any more.
    pub(super) async fn open(
        inner: &Arc<Inner>,
        digest: &Digest,
        total: u64,
        range: Range<u64>,
    ) -> Result<Option<Self>, TierFault> {
        let state = if range.is_empty() {
            // An empty blob, or nothing of one. There is no range that asks for it.
            State::Complete
        } else {
            inner.reads.admit().map_err(|left| TierFault::LeftAlone { left })?;
            let answer = inner.in_time(ask(inner, digest, total, &range)).await;
            inner.reads.settle(answer.as_ref().err());
            let Some(state) = answer? else { return Ok(None) };
            state
        };
        let bytes = inner.metrics.tier_received_bytes.clone();
        let (inner, at) = (Arc::clone(inner), range.start);
        Ok(Some(TierStream { inner, digest: *digest, total, range, at, state, bytes }))
    }

    /// Size of the whole blob in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The next bytes; `None` when all that was asked for has come. After an error there is nothing more.
    ///
    /// # Errors
    /// The transfer broke, stalled or ended early. Worth going on at the byte reached, here or elsewhere.
    pub async fn next(&mut self) -> Result<Option<Bytes>, TierError> {
        self.chunk().await.map_err(|fault| TierError::new("open", self.digest, fault))
    }

    /// The same with the bare fault.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, TierFault> {
        let left = self.range.end - self.at;
        if left == 0 {
            self.state = State::Complete;
        }
        let idle = self.inner.settings.idle_timeout;
        let read = async {
            match &mut self.state {
                State::Complete => Ok(None),
                State::Failed => Err(short(&self.range, self.at)),
                State::Body(body) => match body.next().await {
                    Some(Ok(bytes)) => Ok(Some(bytes)),
                    Some(Err(error)) => Err(fault_of(&error).unwrap_or_else(|| short(&self.range, self.at))),
                    None => Err(short(&self.range, self.at)),
                },
                State::File(file) => {
                    match read_at(Arc::clone(file), self.at, left.min(FILE_CHUNK_BYTES)).await {
                        Ok(bytes) if bytes.is_empty() => Err(short(&self.range, self.at)),
                        Ok(bytes) => Ok(Some(bytes)),
                        Err(error) => Err(TierFault::Failed(error.to_string())),
                    }
                }
            }
        };
        let stalled = TierFault::Stalled { received: self.at - self.range.start, idle };
        match tokio::time::timeout(idle, read).await.unwrap_or(Err(stalled)) {
            Ok(Some(mut bytes)) => {
                // More than was asked for is not believed to be anything.
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                self.at += bytes.len() as u64;
                self.bytes.inc_by(bytes.len() as u64);
                Ok(Some(bytes))
            }
            Ok(None) => Ok(None),
            Err(fault) => {
                if !matches!(self.state, State::Failed) {
                    self.inner.reads.settle(Some(&fault));
                    self.inner.broken.insert(self.digest, ()).await;
                }
                self.state = State::Failed;
                Err(fault)
            }
        }
    }
}

fn short(range: &Range<u64>, at: u64) -> TierFault {
    TierFault::Short { received: at - range.start, expected: range.end - range.start }
}

/// Asks for the range and judges the headers against it.
async fn ask(
    inner: &Inner,
    digest: &Digest,
    total: u64,
    range: &Range<u64>,
) -> Result<Option<State>, TierFault> {
    let path = inner.layout.blob(digest);
    // A plain GET for all of it: the cheapest question, and the one that every store understands.
    let part = (*range != (0..total)).then(|| range.clone());
    let options = GetOptions::new().with_range(part);
    let got = match inner.backend.store().await?.get_opts(&path, options).await {
        Ok(got) => got,
        Err(error) => return fault_of(&error).map_or(Ok(None), Err),
    };
    if got.meta.size != total {
        return Err(TierFault::WrongSize { expected: total, found: got.meta.size });
    }
    if got.range != *range {
        return Err(TierFault::WrongRange { asked: range.clone(), got: got.range });
    }
    Ok(Some(match got.payload {
        GetResultPayload::File(file, _) => State::File(Arc::new(file)),
        GetResultPayload::Stream(body) => State::Body(body),
    }))
}

/// Up to `length` bytes of a file, read off the async threads.
pub(super) async fn read_at(file: Arc<File>, offset: u64, length: u64) -> std::io::Result<Bytes> {
    let read = move || {
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        Ok(Bytes::from(buffer))
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
