//! Partners: whom is news told to?
//!
//! Question: to whom does a round of news go? Answer: to members that something was sent to or heard from lately, in turn,
//! once there are enough of them. Prevents: a connection for every piece of news. `foca` chooses among all members, so that a
//! node that starts together with many others would be connected to nearly all of them before it has met them, and a handshake
//! costs a hundred times what a piece of news does.
//!
//! Invariant: who is a partner is on the list, and its connection is not known to be broken. Probes go on in turns through the whole
//! list, so partners change all the time, and what one group of them has missed is found by comparing lists.

use std::collections::VecDeque;

use crate::limits::{PARTNERS_MAX, PARTNERS_MIN};
use crate::peer::PeerId;

/// Members that are connected to, as far as is known, in the order in which they are told.
#[derive(Default)]
pub(super) struct Partners(VecDeque<PeerId>);

impl Partners {
    /// Something came from a member that is on the list, or goes to it. Whoever is new waits its turn, the first one makes room.
    pub fn add(&mut self, peer: PeerId) {
        if self.0.contains(&peer) {
            return;
        }
        if self.0.len() == PARTNERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(peer);
    }

    /// A member is gone, or its connection is.
    pub fn end(&mut self, peer: &PeerId) {
        self.0.retain(|other| other != peer);
    }

    /// Whom to tell what was meant for `chosen`.
    pub fn instead_of(&mut self, chosen: PeerId) -> PeerId {
        if self.0.len() < PARTNERS_MIN {
            self.add(chosen);
            return chosen;
        }
        self.0.rotate_left(1);
        self.0.back().copied().unwrap_or(chosen)
    }
}
