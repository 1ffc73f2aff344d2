//! What the store promises, one promise a test.

mod fixture;
#[path = "store/together.rs"]
mod together;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fixture::{PIECE, at, content, digest, open, options, read};
use shoal_engine::{Digest, LocalFault, Scope};
use shoal_store::{
    BrokenCause, Content, FullCause, Home, Options, Store, StoreError, TagRecord, Verification, Visibility,
};
use tempfile::tempdir;

const DAY: u64 = 24 * 60 * 60;

fn capped(path: &std::path::Path, capacity: u64) -> Options {
    Options { capacity: Some(capacity), high_watermark: 1.0, low_watermark: 1.0, ..options(path) }
}

/// Stores a file blob of its own seed and size.
fn put(store: &Store, seed: u64, len: u64, second: u64) -> Digest {
    let bytes = content(seed, len);
    let digest = digest(&bytes);
    store.put(&digest, None, &bytes, at(second)).unwrap();
    digest
}

fn has(store: &Store, digest: &Digest) -> bool {
    store.peek(digest).unwrap().is_some()
}

#[test]
fn what_was_put_is_there_after_a_restart() {
    let dir = tempdir().unwrap();
    let (small, large) = (content(1, 100), content(2, 10_000));
    let store = open(dir.path()).store;
    store.put(&digest(&small), Some("a/manifest"), &small, at(0)).unwrap();
    store.put(&digest(&large), None, &large, at(1)).unwrap();
    let check = |store: &Store| {
        let blob = store.get(&digest(&small), at(2)).unwrap().unwrap();
        assert!(matches!(blob.content, Content::Inline(_)));
        assert_eq!((read(&blob), blob.media_type.as_deref()), (small.clone(), Some("a/manifest")));
        let blob = store.get(&digest(&large), at(2)).unwrap().unwrap();
        assert!(matches!(blob.content, Content::File(_)));
        assert_eq!((read(&blob), blob.home), (large.clone(), Home::Own));
        let usage = store.usage().unwrap();
        assert_eq!((usage.blobs, usage.inline_bytes, usage.file_bytes), (2, 100, 10_000));
        assert_eq!((usage.partials, usage.partial_bytes), (0, 0));
    };
    check(&store);
    drop(store);
    let again = open(dir.path());
    assert_eq!((again.report.blobs, again.report.bytes), (2, 10_100));
    check(&again.store);
    assert!(again.store.get(&digest(b"other"), at(0)).unwrap().is_none());
}

#[test]
fn uses_are_counted_and_survive() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let digest = put(&store, 1, 50, 0);
    for second in [5, 9, 7] {
        store.get(&digest, at(second)).unwrap().unwrap();
        store.look(&digest).unwrap().unwrap();
    }
    let seen = |store: &Store| {
        let info = store.peek(&digest).unwrap().unwrap();
        (info.hits, info.used_at, info.stored_at)
    };
    assert_eq!(seen(&store), (3, at(9), at(0)));
    drop(store);
    assert_eq!(seen(&open(dir.path()).store), (3, at(9), at(0)));
}

#[test]
fn a_list_comes_in_parts() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let mut all: Vec<Digest> = (0..5).map(|seed| put(&store, seed, 10, 0)).collect();
    all.sort();
    let mut seen: Vec<Digest> = Vec::new();
    loop {
        let part = store.list(seen.last(), 2).unwrap();
        if part.is_empty() {
            break;
        }
        assert!(part.len() <= 2);
        seen.extend(part.iter().map(|info| info.digest));
    }
    assert_eq!(seen, all);
}

#[test]
fn a_partial_goes_on_where_its_record_says() {
    let dir = tempdir().unwrap();
    let bytes = content(1, 3 * PIECE + 500);
    let (digest, size) = (digest(&bytes), bytes.len() as u64);
    let slice = |range: std::ops::Range<u64>| bytes.slice(range.start as usize..range.end as usize);
    let store = open(dir.path()).store;
    let partial = store.partial(&digest, size).unwrap();
    assert_eq!(partial.have(), []);
    // In two chunks, out of order, with a piece and a half in one place.
    partial.write_at(2 * PIECE, &[slice(2 * PIECE..2 * PIECE + 9), slice(2 * PIECE + 9..size)]).unwrap();
    partial.write_at(0, &[Bytes::new(), slice(0..PIECE + 77)]).unwrap();
    let origin = Scope { registry: "r.test:5000".parse().unwrap(), repository: "a/b".parse().unwrap() };
    assert_eq!(partial.origin(), None);
    partial.set_origin(&origin, Visibility::Public);
    partial.set_origin(&origin, Visibility::Private);
    partial.checkpoint(&[0..PIECE + 77, 2 * PIECE..size]).unwrap();
    partial.write_at(PIECE + 77, &[slice(PIECE + 77..2 * PIECE)]).unwrap();
    assert_eq!(store.usage().unwrap().partial_bytes, size);
    drop((partial, store));

    let again = open(dir.path());
    assert_eq!((again.report.partials, again.report.dropped), (1, 0));
    let store = again.store;
    assert_eq!(store.usage().unwrap().partial_bytes, size);
    assert!(!has(&store, &digest), "a partial is no blob");
    let partial = Arc::new(store.partial(&digest, size).unwrap());
    assert_eq!(partial.have(), [0..PIECE, 2 * PIECE..size], "whole pieces of the checkpoint, no more");
    assert_eq!(partial.origin(), Some((&origin, Visibility::Public)), "the first word counts");
    partial.write_at(PIECE, &[slice(PIECE..2 * PIECE)]).unwrap();
    let blob = Arc::clone(&partial).commit(Some("l/t"), at(3)).unwrap();
    assert_eq!((read(&blob), blob.media_type.as_deref()), (bytes.clone(), Some("l/t")));
    assert_eq!(store.usage().unwrap().partials, 0);
    let mut seen = vec![0; bytes.len()];
    partial.file().read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(seen, bytes, "who reads the partial's file goes on reading");
    assert!(matches!(partial.write_at(0, &[slice(0..1)]), Err(StoreError::Broken { .. })), "sealed");
    partial.discard().unwrap();
    assert!(has(&store, &digest), "a committed blob is not discarded");
}

#[test]
fn small_partials_move_into_the_index() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    for bytes in [content(1, 100), content(1, 0)] {
        let partial = Arc::new(store.partial(&digest(&bytes), bytes.len() as u64).unwrap());
        partial.write_at(0, std::slice::from_ref(&bytes)).unwrap();
        assert!(matches!(partial.commit(None, at(0)).unwrap().content, Content::Inline(_)));
        assert_eq!(read(&store.get(&digest(&bytes), at(0)).unwrap().unwrap()), bytes);
    }
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
}

#[test]
fn an_unsized_partial_gets_its_size_at_the_end() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let bytes = content(1, 2 * PIECE);
    let digest = digest(&bytes);
    let partial = Arc::new(store.partial_unsized(&digest).unwrap());
    partial.write_at(0, &[bytes.slice(..300_000)]).unwrap();
    partial.checkpoint(std::slice::from_ref(&(0..300_000))).unwrap();
    drop((partial, store));
    let again = open(dir.path());
    assert_eq!((again.report.partials, again.report.dropped), (0, 1), "it does not survive");

    let store = again.store;
    let partial = Arc::new(store.partial_unsized(&digest).unwrap());
    assert_eq!(partial.size(), None);
    partial.write_at(0, std::slice::from_ref(&bytes)).unwrap();
    assert!(matches!(
        Arc::clone(&partial).commit(None, at(0)),
        Err(StoreError::Broken { cause: BrokenCause::NoSize, .. })
    ));
    partial.discard().unwrap();
    let partial = Arc::new(store.partial_unsized(&digest).unwrap());
    partial.write_at(0, std::slice::from_ref(&bytes)).unwrap();
    partial.set_size(bytes.len() as u64).unwrap();
    assert_eq!(store.usage().unwrap().partial_bytes, 2 * PIECE, "what was reserved too much is given back");
    assert_eq!(read(&partial.commit(None, at(0)).unwrap()), bytes);
}

#[test]
fn an_unsized_partial_takes_no_more_than_it_needs_where_room_is_scarce() {
    let dir = tempdir().unwrap();
    let store = Store::open(capped(dir.path(), 100_000)).unwrap().store;
    let bytes = content(1, 60_000);
    let partial = Arc::new(store.partial_unsized(&digest(&bytes)).unwrap());
    partial.write_at(0, std::slice::from_ref(&bytes)).unwrap();
    assert!(matches!(partial.write_at(60_000, &[content(2, 50_000)]), Err(StoreError::Full { .. })));
    partial.set_size(60_000).unwrap();
    assert_eq!(read(&partial.commit(None, at(0)).unwrap()), bytes);
    assert_eq!(store.usage().unwrap().bytes(), 60_000);
}

#[test]
fn a_partial_of_another_size_is_another_partial() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let digest = digest(b"x");
    let partial = store.partial(&digest, 2 * PIECE).unwrap();
    partial.write_at(0, &[content(1, PIECE)]).unwrap();
    partial.checkpoint(std::slice::from_ref(&(0..PIECE))).unwrap();
    drop(partial);
    assert_eq!(store.partial(&digest, 2 * PIECE + 1).unwrap().have(), []);
    assert_eq!(store.partial(&digest, 2 * PIECE).unwrap().have(), [], "the old record is gone for good");
    assert_eq!(store.usage().unwrap().partial_bytes, 2 * PIECE);
}

#[test]
fn a_discarded_partial_leaves_nothing() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let digest = digest(b"x");
    let partial = store.partial(&digest, PIECE).unwrap();
    partial.write_at(0, &[content(1, PIECE)]).unwrap();
    partial.checkpoint(std::slice::from_ref(&(0..PIECE))).unwrap();
    partial.discard().unwrap();
    partial.discard().unwrap();
    assert_eq!(store.usage().unwrap().bytes(), 0);
    assert_eq!(store.partial(&digest, PIECE).unwrap().have(), []);
}

#[test]
#[should_panic(expected = "of a blob of")]
fn nobody_writes_beyond_the_end() {
    let dir = tempdir().unwrap();
    let partial = open(dir.path()).store.partial(&digest(b"x"), 10).unwrap();
    let _ = partial.write_at(5, &[content(1, 6)]);
}

#[test]
fn the_least_recently_used_goes_first() {
    let dir = tempdir().unwrap();
    let store = Store::open(capped(dir.path(), 40_000)).unwrap().store;
    let blobs: Vec<Digest> = (0..4).map(|seed| put(&store, seed, 10_000, seed)).collect();
    // The oldest is used again; then a restart, which must not forget that.
    store.get(&blobs[0], at(10)).unwrap().unwrap();
    drop(store);
    let store = Store::open(capped(dir.path(), 40_000)).unwrap().store;
    put(&store, 9, 10_000, 11);
    let left: Vec<bool> = blobs.iter().map(|digest| has(&store, digest)).collect();
    assert_eq!(left, [true, false, true, true]);
    let usage = store.usage().unwrap();
    assert_eq!((usage.evicted, usage.evicted_bytes, usage.bytes()), (1, 10_000, 40_000));
    let gone = dir.path().join("blobs/sha256").join(&blobs[1].hex()[..2]).join(blobs[1].hex());
    assert!(!gone.exists());
}

#[test]
fn eviction_goes_from_the_high_to_the_low_watermark() {
    let dir = tempdir().unwrap();
    let options = Options { high_watermark: 0.9, low_watermark: 0.5, ..capped(dir.path(), 100_000) };
    let store = Store::open(options).unwrap().store;
    for seed in 0..9 {
        put(&store, seed, 10_000, seed);
    }
    assert_eq!(store.usage().unwrap().blobs, 9, "at the watermark, not above it");
    put(&store, 9, 10_000, 9);
    assert_eq!(store.usage().unwrap().bytes(), 50_000);
    assert!((5..10).all(|seed| has(&store, &digest(&content(seed, 10_000)))));
}

#[test]
fn what_is_in_use_or_pinned_or_being_received_stays() {
    let dir = tempdir().unwrap();
    let store = Store::open(capped(dir.path(), 40_000)).unwrap().store;
    let (used, pinned) = (put(&store, 0, 10_000, 0), put(&store, 1, 10_000, 1));
    let blob = store.get(&used, at(2)).unwrap().unwrap();
    assert!(store.pin(&pinned).unwrap());
    let active = store.partial(&digest(b"active"), 10_000).unwrap();
    let free = put(&store, 2, 10_000, 3);
    put(&store, 3, 10_000, 4);
    assert!(!has(&store, &free), "the only one that could go");
    // Ten thousand more need the last evictable one; then nothing is left.
    put(&store, 4, 10_000, 5);
    let full = store.partial(&digest(b"more"), 20_000).unwrap_err();
    assert_eq!(full.fault(), LocalFault::StoreFull);
    assert!(
        matches!(full, StoreError::Full { cause: FullCause::Capacity { needed: 20_000, .. }, .. }),
        "{full}"
    );
    assert!(has(&store, &used) && has(&store, &pinned));
    active.write_at(0, &[content(9, 10)]).unwrap();

    let second = blob.clone();
    drop(blob);
    assert!(store.partial(&digest(b"more"), 20_000).is_err(), "a clone keeps it too");
    drop(second);
    assert!(store.unpin(&pinned).unwrap());
    assert!(store.partial(&digest(b"more"), 20_000).is_ok());
    assert!(!store.pin(&digest(b"absent")).unwrap());
}

#[test]
fn two_partials_share_what_there_is() {
    let dir = tempdir().unwrap();
    let store = Store::open(capped(dir.path(), 1_000_000)).unwrap().store;
    let first = store.partial(&digest(b"1"), 600_000).unwrap();
    assert!(matches!(store.partial(&digest(b"2"), 600_000), Err(StoreError::Full { .. })));
    assert!(matches!(store.partial(&digest(b"3"), 1_000_001), Err(StoreError::Full { .. })));
    first.write_at(0, &[content(1, 1000)]).unwrap();
    first.checkpoint(&[]).unwrap();
    drop(first);
    // Nobody has it open any more, so it may go.
    store.partial(&digest(b"2"), 600_000).unwrap();
    assert_eq!(store.usage().unwrap().partials, 1);
}

#[test]
fn a_blob_that_can_never_fit_evicts_nothing() {
    let dir = tempdir().unwrap();
    let store = Store::open(capped(dir.path(), 100_000)).unwrap().store;
    let digest = put(&store, 1, 10_000, 0);
    assert!(store.partial(&fixture::digest(b"x"), 100_001).is_err());
    assert!(has(&store, &digest));
}

/// A size is a claim until its bytes have come: it must not cost the store what it cannot use.
#[test]
fn a_blob_that_does_not_fit_beside_what_stays_evicts_nothing() {
    let dir = tempdir().unwrap();
    let store = Store::open(capped(dir.path(), 40_000)).unwrap().store;
    let (pinned, used, free) =
        (put(&store, 1, 10_000, 1), put(&store, 2, 10_000, 2), put(&store, 3, 10_000, 3));
    store.pin(&pinned).unwrap();
    let _reader = store.get(&used, at(4)).unwrap().unwrap();
    assert!(matches!(store.partial(&digest(b"x"), 20_001), Err(StoreError::Full { .. })));
    assert!(has(&store, &free));
    store.partial(&digest(b"x"), 20_000).unwrap();
    assert!(!has(&store, &free));
}

#[test]
fn the_disk_is_never_filled_up() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let free = store.usage().unwrap().disk_free;
    drop(store);
    let store = Store::open(Options { disk_free_min: free / 2, ..options(dir.path()) }).unwrap().store;
    let full = store.partial(&digest(b"x"), free).unwrap_err();
    assert!(matches!(full, StoreError::Full { cause: FullCause::DiskFree { .. }, .. }), "{full}");
    // Sparse files take nothing yet, so both together are only refused because the first was promised its room.
    let _first = store.partial(&digest(b"1"), free / 3).unwrap();
    assert!(store.partial(&digest(b"2"), free / 3).is_err());
}

#[test]
fn expiry_counts_from_the_last_use() {
    let dir = tempdir().unwrap();
    let aged = Options { max_age: Some(Duration::from_secs(DAY)), ..options(dir.path()) };
    let store = Store::open(aged).unwrap().store;
    let (used, unused, pinned, small) = (
        put(&store, 1, 10_000, 0),
        put(&store, 2, 20_000, 0),
        put(&store, 3, 10_000, 0),
        put(&store, 4, 10, 0),
    );
    store.pin(&pinned).unwrap();
    store.get(&used, at(DAY / 2)).unwrap().unwrap();
    assert_eq!(store.sweep(at(DAY)).unwrap().expired.count, 0);
    let swept = store.sweep(at(DAY + 1)).unwrap();
    assert_eq!((swept.expired.count, swept.expired.bytes), (2, 20_010));
    assert!(!has(&store, &unused) && !has(&store, &small) && has(&store, &used) && has(&store, &pinned));
    assert!(!dir.path().join("blobs/sha256").join(&unused.hex()[..2]).join(unused.hex()).exists());
    assert_eq!(store.usage().unwrap().expired_bytes, 20_010);
    assert_eq!(store.sweep(at(2 * DAY)).unwrap().expired.count, 1);
}

#[test]
fn content_has_no_age_of_its_own() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let digest = put(&store, 1, 10_000, 0);
    store.sweep(at(366 * DAY)).unwrap();
    assert_eq!(read(&store.get(&digest, at(366 * DAY)).unwrap().unwrap()), content(1, 10_000));
}

#[test]
fn stale_partials_expire_and_active_ones_do_not() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let make = |name: &[u8], checkpoint: bool| {
        let partial = store.partial(&digest(name), PIECE).unwrap();
        partial.write_at(0, &[content(1, PIECE)]).unwrap();
        if checkpoint {
            partial.checkpoint(std::slice::from_ref(&(0..PIECE))).unwrap();
        }
        partial
    };
    let active = make(b"active", true);
    drop(make(b"stale", true));
    drop(make(b"worthless", false));
    let now = std::time::SystemTime::now();
    assert_eq!(store.sweep(now).unwrap().partials.count, 1, "what has no record cannot be continued");
    assert_eq!(store.sweep(now + Duration::from_secs(DAY / 2)).unwrap().partials.count, 0);
    assert_eq!(store.sweep(now + Duration::from_secs(DAY + 60)).unwrap().partials.count, 1);
    assert_eq!(store.partial(&digest(b"stale"), PIECE).unwrap().have(), []);
    active.write_at(0, &[content(2, PIECE)]).unwrap();
}

#[test]
fn a_reader_gets_all_bytes_of_what_is_removed_meanwhile() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let digest = put(&store, 1, 1_000_000, 0);
    let blob = store.get(&digest, at(1)).unwrap().unwrap();
    assert!(store.remove(&digest).unwrap());
    assert!(!store.remove(&digest).unwrap());
    assert!(store.get(&digest, at(2)).unwrap().is_none());
    assert_eq!(read(&blob), content(1, 1_000_000));
    assert_eq!(store.usage().unwrap().bytes(), 0);
}

#[test]
fn an_entry_without_its_content_is_a_miss() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let spoil: [fn(&std::path::Path); 3] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(9_999).unwrap(),
        |path| fs::write(path, b"").unwrap(),
    ];
    for (seed, spoil) in spoil.into_iter().enumerate() {
        let digest = put(&store, seed as u64, 10_000, 0);
        let path = dir.path().join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex());
        spoil(&path);
        assert!(store.get(&digest, at(1)).unwrap().is_none(), "{seed}");
        assert!(store.list(None, 9).unwrap().is_empty(), "the entry is gone");
        assert!(!path.exists(), "and so is what was left of the file");
        assert_eq!(store.usage().unwrap().bytes(), 0);
    }
}

#[test]
fn verification_removes_what_is_wrong() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let (good, bad, small) = (put(&store, 1, 3_000_000, 0), put(&store, 2, 10_000, 0), put(&store, 3, 10, 0));
    let path = dir.path().join("blobs/sha256").join(&bad.hex()[..2]).join(bad.hex());
    let mut bytes = fs::read(&path).unwrap();
    bytes[5_000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(store.verify(&good).unwrap(), Verification::Good { size: 3_000_000 });
    assert_eq!(store.verify(&small).unwrap(), Verification::Good { size: 10 });
    assert_eq!(store.verify(&bad).unwrap(), Verification::Wrong { found: digest(&bytes), home: Home::Own });
    assert_eq!(store.verify(&bad).unwrap(), Verification::Missing);
    assert!(!path.exists());
    // And it is not adopted again.
    for _ in 0..=255 {
        assert_eq!(store.sweep(at(0)).unwrap().adopted, 0);
    }
}

#[test]
fn sha512_blobs_are_blobs() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let bytes = content(1, 10_000);
    let hash = ring::digest::digest(&ring::digest::SHA512, &bytes);
    let digest = Digest::new(shoal_engine::Algorithm::Sha512, hash.as_ref());
    store.put(&digest, None, &bytes, at(0)).unwrap();
    assert_eq!(store.verify(&digest).unwrap(), Verification::Good { size: 10_000 });
    drop(store);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    assert_eq!(read(&open(dir.path()).store.get(&digest, at(0)).unwrap().unwrap()), bytes);
}

#[test]
fn the_runtimes_blobs_are_served_and_left_alone() {
    let dir = tempdir().unwrap();
    let runtime = dir.path().join("runtime");
    let options = Options { runtime_content: Some(runtime.clone()), ..options(&dir.path().join("own")) };
    let store = Store::open(options).unwrap().store;
    let bytes = content(1, 10_000);
    let name = digest(&bytes);
    assert!(store.get(&name, at(0)).unwrap().is_none(), "no directory is not an error");
    let blobs = runtime.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(runtime.join("ingest/1")).unwrap();
    fs::write(runtime.join("ingest/1/data"), &bytes).unwrap();
    assert!(store.get(&name, at(0)).unwrap().is_none(), "what is being ingested is not there yet");
    let path = blobs.join(name.hex());
    fs::write(&path, &bytes).unwrap();
    let blob = store.get(&name, at(0)).unwrap().unwrap();
    assert_eq!((read(&blob), blob.home, blob.media_type), (bytes.clone(), Home::Runtime, None));
    assert_eq!(store.peek(&name).unwrap().unwrap().home, Home::Runtime);
    assert_eq!(store.verify(&name).unwrap(), Verification::Good { size: 10_000 });
    fs::write(&path, b"wrong").unwrap();
    assert!(matches!(store.verify(&name).unwrap(), Verification::Wrong { home: Home::Runtime, .. }));
    assert!(path.exists());
    assert!(!store.remove(&name).unwrap() && path.exists());
    // Neither a link nor an empty file nor a directory is a blob.
    for (hex, make) in [("11", 0), ("22", 1), ("33", 2)] {
        let odd: Digest = format!("sha256:{}", hex.repeat(32)).parse().unwrap();
        let odd_path = blobs.join(odd.hex());
        match make {
            0 => std::os::unix::fs::symlink(&path, &odd_path).unwrap(),
            1 => fs::write(&odd_path, b"").unwrap(),
            _ => fs::create_dir(&odd_path).unwrap(),
        }
        assert!(store.get(&odd, at(0)).unwrap().is_none(), "{hex}");
    }
    // Our own comes first.
    store.put(&name, Some("m/t"), &bytes, at(0)).unwrap();
    assert_eq!(store.get(&name, at(0)).unwrap().unwrap().home, Home::Own);
}

#[test]
fn tags_and_links() {
    use Visibility::{Private, Public};
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let scope = |repository: &str| Scope {
        registry: "r.test:5000".parse().unwrap(),
        repository: repository.parse().unwrap(),
    };
    let manifest = put(&store, 1, 100, 0);
    let tag = "v1".parse().unwrap();
    let record = |digest| TagRecord {
        digest,
        media_type: "m/t".into(),
        size: 100,
        checked_at: at(0),
        expires_at: at(60),
        visibility: Visibility::Public,
        mirror: None,
    };
    store.put_tag(&scope("a"), &tag, &record(manifest)).unwrap();
    store.put_tag(&scope("b"), &tag, &record(digest(b"gone"))).unwrap();
    // What is public stays so.
    for (repository, visibility) in
        [("a", Private), ("b", Public), ("a", Private), ("b", Private), ("d", Private)]
    {
        store.link(&scope(repository), &manifest, visibility).unwrap();
    }
    store.link(&scope("d"), &manifest, Public).unwrap();
    store.link(&scope("a"), &digest(b"gone"), Public).unwrap();
    drop(store);
    let store = open(dir.path()).store;
    assert_eq!(store.tag(&scope("a"), &tag).unwrap(), Some(record(manifest)));
    assert_eq!(store.tag(&scope("c"), &tag).unwrap(), None);
    let links = [(scope("a"), Private), (scope("b"), Public), (scope("d"), Public)];
    assert_eq!(store.links(&manifest).unwrap(), links);
    for (repository, visibility) in [("a", Some(Private)), ("b", Some(Public)), ("c", None)] {
        assert_eq!(store.linked(&scope(repository), &manifest).unwrap(), visibility, "{repository}");
    }
    // Expired or not, a tag stays as long as its manifest does; what leads nowhere goes.
    store.sweep(at(61)).unwrap();
    assert!(store.tag(&scope("a"), &tag).unwrap().is_some());
    assert!(store.tag(&scope("b"), &tag).unwrap().is_none());
    // A link whose blob is not there may be a moment older than the blob. An hour later it is not.
    assert_eq!(store.linked(&scope("a"), &digest(b"gone")).unwrap(), Some(Public));
    let late = content(7, 100);
    store.link(&scope("a"), &digest(&late), Public).unwrap();
    store.sweep(at(61 + 3600)).unwrap();
    assert_eq!(store.linked(&scope("a"), &digest(b"gone")).unwrap(), None);
    store.put(&digest(&late), Some("m/t"), &late, at(0)).unwrap();
    store.sweep(at(61 + 7200)).unwrap();
    assert_eq!(store.linked(&scope("a"), &digest(&late)).unwrap(), Some(Public));
    store.remove(&manifest).unwrap();
    assert_eq!(store.links(&manifest).unwrap(), []);
    store.remove_tag(&scope("a"), &tag).unwrap();
    assert_eq!(store.tag(&scope("a"), &tag).unwrap(), None);
    let long = TagRecord { media_type: "x".repeat(256), ..record(manifest) };
    store.put_tag(&scope("a"), &tag, &long).unwrap();
    assert_eq!(store.tag(&scope("a"), &tag).unwrap(), None);
}

#[test]
fn a_second_put_teaches_the_media_type() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let bytes = content(1, 100);
    store.put(&digest(&bytes), None, &bytes, at(0)).unwrap();
    store.put(&digest(&bytes), Some("m/t"), &bytes, at(5)).unwrap();
    let info = store.peek(&digest(&bytes)).unwrap().unwrap();
    assert_eq!((info.media_type.as_deref(), info.used_at, info.stored_at), (Some("m/t"), at(5), at(0)));
    assert_eq!(store.usage().unwrap().blobs, 1);
    // Also where it was told wrongly before; who tells nothing contradicts nobody.
    for told in [Some("m/right"), None] {
        store.put(&digest(&bytes), told, &bytes, at(6)).unwrap();
        let info = store.peek(&digest(&bytes)).unwrap().unwrap();
        assert_eq!(info.media_type.as_deref(), Some("m/right"));
    }
}

/// A pin with an end keeps a blob until then, also over a restart, and the longer one counts.
#[test]
fn a_pin_that_ends() {
    let dir = tempdir().unwrap();
    let store = Store::open(capped(dir.path(), 30_000)).unwrap().store;
    let kept = put(&store, 1, 10_000, 0);
    assert!(store.pin_until(&kept, at(100)).unwrap());
    assert!(store.pin_until(&kept, at(50)).unwrap(), "a shorter one changes nothing");
    assert!(!store.pin_until(&digest(b"nothing"), at(100)).unwrap());
    let info = |store: &Store| store.peek(&kept).unwrap().map(|info| (info.pinned, info.pinned_until));
    assert_eq!(info(&store), Some((true, Some(at(100)))));
    for seed in 2..6 {
        put(&store, seed, 10_000, seed);
    }
    assert!(has(&store, &kept), "it was the oldest");
    drop(store);

    let store = Store::open(capped(dir.path(), 30_000)).unwrap().store;
    store.sweep(at(99)).unwrap();
    assert_eq!(info(&store), Some((true, Some(at(100)))));
    store.sweep(at(100)).unwrap();
    assert_eq!(info(&store), Some((false, None)));
    put(&store, 7, 10_000, 101);
    assert!(!has(&store, &kept));

    let other = put(&store, 8, 10_000, 102);
    store.pin_until(&other, at(200)).unwrap();
    store.unpin(&other).unwrap();
    assert_eq!(store.peek(&other).unwrap().map(|info| info.pinned_until), Some(None));
}
