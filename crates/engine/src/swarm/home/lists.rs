//! What a book knows of pieces, and hands out: who has which, after a home was lost, and the list of their hashes.

use std::collections::BTreeMap;

use super::forest::{Node, Parent};
use super::{Book, Census, EPOCH_BEFORE, Mail, relayed_by, send_hashes};
use crate::limits::{CENSUS_FEEDS_MAX, CENSUS_TIME, LISTED_DIRECTLY_MAX, RUNS_PER_MESSAGE_MAX};
use crate::peer::PeerId;
use crate::swarm::classes::group_count;
use crate::swarm::pieces::PieceSet;
use crate::time::Time;
use crate::wire::{Entry, Feed, LeaseId, Message, Run};

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

    pub(super) fn send_list(&self, to: PeerId, mail: &mut Mail) {
        send_hashes(to, self.digest, &self.list.entries(0..self.pieces), mail);
    }

    /// Whether the home tells each member all hashes itself: with one class there are no trees that could relay, and in a
    /// small forest one member feeds another in most classes, and could not relay for itself.
    pub(super) fn lists_directly(&self) -> bool {
        self.forest.classes() == 1 || self.forest.len() <= LISTED_DIRECTLY_MAX
    }

    /// Somebody has the blob and nobody has its list: one of those who have it takes the hashes.
    pub(super) fn ask_for_list(&mut self, mail: &mut Mail) {
        if self.listing.is_none()
            && let Some(seed) = self.forest.seeds().find(|s| !self.quarantined.contains(s))
        {
            self.listing = Some(seed);
            mail.push_back((seed, Message::List { digest: self.digest }));
        }
    }

    /// Hands hashes to the roots of the trees that carry them, or to everybody if there are few.
    pub(super) fn spread(&mut self, news: &[Entry], mail: &mut Mail) {
        let digest = self.digest;
        if self.lists_directly() {
            for node in self.forest.receivers() {
                mail.push_back((self.forest.peer(node), Message::Hashes { digest, entries: news.to_vec() }));
            }
            return;
        }
        for (root, class) in self.forest.fed_by_source().filter(|(_, class)| *class < 2) {
            let entries = relayed_by(class, self.forest.classes(), news.iter().copied());
            if !entries.is_empty() {
                mail.push_back((self.forest.peer(root), Message::Hashes { digest, entries }));
            }
        }
        for node in self.direct.iter().filter(|n| !self.forest.is_whole(**n)) {
            mail.push_back((self.forest.peer(*node), Message::Hashes { digest, entries: news.to_vec() }));
        }
    }

    /// Whether a member gets hashes from the very member that sends it the pieces.
    pub(super) fn is_conflicted(&self, node: Node) -> bool {
        let classes = self.forest.classes();
        let relays = [self.forest.parent(node, 0), self.forest.parent(node, 1.min(classes - 1))];
        (0..classes).any(|class| {
            let relay = relays[usize::from(class % group_count(classes) == 0)];
            matches!(relay, Parent::Member(_)) && self.forest.parent(node, class) == relay
        })
    }

    /// The relays of a member have changed.
    pub(super) fn consider_direct(&mut self, node: Node, mail: &mut Mail) {
        if self.lists_directly() {
            return;
        }
        if !self.is_conflicted(node) {
            self.direct.remove(&node);
        } else if self.direct.insert(node) {
            self.send_list(self.forest.peer(node), mail);
        }
    }
}
