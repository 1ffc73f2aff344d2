//! `shoal prepare`: gives directories to the user that the agent will run as.
//!
//! Kubernetes makes a missing directory of the host as root's; an agent without rights cannot write there. This is the one
//! step that needs root, so it is a program run of its own that ends before the agent starts.
//! Invariant: a directory changes hands after everything in it, so a run that was cut short is taken up again; links are
//! changed, never followed.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};

use super::Failure;
use super::output::Output;
use crate::runtime::RECORD_NAME;

/// Nobody but the owner: images of private repositories lie in the data directory, and the admin socket in the other.
const DIRECTORY_MODE: u32 = 0o700;

#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    /// Directories: the store's, and the admin socket's. Made when they are not there.
    #[arg(required = true, value_name = "DIR", value_parser = directory, value_hint = ValueHint::DirPath)]
    directories: Vec<PathBuf>,
    /// Who they shall belong to, in numbers.
    #[arg(long, value_name = "UID:GID", value_parser = owner)]
    owner: (u32, u32),
}

pub(super) fn run(args: &PrepareArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let (uid, gid) = args.owner;
    for path in &args.directories {
        let changed = prepare(path, args.owner).map_err(|(path, source)| Failure::Prepare {
            path,
            owner: format!("{uid}:{gid}"),
            source,
        })?;
        out.line(format_args!("{}: {uid}:{gid}, {changed} changed", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How many files and directories have changed hands.
fn prepare(path: &Path, owner: (u32, u32)) -> Result<u64, (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(at(path))?;
    let found = fs::symlink_metadata(path).map_err(at(path))?;
    if !found.is_dir() {
        return Err((path.to_owned(), io::ErrorKind::NotADirectory.into()));
    }
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE)).map_err(at(path))?;
    if (found.uid(), found.gid()) == owner {
        return Ok(0);
    }
    hand_over(path, owner)
}

fn hand_over(directory: &Path, owner: (u32, u32)) -> Result<u64, (PathBuf, io::Error)> {
    let mut changed = 1;
    for entry in fs::read_dir(directory).map_err(|error| (directory.to_owned(), error))? {
        let entry = entry.map_err(|error| (directory.to_owned(), error))?;
        // Root goes by what it says, so it must stay root's.
        if entry.file_name() == RECORD_NAME {
            continue;
        }
        let (path, kind) = (entry.path(), entry.file_type());
        if kind.map_err(|error| (path.clone(), error))?.is_dir() {
            changed += hand_over(&path, owner)?;
        } else {
            lchown(&path, Some(owner.0), Some(owner.1)).map_err(|error| (path, error))?;
            changed += 1;
        }
    }
    lchown(directory, Some(owner.0), Some(owner.1)).map_err(|error| (directory.to_owned(), error))?;
    Ok(changed)
}

/// An absolute path below the root.
fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(OsString::from(text));
    if path.is_absolute() && path.file_name().is_some() {
        Ok(path)
    } else {
        Err("must be an absolute path below /".into())
    }
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let (user, group) = text.split_once(':').ok_or("is written UID:GID, such as 65532:65532")?;
    let number = |part: &str| part.parse().map_err(|_| format!("{part:?} is no number of a user or group"));
    Ok((number(user)?, number(group)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::prepare;

    /// Run by anybody: to oneself. What there is keeps its content, and a link's target its owner and mode.
    #[test]
    fn directories_are_made_and_closed() {
        let folder = tempfile::tempdir().unwrap();
        let own = std::fs::metadata(folder.path()).map(|data| (data.uid(), data.gid())).unwrap();
        let store = folder.path().join("a/store");
        assert_eq!(prepare(&store, own).unwrap(), 0);
        assert_eq!(std::fs::metadata(&store).unwrap().mode() & 0o777, 0o700);
        std::fs::write(store.join("blob"), "content").unwrap();
        assert_eq!(prepare(&store, own).unwrap(), 0);
        assert_eq!(std::fs::read(store.join("blob")).unwrap(), b"content");

        let link = folder.path().join("link");
        symlink(folder.path().join("a"), &link).unwrap();
        let (path, error) = prepare(&link, own).unwrap_err();
        assert_eq!((path, error.kind()), (link, std::io::ErrorKind::NotADirectory));
    }
}
