//! The time that a node has lived through.
//!
//! Question: how much time has passed for this node, if it had no processor for a while? Answer: what it was late beyond
//! [`LATENESS_MAX`] does not count. Prevents: a node that was stopped, or starved among too many others, taking its own
//! silence for everybody else's: it would find all its deadlines missed before it has read a single answer that lies
//! waiting, suspect the whole cluster, and make everybody object, which starves the next one. The idea is Lifeguard's
//! (Dadgar, Phillips and Currey, 2017): doubt yourself before you doubt others.

use std::time::Duration;

use crate::limits::LATENESS_MAX;
use crate::time::Time;

/// Converts between the driver's time and this node's own.
#[derive(Default)]
pub(super) struct Clock {
    /// The driver's time that did not count.
    lost: Duration,
    /// The wakeup that was asked for last, in own time.
    planned: Option<Time>,
}

impl Clock {
    /// Own time, now that it is `now` for the driver.
    pub fn read(&mut self, now: Time) -> Time {
        let own = Time::ZERO + (now - self.started());
        let lateness = self.planned.map_or(Duration::ZERO, |planned| own - planned);
        self.lost += lateness.saturating_sub(LATENESS_MAX);
        Time::ZERO + (now - self.started())
    }

    /// Remembers which wakeup is wanted next, in own time.
    pub fn plan(&mut self, wakeup: Option<Time>) {
        self.planned = wakeup;
    }

    /// The driver's time at which the planned wakeup is wanted.
    pub fn wakeup(&self) -> Option<Time> {
        self.planned.map(|planned| planned + self.lost)
    }

    /// The driver's time at which own time would have begun, had it never stood still.
    fn started(&self) -> Time {
        Time::ZERO + self.lost
    }
}
