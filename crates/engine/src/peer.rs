//! Members of the cluster, and the list of all of them.
//!
//! Every member knows every member, because homes are computed without a look-up. How the list comes about is the
//! business of [`membership`](crate::membership); the machine that moves blobs is handed a finished [`Roster`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Name of a member: its Ed25519 public key, 32 bytes. Ordered as bytes.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    bincode::Encode,
    bincode::Decode,
)]
pub struct PeerId(pub [u8; 32]);

impl PeerId {
    /// The first eight bytes as a number: keys are uniformly distributed, so this is all the hashing they need.
    pub(crate) fn prefix(&self) -> u64 {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(prefix)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is known of a member. Everything but the key can change when the agent restarts; `generation` then grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, bincode::Encode, bincode::Decode)]
pub struct Member {
    /// Its name.
    pub peer: PeerId,
    /// Grows with each start of the agent (milliseconds since 1970 at its start), so that a restarted member wins over
    /// what was said of it before.
    pub generation: u64,
    /// Where it listens for the control messages of other members, best address first.
    pub addresses: Box<[SocketAddr]>,
    /// The port, at the same addresses, where it sends pieces to whoever opens a stream.
    pub data_port: u16,
    /// Failure and cost domain, for example an availability zone; empty if the operator has named none.
    pub zone: Box<str>,
    /// Labels for selecting members, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Version of its software.
    pub version: Box<str>,
}

/// All members that are believed to be alive, this node included. Immutable: a change makes a new one.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// Ascending by name.
    members: Vec<Arc<Member>>,
    /// What homes are computed from, member for member: side by side, because thousands are looked at for each digest.
    keys: Vec<Key>,
}

/// What a member weighs by, see [`homes`](crate::homes).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// [`PeerId::prefix`].
    pub prefix: u64,
    /// Number of its zone on this list.
    pub zone: u32,
}

impl Roster {
    /// A list of members. The last one given wins where a name stands twice.
    pub fn new(members: impl IntoIterator<Item = Arc<Member>>) -> Self {
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_by_key(|m| m.peer);
        members.reverse();
        members.dedup_by_key(|m| m.peer);
        members.reverse();
        let mut zones: BTreeMap<&str, u32> = BTreeMap::new();
        let keys = members.iter().map(|m| {
            let next = zones.len() as u32;
            Key { prefix: m.peer.prefix(), zone: *zones.entry(&*m.zone).or_insert(next) }
        });
        let keys = keys.collect();
        Roster { members, keys }
    }

    /// What homes are computed from, in the order of the members.
    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The member at a place of the list.
    pub(crate) fn at(&self, index: usize) -> &Arc<Member> {
        &self.members[index]
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A member by name.
    pub fn get(&self, peer: &PeerId) -> Option<&Arc<Member>> {
        self.members.binary_search_by_key(peer, |m| m.peer).ok().map(|at| &self.members[at])
    }

    /// Whether a member is there.
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.get(peer).is_some()
    }

    /// The zone of a member; empty for strangers, as for members without one.
    pub fn zone(&self, peer: &PeerId) -> &str {
        self.get(peer).map_or("", |m| &m.zone)
    }

    /// All members, ascending by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Member>> {
        self.members.iter()
    }
}
