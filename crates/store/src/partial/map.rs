//! Which pieces of a partial blob are whole.
//!
//! Invariant: a piece is in the map only if all of its bytes are.

use std::ops::Range;

use shoal_engine::{ByteRanges, pieces};

use crate::record::{Committing, PartialRecord};

/// The record of a partial blob of which `have` is on disk. Pieces of which only a part is there do not count.
pub(crate) fn record(size: u64, have: &[Range<u64>], committing: Option<Committing>) -> PartialRecord {
    let piece_len = pieces::piece_len(size);
    let have: ByteRanges = have.iter().cloned().collect();
    let count = size.div_ceil(piece_len);
    let mut map = vec![0; usize::try_from(count.div_ceil(8)).expect("a piece map fits into memory")];
    for (byte, bits) in map.iter_mut().enumerate() {
        let first = byte as u64 * 8;
        for piece in first..(first + 8).min(count) {
            let start = piece * piece_len;
            if have.contains(start..(start + piece_len).min(size)) {
                *bits |= 1 << (piece - first);
            }
        }
    }
    PartialRecord { size, piece_len, map, committing, origin: None }
}

/// The ranges that a record names: ascending, none touching another. The record's own piece length counts, whatever
/// the rule for new ones has become since.
pub(crate) fn ranges(record: &PartialRecord) -> Vec<Range<u64>> {
    let piece_len = record.piece_len.max(1);
    let mut have = ByteRanges::new();
    for (byte, bits) in record.map.iter().enumerate() {
        for bit in (0..8).filter(|bit| bits >> bit & 1 == 1) {
            let start = (byte as u64 * 8 + bit).saturating_mul(piece_len);
            have.insert(start..start.saturating_add(piece_len).min(record.size));
        }
    }
    have.iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIECE: u64 = pieces::PIECE_BYTES_MIN;

    #[test]
    fn only_whole_pieces_are_recorded() {
        let size = 3 * PIECE + 7;
        let table = [
            (vec![], vec![]),
            (vec![(0, PIECE - 1)], vec![]),
            (vec![(0, PIECE)], vec![(0, PIECE)]),
            (vec![(1, 3 * PIECE)], vec![(PIECE, 3 * PIECE)]),
            (vec![(0, PIECE / 2), (PIECE / 2, PIECE)], vec![(0, PIECE)]),
            (vec![(3 * PIECE, size - 1)], vec![]),
            (vec![(3 * PIECE, size), (0, PIECE)], vec![(0, PIECE), (3 * PIECE, size)]),
        ];
        let all =
            |pairs: Vec<(u64, u64)>| pairs.into_iter().map(|(start, end)| start..end).collect::<Vec<_>>();
        for (have, kept) in table {
            let have = all(have);
            assert_eq!(ranges(&record(size, &have, None)), all(kept), "{have:?}");
        }
        assert_eq!(ranges(&record(0, &[], None)), []);
    }

    proptest! {
        #[test]
        fn never_more_than_there_is(
            size in 0u64..20 * PIECE, have in prop::collection::vec((0u64..20 * PIECE, 0u64..5 * PIECE), 0..6),
        ) {
            let have: Vec<_> = have.into_iter().map(|(start, len)| start..start + len).collect();
            let all: ByteRanges = have.iter().cloned().collect();
            for range in ranges(&record(size, &have, None)) {
                prop_assert!(all.contains(range.clone()) && range.end <= size, "{range:?}");
            }
        }
    }
}
