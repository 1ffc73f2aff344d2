//! The blobs of a warm set on this node: which are there, which are on their way, which will not come.
//!
//! Invariant: a blob is begun once, and once more for each new run after it has failed.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::Digest;
use crate::limits::{WARM_FLIGHTS_MAX, WARM_TRIES_MAX};
use crate::pieces::is_large;
use crate::prefetch::Large;
use crate::wire::WarmFault;

/// How a blob, or a member, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not decided yet.
    Waiting,
    /// It is there.
    Ready,
    /// It will not come.
    Failed(WarmFault),
}

struct Blob {
    digest: Digest,
    size: u64,
    standing: Standing,
    flying: bool,
    tries: u32,
    /// It was there, and has left the store since.
    gone: bool,
}

/// See the module's head.
pub struct Blobs {
    blobs: Vec<Blob>,
}

impl Blobs {
    /// Blobs of which nothing is known; one that stands twice counts once.
    pub fn new(blobs: impl IntoIterator<Item = (Digest, u64)>) -> Self {
        let mut seen = BTreeSet::new();
        let blob = |(digest, size)| Blob {
            digest,
            size,
            standing: Standing::Waiting,
            flying: false,
            tries: 0,
            gone: false,
        };
        Blobs { blobs: blobs.into_iter().filter(|(digest, _)| seen.insert(*digest)).map(blob).collect() }
    }

    // ---- getters ----

    /// The blobs and their sizes.
    pub fn list(&self) -> Vec<(Digest, u64)> {
        self.blobs.iter().map(|b| (b.digest, b.size)).collect()
    }

    /// Whether these are the same, in whatever order.
    pub fn are(&self, blobs: &[(Digest, u64)]) -> bool {
        let own: BTreeSet<_> = self.blobs.iter().map(|b| b.digest).collect();
        let others: BTreeSet<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        own == others
    }

    /// Size of all of them, bytes.
    pub fn size(&self) -> u64 {
        self.blobs.iter().fold(0, |sum, b| sum.saturating_add(b.size))
    }

    /// Ready if all are there; failed when all are decided and one has failed.
    pub fn standing(&self) -> Standing {
        if self.blobs.iter().any(|b| b.standing == Standing::Waiting) {
            return Standing::Waiting;
        }
        let failed = self.blobs.iter().map(|b| b.standing).find(|s| *s != Standing::Ready);
        failed.unwrap_or(Standing::Ready)
    }

    /// Bytes that are there; `received` says how many are of a blob on its way.
    pub fn bytes(&self, received: &dyn Fn(&Digest, u64) -> u64) -> u64 {
        let bytes = |b: &Blob| match b.standing {
            Standing::Ready => b.size,
            _ if b.flying => received(&b.digest, b.size),
            _ => 0,
        };
        self.blobs.iter().fold(0, |sum, b| sum.saturating_add(bytes(b)))
    }

    /// Those that are there.
    pub fn ready(&self) -> impl Iterator<Item = Digest> + '_ {
        self.blobs.iter().filter(|b| b.standing == Standing::Ready).map(|b| b.digest)
    }

    /// Whether a blob is on its way for this set.
    pub fn flies(&self, digest: &Digest) -> bool {
        self.blobs.iter().any(|b| b.flying && b.digest == *digest)
    }

    /// How much of the bytes that are still to be fetched upstream a blob is. `is_here` says that all of a blob has left
    /// upstream; of one that is in the store here nobody fetches anything either.
    pub fn share(&self, digest: &Digest, is_here: &dyn Fn(&Digest) -> bool) -> f64 {
        let missing =
            |b: &&Blob| b.digest == *digest || (b.standing != Standing::Ready && !is_here(&b.digest));
        let of: f64 = self.blobs.iter().filter(missing).map(|b| b.size as f64).sum();
        let own = self.blobs.iter().find(|b| b.digest == *digest).map_or(0.0, |b| b.size as f64);
        if of > 0.0 { own / of } else { 1.0 }
    }

    // ---- mutators ----

    /// Lets blobs begin as far as there is room among those that fly on this node, for whichever set, with their sizes. Where a
    /// large one has to wait small ones pass it.
    ///
    /// Of the large ones a few leave upstream at a time. As soon as one has, the next begins: it comes to the lease holders while the
    /// last pieces of the one before still go round, and neither upstream nor a link stands still in between.
    pub fn begin(
        &mut self,
        flying: &mut BTreeMap<Digest, u64>,
        is_here: &dyn Fn(&Digest) -> bool,
        mut begin: impl FnMut(Digest, u64),
    ) {
        let large = flying.iter().filter(|(_, size)| is_large(**size));
        let mut large = Large::count(large.map(|(digest, _)| is_here(digest)));
        for blob in self.blobs.iter_mut().filter(|b| b.standing == Standing::Waiting && !b.flying) {
            if !flying.contains_key(&blob.digest) {
                if flying.len() >= WARM_FLIGHTS_MAX {
                    return;
                }
                if is_large(blob.size) {
                    if !large.has_room() {
                        continue;
                    }
                    large.begin();
                }
                flying.insert(blob.digest, blob.size);
            }
            blob.flying = true;
            blob.tries += 1;
            begin(blob.digest, blob.size);
        }
    }

    /// A blob's flight has ended. Whether it was one of these.
    pub fn handle_over(&mut self, digest: &Digest, result: Result<(), WarmFault>) -> bool {
        let Some(blob) = self.blobs.iter_mut().find(|b| b.flying && b.digest == *digest) else {
            return false;
        };
        blob.flying = false;
        blob.standing = match result {
            Ok(()) => Standing::Ready,
            Err(WarmFault::WrongContent) if blob.tries < WARM_TRIES_MAX => Standing::Waiting,
            Err(fault) => Standing::Failed(fault),
        };
        true
    }

    /// A blob could not be begun; it is begun later.
    pub fn handle_postponed(&mut self, digest: &Digest) -> bool {
        let Some(blob) = self.blobs.iter_mut().find(|b| b.flying && b.digest == *digest) else {
            return false;
        };
        blob.flying = false;
        blob.tries -= 1;
        true
    }

    /// Nothing more is to come. Those that were on their way.
    pub fn stop(&mut self, why: WarmFault) -> Vec<Digest> {
        let mut flying = Vec::new();
        for blob in self.blobs.iter_mut().filter(|b| b.standing == Standing::Waiting) {
            blob.standing = Standing::Failed(why);
            if std::mem::take(&mut blob.flying) {
                flying.push(blob.digest);
            }
        }
        flying
    }

    /// A blob has left the store. It counts as there until the next run: a store that is too small for a set would fetch
    /// and lose its blobs in turn.
    pub fn handle_evicted(&mut self, digest: &Digest) {
        for blob in self.blobs.iter_mut().filter(|b| b.digest == *digest) {
            blob.gone = blob.standing == Standing::Ready;
        }
    }

    /// What has failed is tried again, and what has gone since it was there.
    pub fn renew(&mut self) {
        for blob in self.blobs.iter_mut().filter(|b| b.gone || matches!(b.standing, Standing::Failed(_))) {
            (blob.standing, blob.tries, blob.gone) = (Standing::Waiting, 0, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Algorithm;
    use crate::limits::LARGE_FLIGHTS_MAX;

    fn digest(number: u8) -> Digest {
        Digest::new(Algorithm::Sha256, &[number; 32])
    }

    #[test]
    fn a_few_large_blobs_at_a_time_and_small_ones_beside_them() {
        const MIB: u64 = 1 << 20;
        let sizes = [MIB, 64 * MIB, 64 * MIB, 1, 64 * MIB, 64 * MIB, 2, 3];
        let mut blobs = Blobs::new((0u8..).zip(sizes).map(|(n, size)| (digest(n), size)));
        // Another set has one of them on its way.
        let mut flying = BTreeMap::from([(digest(4), 64 * MIB)]);
        let begun = |blobs: &mut Blobs, flying: &mut BTreeMap<_, _>, here: &[u8]| {
            let mut begun = Vec::new();
            let is_here = |digest: &Digest| here.contains(&digest.hash()[0]);
            blobs.begin(flying, &is_here, |blob, _| begun.push(blob.hash()[0]));
            begun
        };
        assert_eq!(
            begun(&mut blobs, &mut flying, &[]),
            [0, 1, 2, 3, 4, 6, 7],
            "all but the fourth large one"
        );
        flying.remove(&digest(1));
        blobs.handle_over(&digest(1), Ok(()));
        assert_eq!(begun(&mut blobs, &mut flying, &[]), [5], "one has come");
        // All but the last have left upstream, but each waits here for its end.
        let mut blobs = Blobs::new((0..10).map(|n| (digest(n), 64 * MIB)));
        let mut flying = BTreeMap::new();
        assert_eq!(begun(&mut blobs, &mut flying, &[]), [0, 1, 2]);
        assert_eq!(begun(&mut blobs, &mut flying, &[0]), [3], "one has left upstream");
        assert_eq!(begun(&mut blobs, &mut flying, &[0, 1, 2, 3]), [4, 5], "as many as may be on their way");
        assert_eq!(flying.len(), LARGE_FLIGHTS_MAX);
        let mut many = Blobs::new((0..100).map(|n| (digest(n), 1)));
        let mut flying = BTreeMap::new();
        many.begin(&mut flying, &|_| false, |_, _| {});
        assert_eq!(flying.len(), WARM_FLIGHTS_MAX);
    }

    #[test]
    fn a_share_is_of_what_is_still_to_be_fetched() {
        let all = || Blobs::new([(digest(1), 600), (digest(2), 300), (digest(3), 100)]);
        let mut one_ready = all();
        one_ready.begin(&mut BTreeMap::new(), &|_| false, |_, _| {});
        one_ready.handle_over(&digest(1), Ok(()));
        // Which are known to have left upstream, and the shares of the three.
        let table: [(&Blobs, &[u8], [f64; 3]); 5] = [
            (&all(), &[], [0.6, 0.3, 0.1]),
            (&all(), &[1], [0.6, 0.75, 0.25]),
            (&all(), &[1, 2], [6.0 / 7.0, 0.75, 1.0]),
            (&all(), &[1, 2, 3], [1.0; 3]),
            (&one_ready, &[], [0.6, 0.75, 0.25]),
        ];
        for (blobs, gone, shares) in table {
            let is_here = |of: &Digest| gone.iter().any(|number| digest(*number) == *of);
            for (number, share) in (1..).zip(shares) {
                let found = blobs.share(&digest(number), &is_here);
                assert!((found - share).abs() < 1e-9, "{number} with {gone:?}: {found}");
            }
            let open: f64 =
                (1..=3).filter(|n| !is_here(&digest(*n))).map(|n| blobs.share(&digest(n), &is_here)).sum();
            assert!(open <= 1.0 + 1e-9 || blobs.ready().next().is_some(), "more than the whole: {open}");
        }
        assert_eq!(Blobs::new([(digest(1), 0)]).share(&digest(1), &|_| false), 1.0);
    }
}
