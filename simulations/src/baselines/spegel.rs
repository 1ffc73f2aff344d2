//! Whole layers between members, as Spegel 0.7 shares them.
//!
//! Modelled: a node that has verified a layer advertises it in the DHT; a node that wants a layer looks it up and
//! streams it from one of the members found, at random among at most three, the next one where that one breaks; a
//! lookup that finds nothing ends after 20 ms in a 404, and the runtime goes to the registry itself. Members that are
//! gone stay advertised (for ten minutes), so they are tried.
//! Left out, in its favour: the DHT's skew (its servers answer with the same few members), handshakes with members
//! never met before, lookups that miss what is there. Left out, against it: nothing known.

use rand::seq::index;

use crate::net::{Arrived, Place};
use crate::queue::nanos;
use crate::scenario::Scenario;

use super::Model;
use super::streams::Streams;
use super::world::{Load, World};

/// How long a lookup may take; one that finds nothing takes as long (`mirror-resolve-timeout`).
const LOOKUP_MAX_S: f64 = 0.02;
/// How long a lookup takes that finds somebody, seconds: some four steps towards the key among a thousand members, over
/// connections that are open, at about a millisecond.
const LOOKUP_FOUND_S: f64 = 0.004;
/// Members that are tried (`mirror-resolve-retries`).
const TRIED_MAX: usize = 3;
/// From a verified layer to a record that others find, seconds: the runtime's event, a walk to the 20 members closest to the
/// key, and 20 records put on them, most of them over connections that have to be opened and authenticated first (some
/// 10 ms each, ten at a time, with the stragglers waited for).
const ADVERTISE_S: f64 = 0.3;
/// Bytes of a lookup: twelve questions and answers with up to 20 addresses of members.
const LOOKUP_BYTES: u64 = 12 * 2_000;
/// Bytes of an advertisement: a walk, and 20 records.
const ADVERTISE_BYTES: u64 = LOOKUP_BYTES + 20 * 300;
/// Bytes of a request to a member, with the head of the answer.
const REQUEST_BYTES: u64 = 700;

/// The model.
pub(super) struct Spegel {
    streams: Streams,
    /// Of each layer: who is found to have it.
    advertised: Vec<Vec<Place>>,
    /// Of each node and layer: who else may be tried.
    choices: Vec<Vec<Place>>,
}

/// What it waits for.
pub(super) struct Timer {
    node: Place,
    life: u32,
    layer: usize,
    what: What,
}

enum What {
    Found,
    Upstream,
    Next,
    Advertised,
}

impl Spegel {
    /// The holders are advertised.
    pub fn new(scenario: &Scenario) -> Spegel {
        let layers = scenario.layers.len();
        Spegel {
            streams: Streams::new(scenario),
            advertised: vec![(0..scenario.clients.holders).collect(); layers],
            choices: vec![Vec::new(); layers * scenario.nodes],
        }
    }

    fn look_up(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        world.control(node, LOOKUP_BYTES);
        let is_there = self.advertised[layer].iter().any(|holder| *holder != node);
        let (after, what) =
            if is_there { (LOOKUP_FOUND_S, What::Found) } else { (LOOKUP_MAX_S, What::Upstream) };
        let life = world.life(node);
        world.plan(nanos(after), Timer { node, life, layer, what });
    }

    /// Asks the next member, or the registry if there is none.
    fn ask(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        let choices = &mut self.choices[node * self.advertised.len() + layer];
        let Some(member) = choices.pop() else {
            self.streams.fetch(world, node, layer);
            return;
        };
        let missing = self.streams.missing(world, node, layer);
        let load = Load { layer: layer as u32, piece: 0, skip: 0 };
        world.control(node, REQUEST_BYTES);
        world.request(member, node, load, missing, 0);
    }

    fn found(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        let found = &self.advertised[layer];
        let some = index::sample(&mut world.rng, found.len(), TRIED_MAX.min(found.len()));
        let choices = some.iter().map(|at| found[at]).filter(|member| *member != node);
        self.choices[node * self.advertised.len() + layer] = choices.collect();
        self.ask(world, node, layer);
    }
}

impl Model for Spegel {
    type Timer = Timer;

    fn asked(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        if self.streams.begin(world, node, layer) > 0 {
            self.look_up(world, node, layer);
        }
    }

    fn arrived(&mut self, world: &mut World<Timer>, arrived: &Arrived<Load>) {
        self.streams.arrived(world, arrived);
    }

    fn refused(&mut self, world: &mut World<Timer>, to: Place, load: Load) {
        let pause = self.streams.pause(world, to);
        let (node, life) = (to, world.life(to));
        // The next pull begins with a lookup.
        world.plan(pause, Timer { node, life, layer: load.layer as usize, what: What::Next });
    }

    fn broken(&mut self, world: &mut World<Timer>, _from: Place, to: Place, load: Load) {
        self.ask(world, to, load.layer as usize);
    }

    fn verified(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        let life = world.life(node);
        world.plan(nanos(ADVERTISE_S), Timer { node, life, layer, what: What::Advertised });
    }

    fn returned(&mut self, world: &mut World<Timer>, node: Place) {
        for layer in 0..self.advertised.len() {
            if world.is_verified(node, layer) && !self.advertised[layer].contains(&node) {
                self.verified(world, node, layer);
            }
        }
    }

    fn timer(&mut self, world: &mut World<Timer>, timer: Timer) {
        let Timer { node, life, layer, what } = timer;
        if world.life(node) != life {
            return;
        }
        match what {
            What::Found => self.found(world, node, layer),
            What::Upstream => self.streams.fetch(world, node, layer),
            What::Next => self.look_up(world, node, layer),
            What::Advertised => {
                world.control(node, ADVERTISE_BYTES);
                self.advertised[layer].push(node);
            }
        }
    }
}
