//! Sets of bytes of one blob, as sorted disjoint ranges.
//!
//! Invariant: ranges are non-empty, ascending, and neither overlap nor touch.

use std::ops::Range;

/// A set of byte offsets. Receiving in order keeps it at one range; it never has more ranges than transfers that
/// started at different places, so a vector is the right container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByteRanges(Vec<Range<u64>>);

impl ByteRanges {
    /// The empty set.
    pub const fn new() -> Self {
        ByteRanges(Vec::new())
    }

    /// Adds a range; an empty one adds nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        // Everything from `first` to `last` overlaps or touches the new range and melts into it.
        let first = self.0.partition_point(|r| r.end < range.start);
        let last = self.0.partition_point(|r| r.start <= range.end);
        let merged = match self.0.get(first..last) {
            Some([head, .., tail]) => range.start.min(head.start)..range.end.max(tail.end),
            Some([only]) => range.start.min(only.start)..range.end.max(only.end),
            _ => range,
        };
        self.0.splice(first..last, [merged]);
    }

    /// Whether every byte of `range` is in the set.
    pub fn contains(&self, range: Range<u64>) -> bool {
        range.start >= range.end || self.contiguous_end(range.start) >= range.end
    }

    /// The end of the unbroken run that `at` lies in; `at` itself if it is not in the set.
    pub fn contiguous_end(&self, at: u64) -> u64 {
        self.around(at).map_or(at, |r| r.end)
    }

    /// The first byte at or after `at`, below `end`, that is missing, and the end of that gap (at most `end`).
    pub fn first_gap(&self, at: u64, end: u64) -> Option<Range<u64>> {
        let start = self.contiguous_end(at);
        if start >= end {
            return None;
        }
        let next = self.0.get(self.0.partition_point(|r| r.start < start)).map_or(end, |r| r.start.min(end));
        Some(start..next)
    }

    /// Number of bytes in the set.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// Whether there is nothing in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    fn around(&self, at: u64) -> Option<&Range<u64>> {
        let next = self.0.partition_point(|r| r.start <= at);
        self.0[..next].last().filter(|r| at < r.end)
    }
}

impl FromIterator<Range<u64>> for ByteRanges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = ByteRanges::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set_of_bytes(
            inserts in prop::collection::vec((0u64..60, 0u64..12), 0..20), at in 0u64..80, end in 0u64..80,
        ) {
            let mut ranges = ByteRanges::new();
            let mut model = BTreeSet::new();
            for (start, len) in inserts {
                ranges.insert(start..start + len);
                model.extend(start..start + len);
            }
            prop_assert_eq!(ranges.len(), model.len() as u64);
            prop_assert!(ranges.0.windows(2).all(|w| w[0].end < w[1].start), "{:?}", ranges);
            prop_assert!(ranges.0.iter().all(|r| r.start < r.end));
            let run_end = (at..).find(|b| !model.contains(b)).unwrap();
            prop_assert_eq!(ranges.contiguous_end(at), run_end);
            prop_assert_eq!(ranges.contains(at..end), (at..end).all(|b| model.contains(&b)));
            let gap_start = (at..end).find(|b| !model.contains(b));
            let gap = gap_start.map(|s| s..(s..end).find(|b| model.contains(b)).unwrap_or(end));
            prop_assert_eq!(ranges.first_gap(at, end), gap);
        }
    }
}
