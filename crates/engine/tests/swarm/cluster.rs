//! The cluster: virtual time, links, and what must hold after each step.
//!
//! What is checked, and where: one effect of a blob at a time, bytes only to where they belong, nothing wrong kept,
//! nothing unverified stored, uploads within their bounds (`driver.rs`); transfers only inside leases (`upstream.rs`);
//! leases that do not overlap, and what may be said to whom (`ledger.rs`); tickets (here); nothing left when nothing is
//! left to do (here).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use shoal_engine::demand::Part;
use shoal_engine::io::{Outcome, PullFault};
use shoal_engine::limits::{PENDING_PIECES_MAX, UPLOADS_DOUBTED_MAX, UPLOADS_MAX, UPLOADS_PER_PEER_MAX};
use shoal_engine::pieces::{last_piece_start, piece_len};
use shoal_engine::swarm::upload::Send;
use shoal_engine::wire::{Message, PieceHash};
use shoal_engine::{Algorithm, Digest, FetchId, Input, PeerId, Roster, TicketId, Time};

use crate::ledger::Ledger;
use crate::node::{Client, Node};
use crate::outside::Act;

/// Number of a node.
pub type NodeNo = usize;
/// Number of a blob.
pub type BlobNo = usize;

/// Steps after which a run is taken for one that never ends.
const STEPS_MAX: u64 = 400_000;

/// Lines of the trace that a failed check shows, unless `TRACE` says how many.
const TRACE_TAIL: usize = 80;

/// How fast the cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// One way between two nodes.
    pub delay: Duration,
    /// An effect of the disk.
    pub disk: Duration,
    /// Bytes per second of one piece on its way to another node.
    pub rate: f64,
    /// Time until upstream answers.
    pub upstream: Duration,
    /// Bytes per second of one transfer from upstream.
    pub upstream_rate: f64,
    /// Time between a piece's last byte and its hash.
    pub hashing: Duration,
    /// Time in which as many hashes of a stored blob are taken as are told at once; none if they lie beside it.
    pub listing: Duration,
    /// Whether all these vary by up to a half in both directions.
    pub jitter: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            delay: Duration::from_millis(1),
            disk: Duration::from_millis(1),
            rate: 100e6,
            upstream: Duration::from_millis(40),
            upstream_rate: 50e6,
            hashing: Duration::ZERO,
            listing: Duration::ZERO,
            jitter: false,
        }
    }
}

/// One blob, and what upstream sent of it.
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
    /// Transfers that were asked for, as (node, start, end).
    pub requests: Vec<(NodeNo, u64, Option<u64>)>,
    /// When, in the same order.
    pub asked_at: Vec<Time>,
    /// Bytes that upstream has sent, to all nodes.
    pub fetched: u64,
    /// Bytes that upstream has sent to a node that had them.
    pub fetched_twice: u64,
    /// Pieces that were sent between members.
    pub sent: u64,
}

/// Something that will happen.
pub enum Event {
    /// A node's engine hears of something, unless it has been restarted meanwhile.
    Tell(NodeNo, u32, Input),
    /// An effect of the disk is answered.
    Answer(NodeNo, u32, BlobNo, &'static str),
    Message {
        from: NodeNo,
        life: u32,
        to: NodeNo,
        message: Message,
    },
    Piece {
        from: NodeNo,
        life: u32,
        to: NodeNo,
        send: Send,
        wrong: bool,
    },
    /// A stream has not moved for long.
    Stuck(NodeNo, u32, Send),
    /// A piece that was fetched upstream has been hashed.
    Hash(NodeNo, u32, BlobNo, u32),
    Arrive(NodeNo, u32, FetchId),
    Step(NodeNo, u32, FetchId),
    End(NodeNo, u32, FetchId, Option<shoal_engine::io::FetchFault>),
    Do(Act),
}

/// See the module's head.
pub struct Cluster {
    pub now: Time,
    pub pace: Pace,
    /// How late all nodes are woken.
    pub late: Duration,
    pub nodes: Vec<Node>,
    pub blobs: Vec<Blob>,
    pub clients: BTreeMap<TicketId, Client>,
    pub ledger: Ledger,
    pub cut: BTreeSet<(NodeNo, NodeNo)>,
    /// What has reached frozen nodes.
    pub held: BTreeMap<NodeNo, Vec<Event>>,
    pub trace: VecDeque<String>,
    trace_tail: usize,
    events: BTreeMap<(Time, u64), Event>,
    /// When the last message between two nodes arrives: they stay in order.
    in_order: BTreeMap<(NodeNo, NodeNo), Time>,
    next_event: u64,
    next_ticket: u64,
    rng: u64,
    steps: u64,
}

/// Ends the test with what happened last.
macro_rules! check {
    ($cluster:expr, $condition:expr, $($message:tt)+) => {
        if !$condition {
            $cluster.fail(&format!($($message)+));
        }
    };
}
pub(crate) use check;

pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of a piece as it is, or as no honest node ever sees it.
pub fn hash(blob: BlobNo, piece: u32, wrong: bool) -> PieceHash {
    let mut hash = [blob as u8; 32];
    hash[..4].copy_from_slice(&piece.to_le_bytes());
    hash[4] = u8::from(wrong);
    PieceHash(hash)
}

/// Lines of the trace that a failure shows; whoever looks for its cause says how many (`TRACE=5000`).
#[expect(clippy::disallowed_methods, reason = "who searches says from outside how much to show")]
fn trace_tail() -> usize {
    std::env::var("TRACE").ok().and_then(|lines| lines.parse().ok()).unwrap_or(TRACE_TAIL)
}

impl Cluster {
    /// `count` nodes that run and know each other.
    pub fn new(count: usize) -> Cluster {
        Cluster::with(Pace::default(), count, 1)
    }

    pub fn with(pace: Pace, count: usize, seed: u64) -> Cluster {
        let mut cluster = Cluster {
            now: Time::ZERO + Duration::from_secs(1),
            pace,
            late: Duration::ZERO,
            nodes: (0..count).map(|n| Node::new(n, "")).collect(),
            blobs: Vec::new(),
            clients: BTreeMap::new(),
            ledger: Ledger::default(),
            cut: BTreeSet::new(),
            held: BTreeMap::new(),
            trace: VecDeque::new(),
            trace_tail: trace_tail(),
            events: BTreeMap::new(),
            in_order: BTreeMap::new(),
            next_event: 0,
            next_ticket: 0,
            rng: seed,
            steps: 0,
        };
        cluster.nodes.iter_mut().for_each(Node::start);
        (0..count).for_each(|node| cluster.tell_roster(node));
        cluster
    }

    /// A new blob.
    pub fn add(&mut self, size: u64) -> BlobNo {
        let number = self.blobs.len();
        let mut bytes = [0; 32];
        for (at, part) in bytes.chunks_mut(8).enumerate() {
            part.copy_from_slice(&mix((number as u64 + 1) << 8 | at as u64).to_be_bytes());
        }
        let digest = Digest::new(Algorithm::Sha256, &bytes);
        let (requests, asked_at, fetched, fetched_twice, sent) = (Vec::new(), Vec::new(), 0, 0, 0);
        self.blobs.push(Blob { digest, size, requests, asked_at, fetched, fetched_twice, sent });
        number
    }

    // ---- getters ----

    pub fn number(&self, digest: Digest) -> BlobNo {
        self.blobs.iter().position(|b| b.digest == digest).expect("a blob of this cluster")
    }

    pub fn node_of(&self, peer: &PeerId) -> NodeNo {
        self.nodes.iter().position(|n| n.peer() == *peer).expect("a node of this cluster")
    }

    /// The homes of a blob by rank, as a node sees it.
    pub fn homes(&self, blob: BlobNo) -> Vec<NodeNo> {
        let roster = Roster::new(self.nodes.iter().filter(|n| n.is_up()).map(|n| n.member.clone()));
        shoal_engine::homes::homes(&self.blobs[blob].digest, &roster)
            .iter()
            .map(|p| self.node_of(&p))
            .collect()
    }

    pub fn outcome(&self, ticket: TicketId) -> Option<Outcome> {
        self.clients[&ticket].outcome
    }

    /// Bytes of a blob that are in their place on a node, or in its store.
    pub fn received(&self, node: NodeNo, blob: BlobNo) -> u64 {
        let Some(disk) = self.nodes[node].disk.get(&blob) else { return 0 };
        if disk.stored { self.blobs[blob].size } else { disk.place.as_ref().map_or(0, |p| p.written.len()) }
    }

    pub fn has_stored(&self, node: NodeNo, blob: BlobNo) -> bool {
        self.nodes[node].disk.get(&blob).is_some_and(|d| d.stored)
    }

    /// The node that fetches a blob upstream now.
    pub fn fetching(&self, blob: BlobNo) -> Option<NodeNo> {
        (0..self.nodes.len())
            .find(|n| self.nodes[*n].transfers.values().any(|t| t.blob == blob && !t.cancelled))
    }

    /// Whether two nodes can talk.
    pub fn are_connected(&self, a: NodeNo, b: NodeNo) -> bool {
        !self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.rng = self.rng.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.rng) % bound.max(1)
    }

    // ---- the run ----

    /// Runs until nothing is left to happen: everybody who waits has been told, and nothing is left behind.
    pub fn run(&mut self) {
        self.run_within(Duration::from_secs(120));
    }

    /// The same, within a bounded time.
    pub fn run_within(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(Some(until)) {}
        let open: Vec<_> = self.clients.iter().filter(|(_, c)| c.is_open()).collect();
        let why: Vec<_> = open.iter().map(|(_, client)| self.explain(client)).collect();
        check!(self, open.is_empty(), "{}\nafter {time:?} these still wait: {open:?}", why.join("\n"));
        check!(self, self.next_at().is_none(), "after {time:?} the cluster does not come to rest");
        self.check_rest();
    }

    /// Runs until `condition` holds; it has to, within a minute.
    pub fn run_until(&mut self, condition: impl Fn(&Cluster) -> bool) {
        let until = self.now + Duration::from_secs(60);
        while !condition(self) {
            let stepped = self.step(Some(until));
            check!(self, stepped, "what was waited for has not happened");
        }
    }

    /// Runs for a while.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(Some(until)) {}
        self.now = until;
    }

    fn next_at(&self) -> Option<Time> {
        let wakeups = self.nodes.iter().filter_map(|node| self.woken_at(node));
        wakeups.chain(self.events.keys().next().map(|key| key.0)).min()
    }

    fn woken_at(&self, node: &Node) -> Option<Time> {
        let engine = node.engine.as_ref().filter(|_| !node.frozen)?;
        Some(engine.next_wakeup()? + self.late)
    }

    fn step(&mut self, until: Option<Time>) -> bool {
        self.steps += 1;
        check!(self, self.steps < STEPS_MAX, "the run does not end");
        let Some(at) = self.next_at() else { return false };
        if until.is_some_and(|until| at > until) {
            return false;
        }
        self.now = self.now.max(at);
        let event = self.events.first_key_value().map(|(key, _)| *key).filter(|key| key.0 <= at);
        if let Some(key) = event {
            let event = self.events.remove(&key).expect("just seen");
            self.happen(event);
            return true;
        }
        let due = self.nodes.iter().position(|node| self.woken_at(node).is_some_and(|woken| woken <= at));
        let node = due.expect("somebody wants to be woken");
        self.input(node, Input::Wakeup);
        let next = self.nodes[node].engine.as_ref().and_then(|e| e.next_wakeup());
        check!(
            self,
            next.is_none_or(|next| next > self.now),
            "{node}: a wakeup led to the wish for one at once"
        );
        true
    }

    fn happen(&mut self, event: Event) {
        let (node, life) = match &event {
            Event::Tell(node, life, _) | Event::Answer(node, life, ..) => (*node, *life),
            Event::Arrive(node, life, _) | Event::Step(node, life, _) | Event::End(node, life, ..) => {
                (*node, *life)
            }
            Event::Stuck(node, life, _) | Event::Hash(node, life, ..) => (*node, *life),
            Event::Message { to, .. } | Event::Piece { to, .. } => (*to, self.nodes[*to].life),
            Event::Do(_) => (usize::MAX, 0),
        };
        if let Some(node) = self.nodes.get(node).filter(|n| n.frozen) {
            let number = self.node_of(&node.peer());
            return self.held.entry(number).or_default().push(event);
        }
        if node != usize::MAX && self.nodes[node].life != life {
            return;
        }
        match event {
            Event::Tell(node, _, input) => self.input(node, input),
            // Nobody has answered when the agent was killed.
            Event::Answer(node, ..) if !self.nodes[node].is_up() => {}
            Event::Answer(node, _, blob, effect) => self.answer(node, blob, effect),
            Event::Message { from, life, to, message } => self.deliver(from, life, to, message),
            Event::Piece { from, life, to, send, wrong } => self.deliver_piece((from, life), to, send, wrong),
            Event::Stuck(node, _, send) => self.uploaded(node, send),
            Event::Hash(node, _, blob, piece) => self.hashed(node, blob, piece),
            Event::Arrive(node, _, fetch) => self.arrive(node, fetch),
            Event::Step(node, _, fetch) => self.step_transfer(node, fetch),
            Event::End(node, _, fetch, fault) => self.end_transfer(node, fetch, fault),
            Event::Do(act) => self.act(act),
        }
    }

    /// One input of one node, and everything that follows from it at once.
    pub fn input(&mut self, node: NodeNo, input: Input) {
        self.note(format!("{:?} {node} > {input:?}", self.now.since_origin()));
        if let Input::Roster(roster) = &input {
            self.nodes[node].members = roster.len();
        }
        let Some(mut engine) = self.nodes[node].engine.take() else { return };
        engine.handle(self.now, input);
        let mut outputs = Vec::new();
        while let Some(output) = engine.poll_output() {
            outputs.push(output);
        }
        self.nodes[node].engine = Some(engine);
        for output in outputs {
            self.note(format!("{:?} {node} < {output:?}", self.now.since_origin()));
            self.carry_out(node, output);
        }
        self.check_node(node);
        self.check_leases(node);
        self.check_transfers(node);
    }

    pub fn schedule(&mut self, after: Duration, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now + after, self.next_event), event);
    }

    /// The same, with the cluster's jitter.
    pub fn schedule_about(&mut self, after: Duration, event: Event) {
        let after = self.vary(after);
        self.schedule(after, event);
    }

    pub fn vary(&mut self, time: Duration) -> Duration {
        if !self.pace.jitter {
            return time;
        }
        time / 2 + time.mul_f64(self.below(1024) as f64 / 1024.0)
    }

    /// A message, which does not overtake those before it.
    pub fn send(&mut self, from: NodeNo, to: NodeNo, message: Message) {
        let at = self.now + self.vary(self.pace.delay);
        let last = self.in_order.entry((from, to)).or_default();
        let at = at.max(*last);
        *last = at;
        let life = self.nodes[from].life;
        self.schedule(at - self.now, Event::Message { from, life, to, message });
    }

    // ---- clients ----

    pub fn open(&mut self, node: NodeNo, blob: BlobNo) -> TicketId {
        self.open_part(node, blob, Part::Whole)
    }

    /// A client of a node asks, after the manifest has told the size.
    pub fn open_part(&mut self, node: NodeNo, blob: BlobNo, part: Part) -> TicketId {
        let size = self.blobs[blob].size;
        self.open_told(node, blob, part, size)
    }

    /// The same, after a manifest that tells this size.
    pub fn open_told(&mut self, node: NodeNo, blob: BlobNo, part: Part, size: u64) -> TicketId {
        self.next_ticket += 1;
        let ticket = TicketId(self.next_ticket);
        let (life, closed) = (self.nodes[node].life, !self.nodes[node].is_up());
        let client = Client { node, life, blob, part, served: None, ready_to: 0, outcome: None, closed };
        let digest = self.blobs[blob].digest;
        self.nodes[node].disk.entry(blob).or_default();
        self.input(node, Input::Described { digest, size, prefetch: None });
        self.clients.insert(ticket, client);
        self.input(node, Input::Open { ticket, digest, scope: crate::upstream::scope(), part });
        ticket
    }

    /// How long a pull takes that a node begins after some time in which nothing happens. It has to end well.
    pub fn time_of_pull(&mut self, node: NodeNo, blob: BlobNo) -> Duration {
        self.run_for(Duration::from_secs(2));
        let begun = self.now;
        let ticket = self.open(node, blob);
        self.run_until(|c| c.outcome(ticket).is_some());
        let time = self.now - begun;
        self.run();
        assert_eq!(self.outcome(ticket), Some(Outcome::Delivered));
        time
    }

    pub fn close(&mut self, ticket: TicketId) {
        let client = self.clients.get_mut(&ticket).expect("a client");
        if client.is_open() {
            client.closed = true;
            let node = client.node;
            self.input(node, Input::Close { ticket });
        }
    }

    pub fn serve(&mut self, node: NodeNo, ticket: TicketId, size: u64, range: std::ops::Range<u64>) {
        let client = &self.clients[&ticket];
        check!(self, client.is_open() && client.node == node, "{ticket:?} is served after its end");
        check!(self, client.served.is_none(), "{ticket:?} is served twice");
        let place = self.nodes[node].disk[&client.blob].place.as_ref();
        check!(self, place.is_some_and(|p| p.size == Some(size)), "{ticket:?} is served out of nothing");
        let client = self.clients.get_mut(&ticket).expect("seen above");
        client.ready_to = range.start;
        client.served = Some(range);
    }

    pub fn ready(&mut self, node: NodeNo, ticket: TicketId, to: u64) {
        let client = &self.clients[&ticket];
        let (from, blob) = (client.ready_to, client.blob);
        check!(self, client.is_open(), "{ticket:?} is given bytes after its end");
        let in_range = client.served.as_ref().is_some_and(|r| to > from && to <= r.end);
        check!(self, in_range, "{ticket:?} goes from {from} to {to} of {:?}", client.served);
        let Some(place) = &self.nodes[node].disk[&blob].place else {
            self.fail("bytes out of a closed place")
        };
        check!(self, place.written.contains(from..to), "{ticket:?} is given bytes that are not there");
        let size = place.size.expect("it was served");
        let sealed = client.may_complete() && !place.verified && to > last_piece_start(size);
        check!(self, !sealed, "I2: {ticket:?} is given {to} of {size}, the last piece unverified");
        let pieces = (from / piece_len(size)) as u32..to.div_ceil(piece_len(size)) as u32;
        let wrong = pieces.into_iter().find(|p| place.wrong.contains(p));
        let deceived = self.ledger.is_list_suspect(blob) || self.ledger.had_wrong_upstream(node);
        check!(self, wrong.is_none() || deceived, "I9: {ticket:?} is given wrong bytes of piece {wrong:?}");
        self.clients.get_mut(&ticket).expect("seen above").ready_to = to;
    }

    pub fn end(&mut self, node: NodeNo, ticket: TicketId, outcome: Outcome) {
        let client = &self.clients[&ticket];
        check!(
            self,
            client.is_open() && client.node == node,
            "I4: {ticket:?} ends a second time: {outcome:?}"
        );
        let explained = match outcome {
            Outcome::Delivered => client.served.as_ref().is_some_and(|r| r.end == client.ready_to),
            Outcome::Stored => self.has_stored(node, client.blob),
            Outcome::PassThrough | Outcome::Unsatisfiable { .. } => false,
            Outcome::Failed(PullFault::Draining) => self.nodes[node].draining,
            Outcome::Failed(fault) => self.ledger.explains(client.blob, fault),
        };
        check!(self, explained, "{node}: {ticket:?} ends with {outcome:?}, and nothing explains it");
        self.clients.get_mut(&ticket).expect("seen above").outcome = Some(outcome);
    }

    // ---- what must hold ----

    fn check_node(&self, number: NodeNo) {
        let node = &self.nodes[number];
        let Some(engine) = &node.engine else { return };
        let tickets: usize = engine.flights().map(|f| f.ticket_count()).sum();
        let mine = |c: &&Client| c.node == number && c.life == node.life && c.is_open();
        let open = self.clients.values().filter(mine).count();
        check!(self, tickets == open, "{number} knows of {tickets} tickets, the cluster of {open}");
        let sending = node.uploads.len();
        check!(
            self,
            sending <= UPLOADS_MAX + UPLOADS_DOUBTED_MAX,
            "{number} sends {sending} pieces at a time"
        );
        let mut by_reader: BTreeMap<&PeerId, usize> = BTreeMap::new();
        node.uploads.values().for_each(|to| *by_reader.entry(to).or_default() += 1);
        let most = by_reader.values().max().copied().unwrap_or(0);
        // What a member takes slowly on purpose counts by itself.
        let kinds = if self.nodes.iter().any(|node| !node.paces.is_empty()) { 2 } else { 1 };
        check!(self, most <= kinds * UPLOADS_PER_PEER_MAX, "{number} sends {most} pieces to one member");
        check!(
            self,
            node.aside.len() <= PENDING_PIECES_MAX,
            "{number} keeps {} pieces aside",
            node.aside.len()
        );
    }

    /// Nothing is left to happen: nothing may be left under way, and nobody may be remembered who wants something.
    fn check_rest(&self) {
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.is_up()) {
            let engine = node.engine.as_ref().expect("it is up");
            let flights: Vec<_> = engine.flights().collect();
            check!(self, flights.is_empty(), "{number} rests with {flights:?}");
            check!(self, node.transfers.is_empty(), "{number} rests with {:?}", node.transfers);
            check!(self, node.uploads.is_empty(), "{number} rests with {:?} under way", node.uploads);
            check!(self, node.aside.is_empty(), "{number} rests with pieces aside: {:?}", node.aside.keys());
            for (blob, disk) in &node.disk {
                let unanswered = (disk.busy, &disk.checkpointing, disk.inspecting, disk.listing);
                check!(
                    self,
                    unanswered == (None, &None, false, false),
                    "{number}: {blob} rests with {unanswered:?}"
                );
            }
            let Some(swarm) = engine.swarm() else { continue };
            let books = swarm.home().receiving_count();
            check!(self, books == 0, "{number} rests with {books} books in which somebody receives");
            let streams = swarm.uploads().len();
            check!(self, streams == 0, "{number} rests with {streams} streams open");
            for blob in &self.blobs {
                check!(self, swarm.exchange(&blob.digest).is_none(), "{number} rests with an exchange");
            }
        }
    }

    /// How it stands with what a client waits for.
    fn explain(&self, client: &Client) -> String {
        let digest = &self.blobs[client.blob].digest;
        let engine = self.nodes[client.node].engine.as_ref();
        let phase = engine.and_then(|e| e.flight(digest)).map(|f| f.phase());
        let Some(exchange) = engine.and_then(|e| e.swarm()?.exchange(digest)) else {
            return format!("{}: {phase:?} without an exchange", client.node);
        };
        let (standing, home) = (exchange.standing(), exchange.home().map(|home| self.node_of(&home)));
        let leases: Vec<_> = exchange.leases().collect();
        let feeds: Vec<_> = exchange.feeds().map(|(class, peer)| (class, self.node_of(&peer))).collect();
        let there = (exchange.have().count(), exchange.have().total(), exchange.have().first_missing(0));
        format!("{}: {phase:?} {standing:?} at {home:?}, {there:?}, {leases:?}, {feeds:?}", client.node)
    }

    fn note(&mut self, line: String) {
        if self.trace.len() == self.trace_tail {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    pub fn fail(&self, message: &str) -> ! {
        let line = |line: &String| line.chars().take(400).collect::<String>();
        let trace: Vec<_> = self.trace.iter().map(line).collect();
        panic!("{}\n{message}", trace.join("\n    "));
    }
}
