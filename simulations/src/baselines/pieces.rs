//! A set of pieces of one blob.
//!
//! Invariant: holds only numbers below the number of pieces it was made for.

/// A set of pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Pieces {
    words: Vec<u64>,
    count: u32,
}

impl Pieces {
    /// The empty set of a blob's pieces.
    pub fn none(pieces: u32) -> Pieces {
        Pieces { words: vec![0; pieces.div_ceil(64) as usize], count: 0 }
    }

    /// The set of all pieces.
    pub fn all(pieces: u32) -> Pieces {
        let mut all = Pieces::none(pieces);
        (0..pieces).for_each(|piece| all.insert(piece));
        all
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether a piece is in it.
    pub fn has(&self, piece: u32) -> bool {
        self.words[piece as usize / 64] >> (piece % 64) & 1 == 1
    }

    /// Puts a piece in.
    pub fn insert(&mut self, piece: u32) {
        self.count += u32::from(!self.has(piece));
        self.words[piece as usize / 64] |= 1 << (piece % 64);
    }

    /// Takes a piece out.
    pub fn remove(&mut self, piece: u32) {
        self.count -= u32::from(self.has(piece));
        self.words[piece as usize / 64] &= !(1 << (piece % 64));
    }

    /// 64 pieces from `64 * word` on, as bits.
    pub fn word(&self, word: usize) -> u64 {
        self.words.get(word).copied().unwrap_or(0)
    }

    /// How many words there are.
    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// All of them, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| bits(*word).map(move |bit| at as u32 * 64 + bit))
    }
}

/// The numbers of the bits that are set.
pub(super) fn bits(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}
