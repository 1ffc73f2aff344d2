//! A response body as it arrives: each chunk has a deadline, and a content coding is undone so that the bytes hash to
//! their digest (C20). There is no deadline for the whole (L7).

use std::io;
use std::pin::Pin;
use std::time::Duration;

use async_compression::tokio::bufread::{GzipDecoder, ZlibDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::StreamReader;
use url::Url;

use super::error::{Reason, UpstreamError};
use super::headers::{self, Coding};
use super::limits::{DECODED_CHUNK_BYTES, ZSTD_WINDOW_LOG_MAX};
use crate::rate::Throttle;

/// The body of one response.
pub(super) struct Body {
    url: Url,
    inner: Inner,
}

enum Inner {
    Plain(Box<Raw>),
    Decoded(Pin<Box<dyn AsyncRead + Send>>),
}

/// What a body's bytes pass on their way in.
pub(super) struct Gate {
    /// Counts them.
    pub bytes: Counter,
    /// Holds them up.
    pub throttle: Throttle,
}

/// The bytes as they come from the connection.
struct Raw {
    url: Url,
    response: reqwest::Response,
    received: u64,
    idle: Duration,
    gate: Option<Gate>,
    /// Bytes of the first chunk, for which the throttle has not been waited for yet.
    owed: usize,
}

impl Body {
    /// The body of a response.
    pub fn new(
        url: Url,
        response: reqwest::Response,
        idle: Duration,
        gate: Option<Gate>,
    ) -> Result<Self, UpstreamError> {
        let coding = headers::coding(response.headers());
        let coding = coding.map_err(|name| UpstreamError::new(&url, Reason::Encoding(name)))?;
        let raw = Raw { url: url.clone(), response, received: 0, idle, gate, owed: 0 };
        let inner = match coding {
            Coding::Identity => Inner::Plain(Box::new(raw)),
            Coding::Gzip => {
                let mut decoder = GzipDecoder::new(raw.reader());
                decoder.multiple_members(true);
                Inner::Decoded(Box::pin(decoder))
            }
            Coding::Zstd => {
                let window = DParameter::window_log_max(ZSTD_WINDOW_LOG_MAX);
                let mut decoder = ZstdDecoder::with_params(raw.reader(), &[window]);
                decoder.multiple_members(true);
                Inner::Decoded(Box::pin(decoder))
            }
            Coding::Deflate => Inner::Decoded(Box::pin(ZlibDecoder::new(raw.reader()))),
        };
        Ok(Body { url, inner })
    }

    /// The next bytes; `None` at the end of the body, whether or not that is where it should end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match &mut self.inner {
            Inner::Plain(raw) => raw.chunk().await,
            Inner::Decoded(reader) => {
                let mut buffer = BytesMut::with_capacity(DECODED_CHUNK_BYTES);
                match reader.read_buf(&mut buffer).await {
                    Ok(0) => Ok(None),
                    Ok(_) => Ok(Some(buffer.freeze())),
                    Err(error) => Err(undecoded(&self.url, error)),
                }
            }
        }
    }
}

impl Raw {
    async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        // The first chunk is waited for when more is wanted: until then it tells whether the source answers.
        if let Some(gate) = self.gate.as_ref().filter(|_| self.owed > 0) {
            gate.throttle.pass(std::mem::take(&mut self.owed)).await;
        }
        let received = self.received;
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                self.received += chunk.len() as u64;
                if let Some(gate) = &self.gate {
                    gate.bytes.inc_by(chunk.len() as u64);
                    match received {
                        0 => self.owed = chunk.len(),
                        _ => gate.throttle.pass(chunk.len()).await,
                    }
                }
                Ok(Some(chunk))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => {
                let error = io::Error::other(error.without_url());
                Err(UpstreamError::new(&self.url, Reason::Broken { received, error }))
            }
            Err(_) => Err(UpstreamError::new(&self.url, Reason::Stalled { received, idle: self.idle })),
        }
    }

    fn reader(self) -> impl tokio::io::AsyncBufRead + Send {
        StreamReader::new(Box::pin(stream::unfold(Some(self), |raw| async {
            let mut raw = raw?;
            match raw.chunk().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(raw))),
                Ok(None) => None,
                // Travels through the decoder and comes out again below.
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        })))
    }
}

fn undecoded(url: &Url, error: io::Error) -> UpstreamError {
    match error.downcast::<UpstreamError>() {
        Ok(error) => error,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            UpstreamError::new(url, Reason::Broken { received: 0, error })
        }
        Err(error) => UpstreamError::new(url, Reason::Decode(error)),
    }
}
