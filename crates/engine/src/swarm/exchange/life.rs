//! Signs of life: of a node that fetches, and of a home.
//!
//! Question: how does a home tell a lease holder that receives slowly from one that stands still? Answer: the holder says so, with a
//! report of no pieces, while bytes come and no piece is whole. Prevents: leases that go round among members that are all equally
//! slow, each of which throws a part of a piece away.

use std::time::Duration;

use super::Exchange;
use crate::limits::{FEED_PATIENCE_MAX, HOME_SILENCE_MAX, JOIN_TIMEOUT, LEASE_LIFE_PAUSE, REJOIN_TIMEOUT};
use crate::swarm::home::Mail;
use crate::time::Time;
use crate::wire::{LeaseId, Message};

impl Exchange {
    /// How long a home has to answer.
    pub(super) fn join_timeout(&self, rank: usize) -> Duration {
        let is_lost = self.lost_home.is_some_and(|lost| self.homes.get(rank) == Some(&lost));
        match () {
            () if is_lost => REJOIN_TIMEOUT,
            // Whoever is asked again has the answers to all who share its link to send as well.
            () if rank == 0 && self.was_in_a_book => JOIN_TIMEOUT * self.crowd.clamp(1, 4) as u32,
            () => JOIN_TIMEOUT,
        }
    }

    /// How long nothing may come before the home is asked whether it lives. Where a node receives many blobs at once each of them comes
    /// with pauses, for everybody: all would ask, and each answer holds a list.
    pub(super) fn home_patience(&self) -> Duration {
        self.in_crowd(HOME_SILENCE_MAX)
    }

    /// A time that is enough where a node receives one blob, where it receives several.
    pub(super) fn in_crowd(&self, alone: Duration) -> Duration {
        (alone * self.crowd.max(1) as u32).min(FEED_PATIENCE_MAX)
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
