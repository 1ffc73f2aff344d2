//! Seeds: blobs that are whole on this node, for those who want to be fed with them or to know their hashes.

use super::list::{PieceList, Via};
use super::parts::send_report;
use super::{Swarm, Wanted};
use crate::ids::Digest;
use crate::io::Output;
use crate::limits::{INSPECTIONS_MAX, SEEDS_MAX};
use crate::peer::PeerId;
use crate::pieces::piece_count;
use crate::wire::{Entry, PieceHash, Refusal};

/// A blob that is whole on this node and that others are fed with.
pub(super) struct Seed {
    pub size: u64,
    pub list: Option<PieceList>,
    pub used: u64,
}

impl Swarm {
    /// The store has been asked for a blob; answers [`Output::Inspect`].
    pub fn inspected(&mut self, digest: Digest, size: Option<u64>) {
        let waiting = self.inspecting.remove(&digest).unwrap_or_default();
        if let Some(size) = size {
            self.seed(digest, size, None);
        }
        for (to, wanted) in waiting {
            match size == Some(wanted.size) {
                true => self.handle_subscribe(to, digest, wanted),
                false => self.refuse(to, digest, wanted.class, Refusal::Unknown),
            }
        }
    }

    /// Some of the hashes of a stored blob's pieces. Who has asked in the middle waits for all of them.
    pub fn lists(&mut self, digest: Digest, first: u32, hashes: Vec<PieceHash>) {
        let entries: Vec<_> = (first..).zip(hashes).map(|(piece, hash)| Entry { piece, hash }).collect();
        let waiting = self.listing.get_mut(&digest).into_iter().flatten();
        for (to, told) in waiting.filter(|(_, told)| **told == first) {
            *told += entries.len() as u32;
            send_report(*to, digest, &entries, &mut self.mail);
        }
    }

    /// The hashes of a stored blob's pieces; answers [`Output::List`].
    pub fn listed(&mut self, digest: Digest, found: Option<(u64, Vec<PieceHash>)>) {
        let waiting = self.listing.remove(&digest).unwrap_or_default();
        let Some((size, hashes)) = found else { return };
        let mut list = PieceList::new(piece_count(size) as u32);
        for (piece, hash) in (0..).zip(hashes) {
            list.set(Entry { piece, hash }, Via::Own);
        }
        self.seed(digest, size, Some(list));
        waiting.into_iter().for_each(|(to, told)| self.tell_list(to, digest, told));
    }

    pub(super) fn inspect(&mut self, from: PeerId, digest: Digest, wanted: Wanted) {
        let waiting: usize = self.inspecting.values().map(Vec::len).sum();
        if waiting >= INSPECTIONS_MAX {
            return self.refuse(from, digest, wanted.class, Refusal::Busy);
        }
        // An entry stays until the store has answered, although all may have gone who wait for it.
        if !self.inspecting.contains_key(&digest) {
            self.effects.push_back(Output::Inspect { digest });
        }
        self.inspecting.entry(digest).or_default().push((from, wanted));
    }

    /// The home wants the hashes of a blob that this node has.
    pub(super) fn handle_list(&mut self, from: PeerId, digest: Digest) {
        if self.seeds.get(&digest).is_some_and(|seed| seed.list.is_some()) {
            return self.tell_list(from, digest, 0);
        }
        if let Some(exchange) = self.exchanges.get(&digest) {
            let have = (0..exchange.have().total()).filter(|piece| exchange.have().contains(*piece));
            return send_report(from, digest, &exchange.list().entries(have), &mut self.mail);
        }
        if self.listing.len() < INSPECTIONS_MAX {
            let waiting = self.listing.entry(digest).or_default();
            if waiting.is_empty() {
                self.effects.push_back(Output::List { digest });
            }
            waiting.insert(from, 0);
        }
    }

    /// Tells the hashes from a piece on.
    fn tell_list(&mut self, to: PeerId, digest: Digest, first: u32) {
        let Some(list) = self.seeds.get(&digest).and_then(|seed| seed.list.as_ref()) else { return };
        let pieces = piece_count(self.seeds[&digest].size) as u32;
        send_report(to, digest, &list.entries(first..pieces), &mut self.mail);
    }

    pub(super) fn seed(&mut self, digest: Digest, size: u64, list: Option<PieceList>) {
        self.uses += 1;
        self.seeds.insert(digest, Seed { size, list, used: self.uses });
        if self.seeds.len() > SEEDS_MAX {
            let idle = self.seeds.iter().filter(|(d, _)| !self.uploads.serves(d)).min_by_key(|(_, s)| s.used);
            if let Some(oldest) = idle.map(|(digest, _)| *digest) {
                self.seeds.remove(&oldest);
            }
        }
    }
}
