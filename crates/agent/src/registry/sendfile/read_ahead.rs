//! Keeps slow disk reads away from the async threads.
//!
//! The question: may `sendfile` be called for this part of a file now? The answer: when a probe finds it in the page
//! cache; otherwise a blocking thread reads it ahead first, for as long as the client may be kept waiting. Without this,
//! one cold blob on a slow disk stalls every other connection of the same worker thread, and one on a disk that hangs its
//! client for ever.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

use super::mapped::Source;
use crate::store_health::overdue;

/// Bytes that are probed, and then sent by one call, at a time. Large enough that the calls cost nothing beside the
/// sending (about half a millisecond of it), small enough to be fair to the other connections of the thread.
pub(super) const WINDOW: u64 = 2 * 1024 * 1024;

/// Bytes beyond the window that the disk is asked for while a client reads a cold file in order, so that the disk works
/// while the socket does. Enough for a disk of 1 GB/s that takes 4 ms to begin.
const READ_AHEAD: u64 = 4 * WINDOW;

/// Distance of the bytes that are looked at, bytes. Disks are read in longer runs than this.
const STRIDE: u64 = 128 * 1024;

/// What one connection knows about the page cache.
#[derive(Default)]
pub(super) struct ReadAhead {
    /// The file (by address) and the part of it that was found in the page cache or read into it last.
    ready: Option<(usize, Range<u64>)>,
    reading: Option<Reading>,
    /// The disk was asked for the file up to here; 0 while all of it was found in the page cache.
    asked: u64,
}

/// Something that is done with a file on a thread that may wait for the disk; the offset that it has come to.
type Job = Pin<Box<dyn Future<Output = io::Result<u64>> + Send>>;

/// A read in a blocking thread.
struct Reading {
    job: Job,
    /// The file (by address) and where the part of it begins that will be `ready` afterwards.
    file: usize,
    start: u64,
}

impl ReadAhead {
    /// How many of the `len` bytes at `offset` can be sent without waiting for the disk; at least one. A file that nobody answers
    /// for is waited for `patience`, a stored one as long as it says itself.
    ///
    /// An error is the disk's, for the byte at `offset`. One that is found without waiting is not reported here: `sendfile` meets
    /// the same error and reports it.
    pub(super) fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        source: &Arc<Source>,
        offset: u64,
        len: u64,
        patience: Duration,
    ) -> Poll<io::Result<u64>> {
        let file = Arc::as_ptr(source).addr();
        loop {
            if let Some(Reading { job, file, start }) = &mut self.reading {
                let read = ready!(job.as_mut().poll(cx));
                let (file, start) = (*file, *start);
                self.reading = None;
                self.ready = Some((file, start..read?));
            }
            let last = self.ready.as_ref().filter(|(known, _)| *known == file).map(|(_, part)| part);
            if let Some(part) = last
                && part.contains(&offset)
            {
                return Poll::Ready(Ok(len.min(part.end - offset)));
            }
            let in_order = last.is_some_and(|part| part.end == offset);
            self.next_window(source, offset..offset + len.min(WINDOW), in_order, patience);
        }
    }

    /// Goes on to `window`: it becomes `ready`, at once or after `reading`.
    fn next_window(&mut self, source: &Arc<Source>, window: Range<u64>, in_order: bool, patience: Duration) {
        let file = Arc::as_ptr(source).addr();
        if !in_order {
            self.asked = 0;
        }
        let cached = is_cached(&source.file, &window);
        if cached && self.asked == 0 {
            self.ready = Some((file, window));
            return;
        }
        // A client that has only begun may want no more than this; one that reads in order wants the rest too.
        let horizon = if in_order { source.len().min(window.end + READ_AHEAD) } else { window.end };
        let ahead = self.asked.max(window.start)..horizon;
        if !cached {
            self.asked = horizon;
            let start = window.start;
            let job = on_disk(source, patience, move |cold| {
                ask(cold, &ahead);
                wait(cold, &window)
            });
            self.reading = Some(Reading { job, file, start });
            return;
        }
        if ahead.start + READ_AHEAD / 2 <= ahead.end {
            self.asked = horizon;
            // Not waited for: it is about later windows.
            drop(tokio::spawn(on_disk(source, patience, move |cold| {
                ask(cold, &ahead);
                Ok(ahead.end)
            })));
        }
        self.ready = Some((file, window));
    }
}

/// Has something done with a file on a thread that may wait for the disk, and gives up in time.
fn on_disk(
    source: &Source,
    patience: Duration,
    work: impl FnOnce(&File) -> io::Result<u64> + Send + 'static,
) -> Job {
    if let Some(stored) = source.stored() {
        return Box::pin(stored.clone().read(work));
    }
    let file = Arc::clone(&source.file);
    Box::pin(async move {
        let working = tokio::task::spawn_blocking(move || work(&file));
        match tokio::time::timeout(patience, working).await {
            Ok(done) => done.unwrap_or_else(|error| Err(io::Error::other(error))),
            Err(_) => Err(overdue(patience)),
        }
    })
}

/// Whether `window` is in the page cache, by a look at a byte every [`STRIDE`]. The end comes first: it is what a read
/// that is still under way lacks.
fn is_cached(file: &File, window: &Range<u64>) -> bool {
    touched(window).rev().all(|offset| probe(file, offset))
}

/// The offsets that stand for the whole of `window`.
fn touched(window: &Range<u64>) -> impl DoubleEndedIterator<Item = u64> + use<> {
    let Range { start, end } = *window;
    (0..(end - start).div_ceil(STRIDE)).map(move |step| start + step * STRIDE).chain([end - 1])
}

fn probe(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
    // Only "it would block" is a no. File systems that cannot tell, errors and the end of the file are left to
    // `sendfile`.
    read != Err(Errno::AGAIN)
}

/// Asks the disk for `part`. Advice may be refused; everything works without it.
fn ask(file: &File, part: &Range<u64>) {
    if let Some(len) = part.end.checked_sub(part.start).and_then(NonZeroU64::new) {
        let _ = rustix::fs::fadvise(file, part.start, Some(len), Advice::WillNeed);
    }
}

/// Waits until `window` has been read; says up to where it could be.
///
/// # Errors
/// Of `pread(2)` for its first byte; `UnexpectedEof` if the file ends before.
fn wait(file: &File, window: &Range<u64>) -> io::Result<u64> {
    for offset in touched(window) {
        let mut byte = [0];
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut byte, offset));
        let error: io::Error = match read {
            Ok(1) => continue,
            Ok(_) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error.into(),
        };
        // What lies before can still be sent.
        return if offset > window.start { Ok(offset) } else { Err(error) };
    }
    Ok(window.end)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::oneshot;

    use super::*;
    use crate::registry::listen::fixture::file;
    use crate::registry::sendfile::MappedFile;
    use crate::registry::sendfile::mapped::find;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn sendable(read_ahead: &mut ReadAhead, source: &Arc<Source>, offset: u64, len: u64) -> u64 {
        let sendable = poll_fn(|cx| read_ahead.poll_ready(cx, source, offset, len, PATIENCE));
        sendable.await.expect("a disk that works")
    }

    fn evict(file: &File) {
        file.sync_all().expect("a disk that works");
        rustix::fs::fadvise(file, 0, None, Advice::DontNeed).expect("a file of the page cache");
    }

    #[tokio::test]
    async fn a_cold_part_is_read_before_it_is_sent() {
        let len = 8 * WINDOW;
        let file = file(len, 0..len);
        evict(&file);
        let window = WINDOW..2 * WINDOW;
        if is_cached(&file, &window) {
            return eprintln!("not tested: temporary files lie in memory on this machine");
        }
        let mapped = MappedFile::new(Arc::clone(&file), len).expect("files can be mapped");
        let (source, offset) = find(&mapped.bytes(WINDOW..len)).expect("it is mapped");
        let mut read_ahead = ReadAhead::default();
        assert_eq!(sendable(&mut read_ahead, &source, offset, len - offset).await, WINDOW);
        assert!(is_cached(&file, &window));
        // What is left of the window needs no further look.
        evict(&file);
        let rest = sendable(&mut read_ahead, &source, offset + 100, WINDOW).await;
        assert_eq!(rest, WINDOW - 100);
        assert!(!is_cached(&file, &window));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_left_to_sendfile() {
        let file = file(WINDOW, 0..WINDOW);
        let mapped = MappedFile::new(Arc::clone(&file), WINDOW).expect("files can be mapped");
        let (source, _) = find(&mapped.bytes(0..WINDOW)).expect("it is mapped");
        file.set_len(0).expect("files can be shortened");
        let mut read_ahead = ReadAhead::default();
        assert_eq!(sendable(&mut read_ahead, &source, 0, 10).await, 10);
    }

    #[test]
    fn what_lies_before_an_error_can_be_sent() {
        let file = file(WINDOW, 0..WINDOW);
        assert_eq!(wait(&file, &(0..WINDOW)).expect("all of it is there"), WINDOW);
        file.set_len(3 * STRIDE - 5).expect("files can be shortened");
        assert_eq!(wait(&file, &(0..WINDOW)).expect("the beginning is there"), 3 * STRIDE);
        assert_eq!(
            wait(&file, &(3 * STRIDE..WINDOW)).expect_err("nothing is there").kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    /// Of a file that nobody answers for; for a stored one see `store_health`.
    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_not_waited_for_for_ever() {
        let mapped = MappedFile::new(file(WINDOW, 0..WINDOW), WINDOW).expect("files can be mapped");
        let (source, _) = find(&mapped.bytes(0..WINDOW)).expect("it is mapped");
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let waiting = tokio::spawn(on_disk(&source, PATIENCE, move |_| {
            let _ = begin.send(());
            let _ = ended.recv();
            Ok(WINDOW)
        }));
        begun.await.expect("it begins");
        tokio::time::advance(PATIENCE).await;
        let outcome = waiting.await.expect("it does not panic");
        assert_eq!(outcome.expect_err("nobody has answered").kind(), io::ErrorKind::TimedOut);
        drop(end);
    }
}
