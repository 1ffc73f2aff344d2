//! Signs of life: of a node that fetches, and of a home.
//!
//! Question: how does a home tell a lease holder that receives slowly from one that stands still? Answer: the holder says so, with a
//! report of no pieces, while bytes come and no piece is whole. And how does a node tell a home that is busy from one that is gone?
//! It cannot: it asks the next one, gives that one longer, and takes the best of the homes that answer in the end. Prevents: leases
//! that go round among members that are all equally slow, each of which throws a part of a piece away; and nodes that fetch for
//! themselves because so many ask the homes at once.

use std::time::Duration;

use super::{Exchange, Standing};
use crate::homes::outranks;
use crate::limits::{FEED_PATIENCE_MAX, HOME_SILENCE_MAX, JOIN_TIMEOUT, LEASE_LIFE_PAUSE, REJOIN_TIMEOUT};
use crate::peer::PeerId;
use crate::swarm::home::Mail;
use crate::time::Time;
use crate::wire::{LeaseEnd, LeaseId, Message};

/// What a node has to do beside one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Blobs that it receives, this one among them: they share its link, and those of its feeds.
    pub crowd: usize,
    /// How much longer a home may take to answer than otherwise: the node is late itself.
    pub excuse: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Load { crowd: 1, excuse: Duration::ZERO }
    }
}

impl Exchange {
    /// How long a home has to answer.
    pub(super) fn join_timeout(&self, rank: usize) -> Duration {
        let is_lost = self.lost_home.is_some_and(|lost| self.homes.get(rank) == Some(&lost));
        let timeout = match () {
            () if is_lost => REJOIN_TIMEOUT,
            // Whoever is asked again has the answers to all who share its link to send as well.
            () if rank == 0 && self.was_in_a_book => JOIN_TIMEOUT * self.load.crowd.clamp(1, 4) as u32,
            // If the one before was busy with so many questions, so is this one.
            () => JOIN_TIMEOUT * (1 << rank.min(2)),
        };
        timeout + self.load.excuse
    }

    /// How long nothing may come before the home is asked whether it lives. Where a node receives many blobs at once each of them comes
    /// with pauses, for everybody: all would ask, and each answer holds a list.
    pub(super) fn home_patience(&self) -> Duration {
        self.in_crowd(HOME_SILENCE_MAX)
    }

    /// A time that is enough where a node receives one blob, where it receives several.
    pub(super) fn in_crowd(&self, alone: Duration) -> Duration {
        (alone * self.load.crowd.max(1) as u32).min(FEED_PATIENCE_MAX)
    }

    /// Whether a home welcomes this node after a better one has. Of several homes that were asked since they took their time to
    /// answer, the best one counts; the others are told, so that nobody fetches by their books.
    pub(super) fn prefers_another(&self, from: &PeerId, mail: &mut Mail) -> bool {
        let digest = self.digest;
        match self.standing {
            Standing::Joined => {
                let Some(home) = self.homes.first().filter(|home| *home != from) else { return false };
                // What this node fetches, the present home knows of.
                if !self.leases.is_empty() {
                    return true;
                }
                let is_better = outranks(&digest, home, from);
                let left = if is_better { from } else { home };
                mail.push_back((*left, Message::Leave { digest }));
                is_better
            }
            Standing::Joining(rank) => {
                let asked = self.homes.iter().take(rank + 1);
                let in_vain = asked.filter(|home| outranks(&digest, from, home));
                mail.extend(in_vain.map(|home| (*home, Message::Leave { digest })));
                false
            }
            Standing::Alone(_) => false,
        }
    }

    /// Those behind the present one are what the list of members says now.
    pub(super) fn refresh_homes(&mut self, present: Vec<PeerId>) {
        let tried = match self.standing {
            Standing::Joining(rank) => rank + 1,
            Standing::Joined | Standing::Alone(_) => 1,
        };
        let present = self.trusted(present);
        self.homes.truncate(tried);
        let fresh: Vec<_> = present.into_iter().filter(|h| !self.homes.contains(h)).collect();
        self.homes.extend(fresh);
    }

    /// Members say nothing while others speak. If the home that was asked is one of them, the next one is asked in its place.
    pub fn handle_unheard(
        &mut self,
        now: Time,
        unheard: &[PeerId],
        homes: impl Fn() -> Vec<PeerId>,
        mail: &mut Mail,
    ) {
        let waits = matches!(self.standing, Standing::Joining(_));
        if !waits || self.home().is_none_or(|home| !unheard.contains(&home)) {
            return;
        }
        self.homes = self.trusted(homes());
        // The next one has no reason to think that it is the first.
        self.left_home = true;
        match self.homes.is_empty() {
            true => self.handle_alone(LeaseEnd::Denied, mail),
            false => self.join(now, 0, mail),
        }
    }

    pub(super) fn next_home(&mut self, now: Time, mail: &mut Mail) {
        let next = match self.standing {
            Standing::Joining(rank) => rank + 1,
            // The one that was in use is gone.
            _ if !self.homes.is_empty() => {
                self.lost_home = Some(self.homes.remove(0));
                0
            }
            _ => 0,
        };
        if next < self.homes.len() {
            self.join(now, next, mail);
        } else {
            // One that answers late would count on this node.
            let digest = self.digest;
            mail.extend(self.homes.iter().map(|home| (*home, Message::Leave { digest })));
            self.handle_alone(LeaseEnd::Denied, mail);
        }
    }

    /// Whether all of the blob is known to have left upstream: somebody has each piece.
    pub fn has_left(&self) -> bool {
        self.list.is_complete()
    }

    /// Whether the home of a lease is to hear that bytes come: no piece was whole for a while.
    pub fn is_to_tell_alive(&self, now: Time) -> bool {
        now >= self.told_alive + LEASE_LIFE_PAUSE && !self.leases.is_empty() && self.unreported.is_empty()
    }

    /// Bytes have come from upstream, whether or not they make a piece whole.
    pub fn handle_bytes(&mut self, now: Time, mail: &mut Mail) {
        let Some(home) = self.home() else { return };
        self.told_alive = now;
        let (digest, busy) = (self.digest, self.busy);
        let alive = |lease: &LeaseId| Message::Report { digest, lease: *lease, entries: vec![], busy };
        mail.extend(self.leases.keys().map(|lease| (home, alive(lease))));
    }
}
