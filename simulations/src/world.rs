//! The world: thousands of real engines, the links between them, a registry, clients and faults.
//!
//! Invariant: the world decides nothing that the engine decides. It carries out outputs and hands in inputs, each at the
//! moment at which a real driver would, and it checks what always has to hold ([`Outcome::violations`]).

mod account;
mod clients;
mod effects;
mod faults;
mod members;
mod node;
mod origin;
mod outcome;
mod traffic;

pub use account::{Seen, Watchers};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use shoal_engine::pieces::{piece_count, piece_len};
use shoal_engine::swarm::upload::UploadId;
use shoal_engine::wire::{Message, PieceHash};
use shoal_engine::{Algorithm, Digest, Input, PeerId, Roster, Scope, Time};

use crate::net::{Links, Net, NetEvent, ZoneLinks};
use crate::outcome::{Outcome, Sample};
use crate::queue::{Nanos, Queue, nanos};
use crate::scenario::Scenario;

use faults::Fault;
use node::Node;
use origin::Origin;

/// Samples of progress over a run.
const SAMPLES: u64 = 200;

/// Violations that are kept; the first ones tell most.
const VIOLATIONS_MAX: usize = 20;

/// Time after which a process that was killed is missed by the membership, where the scenario does not run it: what it
/// takes at most when it does run.
const DETECTION: Duration = Duration::from_secs(5);

/// Time after which a stream over a link that is cut is given up.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// Wakeups of one engine at one moment: more is an engine that spins.
const WAKEUPS_MAX: u32 = 100;

/// What an engine that spins is slowed down to, so that the run goes on and shows what becomes of it.
const SPIN_PAUSE: Nanos = 10_000_000;

/// Index of a node.
pub type NodeId = usize;

/// What a transfer carries.
#[derive(Clone, Copy, Debug)]
pub enum Cargo {
    /// A piece from member to member.
    Piece {
        /// The sender's name for it, and which of its lives.
        upload: UploadId,
        /// Life of the sender.
        from_life: u32,
        /// Life of the receiver.
        to_life: u32,
        /// Index of the layer.
        layer: u16,
        /// The piece.
        piece: u32,
        /// Pieces behind it.
        backlog: u32,
    },
    /// A body from the origin.
    Body {
        /// Index into the origin's requests.
        request: usize,
    },
}

/// What happens.
enum Happening {
    Net(NetEvent),
    Message {
        from: NodeId,
        to: NodeId,
        to_life: u32,
        message: Box<Message>,
    },
    Input {
        node: NodeId,
        life: u32,
        input: Box<Input>,
    },
    Wakeup {
        node: NodeId,
        life: u32,
        at: Nanos,
    },
    MemberWakeup {
        node: NodeId,
        life: u32,
    },
    Begin {
        node: NodeId,
    },
    Ask {
        node: NodeId,
    },
    /// A node's driver tells of the other blobs in its store.
    Stock {
        node: NodeId,
        life: u32,
    },
    /// From now on, control traffic counts as that of members who know each other.
    Calm,
    Origin(origin::OriginEvent),
    Fault(Fault),
    Sample,
}

/// One layer of the image.
struct Layer {
    digest: Digest,
    size: u64,
    pieces: u32,
    piece_len: u64,
}

/// A running simulation.
pub struct World<'a> {
    scenario: &'a Scenario,
    queue: Queue<Happening>,
    net: Net<Cargo>,
    nodes: Vec<Node>,
    layers: Vec<Layer>,
    by_digest: BTreeMap<Digest, usize>,
    origin: Origin,
    /// The list of members that everybody is given, where the scenario does not run the membership.
    roster: Arc<Roster>,
    scope: Scope,
    rng: StdRng,
    /// Pairs of zones between which nothing passes.
    cut: Vec<Vec<bool>>,
    origin_cut: Vec<bool>,
    next_ticket: u64,
    unfinished: usize,
    failed: u64,
    samples: Vec<Sample>,
    violations: Vec<String>,
    trace: u64,
    events: u64,
    watchers: Watchers<'a>,
    inbox: VecDeque<(NodeId, Input)>,
}

/// Runs shoal.
pub fn run(scenario: &Scenario, progress: &dyn Fn(f64)) -> Outcome {
    World::new(scenario).run(progress)
}

/// Runs shoal while somebody watches.
pub fn watch<'a>(scenario: &'a Scenario, watchers: Watchers<'a>, progress: &dyn Fn(f64)) -> Outcome {
    let mut world = World::new(scenario);
    world.watchers = watchers;
    world.run(progress)
}

/// Name of a node: random, with its index in the last bytes.
fn peer_id(node: NodeId, rng: &mut StdRng) -> PeerId {
    let mut id = [0; 32];
    rng.fill_bytes(&mut id[..28]);
    id[28..].copy_from_slice(&(node as u32).to_be_bytes());
    PeerId(id)
}

/// The node that a name belongs to.
fn node_of(peer: &PeerId) -> NodeId {
    let mut index = [0; 4];
    index.copy_from_slice(&peer.0[28..]);
    u32::from_be_bytes(index) as NodeId
}

/// Hash of a piece. Wrong bytes have another one.
fn piece_hash(digest: &Digest, piece: u32, right: bool) -> PieceHash {
    let mut hash = [0; 32];
    hash[..28].copy_from_slice(&digest.hash()[..28]);
    hash[28..].copy_from_slice(&piece.to_be_bytes());
    hash[0] ^= u8::from(!right);
    PieceHash(hash)
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let mut rng = StdRng::seed_from_u64(scenario.seed);
        let layers: Vec<Layer> = scenario
            .layers
            .iter()
            .map(|&size| {
                let mut hash = [0; 32];
                rng.fill_bytes(&mut hash);
                let pieces = piece_count(size) as u32;
                Layer {
                    digest: Digest::new(Algorithm::Sha256, &hash),
                    size,
                    pieces,
                    piece_len: piece_len(size),
                }
            })
            .collect();
        let by_digest = layers.iter().zip(0..).map(|(layer, at)| (layer.digest, at)).collect();
        let members: Vec<_> = (0..scenario.nodes).map(|n| members::member(scenario, n, &mut rng)).collect();
        let nodes = (0..scenario.nodes)
            .map(|n| Node::new(scenario, n, Arc::clone(&members[n]), rng.next_u64()))
            .collect::<Vec<_>>();
        let zones = scenario.zones.len();
        let mut places: Vec<Links> = nodes.iter().map(|n| n.links).collect();
        places.push(Links { up: scenario.origin.bandwidth, down: f64::INFINITY, zone: zones });
        let mut rates: Vec<_> = scenario.zones.iter().map(|z| ZoneLinks { rate: z.uplink }).collect();
        rates.push(ZoneLinks { rate: f64::INFINITY });
        let delay = |a: usize, b: usize| match a < zones && b < zones {
            true => scenario.delay(a, b),
            false => scenario.delay_between,
        };
        let delays: Vec<Vec<f64>> = (0..=zones).map(|a| (0..=zones).map(|b| delay(a, b)).collect()).collect();
        let mut net = Net::new(&places, &rates, &delays);
        net.set_chunk(layers.iter().map(|l| l.piece_len / 4).max().unwrap_or(0));
        World {
            scenario,
            queue: Queue::default(),
            net,
            nodes,
            layers,
            by_digest,
            origin: Origin::new(scenario),
            roster: Arc::new(Roster::new(members)),
            scope: "registry.example/library/image".parse::<ScopeText>().expect("a scope").0,
            rng,
            cut: vec![vec![false; zones]; zones],
            origin_cut: vec![false; zones],
            next_ticket: 0,
            unfinished: 0,
            failed: 0,
            samples: Vec::new(),
            violations: Vec::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            events: 0,
            watchers: Watchers::default(),
            inbox: VecDeque::new(),
        }
    }

    fn run(mut self, progress: &dyn Fn(f64)) -> Outcome {
        let started = Instant::now();
        self.plan_clients();
        self.plan_faults();
        self.queue.plan(0, Happening::Sample);
        self.queue.plan(nanos(self.joining_s()), Happening::Calm);
        let deadline = nanos(self.scenario.deadline);
        while let Some(happening) = self.queue.next() {
            let now = self.queue.now();
            if now > deadline || self.is_over() {
                break;
            }
            self.events += 1;
            if self.events.is_multiple_of(65_536) {
                progress(self.share_done());
            }
            self.happen(now, happening);
        }
        progress(1.0);
        self.outcome(started.elapsed())
    }

    /// Everybody has what it wants, and nothing more is planned to go wrong.
    fn is_over(&self) -> bool {
        self.unfinished == 0 && !self.scenario.layers.is_empty()
    }

    fn happen(&mut self, now: Nanos, happening: Happening) {
        match happening {
            Happening::Net(event) => {
                if let Some(arrived) = self.net.handle(now, event) {
                    self.arrive(now, arrived);
                }
            }
            Happening::Message { from, to, to_life, message } => {
                if self.nodes[to].is_up() && self.nodes[to].life == to_life {
                    self.deliver(now, from, to, *message);
                } else if self.nodes[from].is_up() {
                    // Nobody listens there: the sender's connection is refused.
                    self.lose_peer(now, from, to);
                }
            }
            Happening::Input { node, life, input } => {
                if self.nodes[node].is_up() && self.nodes[node].life == life {
                    self.input(now, node, *input);
                }
            }
            Happening::Wakeup { node, life, at } => {
                let n = &mut self.nodes[node];
                if n.is_up() && n.life == life && n.wake_at == Some(at) {
                    n.wake_at = None;
                    self.wake(now, node);
                }
            }
            Happening::MemberWakeup { node, life } => self.wake_member(now, node, life),
            Happening::Begin { node } => self.begin(now, node),
            Happening::Ask { node } => self.ask(now, node),
            Happening::Stock { node, life } => self.announce_stored(now, node, life),
            Happening::Calm => self.calm(),
            Happening::Origin(event) => self.happen_at_origin(now, event),
            Happening::Fault(fault) => self.happen_fault(now, fault),
            Happening::Sample => self.sample(now),
        }
        self.plan_net();
    }

    fn plan_net(&mut self) {
        for (at, event) in self.net.drain_planned() {
            self.queue.plan(at, Happening::Net(event));
        }
    }

    // ---- engines ----

    /// One input for one engine, and everything that follows at this moment.
    fn input(&mut self, now: Nanos, node: NodeId, input: Input) {
        self.inbox.push_back((node, input));
        while let Some((node, input)) = self.inbox.pop_front() {
            let time = Time::from_origin(Duration::from_nanos(now));
            if self.nodes[node].engine.is_none() {
                continue;
            }
            self.show(node, Seen::Input(time, &input));
            let engine = self.nodes[node].engine.as_mut().expect("it was there a line above");
            engine.handle(time, input);
            while let Some(output) = self.nodes[node].engine.as_mut().and_then(|e| e.poll_output()) {
                self.show(node, Seen::Output(time, &output));
                self.carry_out(now, node, output);
            }
            self.plan_wakeup(node);
        }
    }

    /// An engine that asks again and again for the moment that is now would hold the clock up for ever.
    fn wake(&mut self, now: Nanos, node: NodeId) {
        let n = &mut self.nodes[node];
        let before = if n.woken.0 == now { n.woken.1 } else { 0 };
        n.woken = (now, before + 1);
        if n.woken.1 == WAKEUPS_MAX && !std::mem::replace(&mut n.spins, true) {
            self.violate(
                now,
                format!("node {node} asks to be woken at a moment that has passed, without end"),
            );
        }
        self.input(now, node, Input::Wakeup);
    }

    fn plan_wakeup(&mut self, node: NodeId) {
        let n = &mut self.nodes[node];
        let Some(at) = n.engine.as_ref().and_then(|e| e.next_wakeup()) else { return };
        let mut at = at.since_origin().as_nanos() as Nanos;
        if n.woken.0 == self.queue.now() && n.woken.1 >= WAKEUPS_MAX {
            at = at.max(self.queue.now() + SPIN_PAUSE);
        }
        if n.wake_at.is_none_or(|planned| at < planned) {
            n.wake_at = Some(at);
            self.queue.plan(at, Happening::Wakeup { node, life: n.life, at });
        }
    }

    /// Answers an effect after some time.
    fn answer(&mut self, at: Nanos, node: NodeId, input: Input) {
        let life = self.nodes[node].life;
        self.queue.plan(at, Happening::Input { node, life, input: Box::new(input) });
    }
}

/// A scope that is written as text, in this crate only.
struct ScopeText(Scope);

impl std::str::FromStr for ScopeText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (registry, repository) = text.split_once('/').ok_or("a registry and a repository")?;
        let registry = registry.parse().map_err(|e| format!("{e}"))?;
        let repository = repository.parse().map_err(|e| format!("{e}"))?;
        Ok(ScopeText(Scope { registry, repository }))
    }
}
