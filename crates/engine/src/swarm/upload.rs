//! Uploads: which piece goes to whom next.
//!
//! Question: of all that other members wait for, what does this node send now? Answer: subscriptions that have a piece
//! waiting take turns, one piece each, in the order in which they became ready; a member never has more than
//! [`UPLOADS_PER_PEER_MAX`] pieces on the way, and the node sends [`UPLOADS_MAX`] at a time. A few at full speed leave
//! sooner than many at a trickle, and a slow reader holds its own places and nobody else's: readers that take several
//! times as long as the others do not count against the bound. Prevents: queues in front of fresh pieces, and one slow
//! member that slows its siblings.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::ids::Digest;
use crate::limits::{
    FEED_SILENCE_MAX, SLOW_READER_FACTOR, SUBSCRIPTIONS_MAX, UPLOADS_DOUBTED_MAX, UPLOADS_MAX,
    UPLOADS_PER_PEER_MAX, UPLOADS_TO_SLOW_MAX,
};
use crate::peer::PeerId;
use crate::swarm::classes::{RELAY, class_of};
use crate::swarm::pieces::PieceSet;
use crate::time::Time;
use crate::wire::Run;

/// One piece on its way to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct UploadId(pub u64);

/// Something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode)]
pub struct Send {
    /// New name of it.
    pub upload: UploadId,
    /// To whom.
    pub to: PeerId,
    /// Of which blob.
    pub digest: Digest,
    /// On the stream of which class.
    pub class: u8,
    /// Which piece.
    pub piece: u32,
    /// Pieces that wait behind it on that stream.
    pub backlog: u32,
}

type SubId = usize;

/// A member, and whether it is about what it takes slowly on purpose.
type ReaderKey = (PeerId, bool);

struct Sub {
    to: PeerId,
    digest: Digest,
    class: u8,
    classes: u8,
    wanted: Vec<Run>,
    waiting: VecDeque<u32>,
    /// Pieces that have been sent or wait, counted within the class: none is sent twice.
    offered: PieceSet,
    /// Pieces that are still to be sent.
    left: u32,
    /// Whether it stands in a queue.
    queued: bool,
    /// Whether its reader takes it slowly on purpose.
    held: bool,
}

impl Sub {
    fn offer(&mut self, piece: u32) {
        if self.offered.insert(piece / u32::from(self.classes)) {
            self.waiting.push_back(piece);
        }
    }
}

#[derive(Default)]
struct Reader {
    on_the_way: usize,
    /// Smoothed time from the start of a piece to its end, seconds; 0 until the first has ended.
    takes: f64,
    /// Subscriptions that are ready and have to wait for a place of this reader.
    held: VecDeque<SubId>,
}

struct OnTheWay {
    to: ReaderKey,
    stream: (Digest, u8),
    since: Time,
    slow: bool,
    /// Its reader has opened the stream anew and does not take this piece any more: it has a place of nobody's.
    left_behind: bool,
}

/// See the module's head.
#[derive(Default)]
pub struct Uploads {
    subs: Vec<Option<Sub>>,
    free: Vec<SubId>,
    by_blob: BTreeMap<Digest, Vec<SubId>>,
    /// By their names, and apart what they take slowly on purpose.
    readers: BTreeMap<ReaderKey, Reader>,
    ready: VecDeque<SubId>,
    on_the_way: BTreeMap<UploadId, OnTheWay>,
    fast: usize,
    slow: usize,
    left_behind: usize,
    next: u64,
    /// Smoothed time of the quickest reader, seconds.
    quickest: f64,
}

impl Uploads {
    /// Subscriptions that are open.
    pub fn len(&self) -> usize {
        self.subs.len() - self.free.len()
    }

    /// Whether nobody waits for anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a subscription can be served: one more, or in the place of the same member's.
    pub fn has_room(&self, to: &PeerId, digest: &Digest, class: u8) -> bool {
        self.len() < SUBSCRIPTIONS_MAX || self.find(to, digest, class).is_some()
    }

    /// Whether somebody subscribes to a blob.
    pub fn serves(&self, digest: &Digest) -> bool {
        self.by_blob.get(digest).is_some_and(|subs| !subs.is_empty())
    }

    /// Pieces of a blob that wait for their turn, over all streams.
    pub fn waiting(&self, digest: &Digest) -> u32 {
        let subs = self.by_blob.get(digest).into_iter().flatten();
        subs.filter_map(|id| self.subs[*id].as_ref()).map(|sub| sub.waiting.len() as u32).sum()
    }

    /// Opens a stream, or replaces it. `available` says which pieces can be sent at once, ascending.
    pub fn subscribe(
        &mut self,
        to: PeerId,
        digest: Digest,
        class: u8,
        classes: u8,
        wanted: Vec<Run>,
        available: impl Fn(u32) -> bool,
    ) {
        self.unsubscribe(&to, &digest, class);
        let mine = |piece: &u32| class_of(*piece, classes) == class;
        let end = wanted.iter().map(|run| run.end).max().unwrap_or(0);
        let offered = PieceSet::new(end.div_ceil(u32::from(classes)));
        // None is sent twice, however often the runs name it.
        let mut named = offered.clone();
        let pieces = wanted.iter().flat_map(|run| run.first..run.end).filter(mine);
        pieces.for_each(|piece| _ = named.insert(piece / u32::from(classes)));
        let left = named.count();
        let (waiting, queued, held) = (VecDeque::new(), false, false);
        let mut sub = Sub { to, digest, class, classes, wanted, waiting, offered, left, queued, held };
        for run in sub.wanted.clone() {
            (run.first..run.end).filter(|p| mine(p) && available(*p)).for_each(|piece| sub.offer(piece));
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.subs[id] = Some(sub);
                id
            }
            None => {
                self.subs.push(Some(sub));
                self.subs.len() - 1
            }
        };
        self.by_blob.entry(digest).or_default().push(id);
        self.enqueue(id);
    }

    /// A stream is opened anew: what has been on the way for long in the old one, as a link was cut, keeps its reader from nothing.
    pub fn leave_behind(&mut self, now: Time, to: &PeerId, stream: (Digest, u8)) {
        let in_old_one = |sending: &&mut OnTheWay| {
            let is_stuck = now >= sending.since + FEED_SILENCE_MAX;
            is_stuck && sending.to.0 == *to && sending.stream == stream && !sending.left_behind
        };
        for sending in self.on_the_way.values_mut().filter(in_old_one) {
            // Each of them holds a stream until it is given up.
            if self.left_behind >= UPLOADS_DOUBTED_MAX {
                return;
            }
            *(if sending.slow { &mut self.slow } else { &mut self.fast }) -= 1;
            self.left_behind += 1;
            sending.left_behind = true;
            if let Some(reader) = self.readers.get_mut(&sending.to) {
                reader.on_the_way = reader.on_the_way.saturating_sub(1);
                // What it took says nothing of the new stream.
                reader.takes = 0.0;
            }
        }
    }

    /// Closes a stream; what is on the way still goes.
    pub fn unsubscribe(&mut self, to: &PeerId, digest: &Digest, class: u8) {
        if let Some(id) = self.find(to, digest, class) {
            self.close(id);
        }
    }

    fn find(&self, to: &PeerId, digest: &Digest, class: u8) -> Option<usize> {
        let is_it = |sub: &Sub| sub.to == *to && sub.class == class;
        let mut ids = self.by_blob.get(digest)?.iter().copied();
        ids.find(|id| self.subs[*id].as_ref().is_some_and(is_it))
    }

    /// Closes all streams to a member.
    pub fn forget(&mut self, to: &PeerId) {
        for id in 0..self.subs.len() {
            if self.subs[id].as_ref().is_some_and(|sub| sub.to == *to) {
                self.close(id);
            }
        }
        // What is on the way to it still counts until it has ended.
        self.readers.retain(|(reader, _), state| reader != to || state.on_the_way > 0);
    }

    /// Closes all streams of a blob, and says whose they were.
    pub fn withdraw(&mut self, digest: &Digest) -> BTreeSet<(PeerId, u8)> {
        let subs = self.by_blob.get(digest).cloned().unwrap_or_default();
        let of = |id: &SubId| self.subs[*id].as_ref().map(|sub| (sub.to, sub.class));
        let whose = subs.iter().filter_map(of).collect();
        subs.into_iter().for_each(|id| self.close(id));
        whose
    }

    /// Members that subscribe to a blob; some several times.
    pub fn readers(&self, digest: &Digest) -> impl Iterator<Item = PeerId> + '_ {
        let subs = self.by_blob.get(digest).into_iter().flatten();
        subs.filter_map(|id| self.subs[*id].as_ref()).map(|sub| sub.to)
    }

    /// Whether a member subscribes to a blob.
    pub fn reads(&self, reader: &PeerId, digest: &Digest) -> bool {
        self.readers(digest).any(|to| to == *reader)
    }

    /// A member takes a blob slowly on purpose: what it takes of others is not to wait behind that.
    pub fn held(&mut self, reader: &PeerId, digest: &Digest) {
        for id in self.by_blob.get(digest).into_iter().flatten() {
            if let Some(sub) = self.subs[*id].as_mut().filter(|sub| sub.to == *reader) {
                sub.held = true;
            }
        }
        // Those that wait for a place of the others have places of their own now.
        let Some(state) = self.readers.get_mut(&(*reader, false)) else { return };
        let (subs, ready) = (&self.subs, &mut self.ready);
        state.held.retain(|id| {
            let stays = subs[*id].as_ref().is_some_and(|sub| !sub.held);
            if !stays {
                ready.push_back(*id);
            }
            stays
        });
    }

    /// Members that subscribe to a class of a blob.
    pub fn readers_of(&self, digest: &Digest, class: u8) -> impl Iterator<Item = PeerId> + '_ {
        let subs = self.by_blob.get(digest).into_iter().flatten();
        subs.filter_map(|id| self.subs[*id].as_ref()).filter(move |sub| sub.class == class).map(|sub| sub.to)
    }

    /// A piece can be sent from now on.
    pub fn offer(&mut self, digest: &Digest, piece: u32) {
        let Some(subs) = self.by_blob.get(digest) else { return };
        // Indices, because enqueuing changes the queues and not the list.
        for at in 0..subs.len() {
            let id = self.by_blob[digest][at];
            let Some(sub) = self.subs[id].as_mut() else { continue };
            let wanted =
                class_of(piece, sub.classes) == sub.class && sub.wanted.iter().any(|r| r.contains(piece));
            if wanted {
                sub.offer(piece);
                self.enqueue(id);
            }
        }
    }

    /// A piece has left, or has failed to. Unknown names are ignored: the member was forgotten meanwhile.
    pub fn sent(&mut self, now: Time, upload: UploadId) {
        let Some(done) = self.on_the_way.remove(&upload) else { return };
        if done.left_behind {
            self.left_behind -= 1;
            return;
        }
        *(if done.slow { &mut self.slow } else { &mut self.fast }) -= 1;
        let Some(reader) = self.readers.get_mut(&done.to) else { return };
        reader.on_the_way = reader.on_the_way.saturating_sub(1);
        let took = (now - done.since).max(Duration::from_micros(1)).as_secs_f64();
        reader.takes = if reader.takes == 0.0 { took } else { 0.75 * reader.takes + 0.25 * took };
        self.quickest = match self.quickest == 0.0 || reader.takes < self.quickest {
            true => reader.takes,
            // Drifts up, so that a time of the past does not make everybody slow.
            false => self.quickest * 1.01,
        };
        let on_the_way = reader.on_the_way;
        self.release(&done.to);
        if on_the_way == 0 && !self.subs.iter().flatten().any(|sub| (sub.to, sub.held) == done.to) {
            self.readers.remove(&done.to);
        }
    }

    /// No hashes of a blob are to be relayed any more: whoever has been sent all its pieces is done.
    pub fn end_relay(&mut self, digest: &Digest) {
        for id in self.by_blob.get(digest).cloned().unwrap_or_default() {
            if self.subs[id].as_ref().is_some_and(|sub| sub.left == 0) {
                self.close(id);
            }
        }
    }

    /// The next piece to send, if there is a place. `relays` says of which blobs this node passes hashes on.
    pub fn next(&mut self, now: Time, relays: impl Fn(&Digest) -> bool) -> Option<Send> {
        if self.fast >= UPLOADS_MAX && !self.ready.is_empty() {
            self.doubt(now);
        }
        let mut passed = 0;
        while passed < self.ready.len().min(UPLOADS_PASSED_MAX) {
            let id = self.ready.pop_front()?;
            let Some(sub) = self.subs[id].as_mut() else { continue };
            let key = (sub.to, sub.held);
            let reader = self.readers.entry(key).or_default();
            // A reader that is not known yet is tried with one piece.
            let most = if reader.takes == 0.0 && self.quickest > 0.0 { 1 } else { UPLOADS_PER_PEER_MAX };
            if reader.on_the_way >= most {
                reader.held.push_back(id);
                continue;
            }
            let slow = reader.takes > SLOW_READER_FACTOR * self.quickest && self.quickest > 0.0;
            let places = if slow { UPLOADS_TO_SLOW_MAX } else { UPLOADS_MAX };
            if *(if slow { &mut self.slow } else { &mut self.fast }) >= places {
                self.ready.push_back(id);
                passed += 1;
                continue;
            }
            let Some(piece) = sub.waiting.pop_front() else {
                sub.queued = false;
                continue;
            };
            *(if slow { &mut self.slow } else { &mut self.fast }) += 1;
            reader.on_the_way += 1;
            self.next += 1;
            let upload = UploadId(self.next);
            self.on_the_way.insert(
                upload,
                OnTheWay { to: key, stream: (sub.digest, sub.class), since: now, slow, left_behind: false },
            );
            let backlog = sub.waiting.len() as u32;
            sub.queued = backlog > 0;
            sub.left -= 1;
            let send = Send { upload, to: sub.to, digest: sub.digest, class: sub.class, piece, backlog };
            // The class that relays hashes goes on to do so when its pieces have been sent. Its readers need not close it: over
            // HTTP nothing is left to close.
            if sub.left == 0 && (sub.class != RELAY || !relays(&send.digest)) {
                self.close(id);
            } else if sub.queued {
                self.ready.push_back(id);
            }
            return Some(send);
        }
        None
    }

    /// Pieces that have been on the way for long have a slow reader, and do not count against the bound of the others.
    fn doubt(&mut self, now: Time) {
        let limit = SLOW_READER_FACTOR * self.quickest;
        for sending in
            self.on_the_way.values_mut().filter(|s| !s.slow && !s.left_behind && self.quickest > 0.0)
        {
            if self.slow >= UPLOADS_DOUBTED_MAX {
                return;
            }
            let takes = (now - sending.since).as_secs_f64();
            if takes > limit {
                sending.slow = true;
                (self.fast, self.slow) = (self.fast - 1, self.slow + 1);
                if let Some(reader) = self.readers.get_mut(&sending.to) {
                    reader.takes = reader.takes.max(takes);
                }
            }
        }
    }

    fn enqueue(&mut self, id: SubId) {
        if let Some(sub) = self.subs[id].as_mut()
            && !sub.queued
            && !sub.waiting.is_empty()
        {
            sub.queued = true;
            self.ready.push_back(id);
        }
    }

    /// A reader has places: what waited for one is ready. As many as it has, because the first may be closed before its turn, and
    /// nothing else would wake those behind it.
    fn release(&mut self, key: &ReaderKey) {
        let Some(reader) = self.readers.get_mut(key) else { return };
        let places = UPLOADS_PER_PEER_MAX.saturating_sub(reader.on_the_way);
        self.ready.extend(reader.held.drain(..places.min(reader.held.len())));
    }

    fn close(&mut self, id: SubId) {
        let Some(sub) = self.subs[id].take() else { return };
        self.ready.retain(|r| *r != id);
        // It may have been put there before it was known to be slow on purpose.
        for held in [false, true] {
            if let Some(reader) = self.readers.get_mut(&(sub.to, held)) {
                reader.held.retain(|r| *r != id);
            }
            // It may have been the one that was to have the place.
            self.release(&(sub.to, held));
        }
        if let Some(subs) = self.by_blob.get_mut(&sub.digest) {
            subs.retain(|s| *s != id);
            if subs.is_empty() {
                self.by_blob.remove(&sub.digest);
            }
        }
        self.free.push(id);
    }
}

/// Ready subscriptions that are passed over at a time because their kind has no place: enough to reach one of the other
/// kind past all the slow readers of a node.
const UPLOADS_PASSED_MAX: usize = 64;

#[cfg(test)]
mod tests;
