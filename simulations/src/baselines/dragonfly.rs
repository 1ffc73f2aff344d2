//! Dragonfly (scheduler 2.5, client 1.5): a central scheduler, a seed, and pieces that are stored before they are
//! passed on.
//!
//! Modelled: a client registers with the scheduler; the first one makes the seed fetch the layer from the registry,
//! eight pieces at a time, each its own ranged request; the scheduler picks at random 15 of those who have registered,
//! drops whom it may not name (nobody feeds them, no free upload, or they are fed by the asker) and names the best
//! three of the rest; if there is nobody it looks again every 500 ms, and after four times up to 200 peers go to the
//! registry themselves. A peer has eight pieces on the way, each over a connection of its own, from any of its parents
//! that has it, when all have it or 100 ms after the first; every piece is reported to the scheduler and announced to
//! the children. Who gets nothing for ten seconds is given other parents. What a killed node had to share is gone,
//! which is the default; what its runtime has is not.
//! The seed is a machine of its own that never dies; where nodes hold the image already, it holds it too.
//! Left out: a second seed, the manager, sizes asked for by each node, layers of 4 MiB and less that all fetch from the
//! registry (here they are shared like all others), the scheduler's own load beyond one request after the other, and
//! that the runtime turns to the registry when the seed cannot (here the seed tries again).
//!
//! Published (Volcano Engine): 3 GB to 50, 100, 200 and 500 pods in 40, 40, 50 and 55 s. This model gives 39, 37, 44
//! and 44 s (medians of five seeds, from 30 to 65 s). What it waits for is the seed's uplink: the seed is ahead of
//! everybody, so its children take a piece from it long before they could have it from each other.

mod scheduler;
mod task;

use crate::net::{Arrived, Place};
use crate::queue::{Nanos, nanos};
use crate::scenario::Scenario;

use super::Model;
use super::pieces::Pieces;
use super::world::{Load, World};
use task::{Peer, State, Task};

/// Machines beside the nodes: the seed, which stands beside the scheduler.
pub(super) const SEEDS: usize = 1;
/// From a client's request to the scheduler's having registered it, seconds.
const REGISTRATION_S: f64 = 0.03;
/// Pieces that a peer has on the way (`concurrentPieceCount`).
const PIECES_AT_ONCE: u32 = 8;
/// How long a peer waits for its other parents to have a piece as well before it takes it from those that do.
const COLLECTED_S: f64 = 0.1;
/// A peer that has stored nothing for so long is given other parents, seconds.
const STALLED_S: f64 = 10.0;
/// Pause after the registry has failed, seconds: the kubelet's, whose pull has failed with it.
const SOURCE_PAUSE_S: f64 = 10.0;
/// Name of the piece that stands for a whole layer, where the registry does not answer ranges.
const WHOLE: u32 = u32::MAX;
/// Bytes of a registration and of its answer with three parents.
const REGISTER_BYTES: u64 = 2_500;
/// Bytes of the report of a piece to the scheduler.
const RESULT_BYTES: u64 = 250;
/// Bytes of the announcement of a piece to a child.
const ANNOUNCE_BYTES: u64 = 150;
/// Bytes of a request for a piece, with the head of the answer.
const REQUEST_BYTES: u64 = 200;

/// The model.
pub(super) struct Dragonfly {
    tasks: Vec<Task>,
    seed: Place,
}

/// What it waits for.
pub(super) struct Timer {
    node: u32,
    life: u32,
    layer: u32,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Registered,
    Seeds,
    Schedule,
    Fed,
    Stored(u32),
    Announced(u32),
    Collected(u32),
    Watch,
    Resume,
}

impl Dragonfly {
    /// The holders and, if there are any, the seed have everything and are registered.
    pub fn new(scenario: &Scenario) -> Dragonfly {
        let seed = scenario.nodes + 1;
        let task = |size: &u64| Task::new(*size, seed, scenario.clients.holders);
        Dragonfly { tasks: scenario.layers.iter().map(task).collect(), seed }
    }

    fn peer(&mut self, layer: usize, node: Place) -> &mut Peer {
        &mut self.tasks[layer].peers[node]
    }

    fn plan(world: &mut World<Timer>, after: Nanos, node: Place, layer: usize, what: What) {
        let life = world.life(node);
        world.plan(after, Timer { node: node as u32, life, layer: layer as u32, what });
    }

    /// The scheduler has a registration: it sees to a seed, then to parents.
    fn registered(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        let task = &mut self.tasks[layer];
        if !std::mem::replace(&mut task.is_seeded, true) {
            Self::plan(world, nanos(REGISTRATION_S), self.seed, layer, What::Seeds);
        }
        if !task.registered.contains(&node) {
            task.registered.push(node);
        }
        self.schedule(world, node, layer);
    }

    /// Parents for a peer, or a later attempt, or the registry.
    fn schedule(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        let task = &mut self.tasks[layer];
        if matches!(task.peers[node].state, State::Source | State::Done) {
            return;
        }
        task.leave_parents(node);
        let parents = scheduler::parents(world, task, node);
        let delay = world.delay(node, self.seed);
        let peer = &mut task.peers[node];
        if !parents.is_empty() {
            for parent in &parents {
                task.peers[*parent].children.push(node);
            }
            let pieces = task.pieces;
            let peer = &mut task.peers[node];
            (peer.parents, peer.state, peer.tries, peer.progressed) = (parents, State::Fed, 0, world.now());
            (peer.heard, peer.ready) = (Pieces::none(pieces), Pieces::none(pieces));
            Self::plan(world, 2 * delay, node, layer, What::Fed);
            if !std::mem::replace(&mut self.peer(layer, node).is_watched, true) {
                Self::plan(world, nanos(STALLED_S), node, layer, What::Watch);
            }
            return;
        }
        peer.state = State::Waits;
        peer.tries += 1;
        if peer.tries > scheduler::TRIES_BEFORE_SOURCE && task.sources < scheduler::SOURCES_MAX {
            task.sources += 1;
            task.peers[node].state = State::Source;
            self.fill(world, node, layer);
        } else {
            Self::plan(world, nanos(scheduler::RETRY_S), node, layer, What::Schedule);
        }
    }

    /// Asks for as many pieces as a peer may have on the way.
    fn fill(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        while self.peer(layer, node).on_the_way < PIECES_AT_ONCE {
            let task = &mut self.tasks[layer];
            match task.peers[node].state {
                State::Source => {
                    if !Self::ask_registry(world, task, node, layer) {
                        return;
                    }
                }
                State::Fed => {
                    let Some((piece, parent)) = task.choose(world, node) else { return };
                    let bytes = task.bytes_of(piece);
                    task.peers[node].begin(piece);
                    world.control(node, REQUEST_BYTES);
                    // A connection for each piece: a round trip to open it.
                    let opening = 2 * world.delay(node, parent);
                    world.request(parent, node, Load { layer: layer as u32, piece, skip: 0 }, bytes, opening);
                }
                State::New | State::Registers | State::Waits | State::Done => return,
            }
        }
    }

    /// Whether there was something to ask for.
    fn ask_registry(world: &mut World<Timer>, task: &mut Task, node: Place, layer: usize) -> bool {
        let peer = &mut task.peers[node];
        if peer.is_paused {
            return false;
        }
        if !world.scenario.origin.ranges {
            let is_idle = peer.on_the_way == 0 && peer.have.len() < task.pieces;
            if is_idle {
                peer.on_the_way += 1;
                world.fetch(node, Load { layer: layer as u32, piece: WHOLE, skip: 0 }, task.size);
            }
            return false;
        }
        let Some(piece) = peer.first_missing(task.pieces) else { return false };
        peer.begin(piece);
        let bytes = task.bytes_of(piece);
        world.fetch(node, Load { layer: layer as u32, piece, skip: 0 }, bytes);
        true
    }

    fn stored(&mut self, world: &mut World<Timer>, node: Place, layer: usize, piece: u32) {
        let task = &mut self.tasks[layer];
        let bytes = task.bytes_of(piece);
        let peer = &mut task.peers[node];
        if peer.have.has(piece) {
            return;
        }
        peer.asked.insert(piece);
        peer.have.insert(piece);
        peer.progressed = world.now();
        world.control(node, RESULT_BYTES + ANNOUNCE_BYTES * peer.children.len() as u64);
        world.gain(node, bytes);
        let is_done = peer.have.len() == task.pieces;
        let in_order = task.advance(node);
        if task.peers[node].is_read {
            world.read(node, layer, in_order);
        }
        if is_done {
            task.leave_parents(node);
            task.peers[node].state = State::Done;
        }
        let delay = world.delay_max();
        Self::plan(world, delay, node, layer, What::Announced(piece));
    }

    fn announced(&mut self, world: &mut World<Timer>, node: Place, layer: usize, piece: u32) {
        let children = std::mem::take(&mut self.peer(layer, node).children);
        for child in &children {
            self.collect(world, *child, layer, piece);
            self.fill(world, *child, layer);
        }
        self.peer(layer, node).children = children;
    }

    /// A peer hears that a parent has a piece: it may be fetched once all parents have it, so that any of them may be
    /// chosen, or a while after the first one.
    fn collect(&mut self, world: &mut World<Timer>, node: Place, layer: usize, piece: u32) {
        let task = &mut self.tasks[layer];
        let has = |parent: &Place| task.peers[*parent].have.has(piece);
        let do_all = task.peers[node].parents.iter().all(has);
        let peer = &mut task.peers[node];
        if peer.asked.has(piece) || peer.ready.has(piece) {
            return;
        }
        if do_all {
            peer.ready.insert(piece);
        } else if !peer.heard.has(piece) {
            peer.heard.insert(piece);
            Self::plan(world, nanos(COLLECTED_S), node, layer, What::Collected(piece));
        }
    }

    /// A peer hears what its new parents have.
    fn collect_all(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        for piece in self.tasks[layer].offered(node) {
            self.collect(world, node, layer, piece);
        }
        self.fill(world, node, layer);
    }

    /// A piece will not come; the peer turns to others.
    fn lost(&mut self, world: &mut World<Timer>, node: Place, load: Load, parent: Option<Place>) {
        let layer = load.layer as usize;
        let task = &mut self.tasks[layer];
        let peer = &mut task.peers[node];
        peer.on_the_way -= 1;
        if load.piece != WHOLE && !peer.have.has(load.piece) {
            peer.asked.remove(load.piece);
        }
        if let Some(parent) = parent {
            peer.parents.retain(|other| *other != parent);
            task.peers[parent].children.retain(|child| *child != node);
            let peer = self.peer(layer, node);
            match peer.state == State::Fed && peer.parents.is_empty() {
                true => self.schedule(world, node, layer),
                false => self.fill(world, node, layer),
            }
        }
    }

    /// New parents for a peer that gets nothing from those it has.
    fn watch(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        let peer = self.peer(layer, node);
        if peer.state == State::Done {
            return;
        }
        let is_stalled = world.now() - peer.progressed >= nanos(STALLED_S);
        if is_stalled && peer.state == State::Fed {
            self.schedule(world, node, layer);
        }
        Self::plan(world, nanos(STALLED_S), node, layer, What::Watch);
    }
}

impl Model for Dragonfly {
    type Timer = Timer;

    fn asked(&mut self, world: &mut World<Timer>, node: Place, layer: usize) {
        let peer = self.peer(layer, node);
        peer.is_read = true;
        let is_new = peer.state == State::New;
        if is_new {
            peer.state = State::Registers;
            world.control(node, REGISTER_BYTES);
            let taken_up = world.request_takes(node, self.seed);
            Self::plan(world, nanos(REGISTRATION_S) + taken_up, node, layer, What::Registered);
        }
        let there = self.tasks[layer].in_order(node);
        world.read(node, layer, there);
    }

    fn arrived(&mut self, world: &mut World<Timer>, arrived: &Arrived<Load>) {
        let (node, layer, piece) = (arrived.to, arrived.tag.layer as usize, arrived.tag.piece);
        let task = &mut self.tasks[layer];
        let store = |world: &mut World<Timer>, piece: u32, bytes: u64| {
            let after = world.store(node, bytes);
            Self::plan(world, after, node, layer, What::Stored(piece));
        };
        if piece == WHOLE {
            let before = arrived.total - arrived.bytes;
            for piece in task.ended(before, arrived.total) {
                store(world, piece, task.bytes_of(piece));
            }
        } else if arrived.done {
            store(world, piece, task.bytes_of(piece));
        }
        if arrived.done {
            task.peers[node].on_the_way -= 1;
            if piece != WHOLE {
                self.fill(world, node, layer);
            }
        }
    }

    fn refused(&mut self, world: &mut World<Timer>, to: Place, load: Load) {
        let layer = load.layer as usize;
        self.lost(world, to, load, None);
        if !std::mem::replace(&mut self.peer(layer, to).is_paused, true) {
            world.failed += u64::from(self.peer(layer, to).is_read);
            Self::plan(world, nanos(SOURCE_PAUSE_S), to, layer, What::Resume);
        }
    }

    fn broken(&mut self, world: &mut World<Timer>, from: Place, to: Place, load: Load) {
        self.lost(world, to, load, Some(from));
    }

    fn timer(&mut self, world: &mut World<Timer>, timer: Timer) {
        let (node, layer) = (timer.node as Place, timer.layer as usize);
        if world.life(node) != timer.life || !world.is_up(node) {
            return;
        }
        match timer.what {
            What::Registered => self.registered(world, node, layer),
            What::Schedule if self.peer(layer, node).state == State::Waits => {
                self.schedule(world, node, layer);
            }
            What::Schedule => {}
            What::Fed => self.collect_all(world, node, layer),
            What::Stored(piece) => self.stored(world, node, layer, piece),
            What::Announced(piece) => self.announced(world, node, layer, piece),
            What::Collected(piece) => {
                self.peer(layer, node).ready.insert(piece);
                self.fill(world, node, layer);
            }
            What::Watch => self.watch(world, node, layer),
            What::Seeds => {
                let task = &mut self.tasks[layer];
                if !matches!(task.peers[node].state, State::Source | State::Done) {
                    task.peers[node].state = State::Source;
                    task.registered.push(node);
                    world.control(node, REGISTER_BYTES);
                    self.fill(world, node, layer);
                }
            }
            What::Resume => {
                self.peer(layer, node).is_paused = false;
                self.fill(world, node, layer);
            }
        }
    }

    fn died(&mut self, world: &mut World<Timer>, node: Place) {
        for layer in 0..self.tasks.len() {
            let task = &mut self.tasks[layer];
            let had: u64 = task.peers[node].have.iter().map(|piece| task.bytes_of(piece)).sum();
            if !world.is_verified(node, layer) {
                world.lose(node, had);
            }
            for child in task.forget(node) {
                let peer = self.peer(layer, child);
                if peer.state == State::Fed && peer.parents.is_empty() {
                    self.schedule(world, child, layer);
                }
            }
        }
    }
}
