//! Sets of pieces of one blob, as bits.

use crate::pieces::{piece_count, piece_len};
use crate::ranges::ByteRanges;
use crate::wire::Run;

/// A set of pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceSet {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl PieceSet {
    /// Nothing of `len` pieces.
    pub fn new(len: u32) -> Self {
        PieceSet { words: vec![0; len.div_ceil(64) as usize], len, count: 0 }
    }

    /// The pieces that lie in `have` in full.
    pub fn of_bytes(size: u64, have: &ByteRanges) -> Self {
        let (len, pieces) = (piece_len(size), piece_count(size) as u32);
        let mut set = PieceSet::new(pieces);
        for range in have.iter() {
            let first = range.start.div_ceil(len);
            let end = if range.end >= size { u64::from(pieces) } else { range.end / len };
            (first..end).for_each(|piece| {
                set.insert(piece as u32);
            });
        }
        set
    }

    /// Pieces that there are in all.
    pub fn total(&self) -> u32 {
        self.len
    }

    /// Pieces in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether all pieces are in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// Whether a piece is in the set; those that do not exist are not.
    pub fn contains(&self, piece: u32) -> bool {
        piece < self.len && self.words[piece as usize / 64] >> (piece % 64) & 1 == 1
    }

    /// Adds a piece; tells whether it was missing.
    pub fn insert(&mut self, piece: u32) -> bool {
        if piece >= self.len || self.contains(piece) {
            return false;
        }
        self.words[piece as usize / 64] |= 1 << (piece % 64);
        self.count += 1;
        true
    }

    /// Adds the pieces of a run, as far as they exist.
    pub fn insert_run(&mut self, run: Run) {
        (run.first..run.end.min(self.len)).for_each(|piece| _ = self.insert(piece));
    }

    /// Takes a piece out; tells whether it was there.
    pub fn remove(&mut self, piece: u32) -> bool {
        if !self.contains(piece) {
            return false;
        }
        self.words[piece as usize / 64] &= !(1 << (piece % 64));
        self.count -= 1;
        true
    }

    /// Pieces that are in both.
    pub fn common(&self, other: &PieceSet) -> u32 {
        self.words.iter().zip(&other.words).map(|(a, b)| (a & b).count_ones()).sum()
    }

    /// Puts in what is in the other set.
    pub fn add(&mut self, other: &PieceSet) {
        self.count += other.count - self.common(other);
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
    }

    /// Takes out what is in the other set.
    pub fn subtract(&mut self, other: &PieceSet) {
        self.count -= self.common(other);
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a &= !b);
    }

    /// The first piece at or behind `from` that is missing.
    pub fn first_missing(&self, from: u32) -> Option<u32> {
        let mut at = from;
        while at < self.len {
            let missing = !self.words[at as usize / 64] >> (at % 64);
            if missing != 0 {
                let found = at + missing.trailing_zeros();
                return (found < self.len).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// The runs of `within` that are missing (`present == false`) or present, at most `max`; the last one then covers
    /// the rest.
    pub fn runs(&self, within: Run, present: bool, max: usize) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut piece = within.first;
        while piece < within.end.min(self.len) {
            if self.contains(piece) != present {
                piece += 1;
                continue;
            }
            let first = piece;
            while piece < within.end.min(self.len) && self.contains(piece) == present {
                piece += 1;
            }
            if runs.len() == max && !present {
                runs.last_mut().expect("max is positive").end = piece;
            } else if runs.len() < max {
                runs.push(Run { first, end: piece });
            }
        }
        runs
    }
}

/// The bytes of a piece.
pub fn piece_bytes(size: u64, piece: u32) -> std::ops::Range<u64> {
    let len = piece_len(size);
    let start = u64::from(piece) * len;
    start..(start + len).min(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_what_is_missing() {
        let mut set = PieceSet::new(200);
        for piece in [0, 1, 2, 64, 65, 130, 199] {
            assert!(set.insert(piece));
        }
        assert!(!set.insert(64) && !set.insert(200));
        let all = Run { first: 0, end: 200 };
        let run = |first, end| Run { first, end };
        assert_eq!(set.runs(all, false, 9), [run(3, 64), run(66, 130), run(131, 199)]);
        assert_eq!(set.runs(all, false, 2), [run(3, 64), run(66, 199)], "the last covers the rest");
        assert_eq!(set.runs(run(1, 65), true, 9), [run(1, 3), run(64, 65)]);
        assert_eq!(
            (set.first_missing(0), set.first_missing(64), set.first_missing(199)),
            (Some(3), Some(66), None)
        );
    }

    #[test]
    fn only_whole_pieces_count() {
        let size = 3 * 256 * 1024 + 5;
        let have = [0..300 * 1024, 600 * 1024..size].into_iter().collect();
        let set = PieceSet::of_bytes(size, &have);
        assert_eq!((set.total(), set.count()), (4, 2));
        assert!(set.contains(0) && set.contains(3));
        assert_eq!(piece_bytes(size, 3), 3 * 256 * 1024..size);
    }
}
