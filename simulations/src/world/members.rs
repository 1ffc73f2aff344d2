//! Membership: given to everybody, or found by the real machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use shoal_engine::membership::{self, Membership};
use shoal_engine::wire::Message;
use shoal_engine::{Algorithm, Digest, Input, Member, PeerId, Roster, Time};

use super::{Happening, NodeId, Seen, World, node_of, peer_id};
use crate::queue::{Nanos, nanos};
use crate::scenario::Scenario;

/// Members that a starting agent finds by its bootstrap name: what a headless Service answers first.
const CONTACTS: usize = 3;

/// When a driver tells of the blobs in its store, seconds after its start: a list of members that still grows would name
/// homes that are none a moment later.
const STOCK_AFTER_S: f64 = 15.0;

/// The nodes do so within this time, seconds, so that a cluster that starts together does not announce together.
const STOCK_SPREAD_S: f64 = 30.0;

/// What is known of a node.
pub fn member(scenario: &Scenario, node: NodeId, rng: &mut StdRng) -> Arc<Member> {
    let [_, a, b, c] = (node as u32 + 1).to_be_bytes();
    Arc::new(Member {
        peer: peer_id(node, rng),
        generation: 1,
        addresses: [SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, a, b, c)), 5001)].into(),
        data_port: 5002,
        zone: scenario.zones[scenario.zone_of(node)].name.as_str().into(),
        labels: Box::default(),
        version: "0.1.0".into(),
    })
}

fn time(now: Nanos) -> Time {
    Time::from_origin(Duration::from_nanos(now))
}

impl World<'_> {
    /// A node's agent starts.
    pub(super) fn begin(&mut self, now: Nanos, node: NodeId) {
        if self.nodes[node].is_up() {
            return;
        }
        self.nodes[node].start();
        let settings = self.nodes[node].settings();
        self.show(node, Seen::Begun(settings));
        if self.scenario.swim {
            self.begin_membership(now, node);
        } else {
            let roster = Arc::clone(&self.roster);
            self.input(now, node, Input::Roster(roster));
        }
        for layer in 0..self.layers.len() {
            if self.nodes[node].blobs[layer].stored {
                let (digest, size) = (self.layers[layer].digest, self.layers[layer].size);
                self.input(now, node, Input::Stored { digest, size });
            }
        }
        if self.scenario.clients.stored > 0 {
            let calm = if self.scenario.swim { STOCK_AFTER_S } else { 0.0 };
            let at = now + nanos(calm + self.rng.random_range(0.0..STOCK_SPREAD_S));
            let life = self.nodes[node].life;
            self.queue.plan(at, Happening::Stock { node, life });
        }
    }

    /// Other blobs of a node: only their announcements matter.
    pub(super) fn announce_stored(&mut self, now: Nanos, node: NodeId, life: u32) {
        if self.nodes[node].life != life {
            return;
        }
        for number in 0..self.scenario.clients.stored {
            let mut hash = [0x55; 32];
            hash[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
            let digest = Digest::new(Algorithm::Sha256, &hash);
            self.input(now, node, Input::Stored { digest, size: 50 << 20 });
        }
    }

    fn begin_membership(&mut self, now: Nanos, node: NodeId) {
        let n = &mut self.nodes[node];
        let me = Member { generation: now / 1_000_000 + 1, ..(*n.member).clone() };
        let seed = n.seed ^ u64::from(n.life);
        match Membership::new(time(now), me, seed) {
            Ok(membership) => n.membership = Some(membership),
            Err(fault) => return self.violate(now, format!("node {node} cannot be a member: {fault}")),
        }
        let up = (0..self.nodes.len()).filter(|n| *n != node && self.nodes[*n].is_up());
        let contacts: Vec<_> = up.take(CONTACTS).map(|n| self.nodes[n].peer()).collect();
        for peer in contacts {
            self.tell_membership(now, node, membership::Input::Contact { peer });
        }
        self.settle_membership(now, node);
    }

    pub(super) fn hear_membership(&mut self, now: Nanos, node: NodeId, from: PeerId, bytes: Vec<u8>) {
        self.tell_membership(now, node, membership::Input::Packet { from, bytes });
        self.settle_membership(now, node);
    }

    pub(super) fn lose_member(&mut self, now: Nanos, node: NodeId, peer: PeerId) {
        self.tell_membership(now, node, membership::Input::Unreachable { peer });
        self.settle_membership(now, node);
    }

    pub(super) fn wake_member(&mut self, now: Nanos, node: NodeId, life: u32) {
        if self.nodes[node].life != life || !self.nodes[node].is_up() {
            return;
        }
        let due = self.nodes[node].membership.as_ref().and_then(Membership::next_wakeup);
        if due.is_some_and(|at| at <= time(now)) {
            self.tell_membership(now, node, membership::Input::Wakeup);
        }
        self.settle_membership(now, node);
    }

    fn tell_membership(&mut self, now: Nanos, node: NodeId, input: membership::Input) {
        if let Some(membership) = &mut self.nodes[node].membership {
            membership.handle(time(now), input);
        }
    }

    fn settle_membership(&mut self, now: Nanos, node: NodeId) {
        while let Some(output) = self.nodes[node].membership.as_mut().and_then(Membership::poll_output) {
            match output {
                membership::Output::Packet { to, bytes } => {
                    self.tell(now, node, node_of(&to.peer), Message::Swim(bytes));
                }
                membership::Output::Roster(roster) => self.input(now, node, Input::Roster(roster)),
                membership::Output::Answered { peer, after } => {
                    self.input(now, node, Input::Answered { peer, after });
                }
                membership::Output::Reconnect { .. } | membership::Output::Event(_) => {}
            }
        }
        let life = self.nodes[node].life;
        let n = &mut self.nodes[node];
        if let Some(at) = n.membership.as_ref().and_then(Membership::next_wakeup) {
            let at = at.since_origin().as_nanos() as Nanos;
            if n.member_wake_at.is_none_or(|planned| at < planned || planned <= now) {
                n.member_wake_at = Some(at);
                self.queue.plan(at, Happening::MemberWakeup { node, life });
            }
        }
    }

    /// Where the scenario does not run the membership: a member has answered it a moment ago.
    pub(super) fn answer_probe(&mut self, now: Nanos, node: NodeId) {
        let next = (node + 1) % self.nodes.len();
        if next != node {
            let after = Duration::from_nanos(self.net.delay(node, next) + self.net.delay(next, node));
            let peer = self.nodes[next].peer();
            self.input(now, node, Input::Answered { peer, after });
        }
    }

    /// Everybody is given a new list, where the scenario does not run the membership.
    pub(super) fn give_roster(&mut self, now: Nanos, alive: impl Fn(NodeId, NodeId) -> bool) {
        if self.scenario.swim {
            return;
        }
        let everybody = Roster::new(self.nodes.iter().filter(|n| n.is_up()).map(|n| Arc::clone(&n.member)));
        let everybody = Arc::new(everybody);
        let all_alike = (0..self.nodes.len()).all(|n| alive(0, n));
        self.roster = Arc::clone(&everybody);
        for node in 0..self.nodes.len() {
            if !self.nodes[node].is_up() {
                continue;
            }
            let roster = match all_alike {
                true => Arc::clone(&everybody),
                false => Arc::new(Roster::new(
                    (0..self.nodes.len())
                        .filter(|n| self.nodes[*n].is_up() && alive(node, *n))
                        .map(|n| Arc::clone(&self.nodes[n].member)),
                )),
            };
            self.input(now, node, Input::Roster(roster));
        }
    }
}
