//! What is left of a run when it is over.

use std::time::Duration;

use super::{NodeId, World};
use crate::bound::Bound;
use crate::outcome::{NodeOutcome, Outcome};
use crate::queue::SECOND;
use crate::systems::System;

/// How long [`joining_s`](World::joining_s) is after the last agent's start.
const JOINING_S: f64 = 60.0;

impl World<'_> {
    /// Whether a node has a lease and works on it.
    pub(super) fn fetches_now(&self, node: NodeId) -> bool {
        let engine = self.nodes[node].engine.as_ref();
        engine.is_some_and(|e| e.flights().any(|flight| flight.fetch_count() > 0))
    }

    /// Time from the beginning in which members get to know each other and announce what they have, seconds; 0 where they
    /// are given to each other and have nothing.
    pub(super) fn joining_s(&self) -> f64 {
        let clients = &self.scenario.clients;
        match self.scenario.swim || clients.stored > 0 {
            true => (clients.spread + JOINING_S).min(self.scenario.deadline / 2.0),
            false => 0.0,
        }
    }

    pub(super) fn calm(&mut self) {
        for node in &mut self.nodes {
            node.outcome.control_joining = node.outcome.control;
        }
    }

    /// Bytes of the heap that are freed when an engine and its membership are dropped: the most of any node, 0 if nobody
    /// counts. What engines share here and would not share in two processes, a list of members that is given to all, is
    /// not in it.
    fn weigh(&mut self) -> u64 {
        let Some(live_bytes) = self.watchers.live_bytes else { return 0 };
        let weights = self.nodes.iter_mut().map(|node| {
            let before = live_bytes();
            (node.engine, node.membership) = (None, None);
            before.saturating_sub(live_bytes())
        });
        weights.max().unwrap_or(0)
    }

    pub(super) fn outcome(mut self, real: Duration) -> Outcome {
        let wanted = self.scenario.bytes();
        let late: Vec<_> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].outcome.expected && self.nodes[*n].outcome.whole_s.is_none())
            .collect();
        if let (Some(first), false) = (late.first(), self.scenario.layers.is_empty()) {
            let what = format!("{} nodes have not finished, the first is {first}", late.len());
            self.violate(self.queue.now(), what);
        }
        let engine_bytes = self.weigh();
        let busy = self.origin.busy.map_or(0.0, |(first, last)| {
            let possible = (last - first) as f64 / SECOND * self.scenario.origin.bandwidth;
            if possible > 0.0 { (self.origin.bytes as f64 / possible).min(1.0) } else { 0.0 }
        });
        let simulated_s = self.queue.now() as f64 / SECOND;
        // A run that ends earlier was joining all the time.
        let joining_s = Some(self.joining_s()).filter(|joining| *joining < simulated_s).unwrap_or(0.0);
        let into_zone = self.net.into_zone()[..self.scenario.zones.len()].to_vec();
        let nodes = self.nodes.into_iter().map(|node| {
            let enough = wanted.div_ceil(100).max(1);
            let sources = node.received_from.values().filter(|bytes| **bytes >= enough).count() as u32;
            NodeOutcome { sources, ..node.outcome }
        });
        Outcome {
            scenario: self.scenario.name.clone(),
            system: System::Shoal.name().to_owned(),
            seed: self.scenario.seed,
            bytes: wanted,
            bound_s: Bound::of(self.scenario).total_s(),
            nodes: nodes.collect(),
            upstream_bytes: self.origin.bytes,
            upstream_requests: self.origin.count,
            origin_busy: busy,
            into_zone,
            failed: self.failed,
            samples: self.samples,
            violations: self.violations,
            trace: format!("{:016x}", self.trace),
            events: self.events,
            simulated_s,
            real_s: real.as_secs_f64(),
            engine_bytes,
            joining_s,
        }
    }
}
