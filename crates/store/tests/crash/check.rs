//! What must be true after a crash.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use shoal_engine::ByteRanges;
use shoal_store::{IndexCondition, Store, Visibility};

use crate::fixture::{PIECE, at, content, digest, open, read};
use crate::steps;

pub struct Check<'a> {
    pub dir: &'a Path,
    /// Steps that were said to be done.
    pub done: usize,
    /// Where the cut was, for the message.
    pub cut: usize,
    /// Power was lost: only what was synced must be there.
    pub power: bool,
}

impl Check<'_> {
    pub fn run(&self) {
        let opened = open(self.dir);
        let store = opened.store;
        let fine = match opened.report.index {
            IndexCondition::Good => true,
            IndexCondition::New => !self.was_done(steps::OPEN),
            IndexCondition::Rebuilt { .. } => false,
        };
        assert!(fine, "{}: {:?}", self.place(), opened.report);
        self.blobs(&store);
        self.partials(&store);
        self.small_things(&store);
        self.directories(&store);
        drop(store);
        self.goes_on();
    }

    fn was_done(&self, step: usize) -> bool {
        self.done > step
    }

    fn place(&self) -> String {
        format!("cut {} after {} steps, power lost: {}", self.cut, self.done, self.power)
    }

    /// Everything listed is whole and right, everything acknowledged is listed.
    fn blobs(&self, store: &Store) {
        let known = steps::all();
        let mut listed = 0;
        for info in store.list(None, 99).unwrap() {
            listed += info.size;
            let Some(blob) = store.get(&info.digest, at(5)).unwrap() else {
                // An entry whose file has gone is a miss. That may only be one whose removal was cut.
                assert_eq!(info.digest, digest(&steps::large()), "{}", self.place());
                continue;
            };
            assert_eq!(digest(&read(&blob)), info.digest, "{}", self.place());
            assert!(known.iter().any(|bytes| digest(bytes) == info.digest), "{}", self.place());
            if !self.power {
                assert_eq!(blob.media_type.as_deref(), Some("m/t"), "{}", self.place());
            }
        }
        let must = [
            (steps::small(), self.was_done(steps::PUT_SMALL)),
            (steps::large(), self.was_done(steps::PUT_LARGE) && !self.was_done(steps::REMOVE - 1)),
            (steps::large(), self.was_done(steps::PUT_AGAIN)),
            (steps::committed(), self.was_done(steps::COMMIT)),
            (steps::grown(), self.was_done(steps::UNSIZED)),
            (steps::tiny(), self.was_done(steps::SMALL_PARTIAL)),
        ];
        for (bytes, must) in must {
            let blob = store.get(&digest(&bytes), at(5)).unwrap();
            assert!(blob.is_some() || !must, "{}: {} bytes are missing", self.place(), bytes.len());
        }
        assert!(listed >= store.usage().unwrap().bytes() - store.usage().unwrap().partial_bytes);
    }

    /// What records name is there, and is right; what was checkpointed is named.
    fn partials(&self, store: &Store) {
        let have = |bytes: &Bytes, must: &[(bool, Range<u64>)]| {
            let partial = store.partial(&digest(bytes), bytes.len() as u64).unwrap();
            for range in partial.have() {
                let mut found = vec![0; (range.end - range.start) as usize];
                partial.file().read_exact_at(&mut found, range.start).unwrap();
                let right = &bytes[range.start as usize..range.end as usize];
                assert!(found == right, "{}: {range:?} of {} is wrong", self.place(), partial.digest());
            }
            let named: ByteRanges = partial.have().into_iter().collect();
            for (_, range) in must.iter().filter(|(must, _)| *must) {
                assert!(named.contains(range.clone()), "{}: {range:?} of {named:?}", self.place());
            }
        };
        if !store.list(None, 99).unwrap().iter().any(|info| info.digest == digest(&steps::committed())) {
            let half = self.was_done(steps::HALF);
            have(&steps::committed(), &[(half, 0..PIECE), (half, 2 * PIECE..3 * PIECE)]);
        }
        let first = self.was_done(steps::FIRST_PIECE);
        let second = self.was_done(steps::SECOND_PIECE);
        have(&steps::waiting(), &[(first, 0..PIECE), (second, 0..2 * PIECE)]);
        if self.done < steps::WRONG || self.was_done(steps::DISCARD) {
            have(&steps::corrected(), &[(self.was_done(steps::RIGHT), PIECE..2 * PIECE)]);
        }
    }

    fn small_things(&self, store: &Store) {
        let small = digest(&steps::small());
        if self.was_done(steps::PIN) {
            assert!(store.peek(&small).unwrap().unwrap().pinned, "{}", self.place());
        }
        if self.was_done(steps::TAG) && !self.power {
            let tag = store.tag(&steps::scope(), &steps::tag()).unwrap();
            assert_eq!(tag, Some(steps::tag_record()), "{}", self.place());
            assert_eq!(
                store.links(&small).unwrap(),
                [(steps::scope(), Visibility::Public)],
                "{}",
                self.place()
            );
        }
    }

    /// No file that nobody knows: neither a partial, nor (at once, or after a round of sweeps if power was lost) a blob.
    fn directories(&self, store: &Store) {
        // The partials that were looked at and never checkpointed go now.
        for _ in 0..=255 {
            let adopted = store.sweep(at(6)).unwrap().adopted;
            assert!(self.power || adopted == 0, "{}: not adopted at once", self.place());
            if !self.power {
                break;
            }
        }
        let partials = fs::read_dir(self.dir.join("partial")).unwrap().count() as u64;
        assert_eq!(partials, store.usage().unwrap().partials, "{}", self.place());
        let mut files = BTreeSet::new();
        for fan_out in fs::read_dir(self.dir.join("blobs")).unwrap() {
            for dir in fs::read_dir(fan_out.unwrap().path()).unwrap() {
                let entries = fs::read_dir(dir.unwrap().path()).unwrap();
                files.extend(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
            }
        }
        let listed = store.list(None, 99).unwrap().into_iter().filter(|info| !info.inline);
        let listed: BTreeSet<String> = listed.map(|info| info.digest.hex()).collect();
        assert_eq!(files, listed, "{}", self.place());
    }

    /// The store works on as if nothing had happened.
    fn goes_on(&self) {
        let bytes = content(50, 10_000);
        let opened = open(self.dir);
        assert_eq!(opened.report.index, IndexCondition::Good, "{}", self.place());
        let before = opened.report.blobs;
        opened.store.put(&digest(&bytes), None, &bytes, at(7)).unwrap();
        drop(opened);
        let opened = open(self.dir);
        assert_eq!((opened.report.blobs, opened.report.adopted), (before + 1, 0), "{}", self.place());
        assert_eq!(read(&opened.store.get(&digest(&bytes), at(8)).unwrap().unwrap()), bytes);
    }
}
