//! What is left of a run when it is over.

use std::time::Duration;

use super::{NodeId, World};
use crate::bound::Bound;
use crate::outcome::{NodeOutcome, Outcome};
use crate::queue::SECOND;
use crate::systems::System;

impl World<'_> {
    /// Whether a node has a lease and works on it.
    pub(super) fn fetches_now(&self, node: NodeId) -> bool {
        let engine = self.nodes[node].engine.as_ref();
        engine.is_some_and(|e| e.flights().any(|flight| flight.fetch_count() > 0))
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
        let engine_bytes = 0;
        if std::env::var_os("DBG2").is_some() {
            let mut v: Vec<(f64, usize, f64)> = self
                .nodes
                .iter()
                .enumerate()
                .map(|(i, n)| (n.outcome.sent as f64 / wanted as f64, i, n.outcome.whole_s.unwrap_or(0.0)))
                .collect();
            v.sort_by(|a, b| b.0.total_cmp(&a.0));
            eprintln!("most {:?}", &v[..12.min(v.len())]);
            eprintln!("least {:?}", &v[v.len().saturating_sub(12)..]);
            let digest = self.layers[0].digest;
            for n in [50usize, 51, 60, 5, 76, 17] {
                if let Some(x) = self.nodes.get(n).and_then(|n| n.engine.as_ref()).and_then(|e| e.swarm()).and_then(|s| s.exchange(&digest)) {
                    eprintln!("node {n} {:?} pending {} unlisted {:?} leases {:?}", x.standing(), x.pending_count(), x.list().unlisted(), x.leases().collect::<Vec<_>>());
                    for (c, f, m, feeds) in x.explain() { eprintln!("   class {c} first {f:?} missing {m} feeds {:?}", feeds.iter().map(super::node_of).collect::<Vec<_>>()); }
                }
            }
            v.sort_by(|a, b| b.2.total_cmp(&a.2));
            v.retain(|x| !self.nodes[x.1].outcome.faulty);
            eprintln!("last {:?}", &v[..12.min(v.len())]);
        }
        let busy = self.origin.busy.map_or(0.0, |(first, last)| {
            let possible = (last - first) as f64 / SECOND * self.scenario.origin.bandwidth;
            if possible > 0.0 { (self.origin.bytes as f64 / possible).min(1.0) } else { 0.0 }
        });
        let simulated_s = self.queue.now() as f64 / SECOND;
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
        }
    }
}
