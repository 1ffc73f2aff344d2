//! Homes: who keeps the book of a digest?
//!
//! Question: who knows which members hold or want a blob, and who asks upstream about a tag? Answer: the members with the
//! highest weights for that digest or tag, ranked (rendezvous hashing: Thaler and Ravishankar, "Using name-based mappings
//! to increase hit rates", 1998); the second and the third in zones that the ones before them are not in, as long as there
//! are such zones. Prevents: a tracker that everybody depends on, a look-up before every pull, books that move when one
//! member comes or goes, and a digest whose homes all go dark with one zone.
//!
//! Every member computes this for itself, so the weights are part of the protocol: they are pinned by tests.

use crate::ids::Digest;
use crate::limits::HOMES_PER_DIGEST;
use crate::peer::{Member, PeerId, Roster};

/// The homes of one digest or tag, first rank first. Fewer than [`HOMES_PER_DIGEST`] only if there are fewer members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Homes {
    ranked: [Option<PeerId>; HOMES_PER_DIGEST],
}

impl Homes {
    /// The members by rank.
    pub fn iter(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.ranked.iter().flatten().copied()
    }

    /// The home of the first rank; `None` if there are no members.
    pub fn first(&self) -> Option<PeerId> {
        self.ranked[0]
    }

    /// Rank of a member, from 0.
    pub fn rank(&self, peer: &PeerId) -> Option<usize> {
        self.iter().position(|home| home == *peer)
    }

    /// Whether a member is one of the homes.
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.rank(peer).is_some()
    }
}

/// The homes of a blob.
pub fn homes(digest: &Digest, roster: &Roster) -> Homes {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&digest.hash()[..8]);
    homes_of(u64::from_be_bytes(prefix), roster)
}

/// The homes of a tag, by its full name `registry/repository:tag`.
pub fn tag_homes(name: &str, roster: &Roster) -> Homes {
    homes_of(fnv1a(name.as_bytes()), roster)
}

fn homes_of(point: u64, roster: &Roster) -> Homes {
    let mut ranked: [Option<&Member>; HOMES_PER_DIGEST] = [None; HOMES_PER_DIGEST];
    for rank in 0..HOMES_PER_DIGEST {
        let chosen = &ranked[..rank];
        let elsewhere = heaviest(point, roster, |m| chosen.iter().flatten().all(|c| c.zone != m.zone));
        ranked[rank] = elsewhere
            .or_else(|| heaviest(point, roster, |m| chosen.iter().flatten().all(|c| c.peer != m.peer)));
    }
    Homes { ranked: ranked.map(|member| member.map(|m| m.peer)) }
}

fn heaviest(point: u64, roster: &Roster, wanted: impl Fn(&Member) -> bool) -> Option<&Member> {
    // Equal weights are decided by the name, so that all members agree.
    roster.iter().map(|m| &**m).filter(|m| wanted(m)).max_by_key(|m| (weight(point, &m.peer), m.peer))
}

fn weight(point: u64, peer: &PeerId) -> u64 {
    mix(point ^ peer.prefix())
}

/// Bijective mixing: each bit of the result depends on each bit of the argument. The last step of SplitMix64 (Steele,
/// Lea and Flood, "Fast splittable pseudorandom number generators", 2014; constants of Stafford's variant 13).
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// FNV-1a of 64 bits (draft-eastlake-fnv). Nobody gains by a collision: two tags would have the same homes.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests;
