//! Opening: directories that are not ours to use, and indexes that are broken.

mod fixture;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fixture::{PIECE, at, content, digest, is_root, open, options, read};
use shoal_store::{IndexCondition, OpenError, Store};
use tempfile::tempdir;

fn refused(path: &Path) -> OpenError {
    Store::open(options(path)).map(|_| ()).unwrap_err()
}

#[test]
fn one_process_at_a_time() {
    let dir = tempdir().unwrap();
    let first = open(dir.path()).store;
    let error = refused(dir.path());
    assert!(matches!(&error, OpenError::Locked { pid, .. } if *pid == Some(std::process::id())), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())) && text.contains("LOCK"), "{text}");
    drop(first);
    open(dir.path());
}

#[test]
fn another_version_is_refused() {
    let dir = tempdir().unwrap();
    drop(open(dir.path()));
    assert_eq!(fs::read_to_string(dir.path().join("FORMAT")).unwrap(), "shoal-store 1\n");
    fs::write(dir.path().join("FORMAT"), "shoal-store 2\n").unwrap();
    let error = refused(dir.path());
    assert!(matches!(&error, OpenError::Format { found, .. } if found == "shoal-store 2"), "{error:?}");
    assert!(error.to_string().contains("move the directory away"), "{error}");
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("blobs")).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::NotAStore { entry: "blobs", .. }));

    if is_root("a_directory_of_somebody_else_is_refused") {
        let dir = tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(12_345), None).unwrap();
        let error = refused(dir.path());
        assert!(matches!(error, OpenError::ForeignOwner { owner: 12_345, ours: 0, .. }), "{error:?}");
        assert!(error.to_string().contains("chown -R 0"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made there");
    }
}

#[test]
fn a_path_that_cannot_be_a_directory_is_named() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, b"").unwrap();
    let error = refused(&path.join("data"));
    assert!(matches!(&error, OpenError::Io { operation: "make the directory", .. }), "{error:?}");
    assert!(error.to_string().contains("file/data"), "{error}");
}

/// Files of the index whose name fits.
fn files(dir: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("index")).unwrap().map(|entry| entry.unwrap());
    entries.filter(|entry| fits(entry.file_name().to_str().unwrap())).map(|entry| entry.path()).collect()
}

fn overwrite(paths: &[PathBuf]) {
    assert!(!paths.is_empty(), "the test must break something");
    for path in paths {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let len = file.metadata().unwrap().len() as usize;
        file.write_all_at(&vec![0xa5; len.min(2000)], 0).unwrap();
    }
}

fn broken_ones(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    entries.filter(|name| name.to_str().unwrap().starts_with("index.broken-")).count()
}

#[test]
fn a_broken_index_is_made_again_from_the_content_files() {
    type Way = (&'static str, fn(&Path));
    let ways: [Way; 6] = [
        ("CURRENT overwritten", |dir| overwrite(&files(dir, |name| name == "CURRENT"))),
        ("CURRENT gone", |dir| fs::remove_file(dir.join("index/CURRENT")).unwrap()),
        ("MANIFEST overwritten", |dir| overwrite(&files(dir, |name| name.starts_with("MANIFEST")))),
        ("tables overwritten", |dir| overwrite(&files(dir, |name| name.ends_with(".sst")))),
        ("tables gone", |dir| {
            for path in files(dir, |name| name.ends_with(".sst")) {
                fs::remove_file(path).unwrap();
            }
        }),
        ("no index", |dir| fs::remove_dir_all(dir.join("index")).unwrap()),
    ];
    let dir = tempdir().unwrap();
    for (step, (way, break_it)) in ways.into_iter().enumerate() {
        let large = content(step as u64, 10_000 + step as u64);
        let store = open(dir.path()).store;
        store.put(&digest(&large), Some("l/t"), &large, at(0)).unwrap();
        store.put(&digest(b"small"), None, &"small".into(), at(0)).unwrap();
        let partial = store.partial(&digest(b"partial"), PIECE).unwrap();
        partial.write_at(0, &[content(99, PIECE)]).unwrap();
        partial.checkpoint(std::slice::from_ref(&(0..PIECE))).unwrap();
        drop((partial, store));
        // Opening writes the log into tables.
        drop(open(dir.path()));
        break_it(dir.path());

        let again = open(dir.path());
        let IndexCondition::Rebuilt { moved_to, .. } = &again.report.index else {
            panic!("{way}: {:?}", again.report);
        };
        assert_eq!(moved_to.is_some(), way != "no index", "{way}");
        assert_eq!(again.report.blobs, step as u64 + 1, "{way}: all content files, nothing else");
        assert_eq!((again.report.partials, again.report.dropped), (0, 1), "{way}");
        let blob = again.store.get(&digest(&large), at(1)).unwrap().unwrap();
        assert_eq!((read(&blob), blob.media_type), (large, None), "{way}");
        assert!(again.store.get(&digest(b"small"), at(1)).unwrap().is_none(), "{way}");
        assert_eq!(broken_ones(dir.path()), 1, "{way}: one broken index is kept");
    }
}

#[test]
fn an_index_that_was_never_finished_is_made_again() {
    let dir = tempdir().unwrap();
    let large = content(1, 10_000);
    let store = open(dir.path()).store;
    store.put(&digest(&large), None, &large, at(0)).unwrap();
    drop(store);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    fs::create_dir(dir.path().join("index.new")).unwrap();
    fs::write(dir.path().join("index.new/MANIFEST-000001"), b"").unwrap();
    let again = open(dir.path());
    assert_eq!(again.report.blobs, 1);
    assert_eq!(broken_ones(dir.path()), 0, "there was nothing to look at");
    assert!(!dir.path().join("index.new").exists());
}

#[test]
fn a_content_file_without_an_entry_is_adopted_by_and_by() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let bytes = content(1, 10_000);
    let digest = digest(&bytes);
    let fan_out = dir.path().join("blobs/sha256").join(&digest.hex()[..2]);
    fs::create_dir_all(&fan_out).unwrap();
    fs::write(fan_out.join(digest.hex()), &bytes).unwrap();
    fs::write(fan_out.join("not a digest"), b"").unwrap();
    assert!(store.get(&digest, at(0)).unwrap().is_none());
    let adopted: u64 = (0..256).map(|_| store.sweep(at(0)).unwrap().adopted).sum();
    assert_eq!(adopted, 1);
    assert_eq!(read(&store.get(&digest, at(0)).unwrap().unwrap()), bytes);
    assert_eq!(store.usage().unwrap().file_bytes, 10_000);
}
