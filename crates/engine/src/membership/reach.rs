//! Reaching out: who is asked to let this node in?
//!
//! Question: which members that are not on the list are worth an attempt, and when? Answer: whom discovery has made
//! contact with, at once; while nobody is alive here, a few of those and of the members that are gone, every second;
//! otherwise one of them now and then. Prevents: a node that asked once, lost the answer and stays alone; and two halves of
//! a cluster that each hold the other for dead after the network between them has come back.

use std::collections::VecDeque;

use crate::limits::{ALONE_FANOUT, ALONE_PAUSE, CONTACT_TRIES_MAX, CONTACTS_MAX, LOST_PAUSE};
use crate::membership::book::Book;
use crate::membership::chance::Chance;
use crate::peer::PeerId;
use crate::time::Time;

/// Contacts that have not become members yet, and when to try next.
#[derive(Default)]
pub(super) struct Reach {
    /// With the number of times they have been asked.
    contacts: VecDeque<(PeerId, u32)>,
    next: Option<Time>,
}

impl Reach {
    /// When to try next, if there is anybody to try.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.next
    }

    /// Remembers a contact; the oldest makes room.
    pub fn add(&mut self, peer: PeerId) {
        self.contacts.retain(|(contact, _)| *contact != peer);
        if self.contacts.len() == CONTACTS_MAX {
            self.contacts.pop_front();
        }
        self.contacts.push_back((peer, 1));
    }

    /// The members to ask now.
    pub fn due(&mut self, now: Time, book: &Book, chance: &mut Chance) -> Vec<PeerId> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        self.next = None;
        let wanted = if book.living() == 0 { ALONE_FANOUT } else { 1 };
        let mut chosen = Vec::new();
        for _ in 0..wanted {
            let at = chance.below(self.contacts.len() + book.lost_count());
            if let Some((peer, tries)) = self.contacts.get_mut(at) {
                *tries += 1;
                chosen.push(*peer);
            } else if let Some(member) = book.lost().nth(at - self.contacts.len()) {
                chosen.push(member.peer);
            }
        }
        self.contacts.retain(|(_, tries)| *tries < CONTACT_TRIES_MAX);
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    /// Decides about the next attempt after something may have changed. Attempts while others are alive keep no step:
    /// members that saw the same ones go would all knock at one door.
    pub fn plan(&mut self, now: Time, book: &Book, chance: &mut Chance) {
        self.contacts.retain(|(contact, _)| !book.is_living(contact));
        let pause = match () {
            () if self.contacts.is_empty() && book.lost_count() == 0 => {
                self.next = None;
                return;
            }
            () if book.living() == 0 => ALONE_PAUSE,
            () if self.next.is_some() => return,
            () => LOST_PAUSE / 2 + LOST_PAUSE * chance.below(1024) as u32 / 1024,
        };
        let next = now + pause;
        self.next = Some(self.next.map_or(next, |planned| planned.min(next)));
    }
}
