//! Keeps slow disk reads away from the async threads.
//!
//! The question: may `sendfile` be called for this part of a file now? The answer: when a probe finds it in the page
//! cache; otherwise a blocking thread reads it ahead first. Without this, one cold blob on a slow disk stalls every
//! other connection of the same worker thread.

use std::fs::File;
use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::task::JoinHandle;

use super::mapped::Source;

/// Bytes that are probed, and then sent by one call, at a time. Large enough that the calls cost nothing beside the
/// sending (about half a millisecond of it), small enough to be fair to the other connections of the thread.
pub(super) const WINDOW: u64 = 2 * 1024 * 1024;

/// Bytes that a cold read asks the disk for: the window that is needed and the ones after it, so that the disk works
/// while the socket does.
const READ_AHEAD: u64 = 3 * WINDOW;

/// Distance of the bytes that are touched to wait for a window, bytes. Disk requests are larger than this.
const STRIDE: usize = 64 * 1024;

/// What one connection knows about the page cache.
#[derive(Default)]
pub(super) struct ReadAhead {
    /// The file (by address) and the part of it that was found in the page cache or read into it.
    ready: Option<(usize, Range<u64>)>,
    /// A read in a blocking thread, and what will be `ready` after it.
    reading: Option<(JoinHandle<()>, usize, Range<u64>)>,
}

impl ReadAhead {
    /// How many of the `len` bytes at `offset` can be sent without waiting for the disk; at least one.
    ///
    /// A read that fails is not reported here: `sendfile` meets the same error and reports it.
    pub(super) fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        source: &Arc<Source>,
        offset: u64,
        len: u64,
    ) -> Poll<u64> {
        if let Some((job, file, part)) = &mut self.reading {
            let _ = ready!(Pin::new(job).poll(cx));
            self.ready = Some((*file, part.clone()));
            self.reading = None;
        }
        let file = Arc::as_ptr(source).addr();
        loop {
            if let Some((known, part)) = &self.ready
                && *known == file
                && part.contains(&offset)
            {
                return Poll::Ready(len.min(part.end - offset));
            }
            let window = offset..offset + len.min(WINDOW);
            if is_cached(&source.file, &window) {
                self.ready = Some((file, window));
                continue;
            }
            let ahead = offset..offset + len.min(READ_AHEAD);
            let cold = Arc::clone(&source.file);
            let part = window.clone();
            let mut job = tokio::task::spawn_blocking(move || read(&cold, &ahead, &part));
            if Pin::new(&mut job).poll(cx).is_pending() {
                self.reading = Some((job, file, window));
                return Poll::Pending;
            }
            self.ready = Some((file, window));
        }
    }
}

/// Whether the first and the last byte of `window` are in the page cache. Disks are read in runs far longer than the
/// gap, so a wrong yes is rare, and costs one blocking read.
fn is_cached(file: &File, window: &Range<u64>) -> bool {
    probe(file, window.end - 1) && probe(file, window.start)
}

fn probe(file: &File, offset: u64) -> bool {
    let mut byte = [0];
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT);
    // Only "it would block" is a no. File systems that cannot tell, errors and the end of the file are left to
    // `sendfile`.
    read != Err(Errno::AGAIN)
}

/// Asks the disk for `ahead` and waits until `window`, its beginning, has been read.
fn read(file: &File, ahead: &Range<u64>, window: &Range<u64>) {
    // Advice may be refused; the reads below work without it.
    let _ =
        rustix::fs::fadvise(file, ahead.start, NonZeroU64::new(ahead.end - ahead.start), Advice::WillNeed);
    for offset in window.clone().step_by(STRIDE).chain([window.end - 1]) {
        let mut byte = [0];
        if !matches!(rustix::io::pread(file, &mut byte, offset), Ok(1)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::registry::listen::fixture::file;
    use crate::registry::sendfile::MappedFile;
    use crate::registry::sendfile::mapped::find;

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
        assert_eq!(poll_fn(|cx| read_ahead.poll_ready(cx, &source, offset, len - offset)).await, WINDOW);
        assert!(is_cached(&file, &window));
        // What is left of the window needs no further look.
        evict(&file);
        let rest = poll_fn(|cx| read_ahead.poll_ready(cx, &source, offset + 100, len)).await;
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
        assert_eq!(poll_fn(|cx| read_ahead.poll_ready(cx, &source, 0, 10)).await, 10);
    }
}
