//! What other systems do on the same links: models to compare with, each at its defaults and with no disadvantage that
//! it does not have.
//!
//! Invariant: a run is a function of the scenario. Who starts when, who is slow and who dies is drawn from the
//! scenario's seed before a model draws anything, so all models face the same clients.
//!
//! Common to all models: at most [`LAYERS_AT_ONCE`] layers of an image are asked for at a time; bytes pass the disk and
//! SHA-256 in order of arrival, and a layer is whole when both have seen its last byte. Slow nodes, deaths with and
//! without restart, outages, 429s and missing ranges are honoured. Lying and silent members, partitions, rolling
//! updates, dying homes and stalled leases are not: the first five would need guesses at code paths that nobody has
//! published figures of, the last two name things that these systems do not have. Control messages are counted and take
//! time, but no bandwidth.

mod dragonfly;
mod kraken;
mod pieces;
mod population;
mod registry;
mod spegel;
mod streams;
#[cfg(test)]
mod tests;
mod upstream;
mod world;

use std::time::Instant;

use crate::net::{Arrived, Place};
use crate::outcome::Outcome;
use crate::scenario::Scenario;
use crate::systems::System;

use world::{Event, Load, World};

/// Layers of one image that containerd fetches at a time (`max_concurrent_downloads`).
const LAYERS_AT_ONCE: usize = 3;

/// Events between two reports of progress.
const EVENTS_PER_REPORT: u64 = 1 << 16;

/// A system's behaviour: what it does when something happens.
trait Model: Sized {
    /// What it asks to be woken for.
    type Timer;

    /// Before anything else.
    fn begin(&mut self, _world: &mut World<Self::Timer>) {}

    /// A client asks for a layer; asked again after its node has come back without having had all of it.
    fn asked(&mut self, world: &mut World<Self::Timer>, node: Place, layer: usize);

    /// Bytes have arrived.
    fn arrived(&mut self, world: &mut World<Self::Timer>, arrived: &Arrived<Load>);

    /// The registry has not answered a request, or its answer broke off.
    fn refused(&mut self, world: &mut World<Self::Timer>, to: Place, load: Load);

    /// A member that was to send something is gone.
    fn broken(&mut self, world: &mut World<Self::Timer>, from: Place, to: Place, load: Load);

    /// A node has verified a layer.
    fn verified(&mut self, _world: &mut World<Self::Timer>, _node: Place, _layer: usize) {}

    /// What was planned happens.
    fn timer(&mut self, world: &mut World<Self::Timer>, timer: Self::Timer);

    /// A node was killed; what it was sending is reported as broken next.
    fn died(&mut self, _world: &mut World<Self::Timer>, _node: Place) {}

    /// A node is back; what its client still lacks is asked for next.
    fn returned(&mut self, _world: &mut World<Self::Timer>, _node: Place) {}
}

/// Runs a scenario with one of the models. `progress` is told the share that is done, 0 to 1.
///
/// # Panics
///
/// On [`System::Shoal`], which is no model.
pub fn run(scenario: &Scenario, system: System, progress: &dyn Fn(f64)) -> Outcome {
    match system {
        System::Upstream => drive(scenario, system, 0, upstream::Upstream::new(scenario), progress),
        System::Spegel => drive(scenario, system, 0, spegel::Spegel::new(scenario), progress),
        System::Dragonfly => {
            drive(scenario, system, dragonfly::SEEDS, dragonfly::Dragonfly::new(scenario), progress)
        }
        System::Kraken => drive(scenario, system, kraken::ORIGINS, kraken::Kraken::new(scenario), progress),
        System::Shoal => panic!("shoal is run by its own engine, not by a model"),
    }
}

/// The loop. `hosts` machines beside the nodes belong to the system itself.
fn drive<M: Model>(
    scenario: &Scenario,
    system: System,
    hosts: usize,
    mut model: M,
    progress: &dyn Fn(f64),
) -> Outcome {
    let began = Instant::now();
    let mut world = World::new(scenario, hosts);
    model.begin(&mut world);
    while let Some(event) = world.next() {
        happen(&mut world, &mut model, event);
        if world.events().is_multiple_of(EVENTS_PER_REPORT) {
            progress(world.share_done());
        }
    }
    world.into_outcome(system.name(), began.elapsed().as_secs_f64())
}

fn happen<M: Model>(world: &mut World<M::Timer>, model: &mut M, event: Event<M::Timer>) {
    match event {
        Event::Net(event) => {
            if let Some(arrived) = world.pass(event) {
                model.arrived(world, &arrived);
            }
        }
        Event::Timer(timer) => model.timer(world, timer),
        Event::Asks(node) => ask_more(world, model, node as Place),
        Event::Verified { node, life, layer } => {
            let (node, layer) = (node as Place, layer as usize);
            if world.verify(node, life, layer) {
                model.verified(world, node, layer);
                ask_more(world, model, node);
            }
        }
        Event::Serve(serve) => {
            if let Some(lost) = world.serve(&serve) {
                model.broken(world, lost.from, lost.to, lost.load);
            }
        }
        Event::Fetch(step) => {
            if let Some((to, load)) = world.fetch_goes_on(step) {
                model.refused(world, to, load);
            }
        }
        Event::OutageBegins => {
            for (to, load) in world.break_fetches() {
                model.refused(world, to, load);
            }
        }
        Event::Death => {
            let Some((node, stopped)) = world.kill_one() else { return };
            model.died(world, node);
            for lost in stopped {
                model.broken(world, lost.from, lost.to, lost.load);
            }
        }
        Event::Returns(node) => {
            let node = node as Place;
            world.bring_back(node);
            model.returned(world, node);
            for layer in world.unverified(node) {
                model.asked(world, node, layer);
            }
            ask_more(world, model, node);
        }
    }
}

/// Asks for as many layers as a client fetches at a time.
fn ask_more<M: Model>(world: &mut World<M::Timer>, model: &mut M, node: Place) {
    while let Some(layer) = world.next_layer(node) {
        model.asked(world, node, layer);
    }
}
