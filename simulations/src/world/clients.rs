//! Clients: container runtimes that ask their node's agent for all layers of the image, or somebody who warms it.

use std::time::Duration;

use rand::Rng;
use shoal_engine::demand::Part;
use shoal_engine::io::Outcome;
use shoal_engine::wire::Pace;
use shoal_engine::{Input, TicketId, WarmSetId};

use super::{Happening, NodeId, World};
use crate::queue::{Nanos, SECOND, nanos};

/// Time after which a runtime tries again what has failed.
pub(super) const RETRY_S: f64 = 2.0;

impl World<'_> {
    pub(super) fn plan_clients(&mut self) {
        let clients = &self.scenario.clients;
        let (spread, late, late_at) = (clients.spread, clients.late, clients.late_at);
        let asks = !self.scenario.layers.is_empty();
        let mut asks_at = Vec::new();
        for node in 0..self.nodes.len() {
            let offset = if spread > 0.0 { self.rng.random_range(0.0..spread) } else { 0.0 };
            let is_late = node >= self.nodes.len() - late;
            let at = nanos(if is_late { late_at } else { offset });
            // With the membership in the run the agent starts when its client comes; otherwise it has been there.
            let start = if self.scenario.swim { at } else { 0 };
            self.queue.plan(start, Happening::Begin { node });
            asks_at.push(at);
        }
        // Behind all the starts: at the same moment agents are there before anybody asks.
        for (node, at) in asks_at.into_iter().enumerate() {
            if !self.nodes[node].holds && asks {
                self.unfinished += 1;
                self.nodes[node].outcome.asked_s = at as f64 / SECOND;
                self.queue.plan(at, Happening::Ask { node });
            }
        }
    }

    /// The client asks for whatever it does not have.
    pub(super) fn ask(&mut self, now: Nanos, node: NodeId) {
        if !self.nodes[node].is_up() {
            return;
        }
        self.nodes[node].asked = true;
        if !self.scenario.swim {
            self.answer_probe(now, node);
        }
        if self.scenario.clients.warm {
            return self.warm(now, node);
        }
        for layer in 0..self.layers.len() {
            let (digest, size) = (self.layers[layer].digest, self.layers[layer].size);
            if !self.nodes[node].blobs[layer].done && self.nodes[node].blobs[layer].ticket.is_none() {
                let prefetch = Some(self.scope.clone());
                self.input(now, node, Input::Described { digest, size, prefetch });
            }
        }
        self.open_next(now, node);
    }

    /// As many of the layers that are missing as a client asks for at a time.
    fn open_next(&mut self, now: Nanos, node: NodeId) {
        for layer in 0..self.layers.len() {
            let digest = self.layers[layer].digest;
            let open = self.nodes[node].blobs.iter().filter(|blob| blob.ticket.is_some()).count();
            let blob = &mut self.nodes[node].blobs[layer];
            if blob.done || blob.ticket.is_some() {
                continue;
            }
            if open >= self.scenario.clients.parallel {
                return;
            }
            self.next_ticket += 1;
            let ticket = TicketId(self.next_ticket);
            (blob.ticket, blob.served) = (Some(ticket), None);
            let scope = self.scope.clone();
            self.input(now, node, Input::Open { ticket, digest, scope, part: Part::Whole });
        }
    }

    /// One node is asked to warm all; it is asked again when it comes back.
    fn warm(&mut self, now: Nanos, node: NodeId) {
        let first = self.scenario.clients.holders;
        if node != first {
            return;
        }
        let input = Input::Warm {
            set: WarmSetId(1),
            blobs: self.layers.iter().map(|layer| (layer.digest, layer.size)).collect(),
            scope: self.scope.clone(),
            targets: self.nodes[first..].iter().map(|node| node.peer()).collect(),
            deadline: Duration::from_secs_f64(self.scenario.deadline),
            keep_until: 0,
            pace: Pace::FREE,
        };
        self.input(now, node, input);
    }

    pub(super) fn serve(&mut self, now: Nanos, node: NodeId, ticket: TicketId, size: u64) {
        let n = &mut self.nodes[node];
        match n.blobs.iter_mut().find(|b| b.ticket == Some(ticket)) {
            Some(blob) if blob.served.is_none() => blob.served = Some(0),
            _ => self.violate(now, format!("node {node}: {ticket:?} is served twice, or nobody waits")),
        }
        let _ = size;
    }

    pub(super) fn ready(&mut self, now: Nanos, node: NodeId, ticket: TicketId, to: u64) {
        let speed = self.scenario.clients.read_speed;
        let n = &mut self.nodes[node];
        let Some(blob) = n.blobs.iter_mut().find(|b| b.ticket == Some(ticket)) else {
            return self.violate(now, format!("node {node}: bytes for {ticket:?}, which has ended"));
        };
        let before = blob.served.replace(to).unwrap_or(0);
        let sound = blob.written.contains(before..to) || blob.stored;
        let complete_too_early = to == blob.size && !blob.verified;
        n.read_until = n.read_until.max(now) + nanos((to - before.min(to)) as f64 / speed);
        if to > 0 && n.outcome.first_byte_s.is_none() {
            n.outcome.first_byte_s = Some(now as f64 / SECOND);
        }
        if !sound {
            self.violate(now, format!("node {node}: its client reads bytes up to {to} that are not there"));
        }
        if complete_too_early {
            self.violate(
                now,
                format!("node {node}: the last byte is given out before the digest is verified"),
            );
        }
    }

    pub(super) fn layer_done(&mut self, now: Nanos, node: NodeId, layer: usize) {
        let n = &mut self.nodes[node];
        if n.blobs[layer].done {
            return;
        }
        n.blobs[layer].done = true;
        if !n.blobs[layer].verified && !n.blobs[layer].stored {
            self.violate(now, format!("node {node}: a layer is called whole unverified"));
        }
        let n = &mut self.nodes[node];
        if n.blobs.iter().all(|b| b.done) {
            let at = n.read_until.max(now);
            n.outcome.whole_s = Some(at as f64 / SECOND);
            self.unfinished -= usize::from(n.outcome.expected);
            self.trace(&[6, now, node as u64]);
        } else if !self.scenario.clients.warm {
            self.open_next(now, node);
        }
    }

    pub(super) fn ticket_failed(&mut self, now: Nanos, node: NodeId, outcome: Outcome) {
        // Under a plan that takes the origin away for longer than anybody waits, a failure is the right answer.
        self.failed += 1;
        self.trace(&[7, now, node as u64, self.failed]);
        self.log(now, node, || format!("fails its client: {outcome:?}"));
        self.queue.plan(now + nanos(RETRY_S), Happening::Ask { node });
    }
}
