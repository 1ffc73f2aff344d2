//! Doubts: is a member whose connection broke still there?
//!
//! Question: the transport has lost a connection; is the member gone? Answer: it is asked at once, and suspected if
//! nothing at all comes from it while a probe would be answered. Prevents: waiting for the turn of a member that is known to be in
//! trouble, and suspecting everybody whose idle connection was merely closed.

use std::collections::BTreeMap;

use crate::limits::{DOUBTS_MAX, PROBE_ANSWER_MAX};
use crate::peer::PeerId;
use crate::time::Time;

/// Members that have been asked, and when they are suspected.
#[derive(Default)]
pub(super) struct Doubts {
    deadlines: BTreeMap<PeerId, Time>,
}

impl Doubts {
    /// When the first of them is to be suspected.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.deadlines.values().min().copied()
    }

    /// Whether to ask this member now.
    pub fn begin(&mut self, now: Time, peer: PeerId) -> bool {
        let is_new = self.deadlines.len() < DOUBTS_MAX && !self.deadlines.contains_key(&peer);
        if is_new {
            self.deadlines.insert(peer, now + PROBE_ANSWER_MAX);
        }
        is_new
    }

    /// Something came from this member.
    pub fn dispel(&mut self, peer: &PeerId) {
        self.deadlines.remove(peer);
    }

    /// The members to suspect now.
    pub fn due(&mut self, now: Time) -> Vec<PeerId> {
        let due: Vec<_> =
            self.deadlines.iter().filter(|(_, at)| **at <= now).map(|(peer, _)| *peer).collect();
        due.iter().for_each(|peer| self.dispel(peer));
        due
    }
}
