//! A node on its own: it waits for a home, and nobody speaks at all (see [`Silence`](crate::swarm::silence)).
//!
//! Question: what does it do until the membership knows more? Answer: it begins to fetch by itself, goes on asking its homes, and
//! stops as soon as anybody speaks; what it has then it tells the home that welcomes it. What all nodes of a
//! cluster would do at the same moment is spread as everywhere.

use std::time::Duration;

use super::{Exchange, Standing};
use crate::swarm::home::Mail;
use crate::time::Time;

/// See the module's head.
#[derive(Default)]
pub(super) struct Deaf {
    /// This node's part of the time over which a cluster spreads what it asks upstream.
    spread: Duration,
    /// From when on it fetches by itself.
    from: Option<Time>,
    /// Whether that time has come.
    fetches: bool,
    /// Whether it had come since a home last welcomed this node.
    has_fetched: bool,
}

impl Exchange {
    /// Says how much later than others this node begins to fetch by itself.
    pub fn set_spread(&mut self, spread: Duration) {
        self.deaf.spread = spread;
    }

    /// Nobody speaks.
    pub fn set_deaf(&mut self, now: Time) {
        self.deaf.from.get_or_insert(now + self.deaf.spread);
    }

    /// Somebody has spoken. Whether that changes what is fetched.
    pub fn hear_again(&mut self) -> bool {
        let fetched = self.is_deaf();
        (self.deaf.from, self.deaf.fetches) = (None, false);
        fetched
    }

    /// Whether the node fetches by itself because nobody speaks.
    pub fn is_deaf(&self) -> bool {
        self.deaf.fetches && matches!(self.standing, Standing::Joining(_))
    }

    /// When that begins.
    pub(super) fn deaf_wakeup(&self) -> Option<Time> {
        self.deaf.from.filter(|_| !self.deaf.fetches)
    }

    /// Time has passed, perhaps without an answer of the home.
    pub(super) fn listen(&mut self, now: Time) {
        let waits = matches!(self.standing, Standing::Joining(_));
        if waits && self.deaf_wakeup().is_some_and(|from| from <= now) {
            (self.deaf.fetches, self.deaf.has_fetched) = (true, true);
        }
    }

    /// A home has welcomed this node, which may have fetched something while nobody spoke.
    pub(super) fn tell_what_came_meanwhile(&mut self, now: Time, mail: &mut Mail) {
        (self.deaf.from, self.deaf.fetches) = (None, false);
        // Nothing comes between a node and itself.
        if std::mem::take(&mut self.deaf.has_fetched) && self.home() != Some(self.me) {
            self.join(now, 0, mail);
        }
    }
}
