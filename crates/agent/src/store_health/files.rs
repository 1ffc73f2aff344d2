//! What becomes of a stored blob whose file cannot be read?
//!
//! Answer: with the first error of the file it counts as absent, so that the next request goes past it; a second look, on a thread of the
//! disk, tells whether it is the file indeed, and takes the blob out of the store, from where the homes hear of it. One of the container
//! runtime is only remembered, until another file has its name. What the disk takes too long for is given up; that it is still asked
//! for tells that the disk hangs.
//! Prevents: a client that meets the same bad block with each retry while its upstream is well, a socket's error that costs a blob, and
//! clients and threads that wait for a disk that hangs.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use shoal_engine::Digest;
use shoal_store::{Blob, Content, Home, Store, StoreError};
use tokio::time::Instant;

use super::StoreHealth;
use crate::driver::read_at;

/// How long the read of a part of a file may take before the disk counts as one that hangs. Longer than for a call: what other clients
/// have had read ahead may come first.
const READ_ANSWER_MAX: Duration = Duration::from_secs(30);
/// Files that are remembered because they cannot be read: some 30 KiB. One that is forgotten costs a client one more answer that ends
/// early.
const DOUBTS_MAX: usize = 256;

/// The file of a stored blob, as it is read for those who are sent it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct StoredFile {
    health: StoreHealth,
    digest: Digest,
    home: Home,
    file: Arc<File>,
    patience: Duration,
}

impl fmt::Debug for StoredFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredFile")
            .field("digest", &self.digest)
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

/// A stored blob's file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the stored blob {digest} at {path}", path = path.display())]
struct Unreadable {
    digest: Digest,
    path: PathBuf,
    source: io::Error,
}

impl StoredFile {
    /// The `file` of `blob`, of which every read may take `patience`.
    pub(crate) fn new(health: &StoreHealth, blob: &Blob, file: &Arc<File>, patience: Duration) -> Self {
        StoredFile {
            health: health.clone(),
            digest: blob.digest,
            home: blob.home,
            file: Arc::clone(file),
            patience,
        }
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Runs a read of the file where waiting for the disk is allowed.
    ///
    /// # Errors
    /// The read's own; `TimedOut` where the disk does not answer. It is still being asked then.
    pub(crate) async fn read<T: Send + 'static>(
        self,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let StoredFile { health, file, patience, .. } = self;
        let allowed = patience.min(READ_ANSWER_MAX);
        let due_at = Instant::now() + allowed;
        let answered = async {
            let place = Arc::clone(&health.0.reads).acquire_owned().await;
            let place = place.map_err(io::Error::other)?;
            let call = health.begin(due_at, allowed);
            let reading = tokio::task::spawn_blocking(move || {
                let read = work(&file);
                drop((call, place));
                read
            });
            // An error means that it panicked.
            reading.await.unwrap_or_else(|error| Err(io::Error::other(error)))
        };
        match tokio::time::timeout(patience, answered).await {
            Ok(read) => read,
            Err(_) => {
                health.hangs();
                Err(overdue(patience))
            }
        }
    }

    /// A part of the file could not be read, or could not be sent: only an error of the file counts, see the module's head.
    pub(crate) fn failed(&self, range: Range<u64>, error: &io::Error) {
        if !Store::is_unreadable(error) {
            return;
        }
        let Ok(name) = FileName::of(&self.file) else { return };
        if !self.health.0.doubts.begin(self.digest, name) {
            return;
        }
        let (this, health, digest) = (self.clone(), self.health.clone(), self.digest);
        tokio::spawn(async move {
            let bytes = range.end - range.start;
            let looked = health.on_disk_by_size(bytes, move |store| Ok(this.look_again(store, range, name)?));
            if looked.await.is_err() {
                // Nobody knows. As long as the disk hangs, nothing is read from it anyway.
                health.0.doubts.end(&digest, |doubt| !doubt.is_certain);
            }
        });
    }

    /// Whether it is the file that cannot be read, and what follows from that. Blocks on the disk.
    fn look_again(&self, store: &Store, range: Range<u64>, name: FileName) -> Result<(), StoreError> {
        let (doubts, digest) = (&self.health.0.doubts, self.digest);
        let source = match read_at(&self.file, range) {
            Err(source) if Store::is_unreadable(&source) => source,
            _ => {
                doubts.end(&digest, |doubt| doubt.name == name);
                return Ok(());
            }
        };
        let path = path_of(&self.file);
        let then = match self.home {
            Home::Own => "it is taken out of the store and fetched again",
            Home::Runtime => "it is the container runtime's, and counts as absent",
        };
        tracing::error!(%digest, file = %path.display(), error = %source, then, "a stored blob cannot be read");
        self.health.unreadable(&Unreadable { digest, path, source });
        doubts.confirm(digest, name);
        if self.home == Home::Own {
            store.remove_unreadable(&digest, &self.file)?;
            doubts.end(&digest, |doubt| doubt.name == name);
        }
        Ok(())
    }
}

impl StoreHealth {
    /// Whether a file of this blob could not be read that is still there.
    pub(crate) fn doubts(&self, digest: &Digest) -> bool {
        self.0.doubts.any_of(digest)
    }

    /// A whole blob, unless its file is known to be unreadable. One that could not be taken out of the store when that became known is
    /// taken out now. Blocks on the disk.
    pub(crate) fn readable(&self, store: &Store, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let found = store.get(digest, SystemTime::now())?;
        if !self.doubts(digest) {
            return Ok(found);
        }
        let doubts = &self.0.doubts;
        let Some(blob) = found else {
            // It has gone by itself, and comes like any other now.
            doubts.end(digest, |_| true);
            return Ok(None);
        };
        let Content::File(file) = &blob.content else { return Ok(Some(blob)) };
        let known = FileName::of(file).ok().and_then(|name| Some((name, doubts.find(digest, name)?)));
        let Some((name, is_certain)) = known else {
            // Another file has come in its place.
            doubts.end(digest, |_| true);
            return Ok(Some(blob));
        };
        if is_certain && blob.home == Home::Own {
            store.remove_unreadable(digest, file)?;
            doubts.end(digest, |doubt| doubt.name == name);
        }
        Ok(None)
    }
}

/// Nothing has come from the disk for too long.
pub(crate) fn overdue(patience: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the disk has not answered for {patience:?}"))
}

/// Where a file lies that is open.
fn path_of(file: &File) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_else(|_| "?".into())
}

/// Tells a file from one that comes in its place, also where the file system gives that one the number of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileName {
    device: u64,
    inode: u64,
    changed_at: (i64, i64),
}

impl FileName {
    /// Known of every open file, without asking the disk.
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(FileName { device: meta.dev(), inode: meta.ino(), changed_at: (meta.ctime(), meta.ctime_nsec()) })
    }
}

/// A file that could not be read.
struct Doubt {
    digest: Digest,
    name: FileName,
    /// The second look has found the same.
    is_certain: bool,
}

/// The files that could not be read and are still there, the last one last.
#[derive(Default)]
pub(super) struct Doubts(Mutex<VecDeque<Doubt>>);

impl Doubts {
    /// Remembers a file; says whether it was not known yet.
    fn begin(&self, digest: Digest, name: FileName) -> bool {
        let mut doubts = self.0.lock();
        if doubts.iter().any(|doubt| (doubt.digest, doubt.name) == (digest, name)) {
            return false;
        }
        if doubts.len() == DOUBTS_MAX {
            doubts.pop_front();
        }
        doubts.push_back(Doubt { digest, name, is_certain: false });
        true
    }

    fn confirm(&self, digest: Digest, name: FileName) {
        let mut doubts = self.0.lock();
        let known = doubts.iter_mut().find(|doubt| (doubt.digest, doubt.name) == (digest, name));
        if let Some(doubt) = known {
            doubt.is_certain = true;
        }
    }

    /// Forgets the files of a blob that are `over`.
    fn end(&self, digest: &Digest, over: impl Fn(&Doubt) -> bool) {
        self.0.lock().retain(|doubt| doubt.digest != *digest || !over(doubt));
    }

    fn any_of(&self, digest: &Digest) -> bool {
        self.0.lock().iter().any(|doubt| doubt.digest == *digest)
    }

    /// Whether what is known of a file is certain; `None` if nothing is known of it.
    fn find(&self, digest: &Digest, name: FileName) -> Option<bool> {
        let doubts = self.0.lock();
        let known = doubts.iter().find(|doubt| doubt.digest == *digest && doubt.name == name);
        known.map(|doubt| doubt.is_certain)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;
    use shoal_engine::Algorithm;
    use shoal_store::Options;
    use tempfile::TempDir;
    use tokio::sync::oneshot;

    use super::*;
    use crate::metrics::Metrics;
    use crate::store_health::Reason;

    const PATIENCE: Duration = Duration::from_secs(60);
    const SIZE: u64 = 20_000;

    fn digest() -> Digest {
        Digest::new(Algorithm::Sha256, &[1; 32])
    }

    /// A store without a blob, and the folder that it takes for the runtime's.
    fn empty() -> (TempDir, Store, StoreHealth) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Some(folder.path().join("runtime"));
        let path = folder.path().join("own");
        let options =
            Options { disk_free_min: 0, inline_max: 0, runtime_content: runtime, ..Options::new(path) };
        let store = Store::open(options).unwrap().store;
        let health = StoreHealth::new(store.clone(), Metrics::new());
        (folder, store, health)
    }

    fn put(store: &Store) {
        store.put(&digest(), None, &Bytes::from(vec![7; SIZE as usize]), SystemTime::now()).unwrap();
    }

    fn found(store: &Store) -> Option<Blob> {
        store.get(&digest(), SystemTime::now()).unwrap()
    }

    fn is_readable(store: &Store, health: &StoreHealth) -> bool {
        health.readable(store, &digest()).unwrap().is_some()
    }

    fn file_of(health: &StoreHealth, blob: &Blob) -> StoredFile {
        let Content::File(file) = &blob.content else { panic!("nothing is kept in the index") };
        StoredFile::new(health, blob, file, PATIENCE)
    }

    fn shorten(file: &StoredFile) {
        File::options().write(true).open(path_of(file.file())).unwrap().set_len(100).unwrap();
    }

    fn eio() -> io::Error {
        io::Error::from_raw_os_error(libc::EIO)
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let patience = std::time::Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(std::time::Instant::now() < patience, "still not: {what}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_leaves_the_store() {
        let (_folder, store, health) = empty();
        put(&store);
        let file = file_of(&health, &found(&store).unwrap());
        shorten(&file);
        let path = path_of(file.file());
        file.failed(0..SIZE, &eio());
        assert!(health.doubts(&digest()), "it is served until somebody has looked again");
        until("it has left", || !health.doubts(&digest())).await;
        assert!(!path.exists());
        let trouble = health.trouble().unwrap();
        assert_eq!(trouble.reason, Reason::DiskError);
        let (name, path) = (digest().to_string(), path.display().to_string());
        assert!(trouble.error.contains(&name) && trouble.error.contains(&path), "{}", trouble.error);

        // Who still reads the old file harms the new one as little.
        put(&store);
        file.failed(0..SIZE, &eio());
        until("that is known", || !health.doubts(&digest())).await;
        assert!(found(&store).is_some());
    }

    #[tokio::test]
    async fn what_can_be_read_again_stays() {
        let (_folder, store, health) = empty();
        put(&store);
        let file = file_of(&health, &found(&store).unwrap());
        for code in [libc::EPIPE, libc::ECONNRESET, libc::ETIMEDOUT, libc::ENOMEM] {
            file.failed(0..SIZE, &io::Error::from_raw_os_error(code));
            assert!(!health.doubts(&digest()), "{code} is no error of a file");
        }
        file.failed(0..SIZE, &eio());
        assert!(!is_readable(&store, &health), "it is served before that is known");
        until("it is trusted again", || !health.doubts(&digest())).await;
        assert!(is_readable(&store, &health) && health.trouble().is_none());
    }

    #[tokio::test]
    async fn what_is_the_runtimes_is_remembered_as_long_as_it_is_there() {
        let (folder, store, health) = empty();
        let blobs = folder.path().join("runtime/blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let path = blobs.join(digest().hex());
        std::fs::write(&path, vec![7; SIZE as usize]).unwrap();
        let file = file_of(&health, &found(&store).unwrap());
        shorten(&file);
        file.failed(0..SIZE, &eio());
        until("it is noted", || health.trouble().is_some()).await;
        for _ in 0..2 {
            assert!(!is_readable(&store, &health));
        }
        assert!(path.exists() && health.doubts(&digest()));

        let fresh = folder.path().join("fresh");
        std::fs::write(&fresh, vec![7; SIZE as usize]).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        assert!(is_readable(&store, &health) && !health.doubts(&digest()));

        let file = file_of(&health, &found(&store).unwrap());
        shorten(&file);
        file.failed(0..SIZE, &eio());
        until("that is known too", || !is_readable(&store, &health)).await;
        std::fs::remove_file(&path).unwrap();
        assert!(!is_readable(&store, &health) && !health.doubts(&digest()), "nothing keeps it from coming");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_hangs_is_given_up_and_tells_that_the_disk_hangs() {
        let (_folder, store, health) = empty();
        put(&store);
        let file = file_of(&health, &found(&store).unwrap());
        let (end, ended) = mpsc::channel::<()>();
        let (begin, begun) = oneshot::channel();
        let reading = tokio::spawn(file.read(move |_| {
            let _ = begin.send(());
            let _ = ended.recv();
            Ok(())
        }));
        begun.await.unwrap();
        tokio::time::advance(READ_ANSWER_MAX - Duration::from_secs(1)).await;
        assert!(!health.hangs(), "it may be slow for once");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(health.hangs() && !reading.is_finished(), "its client has more patience");
        tokio::time::advance(PATIENCE - READ_ANSWER_MAX).await;
        assert_eq!(reading.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(health.trouble().unwrap().error, "the disk has not answered for 30 s");
        assert!(found(&store).is_some(), "a disk that hangs says nothing of the blob");

        drop(end);
        let works = std::time::Instant::now() + Duration::from_secs(30);
        while health.hangs() {
            assert!(std::time::Instant::now() < works, "it has returned, and counts all the same");
            std::thread::yield_now();
        }
        assert!(health.trouble().is_none());
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let file = tempfile::tempfile().unwrap();
        let name = FileName::of(&file).unwrap();
        let doubts = Doubts::default();
        let number = |n: usize| Digest::new(Algorithm::Sha256, &[n as u8; 32]);
        for n in 0..DOUBTS_MAX {
            assert!(doubts.begin(number(n), name));
        }
        assert!(!doubts.begin(number(1), name));
        assert!(doubts.begin(Digest::new(Algorithm::Sha512, &[1; 64]), name));
        assert!(!doubts.any_of(&number(0)) && doubts.any_of(&number(1)));
        assert_eq!(doubts.0.lock().len(), DOUBTS_MAX);
    }
}
