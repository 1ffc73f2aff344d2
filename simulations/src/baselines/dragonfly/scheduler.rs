//! Which parents the scheduler names.
//!
//! Invariant: nobody is fed by itself, directly or over others.

use rand::seq::index;

use crate::net::Place;

use super::super::world::World;
use super::task::{State, Task};

/// Parents of a peer (`candidateParentLimit`).
const PARENTS_MAX: usize = 3;
/// Peers that are looked at (`filterParentLimit`).
const LOOKED_AT: usize = 15;
/// Children of a peer (`concurrentUploadLimit`).
const UPLOADS_MAX: usize = 200;
/// Children of the seed.
const SEED_UPLOADS_MAX: usize = 2000;
/// Between two attempts for a peer for which there is nobody, seconds (`retryInterval`).
pub(super) const RETRY_S: f64 = 0.5;
/// Attempts after which such a peer goes to the registry (`retryBackToSourceLimit`).
pub(super) const TRIES_BEFORE_SOURCE: u32 = 4;
/// Peers that may do so (`backToSourceCount`).
pub(super) const SOURCES_MAX: usize = 200;

/// Weights of the default evaluator, of what differs in this model: pieces had, free uploads, kind of host, zone.
const WEIGHTS: [f64; 4] = [0.2, 0.15, 0.15, 0.15];

/// At most three parents for a peer, the best of some that are drawn at random; none if there is nobody.
pub(super) fn parents<T>(world: &mut World<T>, task: &Task, node: Place) -> Vec<Place> {
    let known = task.registered.len();
    let drawn = index::sample(&mut world.rng, known, LOOKED_AT.min(known));
    let mut able: Vec<(f64, Place)> = drawn
        .iter()
        .map(|at| task.registered[at])
        .filter(|other| may_feed(world, task, *other, node))
        .map(|other| (score(world, task, other, node), other))
        .collect();
    able.sort_by(|one, other| other.0.total_cmp(&one.0));
    able.truncate(PARENTS_MAX);
    able.into_iter().map(|(_, parent)| parent).collect()
}

fn may_feed<T>(world: &World<T>, task: &Task, parent: Place, node: Place) -> bool {
    let peer = &task.peers[parent];
    let is_fed = match peer.state {
        State::Source | State::Done => true,
        State::Fed => !peer.parents.is_empty(),
        State::New | State::Registers | State::Waits => false,
    };
    is_fed
        && parent != node
        && world.is_up(parent)
        && peer.children.len() < uploads_max(task, parent)
        && !descends(task, parent, node)
}

fn score<T>(world: &World<T>, task: &Task, parent: Place, node: Place) -> f64 {
    let peer = &task.peers[parent];
    let pieces = f64::from(peer.have.len()) / f64::from(task.pieces);
    let free = 1.0 - peer.children.len() as f64 / uploads_max(task, parent) as f64;
    let host = if parent == task.seed { 1.0 } else { 0.5 };
    let zone = f64::from(u8::from(world.is_near(parent, node)));
    [pieces, free, host, zone].iter().zip(WEIGHTS).map(|(value, weight)| value * weight).sum()
}

fn uploads_max(task: &Task, place: Place) -> usize {
    if place == task.seed { SEED_UPLOADS_MAX } else { UPLOADS_MAX }
}

/// Whether a peer is fed by another one, over any number of others.
fn descends(task: &Task, peer: Place, from: Place) -> bool {
    if task.peers[from].children.is_empty() {
        return false;
    }
    let mut seen = vec![false; task.peers.len()];
    let mut open = vec![peer];
    while let Some(next) = open.pop() {
        if next == from {
            return true;
        }
        for parent in &task.peers[next].parents {
            if !std::mem::replace(&mut seen[*parent], true) {
                open.push(*parent);
            }
        }
    }
    false
}
