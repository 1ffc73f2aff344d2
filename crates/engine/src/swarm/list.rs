//! The list of piece hashes of one blob, with where each hash came from.
//!
//! Question: may a piece that came from a member be given to a client or to another member? Answer: if its hash is in
//! the list, and the list's entry did not come from the sender of the piece itself. Hashes are taken by the member that
//! fetched a span upstream, go to the home, and from there down the trees; see [`Message::Hashes`]. Prevents: a member
//! that vouches for its own wrong bytes.
//!
//! [`Message::Hashes`]: crate::wire::Message::Hashes

use crate::limits::RELAYS_MAX;
use crate::peer::PeerId;
use crate::swarm::pieces::PieceSet;
use crate::wire::{Entry, PieceHash, Run};

/// Where a hash came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// This node has taken it, or the home has sent it.
    Trusted,
    /// A member that relays.
    Relay(PeerId),
}

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

/// See the module's head.
#[derive(Clone, Debug)]
pub struct PieceList {
    known: PieceSet,
    hashes: Vec<PieceHash>,
    /// For each hash, an index into `relays`.
    via: Vec<u8>,
    /// The first stands for what is trusted.
    relays: Vec<Option<PeerId>>,
}

impl PieceList {
    /// A list of which nothing is known.
    pub fn new(pieces: u32) -> Self {
        PieceList {
            known: PieceSet::new(pieces),
            hashes: vec![PieceHash([0; 32]); pieces as usize],
            via: vec![0; pieces as usize],
            relays: vec![None],
        }
    }

    /// Whether every hash is known.
    pub fn is_complete(&self) -> bool {
        self.known.is_full()
    }

    /// A run that covers all pieces whose hashes are not known.
    pub fn unlisted(&self) -> Run {
        let total = self.known.total();
        Run { first: self.known.first_missing(0).unwrap_or(total), end: total }
    }

    /// A hash, if it is known.
    pub fn get(&self, piece: u32) -> Option<PieceHash> {
        self.known.contains(piece).then(|| self.hashes[piece as usize])
    }

    /// The entries of some pieces that are known.
    pub fn entries(&self, pieces: impl Iterator<Item = u32>) -> Vec<Entry> {
        pieces.filter_map(|piece| self.get(piece).map(|hash| Entry { piece, hash })).collect()
    }

    /// Takes in a hash; tells whether that is news. What is trusted is never replaced by what a member relays.
    pub fn set(&mut self, entry: Entry, via: Via) -> bool {
        if entry.piece >= self.known.total() {
            return false;
        }
        let at = entry.piece as usize;
        let news = self.known.insert(entry.piece);
        let better = via == Via::Trusted && self.via[at] != 0;
        if news || better {
            self.hashes[at] = entry.hash;
            self.via[at] = self.relay(via);
        }
        news || better
    }

    /// Whether a piece with this hash, sent by `from`, is what it should be.
    pub fn judge(&self, piece: u32, hash: PieceHash, from: &PeerId) -> Verdict {
        match self.get(piece) {
            None => Verdict::Unknown,
            Some(_) if self.relays[usize::from(self.via[piece as usize])] == Some(*from) => Verdict::Unknown,
            Some(known) if known == hash => Verdict::Right,
            Some(_) => Verdict::Wrong,
        }
    }

    /// Whether a hash is vouched for by the home or by this node.
    pub fn is_trusted(&self, piece: u32) -> bool {
        self.known.contains(piece) && self.via[piece as usize] == 0
    }

    fn relay(&mut self, via: Via) -> u8 {
        let Via::Relay(peer) = via else { return 0 };
        let at = self.relays.iter().position(|r| *r == Some(peer)).unwrap_or_else(|| {
            if self.relays.len() < RELAYS_MAX {
                self.relays.push(Some(peer));
            }
            // Beyond the bound the oldest names are mixed up; a piece is then asked of the home once more than needed.
            self.relays.len() - 1
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
        assert!(list.set(entry(0, right), Via::Relay(b)));
        assert_eq!(list.judge(0, right, &a), Verdict::Right);
        assert_eq!(list.judge(0, wrong, &a), Verdict::Wrong);
        assert_eq!(list.judge(0, right, &b), Verdict::Unknown, "the sender relayed the hash");
        assert!(!list.set(entry(0, wrong), Via::Relay(a)), "the first word stands");
        assert!(list.set(entry(0, wrong), Via::Trusted), "unless the home speaks");
        assert_eq!(list.judge(0, right, &b), Verdict::Wrong);
        assert!(!list.set(entry(0, right), Via::Relay(b)));
        assert!(!list.set(entry(4, right), Via::Trusted), "there is no such piece");
    }
}
