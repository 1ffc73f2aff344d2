//! Everybody upstream: every node fetches every layer from the registry, one connection for each layer.
//!
//! Modelled: containerd's defaults, three layers at a time in the order of the manifest; a connection that breaks goes
//! on at the byte where it broke; an error ends the pull, and the kubelet tries again after its pause of 10 s, which
//! doubles.
//! Left out: parallel ranges of one layer, which are off by default.

use crate::net::{Arrived, Place};
use crate::scenario::Scenario;

use super::Model;
use super::streams::Streams;
use super::world::{Load, World};

/// The model.
pub(super) struct Upstream {
    streams: Streams,
}

/// The kubelet tries again.
pub(super) struct Again {
    node: Place,
    life: u32,
    layer: usize,
}

impl Upstream {
    /// Nobody has anything.
    pub fn new(scenario: &Scenario) -> Upstream {
        Upstream { streams: Streams::new(scenario) }
    }
}

impl Model for Upstream {
    type Timer = Again;

    fn asked(&mut self, world: &mut World<Again>, node: Place, layer: usize) {
        if self.streams.begin(world, node, layer) > 0 {
            self.streams.fetch(world, node, layer);
        }
    }

    fn arrived(&mut self, world: &mut World<Again>, arrived: &Arrived<Load>) {
        self.streams.arrived(world, arrived);
    }

    fn refused(&mut self, world: &mut World<Again>, to: Place, load: Load) {
        let pause = self.streams.pause(world, to);
        let life = world.life(to);
        world.plan(pause, Again { node: to, life, layer: load.layer as usize });
    }

    fn broken(&mut self, _world: &mut World<Again>, _from: Place, _to: Place, _load: Load) {
        unreachable!("no member sends anything");
    }

    fn timer(&mut self, world: &mut World<Again>, again: Again) {
        if world.life(again.node) == again.life {
            self.streams.fetch(world, again.node, again.layer);
        }
    }
}
