//! What listeners have been shown, and what has changed since.
//!
//! Invariant: who has seen a snapshot and every change after it has seen what is in [`Shown`]. A change names at most
//! [`STANDINGS_MAX`] members that stand differently and [`JOINED_MAX`] that are new; the others are in the next ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::traffic::Moment;
use super::view::{BlobView, MemberView, NodeView, RolloutView, View};
use super::{Traffic, now_ms};
use crate::driver::FlightStatus;

/// Members whose standing is told in one change, 14 bytes each.
const STANDINGS_MAX: usize = 200;
/// New members that are told in one change, 120 bytes each.
const JOINED_MAX: usize = 50;

/// Bit of the last number of a [`Standing`]: it receives slowly.
const SLOW: u8 = 1;
/// Bit: it will not be ready in a rollout that is under way.
const FAILED: u8 = 2;
/// Bit: it is the node that is asked.
const SELF: u8 = 4;
/// Bit: it is away, and a rollout waits for it.
const AWAY: u8 = 8;

/// How a member stands: blobs of the followed ones that it has, and that it receives; then a sum of 1 if it receives
/// slowly, 2 if it will not be ready in a rollout that is under way, 4 if it is the node that is asked, and 8 if it is away
/// and a rollout waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing(pub u16, pub u16, pub u8);

impl utoipa::PartialSchema for Standing {
    /// Three numbers, which is what serde makes of it.
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        <Vec<u16>>::schema()
    }
}

impl utoipa::ToSchema for Standing {}

impl Standing {
    /// Whether it receives one of the followed blobs slowly.
    pub fn is_slow(self) -> bool {
        self.2 & SLOW != 0
    }

    /// Whether it is away, and a rollout waits for it.
    pub fn is_away(self) -> bool {
        self.2 & AWAY != 0
    }

    /// Whether it will not be ready in a rollout that is under way.
    pub fn has_failed(self) -> bool {
        self.2 & FAILED != 0
    }

    /// Whether it is the node that is asked.
    pub fn is_self(self) -> bool {
        self.2 & SELF != 0
    }

    fn of(member: &MemberView) -> Self {
        let bit = |is: bool, bit: u8| if is { bit } else { 0 };
        let bits = [
            (member.is_slow, SLOW),
            (member.has_failed, FAILED),
            (member.is_self, SELF),
            (member.is_away, AWAY),
        ];
        let bits = bits.into_iter().fold(0, |bits, (is, of)| bits | bit(is, of));
        Standing(member.have, member.receiving, bits)
    }
}

/// A member, as it is told when it is first seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MemberShown {
    /// Its number in this stream of events; it is never given again.
    pub id: u32,
    /// Beginning of its name.
    pub name: String,
    /// Its first address.
    pub address: String,
    /// Its zone.
    pub zone: String,
    /// Version of its software.
    pub version: String,
    /// How it stands.
    pub standing: Standing,
}

/// The first event: everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Snapshot {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// This node.
    pub node: NodeView,
    /// Bytes since it started.
    pub traffic: Traffic,
    /// The same over the last ten minutes, oldest first.
    pub history: Vec<Moment>,
    /// The members.
    pub members: Vec<MemberShown>,
    /// Blobs on their way over the members.
    pub blobs: Vec<BlobView>,
    /// Blobs that this node receives.
    pub flights: Vec<FlightStatus>,
    /// Requests to warm that this node follows.
    pub rollouts: Vec<RolloutView>,
}

/// What has changed since the last event. What is not there is as it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Change {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// This node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeView>,
    /// Bytes since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Members that are new, or came back as something else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<MemberShown>,
    /// Members that are gone, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<u32>,
    /// Members that stand differently.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standings: Vec<(u32, Standing)>,
    /// All blobs on their way, if one of them has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blobs: Option<Vec<BlobView>>,
    /// All blobs that this node receives, if one of them has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flights: Option<Vec<FlightStatus>>,
    /// All requests to warm, if one of them has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollouts: Option<Vec<RolloutView>>,
}

/// What listeners have been shown.
pub(super) struct Shown {
    view: View,
    /// Numbers of the members of `view`.
    ids: BTreeMap<String, u32>,
    next_id: u32,
}

impl Shown {
    pub fn new(view: View) -> Self {
        let ids: BTreeMap<String, u32> = view.members.keys().cloned().zip(0..).collect();
        let next_id = ids.len() as u32;
        Shown { view, ids, next_id }
    }

    pub fn snapshot(&self, history: Vec<Moment>) -> Snapshot {
        let View { node, traffic, members, blobs, flights, rollouts } = &self.view;
        Snapshot {
            at_ms: now_ms(),
            node: node.clone(),
            traffic: *traffic,
            history,
            members: members.iter().map(|(name, member)| shown(self.ids[name], name, member)).collect(),
            blobs: blobs.clone(),
            flights: flights.clone(),
            rollouts: rollouts.clone(),
        }
    }

    /// Goes on to a later view, as far as one change reaches. `None` if nothing has changed.
    pub fn advance(&mut self, view: View) -> Option<Change> {
        let View { node, traffic, members, blobs, flights, rollouts } = view;
        let mut change = Change {
            node: renewed(&mut self.view.node, node),
            traffic: renewed(&mut self.view.traffic, traffic),
            blobs: renewed(&mut self.view.blobs, blobs),
            flights: renewed(&mut self.view.flights, flights),
            rollouts: renewed(&mut self.view.rollouts, rollouts),
            ..Change::default()
        };
        self.advance_members(members, &mut change);
        if change == Change::default() {
            return None;
        }
        change.at_ms = now_ms();
        Some(change)
    }

    fn advance_members(&mut self, members: BTreeMap<String, MemberView>, change: &mut Change) {
        let (known, ids) = (&mut self.view.members, &mut self.ids);
        // One that came back with another address, zone or version is somebody else.
        known.retain(|name, old| {
            let stays = members.get(name).is_some_and(|new| details(new) == details(old));
            if !stays {
                change.left.extend(ids.remove(name));
            }
            stays
        });
        for (name, new) in members {
            match known.get_mut(&name) {
                Some(old) if *old == new => {}
                Some(old) if change.standings.len() < STANDINGS_MAX => {
                    change.standings.push((ids[&name], Standing::of(&new)));
                    *old = new;
                }
                None if change.joined.len() < JOINED_MAX => {
                    change.joined.push(shown(self.next_id, &name, &new));
                    ids.insert(name.clone(), self.next_id);
                    known.insert(name, new);
                    self.next_id += 1;
                }
                _ => {}
            }
        }
    }
}

fn details(member: &MemberView) -> (&str, &str, &str) {
    (&member.address, &member.zone, &member.version)
}

fn shown(id: u32, name: &str, member: &MemberView) -> MemberShown {
    MemberShown {
        id,
        name: name.to_owned(),
        address: member.address.clone(),
        zone: member.zone.clone(),
        version: member.version.clone(),
        standing: Standing::of(member),
    }
}

/// Puts the new value into its place, and tells it if it is another one.
fn renewed<T: Clone + PartialEq>(place: &mut T, new: T) -> Option<T> {
    if *place == new {
        return None;
    }
    *place = new;
    Some(place.clone())
}
