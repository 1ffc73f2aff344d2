//! What the engines ask for, carried out. Every output has its arm: a new one does not compile until it has one here.

use shoal_engine::io::{Found, Outcome};
use shoal_engine::swarm::pieces::piece_bytes;
use shoal_engine::swarm::upload::Send;
use shoal_engine::{ByteRanges, Digest, Input, Output, PeerId};

use super::{Cargo, NodeId, STREAM_TIMEOUT, World, node_of};
use crate::queue::{Nanos, nanos};

/// Time of a look into a store's index.
const INDEX_LOOK: Nanos = 500_000;

impl World<'_> {
    pub(super) fn carry_out(&mut self, now: Nanos, node: NodeId, output: Output) {
        match output {
            Output::Look { digest } => self.look(node, digest),
            Output::Size { digest, .. } => self.request_size(now, node, digest),
            Output::Prepare { digest, .. } => {
                self.inbox.push_back((node, Input::Prepared { digest, result: Ok(()) }));
            }
            Output::Fetch { fetch, digest, start, end, .. } => {
                self.request(now, node, fetch, digest, start, end)
            }
            Output::Trim { fetch, end } => self.trim_request(now, node, fetch, end),
            Output::Cancel { fetch } => self.cancel_request(now, node, fetch),
            Output::Checkpoint { digest, have } => {
                let layer = self.by_digest[&digest];
                self.nodes[node].blobs[layer].saved = have;
                self.inbox.push_back((node, Input::Checkpointed { digest, result: Ok(()) }));
            }
            Output::Verify { digest } => self.verify(now, node, digest),
            Output::Commit { digest } => {
                let at = self.nodes[node].disk_until.max(now);
                let layer = self.by_digest[&digest];
                self.nodes[node].blobs[layer].stored = true;
                self.answer(at, node, Input::Committed { digest, result: Ok(()) });
                if self.scenario.clients.warm {
                    self.nodes[node].read_until = at;
                    self.layer_done(now, node, layer);
                }
            }
            Output::Shut { digest, keep } => {
                let blob = &mut self.nodes[node].blobs[self.by_digest[&digest]];
                blob.saved = keep.unwrap_or_default();
                blob.written = ByteRanges::new();
                blob.wrong.clear();
                (blob.hashed, blob.hashed_at, blob.verified) = (0, 0, false);
                self.inbox.push_back((node, Input::Shut { digest }));
            }
            Output::Tell { to, message } => {
                let to = node_of(&to);
                self.tell(now, node, to, message);
            }
            Output::Place { digest, piece, from } => self.place(now, node, digest, piece, &from),
            Output::Discard { digest, piece, from } => {
                let layer = self.by_digest[&digest];
                let bytes = piece_bytes(self.layers[layer].size, piece);
                self.nodes[node].aside.remove(&(layer as u16, piece, node_of(&from) as u32));
                self.nodes[node].outcome.wasted += bytes.end - bytes.start;
                self.count_received(node, node_of(&from), bytes.end - bytes.start);
            }
            Output::Upload(send) => self.upload(now, node, send),
            Output::Inspect { digest } => {
                let layer = self.by_digest[&digest];
                let size = self.nodes[node].blobs[layer].stored.then_some(self.layers[layer].size);
                self.inbox.push_back((node, Input::Inspected { digest, size }));
            }
            Output::List { digest } => self.list(now, node, digest),
            Output::Serve { ticket, size, .. } => self.serve(now, node, ticket, size),
            Output::Ready { ticket, to } => self.ready(now, node, ticket, to),
            Output::End { ticket, outcome } => self.end(now, node, ticket, outcome),
            // A warm set is done where its blobs are stored.
            Output::Keep { .. } | Output::Pace { .. } | Output::Warming { .. } | Output::Warmed { .. } => {}
        }
    }

    fn look(&mut self, node: NodeId, digest: Digest) {
        let layer = self.by_digest[&digest];
        let size = self.layers[layer].size;
        let blob = &mut self.nodes[node].blobs[layer];
        let found = match (blob.stored, blob.saved.is_empty()) {
            (true, _) => Found::Whole,
            (false, true) => Found::Absent,
            (false, false) => {
                blob.written = blob.saved.clone();
                Found::Partial { size, have: blob.saved.clone() }
            }
        };
        self.inbox.push_back((node, Input::Looked { digest, found }));
    }

    /// The digest is computed while bytes arrive, in order; what is left of it delays the verdict.
    fn verify(&mut self, now: Nanos, node: NodeId, digest: Digest) {
        let layer = self.by_digest[&digest];
        self.hash_on(now, node, layer);
        let blob = &mut self.nodes[node].blobs[layer];
        let right = blob.wrong.is_empty();
        blob.verified = right;
        let at = blob.hashed_at.max(now);
        self.answer(at, node, Input::Verified { digest, result: Ok(right) });
    }

    /// SHA-256 goes on as far as bytes are there without a gap.
    pub(super) fn hash_on(&mut self, now: Nanos, node: NodeId, layer: usize) {
        let speed = self.scenario.hash_speed;
        let blob = &mut self.nodes[node].blobs[layer];
        let to = blob.written.contiguous_end(blob.hashed);
        if to > blob.hashed {
            blob.hashed_at = blob.hashed_at.max(now) + nanos((to - blob.hashed) as f64 / speed);
            blob.hashed = to;
        }
    }

    fn place(&mut self, now: Nanos, node: NodeId, digest: Digest, piece: u32, from: &PeerId) {
        let layer = self.by_digest[&digest];
        let from = node_of(from);
        let bytes = piece_bytes(self.layers[layer].size, piece);
        match self.nodes[node].aside.remove(&(layer as u16, piece, from as u32)) {
            Some(true) => {}
            Some(false) => {
                self.violate(now, format!("node {node} keeps wrong bytes of piece {piece} from {from}"))
            }
            None => {
                self.violate(now, format!("node {node} keeps piece {piece} from {from}, which is not there"))
            }
        }
        self.write(now, node, layer, bytes.clone());
        self.count_received(node, from, bytes.end - bytes.start);
    }

    /// Bytes go to their place on disk.
    pub(super) fn write(&mut self, now: Nanos, node: NodeId, layer: usize, bytes: std::ops::Range<u64>) {
        let n = &mut self.nodes[node];
        let len = bytes.end - bytes.start;
        n.disk_until = n.disk_until.max(now) + nanos(len as f64 / self.scenario.disk_speed);
        n.blobs[layer].written.insert(bytes);
        self.hash_on(now, node, layer);
    }

    fn count_received(&mut self, node: NodeId, from: NodeId, bytes: u64) {
        let same_zone = self.nodes[from].links.zone == self.nodes[node].links.zone;
        let n = &mut self.nodes[node];
        *(if same_zone { &mut n.outcome.from_zone } else { &mut n.outcome.from_afar }) += bytes;
        *n.received_from.entry(from).or_default() += bytes;
    }

    fn upload(&mut self, now: Nanos, node: NodeId, send: Send) {
        let layer = self.by_digest[&send.digest];
        let bytes = piece_bytes(self.layers[layer].size, send.piece);
        let blob = &self.nodes[node].blobs[layer];
        if !blob.stored && !blob.written.contains(bytes.clone()) {
            self.violate(now, format!("node {node} sends piece {} that it does not have", send.piece));
        }
        let to = node_of(&send.to);
        self.log(now, node, || {
            format!(
                "uploads to {to} piece {} of {}, {} behind it",
                send.piece,
                send.digest.short(),
                send.backlog
            )
        });
        let gone = !self.nodes[to].is_up();
        if self.nodes[node].silent || gone || self.is_cut(node, to) {
            // The stream is given up after a while; one whose reader's process is gone at once.
            let pause = if gone { self.net.delay(node, to) * 2 } else { STREAM_TIMEOUT.as_nanos() as Nanos };
            return self.answer(now + pause, node, Input::Uploaded { upload: send.upload });
        }
        let cargo = Cargo::Piece {
            upload: send.upload,
            from_life: self.nodes[node].life,
            to_life: self.nodes[to].life,
            layer: layer as u16,
            piece: send.piece,
            backlog: send.backlog,
        };
        self.net.start(now, node, to, bytes.end - bytes.start, f64::INFINITY, cargo);
    }

    /// The store has the hashes beside the blob: one look into its index.
    fn list(&mut self, now: Nanos, node: NodeId, digest: Digest) {
        let layer = self.by_digest[&digest];
        let Some((size, pieces)) = self.nodes[node].blobs[layer]
            .stored
            .then_some((self.layers[layer].size, self.layers[layer].pieces))
        else {
            return self.inbox.push_back((node, Input::Listed { digest, found: None }));
        };
        let right = !self.nodes[node].lies;
        let hashes = (0..pieces).map(|piece| super::piece_hash(&digest, piece, right)).collect();
        self.answer(now + INDEX_LOOK, node, Input::Listed { digest, found: Some((size, hashes)) });
    }

    fn end(&mut self, now: Nanos, node: NodeId, ticket: shoal_engine::TicketId, outcome: Outcome) {
        let Some(layer) = self.nodes[node].blobs.iter().position(|b| b.ticket == Some(ticket)) else {
            return self.violate(now, format!("node {node}: {ticket:?} ends a second time"));
        };
        self.nodes[node].blobs[layer].ticket = None;
        self.trace(&[5, now, node as u64, layer as u64]);
        match outcome {
            Outcome::Delivered | Outcome::Stored => self.layer_done(now, node, layer),
            Outcome::PassThrough | Outcome::Unsatisfiable { .. } | Outcome::Failed(_) => {
                self.ticket_failed(now, node, outcome);
            }
        }
    }
}
