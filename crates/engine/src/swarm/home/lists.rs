//! What a book knows of pieces, and hands out: who has which, after a home was lost, and the list of their hashes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Book, Census, EPOCH_BEFORE, Mail};
use crate::limits::{
    CENSUS_FEEDS_MAX, CENSUS_TIME, ENTRIES_PER_RELAY_MAX, LISTED_DIRECTLY_MAX, RUNS_PER_MESSAGE_MAX,
};
use crate::peer::PeerId;
use crate::swarm::classes::RELAY;
use crate::swarm::pieces::PieceSet;
use crate::time::Time;
use crate::wire::{Entry, Feed, Hashes, LeaseId, Message, Run, Signature};

impl Book {
    /// A member that was in a book before joins: after another home, or because nothing comes any more. If nobody knows
    /// where the pieces are, everybody's answer is waited for.
    pub(super) fn take_census(&mut self, now: Time, from: PeerId, have: &[Run]) {
        let stuck = self.leases.active().next().is_none() && !self.forest.has_seeds();
        if self.census.is_none() && stuck {
            self.census = Some(Census { until: now + CENSUS_TIME, haves: BTreeMap::new() });
        }
        if let Some(census) = &mut self.census {
            census.haves.insert(from, have.to_vec());
        }
    }

    /// What somebody has is there, and nothing else; the roots are fed by a few members that have it all between them.
    pub(super) fn finish_census(&mut self, mail: &mut Mail) {
        let Some(census) = self.census.take() else { return };
        let mut rest = PieceSet::new(self.pieces);
        let mut sets: Vec<(PeerId, PieceSet)> = Vec::new();
        for (peer, runs) in census.haves {
            let mut set = PieceSet::new(self.pieces);
            for piece in runs.iter().flat_map(|run| run.first..run.end.min(self.pieces)) {
                set.insert(piece);
                rest.insert(piece);
            }
            sets.push((peer, set));
        }
        self.leases.set_there(rest.clone());
        self.brought.retain(|lease, _| lease.epoch != EPOCH_BEFORE);
        let mut number = 0;
        for _ in 0..CENSUS_FEEDS_MAX {
            let gain = |set: &PieceSet| rest.common(set);
            let Some((peer, set)) = sets.iter().max_by_key(|(_, set)| gain(set)).filter(|(_, s)| gain(s) > 0)
            else {
                break;
            };
            for run in set.runs(self.all(), true, RUNS_PER_MESSAGE_MAX) {
                self.brought.insert(LeaseId { epoch: EPOCH_BEFORE, number }, Feed { peer: *peer, run });
                number += 1;
            }
            rest.subtract(set);
        }
        let roots: Vec<_> = self.forest.fed_by_source().collect();
        self.tell_feeds(roots.into_iter(), mail);
    }

    /// Hashes in the words of the wire; the driver signs them.
    pub(super) fn hashes(&self, entries: Vec<Entry>) -> Message {
        let (digest, home, list) = (self.digest, self.me, self.list_number);
        Message::Hashes(Arc::new(Hashes { digest, home, list, entries, signature: Signature::default() }))
    }

    /// All that is known, to somebody who may know a part of it and passes on what is news.
    pub(super) fn send_list(&self, to: PeerId, mail: &mut Mail) {
        let entries = self.list.entries(0..self.pieces);
        mail.extend(entries.chunks(ENTRIES_PER_RELAY_MAX).map(|part| (to, self.hashes(part.to_vec()))));
    }

    /// The same to all whom hashes are told, after the list has begun anew.
    pub(super) fn spread_all(&mut self, mail: &mut Mail) {
        for part in self.list.entries(0..self.pieces).chunks(ENTRIES_PER_RELAY_MAX) {
            self.spread(part.to_vec(), mail);
        }
    }

    /// Whether the home tells each member all hashes itself.
    pub(super) fn lists_directly(&self) -> bool {
        self.forest.classes() == 1 || self.forest.len() <= LISTED_DIRECTLY_MAX
    }

    /// Somebody has the blob and nobody has its list: one of those who have it takes the hashes.
    pub(super) fn ask_for_list(&mut self, mail: &mut Mail) {
        if self.listing.is_none()
            && let Some(seed) = self.forest.seeds().find(|s| !self.distrusted.contains(s))
        {
            self.listing = Some(seed);
            self.reporters.insert(seed);
            mail.push_back((seed, Message::List { digest: self.digest }));
        }
    }

    /// Hands hashes to the roots of the tree that carries them, or to everybody if there are few.
    pub(super) fn spread(&mut self, news: Vec<Entry>, mail: &mut Mail) {
        if news.is_empty() {
            return;
        }
        let message = self.hashes(news);
        let mut tell = |node| mail.push_back((self.forest.peer(node), message.clone()));
        match self.lists_directly() {
            true => self.forest.receivers().for_each(tell),
            false => {
                self.forest.fed_by_source().filter(|(_, class)| *class == RELAY).for_each(|(n, _)| tell(n))
            }
        }
    }
}
