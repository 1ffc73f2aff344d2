//! Prefetches: blobs that a manifest has named, and that nobody has asked for yet.
//!
//! Question: an image has a dozen layers; when does each begin to move? Answer: small ones at once. Of the large ones a few leave
//! upstream at a time, in the order of the manifest, which is the order in which runtimes ask for them; those that clients have asked
//! for count. As soon as all of one has left upstream the next begins. Prevents: a dozen blobs that share each link, so that every
//! stream brings a piece in many seconds, whoever feeds or fetches looks as if it stood still, and the layer that a client waits
//! for comes no sooner than the last one.
//!
//! Invariant: whoever waits here is named once, and only while a large blob is on its way, whose end lets the next begin.

use std::collections::VecDeque;

use crate::ids::Digest;
use crate::limits::{LARGE_FLIGHTS_MAX, LARGE_LEAVING_MAX, PREFETCH_FLIGHTS_MAX};
use crate::name::Scope;

/// Large blobs that are on their way to this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Large {
    /// All of them.
    pub flights: usize,
    /// Those that are not known to have left upstream as a whole.
    pub leaving: usize,
}

impl Large {
    /// Counts flights of large blobs; each says whether all of it has left upstream.
    pub fn count(has_left: impl Iterator<Item = bool>) -> Self {
        has_left.fold(Large::default(), |sum, has_left| Large {
            flights: sum.flights + 1,
            leaving: sum.leaving + usize::from(!has_left),
        })
    }

    /// Whether one more may begin.
    pub fn has_room(&self) -> bool {
        self.flights < LARGE_FLIGHTS_MAX && self.leaving < LARGE_LEAVING_MAX
    }

    /// One more begins.
    pub fn begin(&mut self) {
        (self.flights, self.leaving) = (self.flights + 1, self.leaving + 1);
    }
}

/// See the module's head.
#[derive(Default)]
pub struct Prefetches {
    waiting: VecDeque<(Digest, Scope)>,
}

impl Prefetches {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Who waits.
    pub fn waiting(&self) -> impl Iterator<Item = &Digest> {
        self.waiting.iter().map(|(digest, _)| digest)
    }

    /// A blob waits. One for which there is no room is not prefetched, as its client will ask for it.
    pub fn push(&mut self, digest: Digest, scope: Scope) {
        if self.waiting.len() < PREFETCH_FLIGHTS_MAX && self.waiting().all(|waiting| *waiting != digest) {
            self.waiting.push_back((digest, scope));
        }
    }

    /// A client asks for a blob: it does not wait any more. Where it may be fetched, if it did.
    pub fn take(&mut self, digest: &Digest) -> Option<Scope> {
        let at = self.waiting.iter().position(|(waiting, _)| waiting == digest)?;
        self.waiting.remove(at).map(|(_, scope)| scope)
    }

    /// The next one.
    pub fn pop(&mut self) -> Option<(Digest, Scope)> {
        self.waiting.pop_front()
    }

    /// Nothing is begun any more.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Algorithm;

    #[test]
    fn there_is_room_for_a_few_at_a_time() {
        // How many are on their way, how many of them have left upstream, and whether one more may begin.
        let table = [
            (0, 0, true),
            (2, 0, true),
            (3, 0, false),
            (3, 1, true),
            (5, 3, true),
            (5, 2, false),
            (6, 6, false),
        ];
        for (flights, left, has_room) in table {
            let large = Large::count((0..flights).map(|n| n < left));
            assert_eq!(large.has_room(), has_room, "{flights} flights, {left} of them have left upstream");
        }
    }

    #[test]
    fn each_waits_once_in_the_order_of_the_manifest() {
        let digest = |n: usize| Digest::new(Algorithm::Sha256, &[n as u8; 32]);
        let scope = || Scope { registry: "r.example".parse().unwrap(), repository: "a".parse().unwrap() };
        let mut prefetches = Prefetches::default();
        [0, 1, 2, 1].into_iter().for_each(|n| prefetches.push(digest(n), scope()));
        assert_eq!(prefetches.take(&digest(0)), Some(scope()));
        assert_eq!(prefetches.take(&digest(0)), None, "its client asks for it now");
        let order: Vec<_> = std::iter::from_fn(|| prefetches.pop()).map(|(digest, _)| digest).collect();
        assert_eq!(order, [digest(1), digest(2)]);
        (0..2 * PREFETCH_FLIGHTS_MAX).for_each(|n| {
            let bytes = [(n >> 8) as u8, n as u8].repeat(16);
            prefetches.push(Digest::new(Algorithm::Sha256, &bytes), scope());
        });
        assert_eq!(prefetches.waiting().count(), PREFETCH_FLIGHTS_MAX);
        prefetches.clear();
        assert!(prefetches.is_empty());
    }
}
