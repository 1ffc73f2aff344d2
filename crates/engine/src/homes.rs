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
use crate::peer::{Key, PeerId, Roster};

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
    homes_of(point_of(digest), roster)
}

fn point_of(digest: &Digest) -> u64 {
    let mut prefix = [0; 8];
    prefix.copy_from_slice(&digest.hash()[..8]);
    u64::from_be_bytes(prefix)
}

/// Whether a member is a better home of a blob than another.
pub(crate) fn outranks(digest: &Digest, one: &PeerId, other: &PeerId) -> bool {
    rank_key(digest, one) > rank_key(digest, other)
}

/// Of some members, the best homes of a blob: those that would be home if there were no better ones.
pub(crate) fn first_of(digest: &Digest, members: impl Iterator<Item = PeerId>, most: usize) -> Vec<PeerId> {
    let mut ranked: Vec<_> = members.map(|peer| rank_key(digest, &peer)).collect();
    let at = ranked.len().saturating_sub(most);
    if at > 0 {
        ranked.select_nth_unstable(at);
    }
    ranked.split_off(at).into_iter().map(|(_, peer)| peer).collect()
}

/// The weight of a member, and its name where two weigh the same.
fn rank_key(digest: &Digest, peer: &PeerId) -> (u64, PeerId) {
    (mix(point_of(digest) ^ peer.prefix()), *peer)
}

/// The homes of a tag, by its full name `registry/repository:tag`.
pub fn tag_homes(name: &str, roster: &Roster) -> Homes {
    homes_of(fnv1a(name.as_bytes()), roster)
}

fn homes_of(point: u64, roster: &Roster) -> Homes {
    let keys = roster.keys();
    let mut ranked: [Option<usize>; HOMES_PER_DIGEST] = [None; HOMES_PER_DIGEST];
    let is_one_zone = keys.iter().all(|key| key.zone == 0);
    for rank in 0..HOMES_PER_DIGEST {
        let (chosen, rest) = ranked.split_at_mut(rank);
        let chosen: &[Option<usize>] = chosen;
        let zones = chosen.iter().flatten().map(|c| keys[*c].zone);
        let elsewhere = match is_one_zone && rank > 0 {
            true => None,
            false => heaviest(point, keys, |at| zones.clone().all(|zone| zone != keys[at].zone)),
        };
        rest[0] = elsewhere.or_else(|| heaviest(point, keys, |at| !chosen.contains(&Some(at))));
    }
    Homes { ranked: ranked.map(|member| member.map(|at| roster.at(at).peer)) }
}

/// Place of the heaviest member that is wanted. Members are in the order of their names, so of equal weights the last
/// one counts, for everybody.
fn heaviest(point: u64, keys: &[Key], wanted: impl Fn(usize) -> bool) -> Option<usize> {
    let weights = keys.iter().enumerate().map(|(at, key)| (mix(point ^ key.prefix), at));
    let mut heaviest: Option<(u64, usize)> = None;
    for (weight, at) in weights {
        if heaviest.is_none_or(|(most, _)| weight >= most) && wanted(at) {
            heaviest = Some((weight, at));
        }
    }
    heaviest.map(|(_, at)| at)
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
