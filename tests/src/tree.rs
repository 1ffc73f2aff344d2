//! A file tree as it is at one time, to be compared with what it is later.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// By path: mode, and the bytes of a file or the target of a link.
pub type Snapshot = BTreeMap<PathBuf, (u32, Vec<u8>)>;

/// Everything below folders of a tree, and the folders themselves. Panics when it cannot be read.
pub fn snapshot(tree: &Path, folders: &[&str]) -> Snapshot {
    let mut all = BTreeMap::new();
    let mut ahead: Vec<PathBuf> = folders.iter().map(|folder| tree.join(folder)).collect();
    while let Some(path) = ahead.pop() {
        let Ok(known) = fs::symlink_metadata(&path) else { continue };
        if known.is_dir() {
            let entries = fs::read_dir(&path).expect("the tree is ours");
            ahead.extend(entries.map(|entry| entry.expect("the tree is ours").path()));
        }
        let bytes = if known.is_file() {
            fs::read(&path).expect("the tree is ours")
        } else if known.is_symlink() {
            fs::read_link(&path).expect("the tree is ours").into_os_string().into_vec()
        } else {
            Vec::new()
        };
        all.insert(path, (known.mode(), bytes));
    }
    all
}
