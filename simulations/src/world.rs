//! The world: thousands of real engines, the links between them, a registry, clients and faults.
//!
//! Invariant: the world decides nothing that the engine decides. It carries out outputs and hands in inputs, each at the
//! moment at which a real driver would, and it checks what always has to hold ([`Outcome::violations`]).

mod clients;
mod effects;
mod faults;
mod members;
mod node;
mod origin;
mod outcome;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use shoal_engine::pieces::{piece_count, piece_len};
use shoal_engine::swarm::upload::UploadId;
use shoal_engine::wire::{Message, PieceHash};
use shoal_engine::{Algorithm, Digest, Input, PeerId, Roster, Scope, Time};

use crate::net::{Arrived, Links, Net, NetEvent, Place, ZoneLinks};
use crate::outcome::{Outcome, Sample};
use crate::queue::{Nanos, Queue, SECOND, nanos};
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
    Message { from: NodeId, to: NodeId, to_life: u32, message: Box<Message> },
    Input { node: NodeId, life: u32, input: Box<Input> },
    Wakeup { node: NodeId, life: u32, at: Nanos },
    MemberWakeup { node: NodeId, life: u32 },
    Begin { node: NodeId },
    Ask { node: NodeId },
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
    /// Inputs of this node are written down.
    recorder: Option<Box<dyn FnMut(Time, &Input) + 'a>>,
    inbox: VecDeque<(NodeId, Input)>,
}

/// Runs shoal.
pub fn run(scenario: &Scenario, progress: &dyn Fn(f64)) -> Outcome {
    World::new(scenario).run(progress)
}

/// Runs shoal and hands every input of node 0 to `recorder`.
pub fn record<'a>(
    scenario: &'a Scenario,
    progress: &dyn Fn(f64),
    recorder: Box<dyn FnMut(Time, &Input) + 'a>,
) -> Outcome {
    let mut world = World::new(scenario);
    world.recorder = Some(recorder);
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
            recorder: None,
            inbox: VecDeque::new(),
        }
    }

    fn run(mut self, progress: &dyn Fn(f64)) -> Outcome {
        let started = Instant::now();
        self.plan_clients();
        self.plan_faults();
        self.queue.plan(0, Happening::Sample);
        let deadline = nanos(self.scenario.deadline);
        while let Some(happening) = self.queue.next() {
            let now = self.queue.now();
            if now > deadline || self.is_over() {
                break;
            }
            self.events += 1;
            if self.events % 65_536 == 0 {
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
                    self.input(now, node, Input::Wakeup);
                }
            }
            Happening::MemberWakeup { node, life } => self.wake_member(now, node, life),
            Happening::Begin { node } => self.begin(now, node),
            Happening::Ask { node } => self.ask(now, node),
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
            if node == 0
                && let Some(recorder) = &mut self.recorder
            {
                recorder(time, &input);
            }
            let Some(engine) = &mut self.nodes[node].engine else { continue };
            engine.handle(time, input);
            while let Some(output) = self.nodes[node].engine.as_mut().and_then(|e| e.poll_output()) {
                self.carry_out(now, node, output);
            }
            self.plan_wakeup(node);
        }
    }

    fn plan_wakeup(&mut self, node: NodeId) {
        let n = &mut self.nodes[node];
        let Some(at) = n.engine.as_ref().and_then(|e| e.next_wakeup()) else { return };
        let at = at.since_origin().as_nanos() as Nanos;
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

    // ---- messages and pieces ----

    fn tell(&mut self, now: Nanos, from: NodeId, to: NodeId, message: Message) {
        let len = message.encoded_len() as u64;
        if std::env::var_os("DBG").is_some() {
            let t = format!("{message:?}");
            let t = t.replace("sha256:", "");
            eprintln!("{:.6} {from}->{to} {}", now as f64 / SECOND, t.chars().take(400).collect::<String>());
        }
        let node = &mut self.nodes[from];
        node.outcome.control += len;
        // Messages go out one after another, beside the pieces.
        let begins = node.control_until.max(now);
        node.control_until = begins + nanos(len as f64 / node.links.up);
        let sent = node.control_until;
        node.peers.insert(to);
        self.nodes[to].peers.insert(from);
        self.trace(&[2, now, from as u64, to as u64, len]);
        if self.is_cut(from, to) {
            return;
        }
        let cost = match message {
            // Closing a stream follows its opening.
            Message::Subscribe { .. } | Message::Unsubscribe { .. } => nanos(self.scenario.request_cost),
            _ => 0,
        };
        let at = sent + self.net.delay(from, to) + cost;
        let to_life = self.nodes[to].life;
        self.queue.plan(at, Happening::Message { from, to, to_life, message: Box::new(message) });
    }

    fn deliver(&mut self, now: Nanos, from: NodeId, to: NodeId, message: Message) {
        let peer = self.nodes[from].peer();
        match message {
            Message::Swim(bytes) => self.hear_membership(now, to, peer, bytes),
            message => self.input(now, to, Input::Heard { from: peer, message }),
        }
    }

    fn lose_peer(&mut self, now: Nanos, node: NodeId, lost: NodeId) {
        let peer = self.nodes[lost].peer();
        self.lose_member(now, node, peer);
        self.input(now, node, Input::PeerLost { peer });
    }

    fn arrive(&mut self, now: Nanos, arrived: Arrived<Cargo>) {
        match arrived.tag {
            Cargo::Body { request } => self.arrive_from_origin(now, request, arrived.total, arrived.done),
            Cargo::Piece { .. } if !arrived.done => {}
            Cargo::Piece { upload, from_life, to_life, layer, piece, backlog } => {
                let (from, to) = (arrived.from, arrived.to);
                if self.nodes[from].life == from_life && self.nodes[from].is_up() {
                    self.nodes[from].outcome.sent += arrived.total;
                    self.input(now, from, Input::Uploaded { upload });
                }
                if self.nodes[to].life == to_life && self.nodes[to].is_up() {
                    let right = !self.nodes[from].lies;
                    self.take_piece(now, (from, to), usize::from(layer), piece, right, backlog);
                }
            }
        }
    }

    fn take_piece(
        &mut self,
        now: Nanos,
        (from, to): (NodeId, NodeId),
        layer: usize,
        piece: u32,
        right: bool,
        backlog: u32,
    ) {
        let digest = self.layers[layer].digest;
        self.trace(&[3, now, from as u64, to as u64, u64::from(piece)]);
        let hash = piece_hash(&digest, piece, right);
        let peer = self.nodes[from].peer();
        self.nodes[to].aside.insert((layer as u16, piece, from as u32), right);
        self.input(now, to, Input::Arrived { from: peer, digest, piece, hash, backlog });
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        let (a, b) = (self.nodes[from].links.zone, self.nodes[to].links.zone);
        self.cut[a][b]
    }

    fn origin_place(&self) -> Place {
        self.scenario.nodes
    }

    // ---- keeping count ----

    /// FNV-1a over everything that happens.
    fn trace(&mut self, what: &[u64]) {
        for word in what {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn violate(&mut self, now: Nanos, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(format!("{:.6} s: {what}", now as f64 / SECOND));
        }
    }

    /// Other blobs of a node: only their announcements matter.
    fn announce_stored(&mut self, now: Nanos, node: NodeId) {
        for number in 0..self.scenario.clients.stored {
            let mut hash = [0x55; 32];
            hash[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
            let digest = Digest::new(Algorithm::Sha256, &hash);
            self.input(now, node, Input::Stored { digest, size: 50 << 20 });
        }
    }

    fn share_done(&self) -> f64 {
        let (mut have, mut want) = (0u64, 0u64);
        for node in self.nodes.iter().filter(|n| !n.holds) {
            have += node.blobs.iter().map(|b| b.received()).sum::<u64>();
            want += self.scenario.bytes();
        }
        if want == 0 { 1.0 } else { have as f64 / want as f64 }
    }

    fn sample(&mut self, now: Nanos) {
        let total = self.scenario.bytes().max(1);
        let progress = self.nodes.iter().map(|node| {
            let have: u64 = node.blobs.iter().map(|b| b.received()).sum();
            (have * 255 / total) as u8
        });
        self.samples.push(Sample { at_s: now as f64 / SECOND, progress: progress.collect() });
        // Twice the bound is seen in full; a run that takes longer is sampled coarser and coarser.
        let step = nanos(crate::bound::Bound::of(self.scenario).total_s().max(0.05) * 2.0) / SAMPLES;
        let step = step.max(now / SAMPLES);
        self.queue.plan(now + step.max(1_000_000), Happening::Sample);
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
