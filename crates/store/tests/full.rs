//! A disk that is full, a disk that fails.

mod fixture;

use std::fs;
use std::sync::Arc;

use fixture::{Mount, PIECE, at, content, digest, may_mount, may_mount_disk, open, options, read};
use shoal_engine::LocalFault;
use shoal_store::{BrokenCause, FullCause, Options, Store, StoreError, Visibility};
use tempfile::tempdir;

const MIB: u64 = 1 << 20;

fn full(result: Result<(), StoreError>) -> FullCause {
    match result {
        Err(error @ StoreError::Full { .. }) => {
            assert_eq!(error.fault(), LocalFault::StoreFull);
            let StoreError::Full { path, operation, cause } = error else { unreachable!() };
            assert!(!operation.is_empty() && path.is_absolute());
            cause
        }
        other => panic!("{other:?}"),
    }
}

/// 20 MB of tmpfs: what does not fit is refused before it begins, what the file system refuses is said to be full, and
/// everything works again as soon as there is space.
#[test]
fn a_full_disk() {
    if !may_mount("a_full_disk") {
        return;
    }
    let dir = tempdir().unwrap();
    let mount = Mount::tmpfs(&dir.path().join("mnt"), "20m");
    let store = open(&mount.path.join("data")).store;
    let too_much = store.partial(&digest(b"too much"), 30 * MIB).map(drop);
    assert!(matches!(full(too_much), FullCause::DiskFree { .. }));

    // Old blobs give way, without a cap: the disk is the cap.
    let old: Vec<_> = (0..6)
        .map(|seed| {
            let bytes = content(seed, 2 * MIB);
            store.put(&digest(&bytes), None, &bytes, at(seed)).unwrap();
            digest(&bytes)
        })
        .collect();
    store.pin(&old[5]).unwrap();
    let bytes = content(9, 10 * MIB);
    let partial = Arc::new(store.partial(&digest(&bytes), 10 * MIB).unwrap());
    assert!(store.get(&old[0], at(10)).unwrap().is_none() && store.get(&old[5], at(10)).unwrap().is_some());

    // Somebody else takes the space that was promised: ENOSPC in the middle of a write.
    partial.write_at(0, &[bytes.slice(..4 * MIB as usize)]).unwrap();
    partial.checkpoint(std::slice::from_ref(&(0..4 * MIB))).unwrap();
    let hog = mount.path.join("hog");
    fill(&hog);
    let cause = full(partial.write_at(4 * MIB, &[bytes.slice(4 * MIB as usize..)]));
    assert!(matches!(cause, FullCause::Io(_)), "{cause:?}");
    // The index meets the same, sooner or later: its log has some space of its own.
    let cause = (0..10_000).find_map(|seed| {
        let small = content(1000 + seed, 4000);
        store.put(&digest(&small), None, &small, at(11)).err()
    });
    let cause = full(Err(cause.expect("20 MB cannot take 40 MB")));
    assert!(matches!(cause, FullCause::Index(_) | FullCause::DiskFree { .. }), "{cause:?}");
    // What is there is still served.
    assert_eq!(read(&store.get(&old[5], at(12)).unwrap().unwrap()), content(5, 2 * MIB));

    give_back(&hog);
    store.sweep(at(13)).unwrap();
    partial.write_at(4 * MIB, &[bytes.slice(4 * MIB as usize..)]).unwrap();
    assert_eq!(read(&partial.commit(None, at(14)).unwrap()), bytes);
    let small = content(7, 100);
    store.put(&digest(&small), None, &small, at(15)).unwrap();
}

/// The index meets ENOSPC in its own log, with no check of ours before it.
#[test]
fn a_full_index() {
    if !may_mount("a_full_index") {
        return;
    }
    let dir = tempdir().unwrap();
    let mount = Mount::tmpfs(&dir.path().join("mnt"), "20m");
    let store = open(&mount.path.join("data")).store;
    let scope = shoal_engine::Scope { registry: "r.test".parse().unwrap(), repository: "a".parse().unwrap() };
    let hog = mount.path.join("hog");
    fill(&hog);
    let refused = (0..100_000_u64)
        .find_map(|n| store.link(&scope, &digest(&n.to_le_bytes()), Visibility::Private).err());
    let cause = full(Err(refused.expect("a log that ends")));
    assert!(matches!(cause, FullCause::Index(_)), "{cause:?}");
    give_back(&hog);
    store.sweep(at(0)).unwrap();
    let small = content(7, 100);
    store.put(&digest(&small), None, &small, at(1)).unwrap();
    drop(store);
    assert!(open(&mount.path.join("data")).store.get(&digest(&small), at(2)).unwrap().is_some());
}

/// A disk that answers every write with EIO: said to be broken, naming what and where; a partial whose sync has failed
/// is not believed again, even if a second sync says that all is well.
#[test]
fn a_failing_disk() {
    if !may_mount_disk("a_failing_disk") {
        return;
    }
    let dir = tempdir().unwrap();
    let mut mount = Mount::ext4(&dir.path().join("mnt"), &dir.path().join("image"), 64 << 20);
    let data = mount.path.join("data");
    let store = Store::open(Options { inline_max: 4096, ..options(&data) }).unwrap().store;
    let stored = content(1, 100_000);
    store.put(&digest(&stored), None, &stored, at(0)).unwrap();
    let partial = Arc::new(store.partial(&digest(b"x"), 2 * PIECE).unwrap());
    partial.write_at(0, &[content(2, PIECE)]).unwrap();
    mount.cut_power();

    let error = partial.checkpoint(std::slice::from_ref(&(0..PIECE))).unwrap_err();
    assert_eq!(error.fault(), LocalFault::StoreBroken);
    assert!(matches!(&error, StoreError::Broken { cause: BrokenCause::Io(_), .. }), "{error:?}");
    assert!(
        error.to_string().contains("checkpoint a partial blob")
            && error.to_string().contains("partial/sha256-")
    );
    let again = partial.checkpoint(&[]).unwrap_err();
    assert!(matches!(again, StoreError::Broken { cause: BrokenCause::Poisoned, .. }), "{again:?}");
    let commit = Arc::clone(&partial).commit(None, at(1)).unwrap_err();
    assert!(matches!(commit, StoreError::Broken { cause: BrokenCause::Poisoned, .. }), "{commit:?}");
    let small = content(3, 100);
    let put = store.put(&digest(&small), None, &small, at(2)).unwrap_err();
    assert!(matches!(&put, StoreError::Broken { cause: BrokenCause::Index(_), .. }), "{put:?}");
    assert!(std::error::Error::source(&put).is_some());
    let swept = store.sweep(at(3));
    assert!(matches!(&swept, Err(error) if error.fault() == LocalFault::StoreBroken), "{swept:?}");
    // The index can still be read, and says what is there.
    assert_eq!(store.list(None, 9).unwrap().len(), 1);
    // Nothing that was not acknowledged is believed when the disk is back.
    drop((partial, store));
    mount.unmount().unwrap();
    mount.mount();
    let opened = open(&data);
    assert_eq!((opened.report.blobs, opened.report.partials), (1, 0));
    assert_eq!(read(&opened.store.get(&digest(&stored), at(4)).unwrap().unwrap()), stored);
}

/// An index that breaks while it is in use is made again by the next sweep, without a restart.
#[test]
fn an_index_that_breaks_in_use() {
    let dir = tempdir().unwrap();
    let stored = content(1, 100_000);
    drop(open(dir.path()).store.put(&digest(&stored), None, &stored, at(0)));
    let small: Vec<_> = (0..200).map(|seed| content(100 + seed, 4000)).collect();
    let store = open(dir.path()).store;
    for bytes in &small {
        store.put(&digest(bytes), None, bytes, at(1)).unwrap();
    }
    drop(store);
    // Opening has written the log into tables; those of the contents are read only when somebody asks.
    let store = open(dir.path()).store;
    for entry in fs::read_dir(dir.path().join("index")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "sst") && path.metadata().unwrap().len() > 400_000 {
            use std::os::unix::fs::FileExt as _;
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .write_all_at(&vec![0xa5; 300_000], 0)
                .unwrap();
        }
    }
    let error =
        small.iter().find_map(|bytes| store.get(&digest(bytes), at(2)).err()).expect("a broken table");
    assert_eq!(error.fault(), LocalFault::StoreBroken);
    let swept = store.sweep(at(3)).unwrap();
    assert!(matches!(swept.index, Some(shoal_store::IndexCondition::Rebuilt { .. })), "{swept:?}");
    assert_eq!(read(&store.get(&digest(&stored), at(4)).unwrap().unwrap()), stored);
    assert!(store.get(&digest(&small[0]), at(4)).unwrap().is_none());
    let usage = store.usage().unwrap();
    assert_eq!((usage.blobs, usage.file_bytes, usage.inline_bytes), (1, 100_000, 0));
    store.put(&digest(&small[0]), None, &small[0], at(5)).unwrap();
    assert_eq!(read(&store.get(&digest(&small[0]), at(6)).unwrap().unwrap()), small[0]);
}

/// Takes all the space there is.
/// Takes a file away, and its space at once: a process that is just being started for another test has it open for a moment.
fn give_back(path: &std::path::Path) {
    fs::write(path, []).unwrap();
    fs::remove_file(path).unwrap();
}

fn fill(path: &std::path::Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    let mut len = 1 << 20;
    while len > 0 {
        if file.write_all(&vec![1; len]).is_err() {
            len /= 2;
        }
    }
}
