//! One layer, its peers and the connections between them.
//!
//! Invariant: a connection is in the books of both of its ends, or of none; a piece that was asked for over a connection
//! may be asked for again once the connection is gone.

use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::StdRng;

use crate::net::Place;
use crate::queue::Nanos;

use super::super::pieces::{Pieces, bits};

/// Bytes of a piece.
const PIECE: u64 = 4 << 20;

/// One end of a connection.
#[derive(Clone)]
pub(super) struct Conn {
    /// The other end.
    pub with: Place,
    /// What this end has asked for over it, and when.
    pub asked: Vec<(u32, Nanos)>,
    /// What the other end has asked for and is not being sent yet.
    pub queue: VecDeque<u32>,
    /// Whether this end sends a piece right now: one after the other.
    pub is_sending: bool,
}

/// A place's part in a torrent.
#[derive(Clone, Default)]
pub(super) struct Peer {
    pub have: Pieces,
    /// What it has, and what it has asked for.
    pub asked: Pieces,
    /// What has arrived; a piece that is there is not written again.
    pub arrived: Pieces,
    /// How many neighbours have each piece; empty where nothing is chosen.
    pub counts: Vec<u16>,
    pub conns: Vec<Conn>,
    /// Who has turned it away, and until when they are left alone.
    pub shunned: Vec<(Place, Nanos)>,
    pub is_active: bool,
}

impl Peer {
    /// One that has everything.
    pub fn complete(pieces: u32) -> Peer {
        let all = Pieces::all(pieces);
        Peer { have: all.clone(), asked: all.clone(), arrived: all, is_active: true, ..Peer::default() }
    }

    /// Which of its connections leads to a place.
    pub fn conn(&self, with: Place) -> Option<usize> {
        self.conns.iter().position(|conn| conn.with == with)
    }

    /// Its process has ended; what is on its disk stays.
    pub fn stop(&mut self) {
        self.is_active = false;
        self.asked = self.have.clone();
        self.arrived = self.have.clone();
        self.counts = Vec::new();
        self.shunned = Vec::new();
    }
}

/// A layer.
pub(super) struct Torrent {
    pub size: u64,
    pub pieces: u32,
    pub peers: Vec<Peer>,
    /// Agents that the tracker knows.
    pub announced: Vec<Place>,
    /// Origins that have it.
    pub seeds: Vec<Place>,
    /// Whether an origin has been told to fetch it.
    pub is_fetched: bool,
}

impl Torrent {
    /// Nobody has anything.
    pub fn new(size: u64, places: usize) -> Torrent {
        let pieces = size.div_ceil(PIECE) as u32;
        let none = Pieces::none(pieces);
        let peer = Peer { have: none.clone(), asked: none.clone(), arrived: none, ..Peer::default() };
        Torrent {
            size,
            pieces,
            peers: vec![peer; places],
            announced: Vec::new(),
            seeds: Vec::new(),
            is_fetched: false,
        }
    }

    /// Bytes of a piece.
    pub fn bytes_of(&self, piece: u32) -> u64 {
        PIECE.min(self.size - u64::from(piece) * PIECE)
    }

    /// Whether a place has all pieces.
    pub fn is_complete(&self, place: Place) -> bool {
        self.peers[place].have.len() == self.pieces
    }

    /// Whether a place takes part and lacks something.
    pub fn is_downloading(&self, place: Place) -> bool {
        self.peers[place].is_active && !self.is_complete(place)
    }

    /// Opens a connection; each end learns what the other one has.
    pub fn connect(&mut self, one: Place, other: Place) {
        for (end, with) in [(one, other), (other, one)] {
            let conn = Conn { with, asked: Vec::new(), queue: VecDeque::new(), is_sending: false };
            self.peers[end].conns.push(conn);
            self.count(end, with, |count| count + 1);
        }
    }

    /// Closes a connection.
    pub fn disconnect(&mut self, one: Place, other: Place) {
        for (end, with) in [(one, other), (other, one)] {
            let peer = &mut self.peers[end];
            let Some(at) = peer.conn(with) else { continue };
            for (piece, _) in peer.conns.remove(at).asked {
                if !peer.have.has(piece) {
                    peer.asked.remove(piece);
                }
            }
            // A piece whose announcement is under way was not counted yet.
            self.count(end, with, |count| count.saturating_sub(1));
        }
    }

    fn count(&mut self, place: Place, with: Place, change: impl Fn(u16) -> u16) {
        let mut counts = std::mem::take(&mut self.peers[place].counts);
        if !counts.is_empty() {
            for piece in self.peers[with].have.iter() {
                counts[piece as usize] = change(counts[piece as usize]);
            }
        }
        self.peers[place].counts = counts;
    }

    /// The piece to ask for over a connection: the rarest that the other end has, one of them at random; when few are
    /// missing, also one that has been asked of others.
    pub fn choose(&self, rng: &mut StdRng, place: Place, at: usize, endgame: u32) -> Option<u32> {
        let peer = &self.peers[place];
        let conn = &peer.conns[at];
        let there = &self.peers[conn.with].have;
        let words = there.words();
        let begin = rng.random_range(0..words.max(1));
        let mut best: Option<(u16, u32)> = None;
        for word in (begin..words).chain(0..begin) {
            let wanted = there.word(word) & !peer.asked.word(word);
            // Within a word, too, the search begins anywhere.
            let turn = if wanted == 0 { 0 } else { rng.random_range(0..64) };
            for bit in bits(wanted.rotate_right(turn)) {
                let piece = word as u32 * 64 + (bit + turn) % 64;
                let count = peer.counts[piece as usize];
                if best.is_none_or(|(rarest, _)| count < rarest) {
                    best = Some((count, piece));
                }
            }
        }
        if best.is_none() && self.pieces - peer.have.len() <= endgame {
            let mut missing = there.iter().filter(|piece| !peer.have.has(*piece));
            return missing.find(|piece| !conn.asked.iter().any(|(asked, _)| asked == piece));
        }
        best.map(|(_, piece)| piece)
    }

    /// Gives up requests made before a moment. Answers whether there were any.
    pub fn expire(&mut self, place: Place, before: Nanos) -> bool {
        let peer = &mut self.peers[place];
        let mut expired = Vec::new();
        for conn in &mut peer.conns {
            conn.asked.retain(|(piece, at)| {
                let is_late = *at < before;
                if is_late {
                    expired.push(*piece);
                }
                !is_late
            });
        }
        for piece in &expired {
            if !peer.have.has(*piece) {
                peer.asked.remove(*piece);
            }
        }
        !expired.is_empty()
    }
}
