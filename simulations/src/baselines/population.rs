//! Who asks when, and who is slow.
//!
//! Invariant: drawn from the scenario's seed alone, so every model faces the same clients.

use rand::rngs::StdRng;
use rand::seq::index;
use rand::{Rng, SeedableRng};

use crate::net::Links;
use crate::queue::{Nanos, nanos};
use crate::scenario::Scenario;

/// The nodes of a run.
pub(super) struct Population {
    /// When each node's client asks; `None` for those that hold everything.
    pub asks: Vec<Option<Nanos>>,
    /// Which nodes are slow.
    pub slow: Vec<bool>,
}

impl Population {
    /// Of a scenario.
    pub fn of(scenario: &Scenario) -> Population {
        let mut rng = StdRng::seed_from_u64(scenario.seed);
        let clients = &scenario.clients;
        let first_late = scenario.nodes - clients.late;
        let asks = (0..scenario.nodes).map(|node| {
            let within = rng.random::<f64>() * clients.spread;
            let at = if node >= first_late { clients.late_at } else { within };
            (node >= clients.holders && !scenario.layers.is_empty()).then(|| nanos(at))
        });
        let asks = asks.collect();
        let mut slow = vec![false; scenario.nodes];
        let count = (scenario.faults.slow_share * scenario.nodes as f64).round() as usize;
        for node in index::sample(&mut rng, scenario.nodes, count.min(scenario.nodes)) {
            slow[node] = true;
        }
        Population { asks, slow }
    }

    /// A node's links.
    pub fn links(&self, scenario: &Scenario, node: usize) -> Links {
        let factor = if self.slow[node] { scenario.faults.slow_factor } else { 1.0 };
        Links {
            up: scenario.link.up / factor,
            down: scenario.link.down / factor,
            zone: scenario.zone_of(node),
        }
    }
}
