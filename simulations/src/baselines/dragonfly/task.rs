//! One layer and its peers.
//!
//! Invariant: whoever is among a peer's parents has that peer among its children, and the other way round; what a peer
//! has it has asked for.

use rand::Rng;

use crate::net::Place;
use crate::queue::Nanos;

use super::super::pieces::Pieces;
use super::super::world::World;

/// Smallest piece.
const PIECE_MIN: u64 = 4 << 20;
/// Largest piece.
const PIECE_MAX: u64 = 64 << 20;
/// Pieces are doubled until there are at most so many, as long as they may grow.
const PIECES_WANTED: u64 = 500;

/// Where a peer stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// The scheduler has not heard of it.
    #[default]
    New,
    /// It is about to.
    Registers,
    /// It has no parents for it.
    Waits,
    /// It has parents.
    Fed,
    /// It fetches from the registry.
    Source,
    /// It has everything.
    Done,
}

/// A node's part in a task.
#[derive(Clone, Default)]
pub(super) struct Peer {
    pub state: State,
    pub parents: Vec<Place>,
    pub children: Vec<Place>,
    pub have: Pieces,
    /// What it has, and what is on the way to it.
    pub asked: Pieces,
    /// What it knows a parent to have.
    pub heard: Pieces,
    /// What it may fetch.
    pub ready: Pieces,
    pub on_the_way: u32,
    /// Attempts of the scheduler without a parent.
    pub tries: u32,
    /// Pieces that it has without a gap.
    pub frontier: u32,
    /// When it last stored a piece, or was given parents.
    pub progressed: Nanos,
    /// Whether a client reads it.
    pub is_read: bool,
    /// Whether it waits for the registry to come back.
    pub is_paused: bool,
    pub is_watched: bool,
}

impl Peer {
    /// One that has nothing.
    fn new(pieces: u32) -> Peer {
        let none = Pieces::none(pieces);
        let (asked, heard, ready) = (none.clone(), none.clone(), none.clone());
        Peer { have: none, asked, heard, ready, ..Peer::default() }
    }

    /// A piece is asked for.
    pub fn begin(&mut self, piece: u32) {
        self.asked.insert(piece);
        self.on_the_way += 1;
    }

    /// The first piece that nobody has been asked for.
    pub fn first_missing(&self, pieces: u32) -> Option<u32> {
        let word = (0..self.asked.words()).find(|word| self.asked.word(*word) != u64::MAX)?;
        let piece = word as u32 * 64 + self.asked.word(word).trailing_ones();
        (piece < pieces).then_some(piece)
    }
}

/// A layer.
pub(super) struct Task {
    pub size: u64,
    piece: u64,
    pub pieces: u32,
    pub peers: Vec<Peer>,
    /// The peer that is the seed: the last one.
    pub seed: Place,
    /// Whom the scheduler knows.
    pub registered: Vec<Place>,
    /// Peers that it has sent to the registry.
    pub sources: usize,
    /// Whether the seed has been told.
    pub is_seeded: bool,
}

impl Task {
    /// The first `holders` have everything and, if there are any, so has the seed.
    pub fn new(size: u64, seed: Place, holders: usize) -> Task {
        let piece = piece_length(size);
        let pieces = size.div_ceil(piece) as u32;
        let mut peers = vec![Peer::new(pieces); seed + 1];
        let registered: Vec<Place> =
            if holders > 0 { (0..holders).chain([seed]).collect() } else { Vec::new() };
        for holder in &registered {
            let holder = &mut peers[*holder];
            holder.state = State::Done;
            (holder.have, holder.asked) = (Pieces::all(pieces), Pieces::all(pieces));
        }
        Task { size, piece, pieces, peers, seed, registered, sources: 0, is_seeded: holders > 0 }
    }

    /// Bytes of a piece.
    pub fn bytes_of(&self, piece: u32) -> u64 {
        self.piece.min(self.size - u64::from(piece) * self.piece)
    }

    /// Pieces whose last byte is among the bytes from `before` up to `total`.
    pub fn ended(&self, before: u64, total: u64) -> std::ops::Range<u32> {
        let ended = |bytes: u64| if bytes == self.size { self.pieces } else { (bytes / self.piece) as u32 };
        ended(before)..ended(total)
    }

    /// What the parents of a peer have together.
    pub fn offered(&self, node: Place) -> Vec<u32> {
        let parents = &self.peers[node].parents;
        (0..self.pieces).filter(|piece| parents.iter().any(|at| self.peers[*at].have.has(*piece))).collect()
    }

    /// The first piece that a peer may fetch, and one of the parents that have it.
    pub fn choose<T>(&self, world: &mut World<T>, node: Place) -> Option<(u32, Place)> {
        let peer = &self.peers[node];
        let has = |parent: Place, word: usize| self.peers[parent].have.word(word);
        let piece = (0..peer.asked.words()).find_map(|word| {
            let offered = peer.parents.iter().fold(0, |all, parent| all | has(*parent, word));
            let wanted = offered & peer.ready.word(word) & !peer.asked.word(word);
            (wanted != 0).then(|| word as u32 * 64 + wanted.trailing_zeros())
        })?;
        let able = || peer.parents.iter().filter(|parent| self.peers[**parent].have.has(piece));
        let chosen = world.rng.random_range(0..able().count());
        able().nth(chosen).map(|parent| (piece, *parent))
    }

    /// Bytes that a peer has from the beginning on, without a gap.
    pub fn in_order(&self, node: Place) -> u64 {
        (u64::from(self.peers[node].frontier) * self.piece).min(self.size)
    }

    /// Moves the frontier over what is there. Answers how many bytes it has passed.
    pub fn advance(&mut self, node: Place) -> u64 {
        let before = self.in_order(node);
        let peer = &mut self.peers[node];
        while peer.frontier < self.pieces && peer.have.has(peer.frontier) {
            peer.frontier += 1;
        }
        self.in_order(node) - before
    }

    /// A peer gives up its parents.
    pub fn leave_parents(&mut self, node: Place) {
        for parent in std::mem::take(&mut self.peers[node].parents) {
            self.peers[parent].children.retain(|child| *child != node);
        }
    }

    /// A peer is gone with all it had. Answers its children.
    pub fn forget(&mut self, node: Place) -> Vec<Place> {
        self.leave_parents(node);
        self.registered.retain(|peer| *peer != node);
        let children = std::mem::replace(&mut self.peers[node], Peer::new(self.pieces)).children;
        for child in &children {
            self.peers[*child].parents.retain(|parent| *parent != node);
        }
        children
    }
}

/// Bytes of a layer's pieces: a power of two that grows with the layer.
fn piece_length(size: u64) -> u64 {
    size.div_ceil(PIECES_WANTED).next_power_of_two().clamp(PIECE_MIN, PIECE_MAX)
}

#[cfg(test)]
mod tests {
    use super::{Task, piece_length};

    #[test]
    fn pieces_grow_with_the_layer() {
        let table =
            [(1, 4), (1 << 30, 4), (2_000 << 20, 4), (2_001 << 20, 8), (10 << 30, 32), (90 << 30, 64)];
        for (size, mib) in table {
            assert_eq!(piece_length(size), mib << 20, "{size}");
        }
    }

    #[test]
    fn the_last_piece_is_what_is_left() {
        let task = Task::new((9 << 20) + 5, 0, 0);
        assert_eq!((task.pieces, task.bytes_of(0), task.bytes_of(2)), (3, 4 << 20, (1 << 20) + 5));
        assert_eq!(task.ended(0, 8 << 20), 0..2);
        assert_eq!(task.ended(8 << 20, (9 << 20) + 5), 2..3);
        assert_eq!(task.ended(0, (4 << 20) - 1), 0..0);
    }
}
