//! Sequences of operations against a model that is too simple to be wrong.
//!
//! The model knows which blobs must be there, which may have been evicted, and what each partial may have on disk.
//! After each operation the store must agree: right bytes or none, sums that fit, nothing pinned or used gone.

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fixture::{PIECE, at, content, digest, options, read};
use proptest::prelude::*;
use shoal_engine::ByteRanges;
use shoal_store::{Blob, IndexCondition, Options, Partial, Store, StoreError, Verification};

/// Room for about three of the six contents.
const CAPACITY: u64 = 3 * PIECE;
/// Sizes of the contents: inline, around the limit of inline, files of less, exactly and more than a piece.
const SIZES: [u64; 6] = [0, 4096, 4097, PIECE - 1, PIECE, PIECE + 1000];

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    Get(usize),
    /// Get, and keep it in use.
    Hold(usize),
    Release,
    Remove(usize),
    Pin(usize),
    Unpin(usize),
    Verify(usize),
    OpenPartial(usize),
    Write(usize, u64, u64),
    Checkpoint(usize),
    Commit(usize),
    Discard(usize),
    Drop(usize),
    Sweep,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..SIZES.len();
    prop_oneof![
        4 => which.clone().prop_map(Step::Put),
        3 => which.clone().prop_map(Step::Get),
        1 => which.clone().prop_map(Step::Hold),
        1 => Just(Step::Release),
        2 => which.clone().prop_map(Step::Remove),
        1 => which.clone().prop_map(Step::Pin),
        1 => which.clone().prop_map(Step::Unpin),
        1 => which.clone().prop_map(Step::Verify),
        3 => which.clone().prop_map(Step::OpenPartial),
        4 => (which.clone(), 0..2 * PIECE, 1..2 * PIECE).prop_map(|(which, at, len)| Step::Write(which, at, len)),
        2 => which.clone().prop_map(Step::Checkpoint),
        2 => which.clone().prop_map(Step::Commit),
        1 => which.clone().prop_map(Step::Discard),
        1 => which.prop_map(Step::Drop),
        1 => Just(Step::Sweep),
        1 => Just(Step::Reopen),
    ]
}

struct OpenPartial {
    partial: Arc<Partial>,
    written: ByteRanges,
}

struct World<'a> {
    dir: &'a Path,
    capacity: Option<u64>,
    store: Option<Store>,
    contents: Vec<Bytes>,
    /// Stored, as far as they were not evicted.
    stored: BTreeSet<usize>,
    pinned: BTreeSet<usize>,
    held: Vec<(usize, Blob)>,
    partials: BTreeMap<usize, OpenPartial>,
    /// What was checkpointed of partials, open or not.
    recorded: BTreeMap<usize, ByteRanges>,
    second: u64,
}

impl<'a> World<'a> {
    fn new(dir: &'a Path, capacity: Option<u64>) -> Self {
        let contents = SIZES.iter().enumerate().map(|(seed, size)| content(seed as u64, *size)).collect();
        let mut world = World {
            dir,
            capacity,
            store: None,
            contents,
            stored: BTreeSet::new(),
            pinned: BTreeSet::new(),
            held: Vec::new(),
            partials: BTreeMap::new(),
            recorded: BTreeMap::new(),
            second: 0,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let options = Options {
            capacity: self.capacity,
            high_watermark: 0.95,
            low_watermark: 0.7,
            ..options(self.dir)
        };
        let opened = Store::open(options).unwrap();
        assert!(!matches!(opened.report.index, IndexCondition::Rebuilt { .. }));
        self.store = Some(opened.store);
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Whether the model knows for sure that it is there.
    fn must_have(&self, which: usize) -> bool {
        let kept = self.pinned.contains(&which) || self.held.iter().any(|(held, _)| *held == which);
        self.stored.contains(&which) && (self.capacity.is_none() || kept)
    }

    fn full_is_allowed<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(StoreError::Full { .. }) if self.capacity.is_some() => None,
            Err(error) => panic!("{error:?}"),
        }
    }

    fn take(&mut self, step: &Step) {
        self.second += 1;
        let now = at(self.second);
        let names: Vec<_> = self.contents.iter().map(|bytes| digest(bytes)).collect();
        match *step {
            Step::Put(which) => {
                // A file goes through a partial, unless it is there already or somebody has one of it open, who keeps that.
                let takes_partial = SIZES[which] > 4096
                    && !self.partials.contains_key(&which)
                    && self.store().peek(&names[which]).unwrap().is_none();
                let done = self.store().put(&names[which], Some("m/t"), &self.contents[which], now);
                if takes_partial {
                    // Also where it found no room: it may have replaced the one before.
                    self.recorded.remove(&which);
                }
                if self.full_is_allowed(done).is_some() {
                    self.stored.insert(which);
                }
            }
            Step::Get(which) => drop(self.get(which)),
            Step::Hold(which) => {
                if let Some(blob) = self.get(which) {
                    self.held.push((which, blob));
                }
            }
            Step::Release => drop(self.held.pop()),
            Step::Remove(which) => {
                let there = self.store().remove(&names[which]).unwrap();
                assert!(there || !self.must_have(which));
                assert!(!there || self.stored.contains(&which));
                self.stored.remove(&which);
                self.pinned.remove(&which);
                self.held.retain(|(held, _)| *held != which);
            }
            Step::Pin(which) => {
                if self.store().pin(&names[which]).unwrap() {
                    self.pinned.insert(which);
                }
            }
            Step::Unpin(which) => {
                self.store().unpin(&names[which]).unwrap();
                self.pinned.remove(&which);
            }
            Step::Verify(which) => match self.store().verify(&names[which]).unwrap() {
                Verification::Good { size } => assert_eq!(size, SIZES[which]),
                Verification::Missing => assert!(!self.must_have(which)),
                wrong => panic!("{wrong:?}"),
            },
            Step::OpenPartial(which) => {
                self.partials.remove(&which);
                let opened = self.store().partial(&names[which], SIZES[which]);
                let Some(partial) = self.full_is_allowed(opened) else { return };
                let have: ByteRanges = partial.have().into_iter().collect();
                let recorded = self.recorded.entry(which).or_default();
                for range in have.iter() {
                    assert!(recorded.contains(range.clone()), "{range:?} was never checkpointed");
                }
                // Without a cap nobody takes a partial away that is waiting.
                assert!(self.capacity.is_some() || have == *recorded);
                *recorded = have.clone();
                self.partials.insert(which, OpenPartial { partial: Arc::new(partial), written: have });
            }
            Step::Write(which, start, len) => {
                let Some(open) = self.partials.get_mut(&which) else { return };
                let end = (start + len).min(SIZES[which]);
                if start < end {
                    let bytes = self.contents[which].slice(start as usize..end as usize);
                    open.partial.write_at(start, &[bytes]).unwrap();
                    open.written.insert(start..end);
                }
            }
            Step::Checkpoint(which) => {
                let Some(open) = self.partials.get(&which) else { return };
                let written: Vec<_> = open.written.iter().collect();
                open.partial.checkpoint(&written).unwrap();
                // A record replaces the one before it.
                let whole = |start: u64| start..(start + PIECE).min(SIZES[which]);
                let pieces = (0..SIZES[which].div_ceil(PIECE)).map(|piece| whole(piece * PIECE));
                let pieces = pieces.filter(|piece| open.written.contains(piece.clone())).collect();
                self.recorded.insert(which, pieces);
            }
            Step::Commit(which) => {
                let Some(open) = self.partials.remove(&which) else { return };
                // The engine commits what is complete and verified; anything else would be a lie.
                if !open.written.contains(0..SIZES[which]) {
                    self.partials.insert(which, open);
                    return;
                }
                let blob = open.partial.commit(Some("m/t"), now).unwrap();
                assert_eq!(read(&blob), self.contents[which]);
                self.recorded.remove(&which);
                self.stored.insert(which);
            }
            Step::Discard(which) => {
                let Some(open) = self.partials.remove(&which) else { return };
                open.partial.discard().unwrap();
                self.recorded.remove(&which);
            }
            Step::Drop(which) => drop(self.partials.remove(&which)),
            Step::Sweep => drop(self.store().sweep(now).unwrap()),
            Step::Reopen => {
                self.held.clear();
                self.partials.clear();
                self.store = None;
                self.open();
            }
        }
    }

    fn get(&mut self, which: usize) -> Option<Blob> {
        let found = self.store().get(&digest(&self.contents[which]), at(self.second)).unwrap();
        match &found {
            Some(blob) => {
                assert!(self.stored.contains(&which), "nobody stored {which}");
                assert_eq!(read(blob), self.contents[which]);
            }
            None => {
                assert!(!self.must_have(which), "{which} is gone");
                self.stored.remove(&which);
            }
        }
        found
    }

    fn check(&mut self) {
        let usage = self.store().usage().unwrap();
        let listed = self.store().list(None, 99).unwrap();
        let sum: u64 = listed.iter().map(|info| info.size).sum();
        assert_eq!((usage.blobs, usage.file_bytes + usage.inline_bytes), (listed.len() as u64, sum));
        let pinned: Vec<u64> = listed.iter().filter(|info| info.pinned).map(|info| info.size).collect();
        assert_eq!((usage.pinned, usage.pinned_bytes), (pinned.len() as u64, pinned.iter().sum()));
        assert!(self.capacity.is_none_or(|capacity| usage.bytes() <= capacity), "{usage:?}");
        let names: Vec<_> = self.contents.iter().map(|bytes| digest(bytes)).collect();
        for (which, name) in names.iter().enumerate() {
            let there = listed.iter().any(|info| info.digest == *name);
            assert!(there || !self.must_have(which), "{which} is gone");
            assert!(!there || self.stored.contains(&which), "nobody stored {which}");
            if !there {
                self.stored.remove(&which);
                self.pinned.remove(&which);
            }
        }
        for info in &listed {
            let which = names.iter().position(|name| *name == info.digest).unwrap();
            assert_eq!(info.pinned, self.pinned.contains(&which));
        }
        for (which, open) in &self.partials {
            for range in open.written.iter() {
                let mut found = vec![0; (range.end - range.start) as usize];
                open.partial.file().read_exact_at(&mut found, range.start).unwrap();
                assert!(found == self.contents[*which][range.start as usize..range.end as usize]);
            }
        }
    }
}

fn run(capacity: Option<u64>, steps: &[Step]) {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let mut world = World::new(dir.path(), capacity);
    for step in steps {
        world.take(step);
        world.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn with_room_for_all(steps in prop::collection::vec(step(), 1..60)) {
        run(None, &steps);
    }

    #[test]
    fn with_room_for_half(steps in prop::collection::vec(step(), 1..60)) {
        run(Some(CAPACITY), &steps);
    }
}
