//! Writing to a node's file tree so that nobody ever reads half a file.
//!
//! Invariant: a file has its earlier text or its later one, whenever the power fails: the new text is complete and on the
//! disk under another name before it takes the old one's. That name follows from the file's, so that what a process that was
//! killed has left under it is found again ([`sweep`]).

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Root;

/// Of a file that was not there: every runtime reads its own as root, and people look at them.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// What the file system refused. Files that were written before this one stay written, and are in the record.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}; run it as root, on a file system that can be written", path = path.display())]
pub struct FileError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed<'p>(operation: &'static str, path: &'p Path) -> impl Fn(io::Error) -> FileError + 'p {
    move |source| FileError { operation, path: path.to_owned(), source }
}

/// The folders that have to be made for a file to be there, the outermost first.
pub(super) fn missing_folders(root: &Root, path: &Path) -> Vec<PathBuf> {
    let above = path.ancestors().skip(1).take_while(|folder| !root.is_dir(folder));
    let mut folders: Vec<PathBuf> = above.map(Path::to_owned).collect();
    folders.reverse();
    folders
}

/// Makes folders, the outermost first. One that is there is right.
pub(super) fn make_folders<'p>(
    root: &Root,
    folders: impl IntoIterator<Item = &'p PathBuf>,
) -> Result<(), FileError> {
    for folder in folders {
        let made = DirBuilder::new().mode(FOLDER_MODE).create(root.at(folder));
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make the folder", folder)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Gives a file another text. It keeps its mode and its owner; a new one has `mode`, or the mode of configuration files.
pub(super) fn write(root: &Root, path: &Path, text: &str, mode: Option<u32>) -> Result<(), FileError> {
    let file = root.at(path);
    let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
    let known = fs::metadata(&file).ok();
    sweep(root, path);
    let name = unfinished(path);
    let temporary = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempfile_in(&folder);
    let mut temporary = temporary.map_err(failed("write beside", path))?;
    temporary.write_all(text.as_bytes()).map_err(failed("write", path))?;
    let mode = known.as_ref().map_or(mode.unwrap_or(FILE_MODE), |known| known.mode() & 0o7777);
    if let Some(known) = &known
        && (known.uid(), known.gid()) != owner(temporary.as_file())
    {
        chown(temporary.path(), Some(known.uid()), Some(known.gid()))
            .map_err(failed("keep the owner of", path))?;
    }
    let permissions = temporary.as_file().set_permissions(Permissions::from_mode(mode));
    permissions.map_err(failed("set the mode of", path))?;
    temporary.as_file().sync_all().map_err(failed("write", path))?;
    temporary.persist(&file).map_err(|error| failed("replace", path)(error.error))?;
    sync(&folder).map_err(failed("write the folder of", path))
}

fn owner(file: &File) -> (u32, u32) {
    file.metadata().map_or((u32::MAX, u32::MAX), |known| (known.uid(), known.gid()))
}

/// What a file is called before it is whole. Never one that is there already, nor one that a link leads to.
fn unfinished(path: &Path) -> OsString {
    let mut name = OsString::from(".shoal-");
    name.push(path.file_name().unwrap_or_default());
    name
}

/// Removes what a process that was killed while it wrote a file has left beside it. For whoever holds the lock.
pub(super) fn sweep(root: &Root, path: &Path) {
    let unfinished = root.at(path).with_file_name(unfinished(path));
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            // Writing the file will say so, if it matters.
            tracing::debug!(path = %unfinished.display(), %error, "what was left unfinished stays");
        }
        _ => {}
    }
}

/// Removes a file. One that is not there is right.
pub(super) fn remove(root: &Root, path: &Path) -> Result<(), FileError> {
    sweep(root, path);
    let file = root.at(path);
    match fs::remove_file(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
        Ok(()) => file.parent().map_or(Ok(()), sync).map_err(failed("write the folder of", path)),
    }
}

/// Removes a folder if nothing is in it; says whether it is gone.
pub(super) fn remove_empty(root: &Root, folder: &Path) -> bool {
    fs::remove_dir(root.at(folder)).is_ok() || !root.exists(folder)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// How long another installation is waited for: it takes milliseconds. A process that starts another one holds what it has
/// locked for a moment twice, too.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// Keeps other installations on this node from running at the same time; held until dropped.
pub(super) struct Lock(#[expect(dead_code, reason = "held, and closed when dropped")] File);

/// Takes the lock, which is the folder of the record itself.
pub(super) fn lock(root: &Root, folder: &Path) -> Result<Lock, FileError> {
    let file = File::open(root.at(folder)).map_err(failed("open", folder))?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock(file)),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_LOOK)
            }
            Err(error) => {
                return Err(failed("lock (another `shoal runtime` is at work there)", folder)(error.into()));
            }
        }
    }
}
