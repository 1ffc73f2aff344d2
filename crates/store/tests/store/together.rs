//! Several at once on one digest.

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use shoal_store::{BrokenCause, Store, StoreError};
use tempfile::tempdir;

use crate::capped;
use crate::fixture::{PIECE, at, content, digest, open, read};

#[test]
fn a_partial_has_one_writer() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let bytes = content(1, 2 * PIECE);
    let digest = digest(&bytes);
    let first = Arc::new(store.partial(&digest, 2 * PIECE).unwrap());
    first.write_at(0, &[bytes.slice(..PIECE as usize)]).unwrap();
    first.checkpoint(std::slice::from_ref(&(0..PIECE))).unwrap();
    let second = Arc::new(store.partial(&digest, 2 * PIECE).unwrap());
    assert_eq!(second.have(), std::slice::from_ref(&(0..PIECE)));
    let closed = |result: Result<(), StoreError>| {
        assert!(
            matches!(result, Err(StoreError::Broken { cause: BrokenCause::Closed(_), .. })),
            "{result:?}"
        );
    };
    closed(first.write_at(0, &[Bytes::from_static(b"wrong")]));
    closed(first.checkpoint(std::slice::from_ref(&(0..2 * PIECE))));
    closed(Arc::clone(&first).commit(None, at(0)).map(drop));
    first.discard().unwrap();
    drop(first);
    second.write_at(PIECE, &[bytes.slice(PIECE as usize..)]).unwrap();
    assert_eq!(read(&second.commit(None, at(0)).unwrap()), bytes);
}

/// A manifest is put while a client receives it as a blob.
#[test]
fn a_put_leaves_an_open_partial_to_its_writer() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let (size, half) = (100 << 10, 50_usize << 10);
    let bytes = content(1, size);
    let name = digest(&bytes);
    let partial = Arc::new(store.partial(&name, size).unwrap());
    partial.write_at(0, &[bytes.slice(..half)]).unwrap();
    store.put(&name, Some("m/t"), &bytes, at(0)).unwrap();
    let check = |store: &Store| {
        let blob = store.get(&name, at(1)).unwrap().unwrap();
        assert_eq!((read(&blob), blob.media_type.as_deref()), (bytes.clone(), Some("m/t")));
    };
    check(&store);
    partial.write_at(half as u64, &[bytes.slice(half..)]).unwrap();
    partial.checkpoint(std::slice::from_ref(&(0..size))).unwrap();
    assert_eq!(read(&partial.commit(None, at(2)).unwrap()), bytes);
    check(&store);
    let usage = store.usage().unwrap();
    assert_eq!((usage.blobs, usage.partials, usage.bytes()), (1, 0, size));
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    drop(store);
    check(&open(dir.path()).store);
}

/// The other way round: what is put while somebody begins to receive it is stored all the same.
#[test]
fn a_put_whose_partial_is_taken_over_stores_its_blob() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let bytes = content(1, 3 << 20);
    let name = digest(&bytes);
    for round in 0..20 {
        std::thread::scope(|scope| {
            let putting = scope.spawn(|| store.put(&name, None, &bytes, at(round)));
            while !putting.is_finished() {
                drop(store.partial(&name, bytes.len() as u64).unwrap());
            }
            putting.join().unwrap().unwrap();
        });
        assert_eq!(read(&store.get(&name, at(round)).unwrap().unwrap()), bytes);
        assert!(store.remove(&name).unwrap());
    }
}

/// Readers, writers and removers of few digests in a store that is always too small: whatever is handed out is right.
#[test]
fn everybody_at_once() {
    let dir = tempdir().unwrap();
    let store = Store::open(capped(dir.path(), 400_000)).unwrap().store;
    let work = |thread: u64| {
        let mut seen = 0;
        for step in 0..150_u64 {
            let seed = (step * 7 + thread * 3) % 11;
            let bytes = content(seed, if seed < 4 { 1_000 } else { 50_000 + seed });
            let name = digest(&bytes);
            match (step + thread) % 5 {
                0 | 1 => match store.put(&name, None, &bytes, at(step)) {
                    // Full: the others use too much.
                    Ok(()) | Err(StoreError::Full { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                },
                2 => drop(store.remove(&name).unwrap()),
                3 => drop(store.sweep(at(step)).unwrap()),
                _ => {}
            }
            if let Some(blob) = store.get(&name, at(step)).unwrap() {
                assert_eq!(read(&blob), bytes);
                seen += 1;
            }
            assert!(store.usage().unwrap().bytes() <= 400_000);
        }
        seen
    };
    let seen: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(seen.iter().all(|seen| *seen > 0), "{seen:?}");
    let listed: u64 = store.list(None, 99).unwrap().iter().map(|info| info.size).sum();
    let usage = store.usage().unwrap();
    assert_eq!(usage.file_bytes + usage.inline_bytes, listed, "the sums have kept up");
    assert_eq!(usage.partials, 0);
}
