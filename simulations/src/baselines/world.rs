//! What all models stand on: the clock, the links, the nodes with their clients, the registry, and the books.
//!
//! Invariant: a model sees nothing of another place's state but what has travelled to it; all that is measured is measured
//! here, alike for every model.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::bound::Bound;
use crate::net::{Arrived, Links, Net, NetEvent, Place, ZoneLinks};
use crate::outcome::{NodeOutcome, Outcome, Sample};
use crate::queue::{Nanos, Queue, SECOND, nanos};
use crate::scenario::Scenario;

use super::LAYERS_AT_ONCE;
use super::population::Population;
use super::registry::{Fetch, Registry, THROTTLED_PAUSE_S, Verdict};

/// Samples of a run: between this many and twice as many.
const SAMPLES: usize = 200;
/// Samples are this share of the bound apart at first; each time there are too many, every other one goes.
const SAMPLE_SHARE: f64 = 0.01;
/// Waits after a 429 differ by up to this share, so that clients do not stay in step.
const JITTER: f64 = 0.1;
/// Makes the models' chance another than the population's.
const CHANCE: u64 = 0x6261_7365_6c69_6e65;

/// What a transfer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Of which layer.
    pub layer: u32,
    /// Which piece; the model says what that is.
    pub piece: u32,
    /// Bytes at its beginning that the receiver has no use for.
    pub skip: u64,
}

impl Load {
    /// Layer and piece in one number.
    fn name(&self) -> u64 {
        u64::from(self.layer) << 32 | u64::from(self.piece)
    }

    /// Bytes of what has just arrived that are of use.
    pub fn useful(&self, arrived: &Arrived<Load>) -> u64 {
        let before = arrived.total - arrived.bytes;
        arrived.total.saturating_sub(self.skip) - before.saturating_sub(self.skip)
    }
}

/// What happens.
pub(super) enum Event<T> {
    /// On the links.
    Net(NetEvent),
    /// What a model has planned.
    Timer(T),
    /// A client asks.
    Asks(u32),
    /// A layer's last byte has passed disk and digest.
    Verified {
        /// Where.
        node: u32,
        /// Its life.
        life: u32,
        /// The layer.
        layer: u32,
    },
    /// A member begins to send.
    Serve(Box<Serve>),
    /// A request to the registry.
    Fetch(Step),
    /// The registry goes away.
    OutageBegins,
    /// Somebody is killed.
    Death,
    /// A killed node is back.
    Returns(u32),
}

/// Where a request to the registry stands.
pub(super) enum Step {
    /// Asked again after a 429.
    Ask(Box<Fetch>),
    /// Its first byte leaves.
    Begin(Box<Fetch>),
    /// The refusal reaches the client.
    Refused(Box<Fetch>),
}

/// A member's answer to a request.
pub(super) struct Serve {
    from: Place,
    to: Place,
    lives: (u32, u32),
    load: Load,
    bytes: u64,
}

/// What a member was to send.
pub(super) struct Sending {
    /// The member.
    pub from: Place,
    /// Who waits for it.
    pub to: Place,
    /// What.
    pub load: Load,
}

/// A machine.
#[derive(Clone, Default)]
struct Host {
    /// Its uplink, bytes per second.
    up: f64,
    is_down: bool,
    life: u32,
    disk_until: Nanos,
    requests_until: Nanos,
}

/// A node's client.
#[derive(Default)]
struct Client {
    /// Layers asked for; they are asked for in order.
    begun: usize,
    layers: Vec<Reading>,
    verified: usize,
    read_until: Nanos,
    gained: u64,
    senders: Vec<(Place, u64)>,
    outcome: NodeOutcome,
}

#[derive(Clone, Default)]
struct Reading {
    bytes: u64,
    hash_until: Nanos,
    is_verified: bool,
}

/// The world of a run.
pub(super) struct World<T> {
    /// What is run.
    pub scenario: Scenario,
    /// The models' chance.
    pub rng: StdRng,
    /// Pulls whose error has reached a client, which then tried again.
    pub failed: u64,
    queue: Queue<Event<T>>,
    net: Net<Load>,
    hosts: Vec<Host>,
    clients: Vec<Client>,
    registry: Registry,
    unfinished: usize,
    gained: u64,
    events: u64,
    trace: u64,
    bound_s: f64,
    samples: Vec<Sample>,
    sample_gap: Nanos,
    sample_next: Nanos,
}

impl<T> World<T> {
    /// A world at its beginning, with `hosts` machines beside the nodes.
    pub fn new(scenario: &Scenario, hosts: usize) -> World<T> {
        let population = Population::of(scenario);
        let places = places(scenario, &population, hosts);
        let bound_s = Bound::of(scenario).total_s();
        let mut world = World {
            scenario: scenario.clone(),
            rng: StdRng::seed_from_u64(scenario.seed ^ CHANCE),
            failed: 0,
            queue: Queue::default(),
            net: network(scenario, &places),
            hosts: places.iter().map(|links| Host { up: links.up, ..Host::default() }).collect(),
            clients: (0..scenario.nodes).map(|node| client(scenario, &population, node)).collect(),
            registry: Registry::new(&scenario.origin),
            unfinished: population.asks.iter().flatten().count(),
            gained: 0,
            events: 0,
            trace: scenario.seed,
            bound_s,
            samples: Vec::new(),
            sample_gap: nanos(bound_s * SAMPLE_SHARE).max(1),
            sample_next: 0,
        };
        for (node, at) in population.asks.iter().enumerate() {
            if let Some(at) = at {
                world.queue.plan(*at, Event::Asks(node as u32));
            }
        }
        for outage in &scenario.origin.outages {
            world.queue.plan(nanos(outage.from), Event::OutageBegins);
        }
        world.plan_death();
        world
    }

    /// The next event, if the run goes on.
    pub fn next(&mut self) -> Option<Event<T>> {
        if self.unfinished == 0 {
            return None;
        }
        let event = self.queue.next()?;
        if self.now() as f64 > self.scenario.deadline * SECOND {
            return None;
        }
        self.events += 1;
        if self.now() >= self.sample_next {
            self.sample();
        }
        Some(event)
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Share of all wanted bytes that are there.
    pub fn share_done(&self) -> f64 {
        self.gained as f64 / (self.scenario.bytes() * self.scenario.receivers() as u64).max(1) as f64
    }

    /// The moment.
    pub fn now(&self) -> Nanos {
        self.queue.now()
    }

    /// Wakes the model after so many nanoseconds.
    pub fn plan(&mut self, after: Nanos, timer: T) {
        self.queue.plan(self.queue.now() + after, Event::Timer(timer));
    }

    /// The registry's place. The system's own machines have the places behind it.
    pub fn registry(&self) -> Place {
        self.scenario.nodes
    }

    /// How long bytes take over a place's uplink alone.
    pub fn uplink_takes(&self, place: Place, bytes: u64) -> Nanos {
        nanos(bytes as f64 / self.hosts[place].up)
    }

    /// Whether a place is up.
    pub fn is_up(&self, place: Place) -> bool {
        !self.hosts[place].is_down
    }

    /// How often a place has died: what was planned in an earlier life is void.
    pub fn life(&self, place: Place) -> u32 {
        self.hosts[place].life
    }

    /// One-way delay, nanoseconds.
    pub fn delay(&self, from: Place, to: Place) -> Nanos {
        self.net.delay(from, to)
    }

    /// One-way delay between the nodes that are farthest apart, nanoseconds.
    pub fn delay_max(&self) -> Nanos {
        match self.scenario.zones.as_slice() {
            [only] => nanos(only.delay),
            _ => nanos(self.scenario.delay_between),
        }
    }

    /// Whether two places are in the same zone.
    pub fn is_near(&self, one: Place, other: Place) -> bool {
        self.net.zone(one) == self.net.zone(other)
    }

    /// Whether a node's client has a layer.
    pub fn is_verified(&self, node: Place, layer: usize) -> bool {
        self.clients[node].layers[layer].is_verified
    }

    /// A node, or a central service on its behalf, has sent control messages of so many bytes.
    pub fn control(&mut self, place: Place, bytes: u64) {
        if let Some(client) = self.clients.get_mut(place) {
            client.outcome.control += bytes;
        }
    }

    /// How long until a request that leaves `by` now has been taken up by `at`, which works off one after the other.
    pub fn request_takes(&mut self, by: Place, at: Place) -> Nanos {
        let arrives = self.now() + self.delay(by, at);
        let host = &mut self.hosts[at];
        host.requests_until = host.requests_until.max(arrives) + nanos(self.scenario.request_cost);
        host.requests_until - self.queue.now()
    }

    /// `to` asks `from` for bytes after a `pause`; they are on their way once the request has been taken up.
    pub fn request(&mut self, from: Place, to: Place, load: Load, bytes: u64, pause: Nanos) {
        let taken_up = self.now() + pause + self.request_takes(to, from);
        let lives = (self.life(from), self.life(to));
        self.queue.plan(taken_up, Event::Serve(Box::new(Serve { from, to, lives, load, bytes })));
    }

    /// A request is taken up. Answers what cannot be served because its sender is gone.
    pub fn serve(&mut self, serve: &Serve) -> Option<Sending> {
        let Serve { from, to, lives, load, bytes } = *serve;
        if self.life(to) != lives.1 {
            return None;
        }
        if self.life(from) != lives.0 || !self.is_up(from) {
            return Some(Sending { from, to, load });
        }
        self.send(from, to, load, bytes);
        None
    }

    /// Sends bytes right now.
    pub fn send(&mut self, from: Place, to: Place, load: Load, bytes: u64) {
        self.net.start(self.queue.now(), from, to, bytes, f64::INFINITY, load);
        self.flush();
    }

    /// A place asks the registry for bytes.
    pub fn fetch(&mut self, to: Place, load: Load, bytes: u64) {
        let life = self.life(to);
        self.ask_registry(Fetch { to, life, load, bytes, throttled: 0 });
    }

    /// A request to the registry goes on. Answers one that has come to nothing.
    pub fn fetch_goes_on(&mut self, step: Step) -> Option<(Place, Load)> {
        let (Step::Ask(fetch) | Step::Begin(fetch) | Step::Refused(fetch)) = &step;
        let Fetch { to, life, load, bytes, .. } = **fetch;
        let is_alive = self.life(to) == life;
        match step {
            Step::Ask(fetch) if is_alive => self.ask_registry(*fetch),
            Step::Begin(_) if is_alive && !self.registry.is_down(self.now()) => {
                let (registry, cap) = (self.registry(), self.scenario.origin.per_connection);
                self.net.start(self.queue.now(), registry, to, bytes, cap, load);
                self.flush();
            }
            Step::Begin(_) => {
                self.release();
                return is_alive.then_some((to, load));
            }
            Step::Refused(_) if is_alive => return Some((to, load)),
            Step::Ask(_) | Step::Refused(_) => {}
        }
        None
    }

    /// The registry goes away: answers the requests that break off.
    pub fn break_fetches(&mut self) -> Vec<(Place, Load)> {
        let stopped = self.net.stop_all(self.registry());
        let mut broken: Vec<(Place, Load)> = stopped.iter().map(|(load, _, to)| (*to, *load)).collect();
        let waiting = self.registry.fail(stopped.len());
        let waiting = waiting.iter().filter(|fetch| self.hosts[fetch.to].life == fetch.life);
        broken.extend(waiting.map(|fetch| (fetch.to, fetch.load)));
        broken
    }

    fn ask_registry(&mut self, mut fetch: Fetch) {
        let (now, delay) = (self.now(), self.delay(self.registry(), fetch.to));
        let step = match self.registry.ask(now, &mut fetch) {
            Verdict::Answered => return self.begin_answer(fetch),
            Verdict::Waits => return,
            Verdict::Throttled => {
                let pause = THROTTLED_PAUSE_S * (1.0 + JITTER * self.rng.random::<f64>());
                self.queue.plan(now + nanos(pause), Event::Fetch(Step::Ask(Box::new(fetch))));
                return;
            }
            Verdict::Refused => Step::Refused(Box::new(fetch)),
        };
        self.queue.plan(now + 2 * delay, Event::Fetch(step));
    }

    fn begin_answer(&mut self, fetch: Fetch) {
        // The first byte is given with its propagation, which the link adds once more.
        let delay = self.delay(self.registry(), fetch.to);
        let leaves = self.now() + nanos(self.scenario.origin.first_byte).saturating_sub(delay);
        self.queue.plan(leaves, Event::Fetch(Step::Begin(Box::new(fetch))));
    }

    fn release(&mut self) {
        if let Some(next) = self.registry.release() {
            self.begin_answer(next);
        }
    }

    /// Something happens on the links.
    pub fn pass(&mut self, event: NetEvent) -> Option<Arrived<Load>> {
        let arrived = self.net.handle(self.queue.now(), event);
        self.flush();
        let arrived = arrived?;
        self.mix([arrived.from as u64, arrived.to as u64, arrived.tag.name(), arrived.total]);
        if arrived.from == self.registry() {
            self.registry.sent(self.queue.now(), arrived.bytes);
            if arrived.done {
                self.release();
            }
        }
        self.account(&arrived);
        Some(arrived)
    }

    fn flush(&mut self) {
        for (at, event) in self.net.drain_planned() {
            self.queue.plan(at, Event::Net(event));
        }
    }

    fn account(&mut self, arrived: &Arrived<Load>) {
        let Arrived { from, to, bytes, .. } = *arrived;
        let (is_origin, is_near) = (from == self.registry(), self.is_near(from, to));
        if let Some(client) = self.clients.get_mut(from) {
            client.outcome.sent += bytes;
        }
        let Some(client) = self.clients.get_mut(to) else { return };
        match (is_origin, is_near) {
            (true, _) => client.outcome.from_origin += bytes,
            (_, true) => client.outcome.from_zone += bytes,
            (_, false) => client.outcome.from_afar += bytes,
        }
        if !is_origin {
            match client.senders.iter_mut().find(|(sender, _)| *sender == from) {
                Some((_, sum)) => *sum += bytes,
                None => client.senders.push((from, bytes)),
            }
        }
    }

    /// Bytes pass a place's disk, after what came before them. Answers how long it takes until they are there.
    pub fn store(&mut self, place: Place, bytes: u64) -> Nanos {
        let host = &mut self.hosts[place];
        host.disk_until =
            host.disk_until.max(self.queue.now()) + nanos(bytes as f64 / self.scenario.disk_speed);
        host.disk_until - self.queue.now()
    }

    /// A node has so many bytes more of what it wants.
    pub fn gain(&mut self, node: Place, bytes: u64) {
        if let Some(client) = self.clients.get_mut(node) {
            client.gained += bytes;
            self.gained += bytes;
        }
    }

    /// A node has lost so many bytes that it had.
    pub fn lose(&mut self, node: Place, bytes: u64) {
        self.clients[node].gained -= bytes;
        self.gained -= bytes;
    }

    /// The next bytes of a layer, in order, are there for the client to read.
    pub fn read(&mut self, node: Place, layer: usize, bytes: u64) {
        let now = self.queue.now();
        let (hashing, reading) = (self.scenario.hash_speed, self.scenario.clients.read_speed);
        let size = self.scenario.layers[layer];
        let client = &mut self.clients[node];
        let read = &mut client.layers[layer];
        if bytes == 0 || read.is_verified {
            return;
        }
        client.outcome.first_byte_s.get_or_insert(now as f64 / SECOND);
        read.bytes += bytes;
        debug_assert!(read.bytes <= size, "more was read of layer {layer} than it has");
        read.hash_until = read.hash_until.max(now) + nanos(bytes as f64 / hashing);
        client.read_until = client.read_until.max(now) + nanos(bytes as f64 / reading);
        if read.bytes == size {
            let at = read.hash_until.max(client.read_until).max(self.hosts[node].disk_until);
            let (node, life, layer) = (node as u32, self.hosts[node].life, layer as u32);
            self.queue.plan(at, Event::Verified { node, life, layer });
        }
    }

    /// A layer is verified, unless its node has died meanwhile.
    pub fn verify(&mut self, node: Place, life: u32, layer: usize) -> bool {
        if self.life(node) != life {
            return false;
        }
        let at_s = self.now() as f64 / SECOND;
        let client = &mut self.clients[node];
        debug_assert!(!client.layers[layer].is_verified, "layer {layer} is verified twice");
        client.layers[layer].is_verified = true;
        client.verified += 1;
        if client.verified == client.layers.len() {
            client.outcome.whole_s = Some(at_s);
            self.unfinished -= 1;
        }
        self.mix([node as u64, u64::from(life), layer as u64, 1]);
        true
    }

    /// The next layer that a node's client asks for now, if it may ask for one more.
    pub fn next_layer(&mut self, node: Place) -> Option<usize> {
        let now_s = self.now() as f64 / SECOND;
        let client = &mut self.clients[node];
        // A node that is killed and back before its client asks waits for that moment.
        let may = !self.hosts[node].is_down
            && now_s >= client.outcome.asked_s
            && client.begun < client.layers.len()
            && client.begun - client.verified < LAYERS_AT_ONCE;
        client.begun += usize::from(may);
        may.then(|| client.begun - 1)
    }

    /// Layers that a node's client has asked for and does not have.
    pub fn unverified(&self, node: Place) -> Vec<usize> {
        let client = &self.clients[node];
        (0..client.begun).filter(|layer| !client.layers[*layer].is_verified).collect()
    }

    /// Plans the next death: they come at random moments, as many a minute as the scenario says.
    fn plan_death(&mut self) {
        let faults = &self.scenario.faults;
        let per_s = faults.deaths_per_minute * self.scenario.nodes as f64 / 60.0;
        if per_s > 0.0 {
            let until = nanos(faults.deaths_until);
            let gap = -(1.0 - self.rng.random::<f64>()).ln() / per_s;
            let at = self.now() + nanos(gap);
            if at < until {
                self.queue.plan(at, Event::Death);
            }
        }
    }

    /// Kills a node that is up. Answers what it was sending.
    pub fn kill_one(&mut self) -> Option<(Place, Vec<Sending>)> {
        self.plan_death();
        let node = self.rng.random_range(0..self.scenario.nodes);
        let returns = self.scenario.faults.restart_after;
        if !self.is_up(node) {
            return None;
        }
        let now = self.now();
        let host = &mut self.hosts[node];
        *host = Host { up: host.up, life: host.life + 1, is_down: true, ..Host::default() };
        let client = &mut self.clients[node];
        client.outcome.faulty = true;
        for layer in client.layers.iter_mut().filter(|layer| !layer.is_verified) {
            *layer = Reading::default();
        }
        client.read_until = now;
        match returns {
            Some(after) => self.queue.plan(now + nanos(after), Event::Returns(node as u32)),
            None if client.outcome.expected && client.outcome.whole_s.is_none() => {
                client.outcome.expected = false;
                self.unfinished -= 1;
            }
            None => {}
        }
        self.mix([node as u64, 2, 0, 0]);
        let mut was_sending = Vec::new();
        for (load, from, to) in self.net.stop_all(node) {
            if from == self.registry() {
                self.release();
            } else if from == node {
                was_sending.push(Sending { from, to, load });
            }
        }
        Some((node, was_sending))
    }

    /// A killed node is up again.
    pub fn bring_back(&mut self, node: Place) {
        self.hosts[node].is_down = false;
    }

    fn mix(&mut self, words: [u64; 4]) {
        for word in words.into_iter().chain([self.queue.now()]) {
            self.trace = (self.trace ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        }
    }

    fn sample(&mut self) {
        if self.samples.len() >= 2 * SAMPLES {
            let mut is_kept = false;
            self.samples.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            self.sample_gap *= 2;
        }
        let at_s = self.now() as f64 / SECOND;
        let bytes = self.scenario.bytes() as f64;
        let progress = self.clients.iter().map(|client| shown(client, bytes)).collect();
        self.samples.push(Sample { at_s, progress });
        self.sample_next = self.now() + self.sample_gap;
    }

    /// Closes the books.
    pub fn into_outcome(mut self, system: &str, real_s: f64) -> Outcome {
        self.sample();
        let bytes = self.scenario.bytes();
        let mut into_zone = self.net.into_zone().to_vec();
        into_zone.truncate(self.scenario.zones.len());
        let origin_busy = self.registry.busy();
        // What ended the run may lie behind the deadline.
        let simulated_s = (self.now() as f64 / SECOND).min(self.scenario.deadline);
        let nodes = self.clients.into_iter().map(|client| {
            let mut node = client.outcome;
            let received = node.from_origin + node.from_zone + node.from_afar;
            node.wasted = received.saturating_sub(client.gained);
            let worth = client.senders.iter().filter(|(_, sent)| *sent * 100 >= bytes);
            node.sources = worth.count() as u32;
            node
        });
        Outcome {
            scenario: self.scenario.name.clone(),
            system: system.to_owned(),
            seed: self.scenario.seed,
            bytes,
            bound_s: self.bound_s,
            nodes: nodes.collect(),
            upstream_bytes: self.registry.bytes,
            upstream_requests: self.registry.requests,
            origin_busy,
            into_zone,
            failed: self.failed,
            samples: self.samples,
            violations: Vec::new(),
            trace: format!("{:016x}", self.trace),
            events: self.events,
            simulated_s,
            real_s,
            engine_bytes: 0,
            joining_s: 0.0,
        }
    }
}

/// 255 only for what is whole.
fn shown(client: &Client, bytes: f64) -> u8 {
    if client.outcome.whole_s.is_some() {
        return u8::MAX;
    }
    (client.gained as f64 / bytes.max(1.0) * 255.0).min(254.0) as u8
}

/// The nodes, behind them the registry, behind it the system's own machines. Those stand in the first zone and have the
/// registry's bandwidth where that is more than a node's: they are servers, like it.
fn places(scenario: &Scenario, population: &Population, hosts: usize) -> Vec<Links> {
    let mut places: Vec<Links> = (0..scenario.nodes).map(|node| population.links(scenario, node)).collect();
    let registry = scenario.origin.bandwidth;
    places.push(Links { up: registry, down: f64::INFINITY, zone: scenario.zones.len() });
    let (up, down) = (scenario.link.up.max(registry), scenario.link.down.max(registry));
    places.extend((0..hosts).map(|_| Links { up, down, zone: 0 }));
    places
}

fn network(scenario: &Scenario, places: &[Links]) -> Net<Load> {
    let zones = scenario.zones.len();
    let mut uplinks: Vec<ZoneLinks> =
        scenario.zones.iter().map(|zone| ZoneLinks { rate: zone.uplink }).collect();
    uplinks.push(ZoneLinks { rate: f64::INFINITY });
    let delay = |from, to| {
        if from == zones || to == zones { scenario.delay_between } else { scenario.delay(from, to) }
    };
    let delays: Vec<Vec<f64>> =
        (0..=zones).map(|from| (0..=zones).map(|to| delay(from, to)).collect()).collect();
    Net::new(places, &uplinks, &delays)
}

fn client(scenario: &Scenario, population: &Population, node: usize) -> Client {
    let asks = population.asks[node];
    let is_holder = node < scenario.clients.holders;
    let reading = Reading { is_verified: is_holder, ..Reading::default() };
    Client {
        begun: if is_holder { scenario.layers.len() } else { 0 },
        verified: if is_holder { scenario.layers.len() } else { 0 },
        layers: vec![reading; scenario.layers.len()],
        outcome: NodeOutcome {
            zone: scenario.zone_of(node),
            asked_s: asks.map_or(0.0, |at| at as f64 / SECOND),
            faulty: population.slow[node],
            expected: asks.is_some(),
            ..NodeOutcome::default()
        },
        ..Client::default()
    }
}
