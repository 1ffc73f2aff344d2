//! What `foca` takes for a member. Invariant: peer and generation say it all; two identities that agree in both are the
//! same member in the same life, so the rest may be missing where only a name was sent.

use std::fmt;
use std::sync::Arc;

use crate::peer::{Member, PeerId};

/// A member in one life.
#[derive(Clone)]
pub(super) struct Identity {
    /// Beside the pointer and not behind it: `foca` walks over all members for each piece of news.
    peer: PeerId,
    generation: u64,
    member: Arc<Member>,
}

impl Identity {
    /// All that is known.
    pub fn new(member: Arc<Member>) -> Self {
        Identity { peer: member.peer, generation: member.generation, member }
    }

    /// A name only.
    pub fn bare(peer: PeerId, generation: u64) -> Self {
        let (addresses, labels) = (Box::default(), Box::default());
        let (zone, version) = (Box::default(), Box::default());
        Identity::new(Arc::new(Member { peer, generation, addresses, data_port: 0, zone, labels, version }))
    }

    /// Its name.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Which of its lives.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What is known of it.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.generation == other.generation && self.peer == other.peer
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.peer, self.generation)
    }
}

impl foca::Identity for Identity {
    type Addr = PeerId;

    /// A member that was declared dead comes back as the next generation, a millisecond younger.
    fn renew(&self) -> Option<Self> {
        let generation = self.generation.checked_add(1)?;
        Some(Identity::new(Arc::new(Member { generation, ..Member::clone(&self.member) })))
    }

    fn addr(&self) -> PeerId {
        self.peer
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}
