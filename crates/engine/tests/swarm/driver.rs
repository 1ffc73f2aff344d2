//! The driver of each node: carries out what its engine asks for. Every output has its arm.

use std::time::Duration;

use shoal_engine::io::Found;
use shoal_engine::limits::LISTED_AT_ONCE;
use shoal_engine::pieces::piece_count;
use shoal_engine::swarm::pieces::piece_bytes;
use shoal_engine::swarm::upload::Send;
use shoal_engine::wire::{self, Message, Refusal};
use shoal_engine::{ByteRanges, Digest, Input, Output, PeerId};

use crate::cluster::{BlobNo, Cluster, Event, NodeNo, check, hash, mix};
use crate::node::{Lie, Place};
use crate::outside::{BROKEN_AFTER, DIAL_TIMEOUT, STREAM_TIMEOUT};

/// Stands for a signature: nobody here makes one for another.
fn signature(signer: &PeerId, bytes: &[u8]) -> [u8; 64] {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for byte in signer.0.iter().chain(bytes) {
        hash = mix(hash ^ u64::from(*byte));
    }
    let mut signature = [0; 64];
    signature[..8].copy_from_slice(&hash.to_be_bytes());
    signature
}

impl Cluster {
    pub fn carry_out(&mut self, node: NodeNo, output: Output) {
        match output {
            Output::Pace { digest, pace } => {
                let blob = self.number(digest);
                let node = &mut self.nodes[node];
                match pace {
                    Some((_, pace)) => drop(node.paces.insert(blob, pace)),
                    None => drop(node.paces.remove(&blob)),
                }
            }
            // How far a set is, is tested where nothing moves.
            Output::Keep { .. } | Output::Warming { .. } | Output::Warmed { .. } => {}
            Output::Look { digest } => self.begin(node, digest, "look"),
            Output::Size { digest, .. } => self.begin(node, digest, "size"),
            Output::Prepare { digest, size } => {
                self.begin(node, digest, "prepare");
                let blob = self.number(digest);
                let disk = self.nodes[node].disk.entry(blob).or_default();
                disk.place = Some(Place { size, ..Place::default() });
            }
            Output::Fetch { fetch, digest, start, end, .. } => {
                self.begin_fetch(node, fetch, digest, start, end)
            }
            Output::Trim { fetch, end } => self.trim(node, fetch, end),
            Output::Cancel { fetch } => self.cancel(node, fetch),
            Output::Checkpoint { digest, have } => self.begin_checkpoint(node, digest, have),
            Output::Verify { digest } => self.begin(node, digest, "verify"),
            Output::Commit { digest } => self.begin(node, digest, "commit"),
            Output::Shut { digest, keep } => self.shut(node, digest, keep),
            Output::Tell { to, message } => self.tell(node, to, message),
            Output::Place { digest, piece, from } => self.place(node, digest, piece, from),
            Output::Discard { digest, piece, from } => {
                let blob = self.number(digest);
                let there = self.nodes[node].aside.remove(&(blob, piece, from)).is_some();
                check!(self, there, "I4: {node} throws piece {piece} away, which is not aside");
            }
            Output::Upload(send) => self.upload(node, send),
            Output::Inspect { digest } => {
                let blob = self.number(digest);
                let disk = self.nodes[node].disk.entry(blob).or_default();
                let twice = std::mem::replace(&mut disk.inspecting, true);
                check!(self, !twice, "I4: {node} looks for one blob twice at a time");
                self.answer_after_disk(node, blob, "inspect");
            }
            Output::List { digest } => {
                let blob = self.number(digest);
                let disk = self.nodes[node].disk.entry(blob).or_default();
                let twice = std::mem::replace(&mut disk.listing, true);
                check!(self, !twice, "I4: {node} takes one list twice at a time");
                disk.listed = 0;
                self.answer_after_disk(node, blob, "list");
            }
            Output::Serve { ticket, size, start, end } => self.serve(node, ticket, size, start..end),
            Output::Ready { ticket, to } => self.ready(node, ticket, to),
            Output::End { ticket, outcome } => self.end(node, ticket, outcome),
        }
    }

    // ---- the disk ----

    fn answer_after_disk(&mut self, node: NodeNo, blob: BlobNo, effect: &'static str) {
        let listing = if effect == "list" { self.pace.listing } else { Duration::ZERO };
        let (time, life) = (self.pace.disk + listing, self.nodes[node].life);
        self.schedule_about(time, Event::Answer(node, life, blob, effect));
    }

    /// An effect is asked for: is it the right moment?
    fn begin(&mut self, node: NodeNo, digest: Digest, effect: &'static str) {
        let blob = self.number(digest);
        let writes = self.nodes[node].transfers.values().filter(|t| t.blob == blob).count();
        let disk = self.nodes[node].disk.entry(blob).or_default();
        let before = disk.busy.replace(effect);
        let (open, saving) = (disk.place.is_some(), disk.checkpointing.is_some());
        let whole =
            disk.place.as_ref().is_some_and(|p| p.size.is_some_and(|size| p.written.contains(0..size)));
        let verified = disk.place.as_ref().is_some_and(|p| p.verified);
        check!(self, before.is_none(), "I4: {node}: {effect} while {before:?} is unanswered");
        check!(
            self,
            open == matches!(effect, "verify" | "commit" | "shut"),
            "{node}: {effect}, open: {open}"
        );
        check!(self, writes == 0 && !saving, "{node}: {effect} while bytes are written");
        check!(self, effect != "verify" || whole, "{node}: the verdict over a part is asked for");
        check!(self, effect != "commit" || verified, "I2: {node}: a commit of what is not verified");
        self.answer_after_disk(node, blob, effect);
    }

    fn begin_checkpoint(&mut self, node: NodeNo, digest: Digest, have: ByteRanges) {
        let blob = self.number(digest);
        let disk = self.nodes[node].disk.entry(blob).or_default();
        let idle = disk.busy.is_none() && disk.checkpointing.is_none();
        let there = disk.place.as_ref().is_some_and(|p| have.iter().all(|r| p.written.contains(r)));
        disk.checkpointing = Some(have);
        check!(self, idle, "I4: {node}: a checkpoint too many");
        check!(self, there, "{node}: a checkpoint vouches for more than there is");
        self.answer_after_disk(node, blob, "checkpoint");
    }

    fn shut(&mut self, node: NodeNo, digest: Digest, keep: Option<ByteRanges>) {
        self.begin(node, digest, "shut");
        let blob = self.number(digest);
        let disk = self.nodes[node].disk.entry(blob).or_default();
        let place = disk.place.take().expect("checked to be open");
        let there = keep.iter().flat_map(|k| k.iter()).all(|r| place.written.contains(r));
        disk.saved = keep.map(|have| (place.size.expect("kept with its size"), have, place.wrong));
        check!(self, there, "{node}: kept is more than was written");
    }

    pub fn answer(&mut self, node: NodeNo, blob: BlobNo, effect: &'static str) {
        let digest = self.blobs[blob].digest;
        let size = self.blobs[blob].size;
        if effect == "size" {
            return self.answer_size(node, blob);
        }
        let lies = self.nodes[node].lies.contains(&Lie::Report);
        let takes_hashes = !self.pace.listing.is_zero();
        let disk = self.nodes[node].disk.entry(blob).or_default();
        if !matches!(effect, "checkpoint" | "inspect" | "list") {
            disk.busy = None;
        }
        let input = match effect {
            "look" if disk.stored => Input::Looked { digest, found: Found::Whole },
            "look" => match disk.saved.clone() {
                None => Input::Looked { digest, found: Found::Absent },
                Some((size, have, wrong)) => {
                    let written = have.clone();
                    disk.place = Some(Place { size: Some(size), written, wrong, ..Place::default() });
                    Input::Looked { digest, found: Found::Partial { size, have } }
                }
            },
            "prepare" => Input::Prepared { digest, result: Ok(()) },
            "checkpoint" => {
                let have = disk.checkpointing.take().expect("under way");
                let place = disk.place.as_ref().expect("nothing is put down during a checkpoint");
                disk.saved = Some((place.size.expect("of a known size"), have, place.wrong.clone()));
                Input::Checkpointed { digest, result: Ok(()) }
            }
            "verify" => {
                let place = disk.place.as_mut().expect("open during the verdict");
                place.verified = place.wrong.is_empty() && place.size == Some(size);
                let right = place.verified;
                Input::Verified { digest, result: Ok(right) }
            }
            "commit" => {
                (disk.stored, disk.place, disk.saved) = (true, None, None);
                disk.commits += 1;
                Input::Committed { digest, result: Ok(()) }
            }
            "shut" => Input::Shut { digest },
            "inspect" => {
                disk.inspecting = false;
                Input::Inspected { digest, size: disk.stored.then_some(size) }
            }
            "list" => {
                if lies {
                    self.ledger.suspect(blob);
                }
                let hashes = (0..piece_count(size) as u32).map(|p| hash(blob, p, lies));
                let first = disk.listed;
                disk.listed += LISTED_AT_ONCE;
                disk.listing = takes_hashes && disk.stored && disk.listed < hashes.len();
                match disk.listing {
                    true => {
                        let hashes = hashes.skip(first).take(LISTED_AT_ONCE).collect();
                        Input::Listing { digest, first: first as u32, hashes }
                    }
                    false => Input::Listed { digest, found: disk.stored.then(|| (size, hashes.collect())) },
                }
            }
            other => unreachable!("{other}"),
        };
        if matches!(input, Input::Verified { result: Ok(false), .. }) {
            self.ledger.mismatched(blob);
        }
        if matches!(input, Input::Listing { .. }) {
            self.answer_after_disk(node, blob, "list");
        }
        self.input(node, input);
    }

    // ---- pieces ----

    fn place(&mut self, node: NodeNo, digest: Digest, piece: u32, from: PeerId) {
        let blob = self.number(digest);
        let Some(wrong) = self.nodes[node].aside.remove(&(blob, piece, from)) else {
            self.fail(&format!("I4: {node} keeps piece {piece} of {blob} from {from:?}, which is not aside"));
        };
        let suspect = self.ledger.is_list_suspect(blob);
        check!(self, !wrong || suspect, "I9: {node} keeps wrong bytes of piece {piece}");
        let disk = self.nodes[node].disk.entry(blob).or_default();
        let Some(place) = disk.place.as_mut() else {
            self.fail(&format!("{node} keeps piece {piece} of {blob}, and has no place for it"));
        };
        let bytes = piece_bytes(place.size.expect("of a known size"), piece);
        let twice = !place.placed.insert(piece);
        place.written.insert(bytes);
        if wrong {
            place.wrong.insert(piece);
        } else {
            place.wrong.remove(&piece);
        }
        check!(self, !twice, "{node} keeps piece {piece} of {blob} a second time");
    }

    fn upload(&mut self, node: NodeNo, send: Send) {
        let blob = self.number(send.digest);
        let to = self.node_of(&send.to);
        let bytes = piece_bytes(self.blobs[blob].size, send.piece);
        let n = &mut self.nodes[node];
        let fresh = n.uploads_seen.insert(send.upload);
        n.uploads.insert(send.upload, send.to);
        let disk = n.disk.entry(blob).or_default();
        let place = disk.place.as_ref();
        let there = disk.stored || place.is_some_and(|p| p.written.contains(bytes.clone()));
        let wrong = n.lies.contains(&Lie::Bytes) || place.is_some_and(|p| p.wrong.contains(&send.piece));
        let life = n.life;
        check!(self, fresh, "I4: {:?} is asked for twice", send.upload);
        check!(self, to != node, "{node} sends itself a piece");
        check!(self, there, "{node} sends piece {} of {blob}, which it does not have", send.piece);
        self.blobs[blob].sent += 1;
        let time = self.pace.delay.as_secs_f64() + (bytes.end - bytes.start) as f64 / self.pace.rate;
        let time = std::time::Duration::from_secs_f64(time);
        self.schedule_about(time, Event::Piece { from: node, life, to, send, wrong });
        self.schedule(STREAM_TIMEOUT, Event::Stuck(node, life, send));
    }

    /// A piece has come, or its stream has broken. The sender hears of it in any case, once.
    pub fn deliver_piece(&mut self, (from, life): (NodeNo, u32), to: NodeNo, send: Send, wrong: bool) {
        let sender_lives = self.nodes[from].life == life;
        if !sender_lives {
            return;
        }
        // The stream runs over the sender's port.
        let sends = !self.nodes[from].walled && !self.nodes[from].mute;
        if self.are_connected(from, to) && self.nodes[to].is_up() && sends {
            let blob = self.number(send.digest);
            let (from, piece) = (self.nodes[from].peer(), send.piece);
            self.nodes[to].aside.insert((blob, piece, from), wrong);
            let (digest, backlog) = (send.digest, send.backlog);
            self.input(to, Input::Arrived { from, digest, piece, hash: hash(blob, piece, wrong), backlog });
        }
        self.uploaded(from, send);
    }

    pub fn uploaded(&mut self, from: NodeNo, send: Send) {
        if self.nodes[from].uploads.remove(&send.upload).is_some() {
            self.input(from, Input::Uploaded { upload: send.upload });
        }
    }

    // ---- messages ----

    fn tell(&mut self, node: NodeNo, to: PeerId, message: Message) {
        let frame = message.encode();
        let read = Message::decode(&frame);
        check!(self, read.is_ok_and(|m| m == message), "{message:?} is not read as it was written");
        let to = self.node_of(&to);
        check!(self, to != node, "{node} speaks with itself: {message:?}");
        if let Message::Whole { digest, .. } = &message {
            let blob = self.number(*digest);
            check!(self, self.has_stored(node, blob), "I2: {node} calls {blob} whole");
        }
        if let Message::Announce { blobs } = &message {
            let vain = blobs.iter().find(|(digest, _)| !self.knows_stored(node, *digest));
            check!(self, vain.is_none(), "I2: {node} announces {vain:?}");
        }
        self.ledger.told(node, &message);
        let mut message = self.distort(node, message);
        let me = self.nodes[node].peer();
        wire::seal(&mut message, &me, |bytes| signature(&me, bytes));
        if matches!(message, Message::Subscribe { .. }) && self.nodes[to].walled {
            return self.dial_in_vain(node, to);
        }
        if let Message::Subscribe { digest, class, .. } = message
            && self.nodes[to].refuses
        {
            return self.send(to, node, Message::Refuse { digest, class, reason: Refusal::Busy });
        }
        self.send(node, to, message);
    }

    /// The first attempts take their time, and later ones know.
    fn dial_in_vain(&mut self, node: NodeNo, to: NodeNo) {
        let (peer, life, now) = (self.nodes[to].peer(), self.nodes[node].life, self.now);
        let known_at = *self.nodes[node].dialled.entry(peer).or_insert(now + DIAL_TIMEOUT);
        let after = known_at - now;
        self.schedule(after, Event::Tell(node, life, Input::PortClosed { peer }));
    }

    /// Whether the store has, or has had, the blob: announcements are gathered, and may be late.
    fn knows_stored(&self, node: NodeNo, digest: Digest) -> bool {
        let disk = self.nodes[node].disk.get(&self.number(digest));
        disk.is_some_and(|d| d.stored || d.commits > 0)
    }

    pub fn deliver(&mut self, from: NodeNo, life: u32, to: NodeNo, message: Message) {
        let (a, b) = (self.nodes[from].peer(), self.nodes[to].peer());
        if self.are_connected(from, to) && self.nodes[to].is_up() {
            let genuine = wire::check(&message, |home, bytes, s| signature(home, bytes) == *s);
            // It may have stopped to lie since it sent this.
            let lies = self.ledger.has_lied_of_hashes(from);
            check!(self, genuine.is_ok() || lies, "{from} passes on what is not signed: {message:?}");
            if self.nodes[from].life == life && genuine.is_ok() {
                self.input(to, Input::Heard { from: a, message });
            }
            return;
        }
        // The connection breaks, for both sides.
        self.ledger.lost_message(to, &message);
        for (node, peer) in [(from, b), (to, a)] {
            let life = self.nodes[node].life;
            self.schedule(BROKEN_AFTER, Event::Tell(node, life, Input::PeerLost { peer }));
        }
    }
}
