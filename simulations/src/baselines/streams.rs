//! Layers that are fetched whole, over one connection each, by the container runtime: from the registry or from a member.
//!
//! Invariant: bytes of a layer arrive in order; what has arrived is kept when a connection breaks or the node restarts, and
//! the next request asks for the rest, if the server understands ranges.

use crate::net::{Arrived, Place};
use crate::queue::{Nanos, nanos};
use crate::scenario::Scenario;

use super::world::{Load, World};

/// The kubelet's pause after the first pull that failed, seconds; it doubles with each.
const PULL_PAUSE_S: f64 = 10.0;
/// Its longest pause, seconds.
const PULL_PAUSE_MAX_S: f64 = 300.0;

/// What each node has of each layer.
pub(super) struct Streams {
    layers: usize,
    have: Vec<u64>,
    /// Pulls of each node that have failed.
    failures: Vec<i32>,
}

impl Streams {
    /// Nobody has anything, but for the holders.
    pub fn new(scenario: &Scenario) -> Streams {
        let layers = scenario.layers.len();
        let have = |node: Place| {
            scenario.layers.iter().map(move |size| if node < scenario.clients.holders { *size } else { 0 })
        };
        Streams {
            layers,
            have: (0..scenario.nodes).flat_map(have).collect(),
            failures: vec![0; scenario.nodes],
        }
    }

    /// The client asks: it gets what is there. Answers how much is missing.
    pub fn begin<T>(&self, world: &mut World<T>, node: Place, layer: usize) -> u64 {
        world.read(node, layer, self.have[node * self.layers + layer]);
        self.missing(world, node, layer)
    }

    /// Bytes that a node still needs of a layer.
    pub fn missing<T>(&self, world: &World<T>, node: Place, layer: usize) -> u64 {
        world.scenario.layers[layer] - self.have[node * self.layers + layer]
    }

    /// Asks the registry for the rest of a layer, or for all of it where it does not answer ranges.
    pub fn fetch<T>(&self, world: &mut World<T>, node: Place, layer: usize) {
        let missing = self.missing(world, node, layer);
        let (skip, bytes) = match world.scenario.origin.ranges {
            true => (0, missing),
            false => (world.scenario.layers[layer] - missing, world.scenario.layers[layer]),
        };
        world.fetch(node, Load { layer: layer as u32, piece: 0, skip }, bytes);
    }

    /// Bytes go to disk and to the client.
    pub fn arrived<T>(&mut self, world: &mut World<T>, arrived: &Arrived<Load>) {
        let (node, layer) = (arrived.to, arrived.tag.layer as usize);
        let useful = arrived.tag.useful(arrived);
        self.have[node * self.layers + layer] += useful;
        world.store(node, useful);
        world.gain(node, useful);
        world.read(node, layer, useful);
    }

    /// A pull has failed. Answers how long the kubelet waits until the next.
    pub fn pause<T>(&mut self, world: &mut World<T>, node: Place) -> Nanos {
        world.failed += 1;
        let pause = PULL_PAUSE_S * 2.0_f64.powi(self.failures[node]);
        self.failures[node] += 1;
        nanos(pause.min(PULL_PAUSE_MAX_S))
    }
}
