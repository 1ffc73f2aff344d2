//! Frames on a stream: `u32` length, little endian, then the bytes. No more is remembered than what is under way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{AsyncRead, AsyncWrite};

/// Bytes before a frame.
pub(super) const HEADER_BYTES: usize = 4;

/// Room that a length alone can make us set aside. More only when that much has come.
const RESERVE_BYTES_MAX: usize = 16 << 10;

/// Small frames that leave together: one record of TLS.
const BATCH_BYTES: usize = 16 << 10;

/// Reads frames. Between two of them it holds no memory.
#[derive(Debug, Default)]
pub(super) struct Reader {
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    body: Vec<u8>,
    body_filled: usize,
}

/// What a stream brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A frame; empty if its sender says farewell.
    Frame(Vec<u8>),
    /// The stream ended.
    End,
}

impl Reader {
    /// The next frame. A length over `bytes_max` is an error of kind `InvalidData`, an end within a frame one of kind
    /// `UnexpectedEof`.
    pub fn poll<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        bytes_max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Read>> {
        while self.header_filled < HEADER_BYTES {
            let rest = &mut self.header[self.header_filled..];
            match ready!(Pin::new(&mut *stream).poll_read(cx, rest))? {
                0 if self.header_filled == 0 => return Poll::Ready(Ok(Read::End)),
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                read => self.header_filled += read,
            }
        }
        let length = u32::from_le_bytes(self.header) as usize;
        if length > bytes_max {
            let why = format!("a frame of {length} bytes where {bytes_max} are possible");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        while self.body_filled < length {
            if self.body_filled == self.body.len() {
                let room = (2 * self.body.len()).max(RESERVE_BYTES_MAX).min(length);
                self.body.reserve_exact(room - self.body.len());
                self.body.resize(room, 0);
            }
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut self.body[self.body_filled..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                read => self.body_filled += read,
            }
        }
        self.header_filled = 0;
        self.body_filled = 0;
        Poll::Ready(Ok(Read::Frame(std::mem::take(&mut self.body))))
    }
}

/// Writes frames.
#[derive(Debug, Default)]
pub(super) struct Writer {
    batch: Vec<u8>,
    written: usize,
    unflushed: bool,
}

impl Writer {
    /// Whether another frame may be [added](Self::add).
    pub fn has_room(&self) -> bool {
        self.batch.len() < BATCH_BYTES
    }

    /// Whether everything has been handed to the connection.
    pub fn is_idle(&self) -> bool {
        self.batch.is_empty() && !self.unflushed
    }

    pub fn add(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).expect("frames are no longer than FRAME_BYTES_MAX");
        self.batch.reserve(HEADER_BYTES + frame.len());
        self.batch.extend_from_slice(&length.to_le_bytes());
        self.batch.extend_from_slice(frame);
    }

    /// Writes what was added. `true` if anything moved.
    pub fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> (bool, Poll<io::Result<()>>) {
        let mut moved = false;
        while self.written < self.batch.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.batch[self.written..]) {
                Poll::Ready(Ok(0)) => return (moved, Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(bytes)) => {
                    self.written += bytes;
                    moved = true;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return (moved, Poll::Ready(Err(error))),
                Poll::Pending => return (moved, Poll::Pending),
            }
        }
        if self.written > 0 {
            self.written = 0;
            self.batch = Vec::new();
        }
        if self.unflushed {
            match Pin::new(stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.unflushed = false;
                    moved = true;
                }
                other => return (moved, other),
            }
        }
        (moved, Poll::Ready(Ok(())))
    }
}
