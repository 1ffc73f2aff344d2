//! The list of piece hashes of one blob, with who vouches for each hash.
//!
//! Question: may a piece that came from a member be given to a client or to another member? Answer: if its hash is in
//! the list that the home has signed ([`Hashes`]), whoever brought it here. Homes that this node has not joined are
//! believed as well, because books move and the members do not agree at every moment on where: but not about pieces that
//! they send themselves, and not against the word of the one that was joined. Prevents: a member that vouches for its
//! own wrong bytes.
//!
//! What was signed is kept as it came, within a bound, to be passed on to those who ask for it later.

use std::sync::Arc;

use crate::limits::{SIGNED_ENTRIES_PER_PIECE_MAX, VOUCHERS_MAX};
use crate::peer::PeerId;
use crate::swarm::pieces::PieceSet;
use crate::wire::{Entry, Hashes, PieceHash, Run};

/// Who vouches for a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// This node: it has taken the hash itself, of what it fetched or has.
    Own,
    /// The home that it has joined.
    Home,
    /// Somebody else: for a receiver another home of the blob, for a home the member that has reported it.
    Other(PeerId),
}

/// The places of the first two in a list's vouchers.
const OWN: u8 = 0;
const HOME: u8 = 1;
/// No word at all.
const UNTOLD: u8 = u8::MAX;

/// Lines of the list that are allocated together: one of a blob of the largest size of which nothing is known takes some 50 KiB
/// instead of 9 MiB, and anybody can make a home open its book.
const CHUNK_LINES: usize = 256;

/// What the list says of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It matches.
    Right,
    /// It does not.
    Wrong,
    /// The list does not know, or only from the sender.
    Unknown,
}

/// What is kept of one piece.
#[derive(Clone, Copy, Debug)]
struct Line {
    hash: PieceHash,
    /// An index into the list's vouchers.
    via: u8,
    /// If this node has taken the hash itself: what the best word is that was passed on, see [`PieceList::rank`].
    passed: u8,
}

impl Line {
    const NOTHING: Line = Line { hash: PieceHash([0; 32]), via: OWN, passed: UNTOLD };
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct PieceList {
    known: PieceSet,
    /// In chunks, of which those are empty that have never held a known piece.
    lines: Vec<Box<[Line]>>,
    /// The first two stand for this node and for the home.
    vouchers: Vec<Option<PeerId>>,
    signed: Vec<Arc<Hashes>>,
    /// Entries in `signed`.
    signed_entries: usize,
}

impl PieceList {
    /// A list of which nothing is known.
    pub fn new(pieces: u32) -> Self {
        PieceList {
            known: PieceSet::new(pieces),
            lines: vec![Box::default(); (pieces as usize).div_ceil(CHUNK_LINES)],
            vouchers: vec![None, None],
            signed: Vec::new(),
            signed_entries: 0,
        }
    }

    /// Whether every hash is known.
    pub fn is_complete(&self) -> bool {
        self.known.is_full()
    }

    /// Pieces whose hashes are known.
    pub fn known(&self) -> &PieceSet {
        &self.known
    }

    /// A run that covers all pieces whose hashes are not known.
    pub fn unlisted(&self) -> Run {
        let total = self.known.total();
        Run { first: self.known.first_missing(0).unwrap_or(total), end: total }
    }

    /// A hash, if it is known.
    pub fn get(&self, piece: u32) -> Option<PieceHash> {
        self.known.contains(piece).then(|| self.line(piece).hash)
    }

    /// The entries of some pieces that are known.
    pub fn entries(&self, pieces: impl Iterator<Item = u32>) -> Vec<Entry> {
        pieces.filter_map(|piece| self.get(piece).map(|hash| Entry { piece, hash })).collect()
    }

    /// Takes in a hash; tells whether that is news. A word counts more than those behind it in [`Via`], and of two that
    /// count the same the first stands.
    pub fn set(&mut self, entry: Entry, via: Via) -> bool {
        if entry.piece >= self.known.total() {
            return false;
        }
        let news = self.known.insert(entry.piece);
        let voucher = self.voucher(via);
        let line = self.line_mut(entry.piece);
        let better = !news && Self::rank(voucher) < Self::rank(line.via);
        if news || better {
            (line.hash, line.via) = (entry.hash, voucher);
        }
        news || better
    }

    /// Takes in what a home has signed; answers the entries that are news, and whether it is worth passing on. That it is also
    /// where this node has fetched the pieces itself, since its own word is none to others, but once: relays may be fed in a circle.
    pub fn take(&mut self, hashes: &Arc<Hashes>, via: Via) -> (Vec<Entry>, bool) {
        let rank = Self::rank(self.voucher(via));
        let mut own = false;
        for entry in &hashes.entries {
            if !self.known.contains(entry.piece) {
                continue;
            }
            let line = self.line_mut(entry.piece);
            if line.via == OWN && rank < line.passed {
                (line.passed, own) = (rank, true);
            }
        }
        let news: Vec<_> = hashes.entries.iter().copied().filter(|entry| self.set(*entry, via)).collect();
        let worth = own || !news.is_empty();
        let entries = self.signed_entries + hashes.entries.len();
        if worth && entries <= SIGNED_ENTRIES_PER_PIECE_MAX * self.known.total() as usize {
            self.signed.push(Arc::clone(hashes));
            self.signed_entries = entries;
        }
        (news, worth)
    }

    /// What homes have signed of these pieces, as it came, without what is in others of it.
    pub fn signed(&self, pieces: Run) -> Vec<Arc<Hashes>> {
        let mut told = PieceSet::new(self.known.total());
        let mut adds = |hashes: &Arc<Hashes>| {
            let of = hashes.entries.iter().filter(|entry| pieces.contains(entry.piece));
            of.filter(|entry| told.insert(entry.piece)).count() > 0
        };
        // What came last may have been signed to put something right.
        let mut signed: Vec<_> = self.signed.iter().rev().filter(|hashes| adds(hashes)).cloned().collect();
        signed.reverse();
        signed
    }

    /// Whether a piece with this hash, sent by `from`, is what it should be.
    pub fn judge(&self, piece: u32, hash: PieceHash, from: &PeerId) -> Verdict {
        match self.get(piece) {
            None => Verdict::Unknown,
            Some(_) if self.vouchers[usize::from(self.line(piece).via)] == Some(*from) => Verdict::Unknown,
            Some(known) if known == hash => Verdict::Right,
            Some(_) => Verdict::Wrong,
        }
    }

    /// Whether a hash is vouched for by the home that was joined, or by this node.
    pub fn is_trusted(&self, piece: u32) -> bool {
        self.known.contains(piece) && self.line(piece).via <= HOME
    }

    /// Who else vouches for another hash of this piece.
    pub fn contradicted(&self, entry: &Entry) -> Option<PeerId> {
        let differs = self.get(entry.piece).is_some_and(|hash| hash != entry.hash);
        differs.then(|| self.vouchers[usize::from(self.line(entry.piece).via)]).flatten()
    }

    /// Forgets what a member vouches for; answers the pieces.
    pub fn forget(&mut self, voucher: &PeerId) -> Vec<u32> {
        let Some(at) = self.vouchers.iter().position(|v| *v == Some(*voucher)) else { return Vec::new() };
        let of = |piece: &u32| self.known.contains(*piece) && usize::from(self.line(*piece).via) == at;
        let pieces: Vec<_> = (0..self.known.total()).filter(of).collect();
        pieces.iter().for_each(|piece| _ = self.known.remove(*piece));
        pieces
    }

    /// Forgets everything but what this node has taken itself.
    pub fn forget_others(&mut self) {
        for piece in 0..self.known.total() {
            if self.known.contains(piece) && self.line(piece).via != OWN {
                self.known.remove(piece);
            }
        }
        (self.signed, self.signed_entries) = (Vec::new(), 0);
        self.lines.iter_mut().flat_map(|lines| lines.iter_mut()).for_each(|line| line.passed = UNTOLD);
    }

    /// What is kept of a piece that is known.
    fn line(&self, piece: u32) -> &Line {
        let at = piece as usize;
        &self.lines[at / CHUNK_LINES][at % CHUNK_LINES]
    }

    /// The same of any piece of the blob.
    fn line_mut(&mut self, piece: u32) -> &mut Line {
        let (chunk, at) = (piece as usize / CHUNK_LINES, piece as usize % CHUNK_LINES);
        let lines = &mut self.lines[chunk];
        if lines.is_empty() {
            let behind = self.known.total() as usize - chunk * CHUNK_LINES;
            *lines = vec![Line::NOTHING; behind.min(CHUNK_LINES)].into_boxed_slice();
        }
        &mut lines[at]
    }

    /// What a voucher's word counts: the less, the more.
    fn rank(voucher: u8) -> u8 {
        voucher.min(HOME + 1)
    }

    fn voucher(&mut self, via: Via) -> u8 {
        let peer = match via {
            Via::Own => return OWN,
            Via::Home => return HOME,
            Via::Other(peer) => peer,
        };
        let at = self.vouchers.iter().position(|v| *v == Some(peer)).unwrap_or_else(|| {
            if self.vouchers.len() < VOUCHERS_MAX {
                self.vouchers.push(Some(peer));
            }
            // Beyond the bound the last names are mixed up; a piece is then asked of the home once more than needed.
            self.vouchers.len() - 1
        });
        at as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_vouches_for_its_own_pieces() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let (right, wrong) = (PieceHash([7; 32]), PieceHash([8; 32]));
        let entry = |piece, hash| Entry { piece, hash };
        let mut list = PieceList::new(4);
        assert_eq!(list.judge(0, right, &a), Verdict::Unknown, "nothing is known");
        assert!(list.set(entry(0, right), Via::Other(b)));
        assert_eq!(list.judge(0, right, &a), Verdict::Right);
        assert_eq!(list.judge(0, wrong, &a), Verdict::Wrong);
        assert_eq!(list.judge(0, right, &b), Verdict::Unknown, "the sender vouches for itself");
        assert!(!list.set(entry(0, wrong), Via::Other(a)), "the first word stands");
        assert!(list.set(entry(0, wrong), Via::Home), "unless the home speaks");
        assert_eq!(list.judge(0, right, &b), Verdict::Wrong);
        assert!(!list.set(entry(0, right), Via::Other(b)));
        assert!(!list.set(entry(4, right), Via::Home), "there is no such piece");
        assert!(list.set(entry(0, right), Via::Own), "its own eyes count most");
        assert!(!list.set(entry(0, wrong), Via::Home));
    }

    #[test]
    fn what_a_member_vouches_for_can_be_forgotten() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let entry = |piece, byte| Entry { piece, hash: PieceHash([byte; 32]) };
        let mut list = PieceList::new(4);
        let vias = [Via::Other(a), Via::Other(b), Via::Other(a), Via::Own];
        (0..4).zip(vias).for_each(|(piece, via)| _ = list.set(entry(piece, 7), via));
        assert_eq!(list.contradicted(&entry(0, 7)), None);
        assert_eq!(list.contradicted(&entry(0, 8)), Some(a));
        assert_eq!(list.contradicted(&entry(3, 8)), None, "nobody else");
        assert_eq!(list.forget(&a), [0, 2]);
        assert_eq!((list.get(0), list.get(1)), (None, Some(PieceHash([7; 32]))));
        list.forget_others();
        assert_eq!(list.entries(0..4), [entry(3, 7)]);
    }

    /// Whoever holds the secret can name blobs of the largest size.
    #[test]
    fn a_list_of_which_little_is_known_takes_little() {
        let pieces = crate::pieces::piece_count(crate::pieces::BLOB_BYTES_MAX) as u32;
        let hash = |piece: u32| PieceHash([piece as u8; 32]);
        let chunks = |list: &PieceList| list.lines.iter().filter(|lines| !lines.is_empty()).count();
        let mut list = PieceList::new(pieces);
        assert_eq!((list.get(0), list.get(pieces - 1), list.is_trusted(7)), (None, None, false));
        assert!(list.forget(&PeerId([1; 32])).is_empty());
        list.forget_others();
        assert_eq!(chunks(&list), 0, "who looks allocates nothing");
        let some = [0, 255, 256, pieces - 1];
        for piece in some {
            assert!(list.set(Entry { piece, hash: hash(piece) }, Via::Home));
        }
        assert!(!list.set(Entry { piece: pieces, hash: hash(0) }, Via::Home), "there is no such piece");
        assert!(some.iter().all(|piece| list.get(*piece) == Some(hash(*piece))));
        assert_eq!((list.get(1), chunks(&list)), (None, 3));
        let mut small = PieceList::new(300);
        (0..300).for_each(|piece| _ = small.set(Entry { piece, hash: hash(piece) }, Via::Home));
        let lines: Vec<_> = small.lines.iter().map(|lines| lines.len()).collect();
        assert_eq!((small.is_complete(), lines), (true, vec![256, 44]), "no more than there are pieces");
    }

    #[test]
    fn what_was_signed_is_passed_on_as_it_came_and_bounded() {
        let signed = |pieces: std::ops::Range<u32>, byte| {
            Arc::new(Hashes {
                digest: crate::Digest::new(crate::Algorithm::Sha256, &[5; 32]),
                home: PeerId([1; 32]),
                list: 1,
                entries: pieces.map(|piece| Entry { piece, hash: PieceHash([byte; 32]) }).collect(),
                signature: Default::default(),
            })
        };
        let mut list = PieceList::new(8);
        let (a, b, all) = (signed(0..2, 7), signed(2..4, 7), signed(0..8, 7));
        assert_eq!(list.take(&a, Via::Home), (a.entries.clone(), true));
        assert_eq!(list.take(&a, Via::Home), (Vec::new(), false));
        assert_eq!(list.take(&b, Via::Home), (b.entries.clone(), true));
        assert_eq!(list.signed(Run { first: 1, end: 3 }), [a.clone(), b.clone()]);
        assert_eq!(list.signed(Run { first: 2, end: 8 }), [b]);
        assert_eq!(list.take(&all, Via::Home), (all.entries[4..].to_vec(), true));
        assert_eq!(list.signed(Run { first: 0, end: 8 }), [all], "it says everything");
        // Of one piece each time, and all are sent along: no more than so many are kept.
        let mut list = PieceList::new(64);
        (0..64).for_each(|piece| _ = list.take(&signed(0..piece + 1, 7), Via::Home));
        assert!(list.signed_entries <= SIGNED_ENTRIES_PER_PIECE_MAX * 64);
        assert!(list.is_complete());
        let mut list = PieceList::new(8);
        let own = signed(0..1, 7);
        assert!(list.set(own.entries[0], Via::Own));
        assert_eq!(
            list.take(&own, Via::Other(PeerId([3; 32]))),
            (Vec::new(), true),
            "no news here, but to those below"
        );
        assert_eq!(list.take(&own, Via::Home), (Vec::new(), true), "and they believe this one more");
        for again in [Via::Home, Via::Other(PeerId([4; 32]))] {
            assert_eq!(list.take(&own, again), (Vec::new(), false), "they know");
        }
        assert_eq!(list.signed(Run { first: 0, end: 1 }), std::slice::from_ref(&own));
        list.forget_others();
        assert_eq!(list.take(&own, Via::Home), (Vec::new(), true), "of a new list");
    }
}
