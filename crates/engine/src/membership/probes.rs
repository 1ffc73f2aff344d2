//! Probes: how far away is a member?
//!
//! Question: how long do a packet to a member and its answer take? Answer: as long as between the last probe that was sent to
//! it and what it answered. Costs nothing: each member is probed in its turn anyway. Prevents: knowing this only of members
//! that blobs came from, and only of the past.
//!
//! A member that does not answer, and does answer others, cannot be reached on its connection, of which nobody might hear for a
//! quarter of an hour: it is to be connected to anew.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::{PROBE_UNANSWERED_MAX, PROBES_TIMED_MAX};
use crate::peer::PeerId;
use crate::time::Time;

/// Probes that may still be answered, the oldest first.
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

    /// When the oldest has waited for too long.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.0.front().map(|(.., sent)| *sent + PROBE_UNANSWERED_MAX)
    }

    /// A member that has not answered for too long; each once.
    pub fn unanswered(&mut self, now: Time) -> Option<PeerId> {
        let is_due = self.next_wakeup().is_some_and(|at| at <= now);
        is_due.then(|| self.0.pop_front()).flatten().map(|(peer, ..)| peer)
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

    #[test]
    fn whoever_does_not_answer_is_named_once_and_later() {
        let at = |ms: u64| Time::from_origin(Duration::from_millis(ms));
        let peer = |n: u8| PeerId([n; 32]);
        let mut probes = Probes::default();
        assert_eq!(probes.next_wakeup(), None);
        (1..=3).for_each(|n| probes.sent(at(u64::from(n)), peer(n), n));
        probes.answered(at(5), peer(2), 2);
        let first = at(1) + PROBE_UNANSWERED_MAX;
        assert_eq!(probes.next_wakeup(), Some(first));
        assert_eq!(probes.unanswered(first), Some(peer(1)));
        assert_eq!(probes.unanswered(first), None, "the last one has some time left");
        assert_eq!(probes.unanswered(at(3) + PROBE_UNANSWERED_MAX), Some(peer(3)));
        assert_eq!(probes.next_wakeup(), None);
    }
}
