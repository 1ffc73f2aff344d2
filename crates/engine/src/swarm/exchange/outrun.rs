//! Does a blob come into the cluster faster than this node can receive it?
//!
//! Question: are several lease holders of any use, or is each node's own link what is slow? Answer: as long as upstream is what
//! is slow, a lease holder has whatever anybody has, a moment later. Where it gains clearly less than what is new to all, its
//! link (or what feeds it) is full, and more leases only bring pieces earlier than they can go round. Nobody has to know what a
//! link can do. Prevents: a dozen requests for one layer where the registry is faster than the nodes.

use crate::limits::{OUTRUN_PIECES_MIN, OUTRUN_SHARE_MAX, OUTRUN_TIME};
use crate::time::Time;

/// Compares what a node gains with what is new to all, over some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outrun {
    since: Time,
    /// Pieces that were there then, and those whose hashes were known.
    then: (u32, u32),
    is_outrun: bool,
}

impl Outrun {
    /// Nothing is known yet.
    pub fn new(now: Time) -> Self {
        Outrun { since: now, then: (0, 0), is_outrun: false }
    }

    /// Looks at the pieces that are here, and at those that somebody has. Answers whether this node is left behind.
    pub fn look(&mut self, now: Time, (have, known): (u32, u32)) -> bool {
        let (gained, new) = (have.saturating_sub(self.then.0), known.saturating_sub(self.then.1));
        if now >= self.since + OUTRUN_TIME && new >= OUTRUN_PIECES_MIN {
            self.is_outrun = f64::from(gained) < OUTRUN_SHARE_MAX * f64::from(new);
            (self.since, self.then) = (now, (have, known));
        }
        self.is_outrun
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_new_to_all_and_does_not_come_here() {
        let at = |millis| Time::ZERO + Duration::from_millis(millis);
        let mut outrun = Outrun::new(at(0));
        let table = [
            (100, (30, 30), false, "too early to tell"),
            (300, (60, 60), false, "it has what anybody has"),
            (600, (90, 120), true, "half of what is new"),
            (700, (91, 180), true, "until it is looked at again"),
            (900, (91, 127), true, "too few to tell"),
            (1200, (160, 190), false, "it catches up"),
        ];
        for (now, pieces, expected, why) in table {
            assert_eq!(outrun.look(at(now), pieces), expected, "{why}");
        }
    }
}
