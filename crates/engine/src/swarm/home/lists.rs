//! The list of hashes of a book: who is told it by the home itself, and who reports it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Book, Mail};
use crate::limits::{ENTRIES_PER_RELAY_MAX, LISTED_DIRECTLY_MAX};
use crate::peer::PeerId;
use crate::swarm::classes::RELAY;
use crate::wire::{Entry, Hashes, Message, Signature};

impl Book {
    /// Hashes in the words of the wire; the driver signs them.
    pub(super) fn hashes(&self, entries: Vec<Entry>) -> Message {
        let (digest, home, list) = (self.digest, self.me, self.list_number);
        Message::Hashes(Arc::new(Hashes { digest, home, list, entries, signature: Signature::default() }))
    }

    /// All that is known, to somebody who may know a part of it and passes on what is news.
    pub(super) fn send_list(&self, to: PeerId, mail: &mut Mail) {
        self.send_entries(to, &self.list.entries(0..self.pieces), mail);
    }

    /// Some of it, in as many messages as it needs.
    pub(super) fn send_entries(&self, to: PeerId, entries: &[Entry], mail: &mut Mail) {
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

    /// Hashes that one of those who have the blob has taken go to those who wait for them, as they come: the list of a large blob takes
    /// longer than anybody has patience with pieces that do not count.
    pub(super) fn pass_on(&mut self, news: &[Entry], mail: &mut Mail) {
        for part in news.chunks(ENTRIES_PER_RELAY_MAX) {
            let message = self.hashes(part.to_vec());
            let following = self.unlisted.iter().filter(|(_, follows)| **follows);
            mail.extend(following.map(|(member, _)| (*member, message.clone())));
        }
        if self.list.is_complete() {
            self.listing = None;
            for (member, _) in std::mem::take(&mut self.unlisted).into_iter().filter(|(_, follows)| !follows)
            {
                self.send_list(member, mail);
            }
        }
    }

    /// Hands hashes to the roots of the tree that carries them, or to everybody if there are few.
    pub(super) fn spread(&mut self, news: Vec<Entry>, mail: &mut Mail) {
        // While the forest is held they wait until it is known who stands where.
        if news.is_empty() || self.forest.is_held() {
            return;
        }
        let message = self.hashes(news);
        let tell = |node| mail.push_back((self.forest.peer(node), message.clone()));
        match self.lists_directly() {
            true => self.forest.receivers().for_each(tell),
            false => {
                let roots = self.forest.fed_by_source().filter(|(_, class)| *class == RELAY);
                // A relay does not tell a home what it has from it: as a receiver this node hears of it here.
                let own = self.forest.find(&self.me);
                let told: BTreeSet<_> = roots.map(|(root, _)| root).chain(own).collect();
                told.into_iter().for_each(tell);
            }
        }
    }
}
