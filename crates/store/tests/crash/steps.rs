//! What the child does.

use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use shoal_engine::{Digest, Scope, Tag};
use shoal_store::{TagRecord, Visibility};

use crate::fixture::{PIECE, at, content, digest, open};

/// Steps, so that the check can say which.
pub const OPEN: usize = 0;
pub const PUT_SMALL: usize = 1;
pub const PUT_LARGE: usize = 2;
pub const HALF: usize = 3;
pub const COMMIT: usize = 4;
pub const FIRST_PIECE: usize = 5;
pub const SECOND_PIECE: usize = 6;
pub const WRONG: usize = 7;
pub const DISCARD: usize = 8;
pub const RIGHT: usize = 9;
pub const REMOVE: usize = 10;
pub const PUT_AGAIN: usize = 11;
pub const PIN: usize = 12;
pub const TAG: usize = 13;
pub const UNSIZED: usize = 14;
pub const SMALL_PARTIAL: usize = 15;
pub const SWEEP: usize = 16;
pub const COUNT: usize = 17;

pub fn small() -> Bytes {
    content(1, 100)
}
pub fn large() -> Bytes {
    content(2, 300_000)
}
pub fn committed() -> Bytes {
    content(3, 4 * PIECE - 9)
}
pub fn waiting() -> Bytes {
    content(4, 2 * PIECE)
}
pub fn corrected() -> Bytes {
    content(5, 2 * PIECE)
}
pub fn grown() -> Bytes {
    content(6, PIECE + 5)
}
pub fn tiny() -> Bytes {
    content(7, 1000)
}
/// Everything that may ever be stored whole.
pub fn all() -> Vec<Bytes> {
    vec![small(), large(), committed(), waiting(), corrected(), grown(), tiny()]
}

pub fn scope() -> Scope {
    Scope { registry: "r.test".parse().unwrap(), repository: "a".parse().unwrap() }
}
pub fn tag() -> Tag {
    "v1".parse().unwrap()
}
pub fn tag_record() -> TagRecord {
    TagRecord {
        digest: digest(&small()),
        media_type: "m/t".into(),
        size: 100,
        checked_at: at(0),
        expires_at: at(9),
        visibility: Visibility::Private,
        mirror: None,
    }
}

fn piece(bytes: &Bytes, number: u64) -> [Bytes; 1] {
    let end = ((number + 1) * PIECE).min(bytes.len() as u64);
    [bytes.slice((number * PIECE) as usize..end as usize)]
}

fn one(range: Range<u64>) -> [Range<u64>; 1] {
    [range]
}

pub fn work(dir: &Path) {
    let said = |step: usize| {
        let mut out = std::io::stdout();
        out.write_all(&[step as u8]).unwrap();
        out.flush().unwrap();
    };
    let put = |store: &shoal_store::Store, bytes: &Bytes| -> Digest {
        let digest = digest(bytes);
        store.put(&digest, Some("m/t"), bytes, at(1)).unwrap();
        digest
    };
    let store = open(dir).store;
    said(OPEN);
    put(&store, &small());
    said(PUT_SMALL);
    let removed = put(&store, &large());
    said(PUT_LARGE);

    let bytes = committed();
    let partial = Arc::new(store.partial(&digest(&bytes), bytes.len() as u64).unwrap());
    partial.write_at(2 * PIECE, &piece(&bytes, 2)).unwrap();
    partial.write_at(0, &piece(&bytes, 0)).unwrap();
    partial.checkpoint(&[0..PIECE, 2 * PIECE..3 * PIECE]).unwrap();
    said(HALF);
    partial.write_at(PIECE, &piece(&bytes, 1)).unwrap();
    partial.write_at(3 * PIECE, &piece(&bytes, 3)).unwrap();
    partial.commit(Some("m/t"), at(1)).unwrap();
    said(COMMIT);

    let bytes = waiting();
    let partial = store.partial(&digest(&bytes), 2 * PIECE).unwrap();
    partial.write_at(0, &piece(&bytes, 0)).unwrap();
    partial.checkpoint(&one(0..PIECE)).unwrap();
    said(FIRST_PIECE);
    partial.write_at(PIECE, &piece(&bytes, 1)).unwrap();
    partial.checkpoint(&one(0..2 * PIECE)).unwrap();
    said(SECOND_PIECE);
    drop(partial);

    // A source that lied, and then one that did not. What the record of the first says must never be believed of the
    // file of the second.
    let bytes = corrected();
    let partial = store.partial(&digest(&bytes), 2 * PIECE).unwrap();
    partial.write_at(0, &[content(99, PIECE)]).unwrap();
    partial.checkpoint(&one(0..PIECE)).unwrap();
    said(WRONG);
    partial.discard().unwrap();
    said(DISCARD);
    let partial = store.partial(&digest(&bytes), 2 * PIECE).unwrap();
    partial.write_at(PIECE, &piece(&bytes, 1)).unwrap();
    partial.checkpoint(&one(PIECE..2 * PIECE)).unwrap();
    said(RIGHT);
    drop(partial);

    assert!(store.remove(&removed).unwrap());
    said(REMOVE);
    put(&store, &large());
    said(PUT_AGAIN);
    assert!(store.pin(&digest(&small())).unwrap());
    said(PIN);
    store.put_tag(&scope(), &tag(), &tag_record()).unwrap();
    store.link(&scope(), &digest(&small()), Visibility::Public).unwrap();
    said(TAG);

    for (bytes, step) in [(grown(), UNSIZED), (tiny(), SMALL_PARTIAL)] {
        let partial = Arc::new(match step {
            UNSIZED => store.partial_unsized(&digest(&bytes)).unwrap(),
            _ => store.partial(&digest(&bytes), bytes.len() as u64).unwrap(),
        });
        partial.write_at(0, std::slice::from_ref(&bytes)).unwrap();
        partial.set_size(bytes.len() as u64).unwrap();
        partial.commit(Some("m/t"), at(1)).unwrap();
        said(step);
    }
    store.get(&digest(&small()), at(2)).unwrap().unwrap();
    store.sweep(at(3)).unwrap();
    said(SWEEP);
}
