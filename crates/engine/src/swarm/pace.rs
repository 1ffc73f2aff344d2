//! Flights that nothing but warm sets wants, and that are held back: they keep to the pace of their sets.
//!
//! Question: a blob comes slowly on purpose; how is that told from a member, a feed or a registry that fails, and from what a
//! client on some other node deserves? Answer: whoever holds back says so, again and again, to its home, its feeds and its
//! readers ([`Message::Held`]), who are patient as long as it does. A node where somebody waits for the blob answers
//! ([`Message::Hurry`]), and the answer goes up from feed to feed to the one that has the lease: all of them stop holding
//! back. Prevents: leases taken away and feeds replaced because an operator has asked for a slow transfer, and a client that
//! waits behind one.
//!
//! Invariant: a blob that a client has asked for, on this node or behind it, is not held back here.

use std::collections::{BTreeMap, BTreeSet};

use super::Swarm;
use super::exchange::Standing;
use crate::ids::{Digest, WarmSetId};
use crate::io::Output;
use crate::limits::{HELD_EXCUSE, PACE_LOOK};
use crate::peer::PeerId;
use crate::time::Time;
use crate::wire::{Message, Pace};

/// How a flight is, as far as its pace is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Flying {
    /// Bytes that it has.
    pub received: u64,
    /// Whether clients or manifests have asked for it.
    pub is_wanted: bool,
}

/// What one blob was told.
struct Held {
    set: WarmSetId,
    pace: Pace,
    /// Bytes that were there at the last look.
    received: u64,
}

/// See the module's head.
#[derive(Default)]
pub struct Paces {
    held: BTreeMap<Digest, Held>,
    /// Flights that were looked at: at the next look they are anew.
    seen: BTreeSet<Digest>,
    look_at: Option<Time>,
}

impl Paces {
    /// Whether a blob is held back on this node.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.held.contains_key(digest)
    }

    /// When the next look is due.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.look_at
    }
}

impl Swarm {
    /// Sees to it that each flight of a warm set keeps to its pace, and that all others are free. Whether there is something to
    /// be told.
    pub fn set_paces(&mut self, now: Time, state: impl Fn(&Digest) -> Option<Flying>) -> bool {
        if !self.warming.is_paced() && self.paces.held.is_empty() {
            self.paces.look_at = None;
            return false;
        }
        let before = self.effects.len() + self.mail.len();
        self.let_go(&state);
        let is_due = self.paces.look_at.is_none_or(|at| at <= now);
        let is_new = |digest: &Digest| !self.paces.seen.contains(digest) && state(digest).is_some();
        if is_due || self.warming.flying().keys().any(is_new) {
            self.hold_back(&state);
        }
        if is_due {
            self.tell_held(&state);
            self.paces.look_at = (!self.warming.flying().is_empty()).then(|| now + PACE_LOOK);
        }
        self.effects.len() + self.mail.len() > before
    }

    /// Somebody waits for a blob, here or behind this node: those who feed it shall not hold back.
    pub fn hurry(&mut self, digest: &Digest) {
        let Some(exchange) = self.exchanges.get_mut(digest).filter(|exchange| !exchange.is_hurried()) else {
            return;
        };
        exchange.set_hurried();
        if exchange.is_excused() || self.paces.holds(digest) {
            let feeds: BTreeSet<PeerId> = exchange.feeds().map(|(_, feed)| feed).collect();
            self.mail.extend(feeds.into_iter().map(|feed| (feed, Message::Hurry { digest: *digest })));
        }
    }

    /// See [`Message::Held`].
    pub(super) fn handle_held(&mut self, now: Time, from: PeerId, digest: Digest) {
        self.home.held(now, &from, &digest);
        self.uploads.held(&from, &digest);
        let Some(exchange) = self.exchanges.get_mut(&digest) else { return };
        if exchange.feeds().any(|(_, feed)| feed == from) {
            exchange.excuse(now + HELD_EXCUSE);
            if exchange.is_hurried() {
                self.mail.push_back((from, Message::Hurry { digest }));
            }
        }
    }

    /// See [`Message::Hurry`].
    pub(super) fn handle_hurry(&mut self, from: PeerId, digest: Digest) {
        if self.uploads.reads(&from, &digest) {
            self.hurry(&digest);
        }
    }

    /// A member that begins to read a blob shall know that it comes slowly on purpose.
    pub(super) fn tell_if_held(&mut self, to: PeerId, digest: &Digest) {
        if self.paces.holds(digest) {
            self.mail.push_back((to, Message::Held { digest: *digest }));
        }
    }

    /// Flights that have ended, that no set wants any more, or that somebody waits for.
    fn let_go(&mut self, state: &impl Fn(&Digest) -> Option<Flying>) {
        let flying = self.warming.flying();
        self.paces.seen.retain(|digest| flying.contains_key(digest) && state(digest).is_some());
        let Swarm { paces, exchanges, effects, warming, .. } = self;
        paces.held.retain(|digest, _| {
            let hurried = exchanges.get(digest).is_some_and(|exchange| exchange.is_hurried());
            match state(digest) {
                None => false,
                Some(flying) if flying.is_wanted || hurried || !warming.flying().contains_key(digest) => {
                    effects.push_back(Output::Pace { digest: *digest, pace: None });
                    if let Some(exchange) = exchanges.get_mut(digest) {
                        exchange.set_held(false);
                    }
                    false
                }
                Some(_) => true,
            }
        });
    }

    fn hold_back(&mut self, state: &impl Fn(&Digest) -> Option<Flying>) {
        let flying: Vec<_> = self.warming.flying().keys().copied().collect();
        for digest in flying {
            let Some(flight) = state(&digest) else { continue };
            self.paces.seen.insert(digest);
            let hurried = self.exchanges.get(&digest).is_some_and(|exchange| exchange.is_hurried());
            let wanted = if flight.is_wanted || hurried { None } else { self.wanted_pace(&digest) };
            let told = self.paces.held.get(&digest).map(|held| (held.set, held.pace));
            if wanted == told {
                continue;
            }
            self.effects.push_back(Output::Pace { digest, pace: wanted });
            if let Some(exchange) = self.exchanges.get_mut(&digest) {
                exchange.set_held(wanted.is_some());
            }
            match wanted {
                Some((set, pace)) => {
                    let received = self.paces.held.get(&digest).map_or(flight.received, |held| held.received);
                    self.paces.held.insert(digest, Held { set, pace, received });
                }
                None => drop(self.paces.held.remove(&digest)),
            }
        }
    }

    fn wanted_pace(&self, digest: &Digest) -> Option<(WarmSetId, Pace)> {
        let (set, mut pace) = self.warming.pace_of(digest, &|digest| self.has_left(digest))?;
        let is_alone = self.exchanges.get(digest).is_none_or(|e| matches!(e.standing(), Standing::Alone(_)));
        if is_alone && pace.upstream > 0 {
            // Then all the others may be, too, and each fetches everything.
            pace.upstream = (pace.upstream / self.roster.len().max(1) as u64).max(1);
        }
        Some((set, pace))
    }

    /// Says of each blob that is held back that this node lives; of a lease only if something has come of it.
    fn tell_held(&mut self, state: &impl Fn(&Digest) -> Option<Flying>) {
        let Swarm { paces, exchanges, uploads, mail, .. } = self;
        for (digest, held) in &mut paces.held {
            let Some(exchange) = exchanges.get_mut(digest) else { continue };
            exchange.set_held(true);
            let received = state(digest).map_or(0, |flying| flying.received);
            let moves = std::mem::replace(&mut held.received, received) < received;
            let mut peers: BTreeSet<PeerId> = exchange.feeds().map(|(_, feed)| feed).collect();
            peers.extend(uploads.readers(digest));
            peers.extend(exchange.home().filter(|_| moves && exchange.leases().next().is_some()));
            mail.extend(peers.into_iter().map(|peer| (peer, Message::Held { digest: *digest })));
        }
    }
}
