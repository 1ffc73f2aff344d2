//! Suspects: does a suspected member know that it is?
//!
//! Question: who tells a member that it is suspected, so that it can object? Answer: whoever suspects it, at once and again until the
//! verdict (the buddy system of Dadgar, Phillips and Currey, *Lifeguard*, 2017). Gossip goes to members by chance, a
//! few of which happen to be the one that it is about, and on a link that pieces fill those few are lost now and then. Prevents: a
//! member that receives and sends at full rate and is taken for gone by all the others.

use std::collections::BTreeMap;

use foca::Incarnation;

use crate::limits::{DOUBTS_MAX, SUSPICION, SUSPICION_REPEAT};
use crate::membership::identity::Identity;
use crate::peer::PeerId;
use crate::time::Time;

struct Suspect {
    id: Identity,
    incarnation: Incarnation,
    next: Time,
    until: Time,
}

/// Members that this node suspects by its own judgement, and when they are told.
#[derive(Default)]
pub(super) struct Suspects {
    by_peer: BTreeMap<PeerId, Suspect>,
}

impl Suspects {
    /// When the first of them is to be told.
    pub fn next_wakeup(&self) -> Option<Time> {
        self.by_peer.values().map(|suspect| suspect.next).min()
    }

    /// A member is suspected from now on.
    pub fn begin(&mut self, now: Time, id: Identity, incarnation: Incarnation) {
        if self.by_peer.len() < DOUBTS_MAX || self.by_peer.contains_key(&id.peer()) {
            let suspect = Suspect { incarnation, next: now, until: now + SUSPICION, id };
            self.by_peer.insert(suspect.id.peer(), suspect);
        }
    }

    /// Those that are to be told now.
    pub fn due(&mut self, now: Time) -> Vec<(Identity, Incarnation)> {
        self.by_peer.retain(|_, suspect| now < suspect.until);
        let due = self.by_peer.values_mut().filter(|suspect| suspect.next <= now);
        due.map(|suspect| {
            suspect.next = now + SUSPICION_REPEAT;
            (suspect.id.clone(), suspect.incarnation)
        })
        .collect()
    }

    /// A member has objected, or is gone.
    pub fn end(&mut self, peer: &PeerId) {
        self.by_peer.remove(peer);
    }
}
