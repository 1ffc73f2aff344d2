//! The connection below hyper: a TCP stream that sends mapped files with `sendfile(2)` and gives up on a client that
//! takes nothing.
//!
//! Invariants: a write is `Pending` only after something was arranged that wakes the task: the socket, a disk read, the
//! stall timer, or the task itself; and whatever it waits for, it waits for in bounds.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::mapped::{self, Source};
use super::read_ahead::ReadAhead;

/// Bytes that one connection sends before the other connections of its thread get their turn. A client as fast as this
/// machine never fills its socket, so that nothing else would make us stop.
const BURST_MAX: u64 = 8 * 1024 * 1024;

/// A client's connection. See the [module](super) for what it does with the parts of a
/// [`MappedFile`](super::MappedFile).
pub struct FileStream {
    tcp: TcpStream,
    read_ahead: ReadAhead,
    stall: Stall,
    burst: u64,
    /// Segments that are not full are held back until the flush, see [`FileStream::gather`].
    gathering: bool,
}

impl FileStream {
    /// Wraps an accepted connection, which fails with `TimedOut` once its client has taken nothing for
    /// `write_idle_timeout`, and no later than after twice that, although there was something to take.
    pub fn new(tcp: TcpStream, write_idle_timeout: Duration) -> Self {
        let stall = Stall { limit: write_idle_timeout, timer: None, waiting: false, unsent: 0 };
        // Without this the end of an answer waits for the client's delayed acknowledgement. It fails only on a
        // connection that is gone already, as the first write will say.
        let _ = tcp.set_nodelay(true);
        FileStream { tcp, read_ahead: ReadAhead::default(), stall, burst: 0, gathering: false }
    }

    /// Holds segments back that are not full, or sends them and all later ones at once.
    ///
    /// `sendfile` hands the file to the socket in runs of 64 KiB. Sent without gathering, the odd ends of those runs
    /// are packets of their own, which costs a single stream a fifth of its throughput.
    fn gather(&mut self, gathering: bool) {
        if self.gathering != gathering {
            self.gathering = gathering;
            let _ = self.tcp.set_nodelay(!gathering);
        }
    }

    /// Sends a part of a file, or the beginning of it.
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        source: &Arc<Source>,
        offset: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        if self.burst >= BURST_MAX {
            self.burst = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            // The socket first: nothing is read from disk for a client that cannot take it.
            if self.tcp.poll_write_ready(cx)?.is_pending() {
                self.burst = 0;
                return self.stall.poll(cx, &self.tcp);
            }
            let patience = self.stall.limit;
            let count = match ready!(self.read_ahead.poll_ready(cx, source, offset, len as u64, patience)) {
                Ok(count) => count,
                Err(error) => {
                    source.failed(offset..offset + 1, &error);
                    return Poll::Ready(Err(error));
                }
            };
            self.gather(true);
            match self.tcp.try_io(Interest::WRITABLE, || send_file(&self.tcp, source, offset, count)) {
                Ok(sent) => {
                    self.stall.progress();
                    self.burst += sent as u64;
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // Both ends of the call may have failed; whether it was the file is looked at again.
                    source.failed(offset..offset + count, &error);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// Writes slices of memory that a part of a file follows at once, so that they travel in one packet with it.
    fn poll_send_before_file(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.tcp.poll_write_ready(cx)?.is_pending() {
                return self.stall.poll(cx, &self.tcp);
            }
            match self.tcp.try_io(Interest::WRITABLE, || send_more(&self.tcp, slices)) {
                Ok(sent) => {
                    self.stall.progress();
                    return Poll::Ready(Ok(sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes slices of memory with nothing to follow.
    fn poll_send(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.tcp).poll_write_vectored(cx, slices) {
            Poll::Ready(outcome) => {
                self.stall.progress();
                Poll::Ready(outcome)
            }
            Poll::Pending => self.stall.poll(cx, &self.tcp),
        }
    }
}

impl AsyncRead for FileStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for FileStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let found = slices.iter().enumerate().find_map(|(at, slice)| Some((at, mapped::find(slice)?)));
        let Some((at, (source, offset))) = found else {
            return this.poll_send(cx, slices);
        };
        let before = &slices[..at];
        if before.iter().all(|slice| slice.is_empty()) {
            this.poll_send_file(cx, &source, offset, slices[at].len())
        } else {
            this.poll_send_before_file(cx, before)
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel holds whatever was written, and now sends the last of it.
        self.get_mut().gather(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

/// One `sendfile(2)` of at most `count` bytes.
fn send_file(tcp: &TcpStream, source: &Source, offset: u64, count: u64) -> io::Result<usize> {
    let mut at = offset;
    // At most a window, see `ReadAhead`.
    let count = count as usize;
    let sent = rustix::io::retry_on_intr(|| {
        at = offset;
        rustix::fs::sendfile(tcp.as_fd(), source.file.as_fd(), Some(&mut at), count)
    })?;
    if sent == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the file ends before byte {offset} that was promised to the client"),
        ));
    }
    source.count_sent(sent);
    Ok(sent)
}

fn send_more(tcp: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(tcp.as_fd(), slices, &mut SendAncillaryBuffer::default(), flags)
    })?;
    Ok(sent)
}

/// Notices a client that takes nothing.
struct Stall {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// The socket has been full since the timer was set.
    waiting: bool,
    /// Bytes that the kernel still held when the timer was set.
    unsent: u64,
}

impl Stall {
    fn progress(&mut self) {
        self.waiting = false;
    }

    /// The socket is full. The socket says when there is room again, this only when there was none for too long.
    fn poll<T>(&mut self, cx: &mut Context<'_>, tcp: &TcpStream) -> Poll<io::Result<T>> {
        if !self.waiting {
            self.waiting = true;
            self.restart(tcp);
        }
        loop {
            let timer = self.timer.as_mut().expect("set by `restart`");
            ready!(timer.as_mut().poll(cx));
            // A full socket reports room only after a good part of its megabytes has gone. A slow client that takes
            // some of them meanwhile is not stalled.
            if unsent_bytes(tcp) >= self.unsent {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the client has taken nothing for {:?}", self.limit),
                )));
            }
            self.restart(tcp);
        }
    }

    fn restart(&mut self, tcp: &TcpStream) {
        self.unsent = unsent_bytes(tcp);
        let deadline = Instant::now() + self.limit;
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(deadline),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }
}

/// Bytes written to the socket that the client has not yet acknowledged.
fn unsent_bytes(tcp: &TcpStream) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one `int` to the given address, which is valid for the call.
    let outcome = unsafe { libc::ioctl(tcp.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    // A socket that cannot tell counts as one whose client takes nothing.
    if outcome == 0 { u64::try_from(bytes).unwrap_or(0) } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::registry::listen::fixture::file;
    use crate::registry::sendfile::MappedFile;

    /// Otherwise the end of a piece waits for the acknowledgement of what went before it, up to 40 ms.
    #[tokio::test]
    async fn a_flush_ends_the_gathering() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let client =
            TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        let (tcp, _) = listener.accept().await.expect("a client is there");
        let mut stream = FileStream::new(tcp, Duration::from_secs(1));
        let source = MappedFile::new(file(1000, 0..1000), 1000).expect("files can be mapped");
        for _ in 0..2 {
            assert!(stream.tcp.nodelay().expect("it is open"));
            stream.write_all(&source.bytes(0..1000)).await.expect("there is room");
            assert!(!stream.tcp.nodelay().expect("it is open"));
            stream.flush().await.expect("it is open");
        }
        assert!(stream.tcp.nodelay().expect("it is open"));
        assert_eq!(source.sent_bytes(), 2000);
        drop(client);
    }
}
