//! The node's file tree, which lies below a directory when the agent runs in a container.
//!
//! Invariant: no path leads out of the tree. Links in it are followed as the node itself would follow them, so that an
//! absolute link means a path of the node and not one of the container.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows in one path.
const LINKS_MAX: usize = 40;
/// Largest configuration file that is read, bytes. OpenShift's largest have some hundred KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most entries of one folder that are looked at.
const ENTRIES_MAX: usize = 4096;

/// A file tree. Paths given to it and got from it are absolute paths of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// The tree below `directory`; `/` is the whole of this machine.
    pub fn new(directory: &Path) -> Self {
        Root(directory.to_owned())
    }

    /// Whether the tree is this machine's own, so that its programs can be run.
    pub fn is_this_machine(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// Where a path of the node is to be found from here.
    pub fn at(&self, path: &Path) -> PathBuf {
        self.outside(&self.resolve(path))
    }

    /// The same path of the node without links.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        let mut ahead: VecDeque<OsString> = names(path).collect();
        let mut reached = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                reached.pop();
                continue;
            }
            let next = reached.join(&name);
            match fs::read_link(self.outside(&next)) {
                Ok(target) if links < LINKS_MAX => {
                    links += 1;
                    if target.is_absolute() {
                        reached = PathBuf::from("/");
                    }
                    names(&target)
                        .collect::<Vec<_>>()
                        .into_iter()
                        .rev()
                        .for_each(|name| ahead.push_front(name));
                }
                _ => reached = next,
            }
        }
        reached
    }

    /// Whether there is something.
    pub fn exists(&self, path: &Path) -> bool {
        self.at(path).exists()
    }

    /// Whether there is a folder.
    pub fn is_dir(&self, path: &Path) -> bool {
        self.at(path).is_dir()
    }

    /// The text of a file; `None` if there is no such file.
    ///
    /// # Errors
    /// It cannot be read, is no text, or has more than 4 MiB.
    pub fn read(&self, path: &Path) -> io::Result<Option<String>> {
        Ok(self.read_owned(path)?.map(|(text, _)| text))
    }

    /// The same, and the user whose file it is: what is read is what was looked at.
    pub fn read_owned(&self, path: &Path) -> io::Result<Option<(String, u32)>> {
        let file = match fs::File::open(self.at(path)) {
            Ok(file) => file,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let owner = file.metadata()?.uid();
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
        }
        Ok(Some((text, owner)))
    }

    /// What is in a folder, sorted; nothing if there is no such folder.
    pub fn entries(&self, folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.at(folder)).into_iter().flatten().take(ENTRIES_MAX).flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| folder.join(entry.file_name())).collect();
        paths.sort();
        paths
    }

    fn outside(&self, inside: &Path) -> PathBuf {
        names(inside).fold(self.0.clone(), |path, name| path.join(name))
    }
}

/// The names in a path. A link to `.` leads nowhere else.
fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_in_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        fs::create_dir_all(folder.path().join("etc/real")).unwrap();
        fs::write(folder.path().join("etc/real/file"), "text").unwrap();
        symlink("/etc/real", folder.path().join("etc/absolute")).unwrap();
        symlink("real", folder.path().join("etc/relative")).unwrap();
        symlink("../../../../../etc/real", folder.path().join("etc/climbing")).unwrap();
        symlink("loop", folder.path().join("etc/loop")).unwrap();
        for name in ["real", "absolute", "relative", "climbing"] {
            let path = Path::new("/etc").join(name).join("file");
            assert_eq!(root.read(&path).unwrap().as_deref(), Some("text"), "{name}");
            assert_eq!(root.resolve(&path), Path::new("/etc/real/file"), "{name}");
        }
        assert_eq!(root.read(Path::new("/../etc/real/none")).unwrap(), None);
        assert!(root.at(Path::new("/../../etc")).starts_with(folder.path()));
        assert!(!root.exists(Path::new("/etc/loop/file")));
    }
}
