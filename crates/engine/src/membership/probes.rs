//! Probes: how far away is a member?
//!
//! Question: how long do a packet to a member and its answer take? Answer: as long as between the last probe that was sent to
//! it and what it answered. Costs nothing: each member is probed in its turn anyway. Prevents: knowing this only of members
//! that blobs came from, and only of the past.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::PROBES_TIMED_MAX;
use crate::peer::PeerId;
use crate::time::Time;

/// Probes that may still be answered.
#[derive(Default)]
pub(super) struct Probes(VecDeque<(PeerId, u8, Time)>);

impl Probes {
    /// A probe leaves; the oldest makes room.
    pub fn sent(&mut self, now: Time, to: PeerId, number: u8) {
        self.0.retain(|(peer, ..)| *peer != to);
        if self.0.len() == PROBES_TIMED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((to, number, now));
    }

    /// An answer has come: how long it took, if it is to the last probe.
    pub fn answered(&mut self, now: Time, from: PeerId, number: u8) -> Option<Duration> {
        let at = self.0.iter().position(|(peer, of, _)| (*peer, *of) == (from, number))?;
        self.0.remove(at).map(|(.., sent)| now - sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_probe_of_a_member_is_timed_and_once() {
        let at = |ms: u64| Time::from_origin(Duration::from_millis(ms));
        let peer = |n: usize| PeerId([n as u8; 32]);
        let mut probes = Probes::default();
        probes.sent(at(0), peer(1), 7);
        probes.sent(at(5), peer(2), 8);
        assert_eq!(probes.answered(at(9), peer(1), 8), None, "an answer to another one");
        assert_eq!(probes.answered(at(9), peer(1), 7), Some(Duration::from_millis(9)));
        assert_eq!(probes.answered(at(9), peer(1), 7), None, "once");
        probes.sent(at(10), peer(2), 9);
        assert_eq!(probes.answered(at(11), peer(2), 8), None, "too late");
        assert_eq!(probes.answered(at(11), peer(2), 9), Some(Duration::from_millis(1)));
        (0..=PROBES_TIMED_MAX).for_each(|n| probes.sent(at(20), peer(n), 0));
        assert_eq!(probes.answered(at(21), peer(0), 0), None, "the oldest has made room");
        assert_eq!(probes.answered(at(21), peer(1), 0), Some(Duration::from_millis(1)));
    }
}
