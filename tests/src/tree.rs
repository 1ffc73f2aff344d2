//! A file tree as it is at one time, to be compared with what it is later.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// By path: mode, and the bytes of a file or the target of a link.
pub type Snapshot = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// Everything below folders of a tree, and the folders themselves; what is taken away while it is looked at is left out.
/// Panics when it cannot be read.
pub fn snapshot(tree: &Path, folders: &[&str]) -> Snapshot {
    let mut all = BTreeMap::new();
    let mut ahead: Vec<PathBuf> = folders.iter().map(|folder| tree.join(folder)).collect();
    while let Some(path) = ahead.pop() {
        let Ok(known) = fs::symlink_metadata(&path) else { continue };
        let read = if known.is_dir() {
            fs::read_dir(&path).and_then(|mut entries| {
                entries.try_for_each(|entry| entry.map(|entry| ahead.push(entry.path())))?;
                Ok(Vec::new())
            })
        } else if known.is_file() {
            fs::read(&path)
        } else if known.is_symlink() {
            fs::read_link(&path).map(|target| target.into_os_string().into_vec())
        } else {
            Ok(Vec::new())
        };
        match read {
            Ok(bytes) => {
                all.insert(path, (known.mode(), bytes));
            }
            // Whoever writes here at this moment has renamed or removed it.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => panic!("{}: {e}", path.display()),
        }
    }
    all
}
