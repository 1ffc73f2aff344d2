//! Acquaintances: which members is this node connected to before it needs them?
//!
//! Question: when is a member talked to for the first time? Answer: once the list has been calm for a while, one after another, by a
//! sign of life that is asked for. Prevents: handshakes in the moment in which everybody pulls. Probes come around as well, but
//! take as many periods as there are members, which is a quarter of an hour with a thousand.
//!
//! Invariant: in calm times each member is asked at most once for this, at a bounded rate, and no more than a node keeps connections
//! to at ease.

use std::collections::BTreeSet;

use crate::limits::{ACQUAINTANCE_CALM, ACQUAINTANCE_PAUSE, ACQUAINTANCES_MAX};
use crate::membership::book::Book;
use crate::membership::chance::Chance;
use crate::peer::PeerId;
use crate::time::Time;

/// Members that have been heard of by their own word, or asked for one.
#[derive(Default)]
pub(super) struct Acquaintances {
    known: BTreeSet<PeerId>,
    next: Option<Time>,
}

impl Acquaintances {
    /// When to ask the next one, if there is anybody to ask.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.next
    }

    /// A member that is on the list has sent something.
    pub fn heard(&mut self, peer: PeerId) {
        if self.known.len() < ACQUAINTANCES_MAX {
            self.known.insert(peer);
        }
    }

    /// A member is gone.
    pub fn end(&mut self, peer: &PeerId) {
        self.known.remove(peer);
    }

    /// Whom to ask now, at random: members that go through the list in one order would all ask the same one. `changed` is
    /// when the list last did.
    pub fn due(&mut self, now: Time, changed: Time, book: &Book, chance: &mut Chance) -> Option<PeerId> {
        self.next.take_if(|next| *next <= now)?;
        if changed + ACQUAINTANCE_CALM > now {
            return None;
        }
        let mut strangers = book.living_peers().filter(|peer| !self.known.contains(peer));
        let at = chance.below(strangers.clone().count());
        let chosen = strangers.nth(at)?;
        self.heard(chosen);
        Some(chosen)
    }

    /// Decides about the next one after something may have changed.
    pub fn plan(&mut self, now: Time, changed: Time, book: &Book, chance: &mut Chance) {
        if self.known.len() >= book.living().min(ACQUAINTANCES_MAX) {
            self.next = None;
        } else if self.next.is_none() {
            let pause = ACQUAINTANCE_PAUSE / 2 + ACQUAINTANCE_PAUSE * chance.below(1024) as u32 / 1024;
            self.next = Some((now + pause).max(changed + ACQUAINTANCE_CALM));
        }
    }
}
