//! Messages and pieces on their way.

use shoal_engine::wire::{self, Message};
use shoal_engine::{Input, PeerId};

use super::{Cargo, Happening, NodeId, World, piece_hash};
use crate::net::{Arrived, Place};
use crate::queue::{Nanos, nanos};

/// Stands for a member's signature: as long, and quick, because nobody here tries to forge one.
fn signature(signer: &PeerId, bytes: &[u8]) -> [u8; 64] {
    let words = signer.0.chunks(8).chain(bytes.chunks(8)).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let hash = words.fold(0xcbf2_9ce4_8422_2325, |hash: u64, word| {
        (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    let mut signature = [0; 64];
    signature[..8].copy_from_slice(&hash.to_le_bytes());
    signature
}

impl World<'_> {
    pub(super) fn tell(&mut self, now: Nanos, from: NodeId, to: NodeId, mut message: Message) {
        wire::seal(&mut message, &self.nodes[from].peer(), |bytes| {
            signature(&self.nodes[from].peer(), bytes)
        });
        let len = message.encoded_len() as u64;
        self.log(now, from, || format!("tells {to} {message:?}"));
        let node = &mut self.nodes[from];
        node.outcome.control += len;
        // Messages go out one after another, beside the pieces.
        let begins = node.control_until.max(now);
        node.control_until = begins + nanos(len as f64 / node.links.up);
        let sent = node.control_until;
        node.peers.insert(to);
        self.nodes[to].peers.insert(from);
        self.trace(&[2, now, from as u64, to as u64, len]);
        if self.is_cut(from, to) {
            return;
        }
        let cost = match message {
            // Closing a stream follows its opening.
            Message::Subscribe { .. } | Message::Unsubscribe { .. } => nanos(self.scenario.request_cost),
            _ => 0,
        };
        let at = sent + self.net.delay(from, to) + cost;
        let to_life = self.nodes[to].life;
        self.queue.plan(at, Happening::Message { from, to, to_life, message: Box::new(message) });
    }

    pub(super) fn deliver(&mut self, now: Nanos, from: NodeId, to: NodeId, message: Message) {
        let peer = self.nodes[from].peer();
        if let Err(forged) = wire::check(&message, |home, bytes, made| signature(home, bytes) == *made) {
            return self.violate(now, format!("node {from} passes on {forged}"));
        }
        match message {
            Message::Swim(bytes) => self.hear_membership(now, to, peer, bytes),
            message => self.input(now, to, Input::Heard { from: peer, message }),
        }
    }

    pub(super) fn lose_peer(&mut self, now: Nanos, node: NodeId, lost: NodeId) {
        let peer = self.nodes[lost].peer();
        self.lose_member(now, node, peer);
        self.input(now, node, Input::PeerLost { peer });
    }

    pub(super) fn arrive(&mut self, now: Nanos, arrived: Arrived<Cargo>) {
        match arrived.tag {
            Cargo::Body { request } => self.arrive_from_origin(now, request, arrived.total, arrived.done),
            Cargo::Piece { .. } if !arrived.done => {}
            Cargo::Piece { upload, from_life, to_life, layer, piece, backlog } => {
                let (from, to) = (arrived.from, arrived.to);
                if self.nodes[from].life == from_life && self.nodes[from].is_up() {
                    self.nodes[from].outcome.sent += arrived.total;
                    self.input(now, from, Input::Uploaded { upload });
                }
                if self.nodes[to].life == to_life && self.nodes[to].is_up() {
                    let right = !self.nodes[from].lies;
                    self.take_piece(now, (from, to), usize::from(layer), piece, right, backlog);
                }
            }
        }
    }

    fn take_piece(
        &mut self,
        now: Nanos,
        (from, to): (NodeId, NodeId),
        layer: usize,
        piece: u32,
        right: bool,
        backlog: u32,
    ) {
        let digest = self.layers[layer].digest;
        self.trace(&[3, now, from as u64, to as u64, u64::from(piece)]);
        let hash = piece_hash(&digest, piece, right);
        let peer = self.nodes[from].peer();
        self.nodes[to].aside.insert((layer as u16, piece, from as u32), right);
        self.input(now, to, Input::Arrived { from: peer, digest, piece, hash, backlog });
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        let (a, b) = (self.nodes[from].links.zone, self.nodes[to].links.zone);
        self.cut[a][b]
    }

    pub(super) fn origin_place(&self) -> Place {
        self.scenario.nodes
    }
}
