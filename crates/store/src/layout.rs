//! The data directory: paths, format, lock, owner.
//!
//! Invariant: whoever holds a [`Layout`] holds the lock, in a directory of our own user and of our own format.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use shoal_engine::{Algorithm, Digest};

use crate::error::OpenError;

/// What `FORMAT` says. Changes with everything an older or newer program would misread.
pub(crate) const FORMAT: &str = "shoal-store 1";
/// Names of what is in the directory, beside `FORMAT`.
const LOCK: &str = "LOCK";
const BLOBS: &str = "blobs";
const PARTIALS: &str = "partial";
const INDEX: &str = "index";
/// Of an index that was set aside: followed by the time, Unix seconds.
pub(crate) const BROKEN_INDEX: &str = "index.broken-";
/// Longest part of a foreign `FORMAT` that is read and quoted, bytes.
const FORMAT_BYTES_MAX: u64 = 80;

/// Paths of an opened data directory, and its lock.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Unlocked when it is closed, also by the death of the process.
    _lock: File,
}

impl Layout {
    /// Takes possession of a directory; makes it when it is not there.
    pub(crate) fn open(root: &Path) -> Result<Self, OpenError> {
        make_dir(root)?;
        let meta = fs::metadata(root).map_err(OpenError::io("look at", root))?;
        let ours = rustix::process::geteuid().as_raw();
        if meta.uid() != ours {
            return Err(OpenError::ForeignOwner { path: root.to_owned(), owner: meta.uid(), ours });
        }
        let has_format = has_our_format(root)?;
        let lock = take_lock(&root.join(LOCK))?;
        // Looked at again under the lock: another process may have made the store a moment ago.
        if !has_format && !has_our_format(root)? {
            write_format(root)?;
        }
        let layout = Layout { root: root.to_owned(), _lock: lock };
        if !layout.blobs().is_dir() || !layout.partials().is_dir() {
            make_dir(&layout.blobs())?;
            make_dir(&layout.partials())?;
            sync_dir(root).map_err(OpenError::io("sync", root))?;
        }
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join(BLOBS)
    }

    pub(crate) fn partials(&self) -> PathBuf {
        self.root.join(PARTIALS)
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join(INDEX)
    }

    /// Where an index is made before it gets its name.
    pub(crate) fn new_index(&self) -> PathBuf {
        self.root.join("index.new")
    }

    /// Directory that holds the content file of a digest.
    pub(crate) fn fan_out(&self, digest: &Digest) -> PathBuf {
        self.fan_out_of(digest.algorithm(), digest.hash()[0])
    }

    pub(crate) fn fan_out_of(&self, algorithm: Algorithm, first: u8) -> PathBuf {
        self.root.join(BLOBS).join(algorithm.as_str()).join(format!("{first:02x}"))
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.fan_out(digest).join(digest.hex())
    }

    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join(PARTIALS).join(format!("{}-{}", digest.algorithm(), digest.hex()))
    }

    /// Makes the fan-out directory of a digest, durably. There are 256 per algorithm, so this is rarely more than a look.
    pub(crate) fn make_fan_out(&self, digest: &Digest) -> io::Result<()> {
        let dir = self.fan_out(digest);
        if dir.is_dir() {
            return Ok(());
        }
        let algorithm = self.root.join(BLOBS).join(digest.algorithm().as_str());
        for (dir, parent) in [(&algorithm, &self.blobs()), (&dir, &algorithm)] {
            match DirBuilder::new().mode(0o700).create(dir) {
                Ok(()) => sync_dir(parent)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Content files of one fan-out directory: digest and path. Names that are no digest are passed over.
    pub(crate) fn content_files(
        &self,
        algorithm: Algorithm,
        first: u8,
    ) -> io::Result<impl Iterator<Item = io::Result<(Digest, PathBuf)>>> {
        let entries = match fs::read_dir(self.fan_out_of(algorithm, first)) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(entries.into_iter().flatten().filter_map(move |entry| match entry {
            Err(error) => Some(Err(error)),
            Ok(entry) => {
                let digest: Digest = format!("{algorithm}:{}", entry.file_name().to_str()?).parse().ok()?;
                (digest.hash()[0] == first).then(|| Ok((digest, entry.path())))
            }
        }))
    }

    /// Whether the file system takes writes now.
    pub(crate) fn probe(&self) -> io::Result<()> {
        let path = self.root.join("PROBE");
        let mut file = File::create(&path)?;
        file.write_all(&[0])?;
        file.sync_data()?;
        fs::remove_file(&path)
    }

    /// Bytes that an unprivileged process can still write to the file system.
    pub(crate) fn disk_free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The digest that a file in `partial/` belongs to.
pub(crate) fn partial_digest(file_name: &str) -> Option<Digest> {
    let (algorithm, hex) = file_name.split_once('-')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// Syncs a directory: the names in it, not what the names stand for.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Deletes a file; one that is not there is as good as deleted.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(OpenError::io("make the directory", dir))
}

/// Whether `FORMAT` is there and ours. An error if it is another's, or if it is missing in a directory that is in use.
fn has_our_format(root: &Path) -> Result<bool, OpenError> {
    let path = root.join("FORMAT");
    let mut found = String::new();
    match File::open(&path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(FORMAT_BYTES_MAX).read_to_end(&mut bytes).map_err(OpenError::io("read", &path))?;
            found.push_str(String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let foreign = [BLOBS, INDEX, PARTIALS].into_iter().find(|name| root.join(name).exists());
            return match foreign {
                Some(entry) => Err(OpenError::NotAStore { path: root.to_owned(), entry }),
                None => Ok(false),
            };
        }
        Err(error) => return Err(OpenError::io("read", &path)(error)),
    }
    if found == FORMAT { Ok(true) } else { Err(OpenError::Format { path, found, ours: FORMAT }) }
}

/// What can be seen of a data directory without opening it.
#[derive(Debug)]
pub struct Glance {
    /// Why it is not one of this version's, if it is not; one that is not there, or empty, can become one.
    pub foreign: Option<OpenError>,
    /// The process that has written itself into the lock; it may have ended, and its number is one of its own PID namespace.
    pub lock_pid: Option<u32>,
    /// Whether there may be blobs, and there is no index of them.
    pub index_missing: bool,
    /// Where a broken index was set aside.
    pub broken_index: Option<PathBuf>,
}

/// Looks at a data directory. Changes nothing; what cannot be read is not seen.
pub fn glance(root: &Path) -> Glance {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let broken_index = entries
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(BROKEN_INDEX)));
    Glance {
        foreign: has_our_format(root).err(),
        lock_pid: fs::read_to_string(root.join(LOCK)).ok().and_then(|text| text.trim().parse().ok()),
        // RocksDB's pointer to its newest manifest: a database has it from its first moment.
        index_missing: root.join(BLOBS).is_dir() && !root.join(INDEX).join("CURRENT").is_file(),
        broken_index,
    }
}

/// Written under another name first: a `FORMAT` that is there is whole.
fn write_format(root: &Path) -> Result<(), OpenError> {
    let (new, path) = (root.join("FORMAT.new"), root.join("FORMAT"));
    let write = || {
        let mut file = File::create(&new)?;
        writeln!(file, "{FORMAT}")?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        sync_dir(root)
    };
    write().map_err(OpenError::io("write", &path))
}

fn take_lock(path: &Path) -> Result<File, OpenError> {
    let io = |operation| OpenError::io(operation, path);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io("open the lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // The number only helps whoever reads the message; without it the message is still right.
            let _ = file.take(16).read_to_string(&mut text);
            return Err(OpenError::Locked { path: path.to_owned(), pid: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(io("lock")(error)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(io("write the process number to"))?;
    Ok(file)
}
