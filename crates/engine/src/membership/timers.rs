//! The timers of `foca`, by the time they are due.

use std::collections::BTreeMap;
use std::time::Duration;

use foca::{Timer, TimerToken};

use crate::membership::identity::Identity;
use crate::time::Time;

/// Timers; those that are due at one time in the order they were set. Bounded by what sets them: four that recur, and
/// one for each member that is suspected.
#[derive(Default)]
pub(super) struct Timers {
    by_time: BTreeMap<(Time, u64), Timer<Identity>>,
    set: u64,
    token: TimerToken,
}

impl Timers {
    /// When the first is due.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.by_time.keys().next().map(|(at, _)| *at)
    }

    /// What `foca` stamps its timers with, for one that is set on its behalf.
    pub fn token(&self) -> TimerToken {
        self.token
    }

    /// Sets one.
    pub fn set(&mut self, now: Time, after: Duration, timer: Timer<Identity>) {
        if let Timer::ProbeRandomMember(token) = timer {
            self.token = token;
        }
        self.set += 1;
        self.by_time.insert((now + after, self.set), timer);
    }

    /// Takes one that is due.
    pub fn pop(&mut self, now: Time) -> Option<Timer<Identity>> {
        let first = self.by_time.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.by_time.clear();
    }
}
