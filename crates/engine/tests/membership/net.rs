//! A network of members in memory and in virtual time: packets take a little while, and are lost where a node is dead or
//! on the other side of a partition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::membership::{Event, Input, Output};
use shoal_engine::{Member, Membership, PeerId, Roster, Time};

/// A packet takes between one and three times as long.
pub const DELAY_MIN: Duration = Duration::from_micros(500);

/// How long it takes a sender to learn that nobody takes its packets, where it learns it at all.
const REFUSAL_DELAY: Duration = Duration::from_millis(5);

/// One node, running or not.
pub struct Node {
    pub machine: Option<Membership>,
    pub roster: Arc<Roster>,
    pub events: Vec<Event>,
    pub rosters: usize,
    /// How long the last probe of each member and its answer took.
    pub answers: BTreeMap<PeerId, Duration>,
    /// Whom it wanted to connect to anew.
    pub reconnects: Vec<PeerId>,
    pub packets_sent: u64,
    pub bytes_sent: u64,
    pub largest: usize,
    peer: PeerId,
    /// Nodes on the same side can talk.
    side: u8,
    planned: Option<Time>,
    /// It has no processor until then; what arrives waits.
    stopped_until: Time,
}

enum Happening {
    Wakeup(usize),
    Arrival { to: usize, from: PeerId, bytes: Vec<u8> },
    Refusal { at: usize, peer: PeerId },
    Start(usize, Vec<usize>),
}

/// All nodes, and what is going to happen.
pub struct Net {
    pub now: Time,
    pub nodes: Vec<Node>,
    /// Whether a broken connection is told.
    pub tells: bool,
    /// Packets lost on the way, of 1,000.
    pub loss: u64,
    /// Two nodes between which everything is lost, and nobody is told.
    pub cut: Option<(usize, usize)>,
    /// Pairs of nodes that had something to say to each other: each would need a connection.
    pub connections: BTreeSet<(usize, usize)>,
    /// Fingerprint of every packet so far.
    pub transcript: u64,
    agenda: BTreeMap<(Time, u64), Happening>,
    happened: u64,
    by_peer: BTreeMap<PeerId, usize>,
    chance: u64,
    seed: u64,
}

/// A member as an operator would have it: two addresses, a zone, three labels.
pub fn member(n: usize, generation: u64) -> Member {
    let mut key = [0; 32];
    for (i, chunk) in key.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&scramble((n * 4 + i) as u64).to_be_bytes());
    }
    let address = |net: usize| format!("10.{net}.{}.{}:5001", n / 256, n % 256).parse().unwrap();
    Member {
        peer: PeerId(key),
        generation,
        addresses: [address(0), address(1)].into(),
        data_port: 5002,
        zone: format!("eu-central-1{}", ["a", "b", "c"][n % 3]).into(),
        labels: [("node", format!("worker-{n}")), ("pool", "general".into()), ("arch", "amd64".into())]
            .map(|(key, value)| (key.into(), value.into()))
            .into(),
        version: "0.1.0".into(),
    }
}

fn scramble(n: u64) -> u64 {
    let x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

impl Net {
    /// A network of nodes that have not started.
    pub fn new(nodes: usize, seed: u64) -> Self {
        let peers: Vec<_> = (0..nodes).map(|n| member(n, 0).peer).collect();
        let node = |peer: &PeerId| Node {
            machine: None,
            reconnects: Vec::new(),
            roster: Arc::default(),
            events: Vec::new(),
            rosters: 0,
            answers: BTreeMap::new(),
            packets_sent: 0,
            bytes_sent: 0,
            largest: 0,
            peer: *peer,
            side: 0,
            planned: None,
            stopped_until: Time::ZERO,
        };
        Net {
            now: Time::ZERO,
            nodes: peers.iter().map(node).collect(),
            tells: false,
            loss: 0,
            cut: None,
            connections: BTreeSet::new(),
            transcript: 0,
            agenda: BTreeMap::new(),
            happened: 0,
            by_peer: peers.iter().enumerate().map(|(n, peer)| (*peer, n)).collect(),
            chance: seed,
            seed,
        }
    }

    // ---- what the world does ----

    /// Starts a node after a while; it knows of `contacts`.
    pub fn start(&mut self, after: Duration, node: usize, contacts: Vec<usize>) {
        self.plan(after, Happening::Start(node, contacts));
    }

    /// Starts all nodes, the first one now and the others at random moments within `spread`. Each knows the first one; half
    /// of them know another one as well, that may not have started.
    pub fn start_all(&mut self, spread: Duration) {
        for node in 0..self.nodes.len() {
            let after = if node == 0 { Duration::ZERO } else { spread * self.random(1024) as u32 / 1024 };
            let any = self.random(self.nodes.len() as u64) as usize;
            self.start(after, node, if node % 2 == 0 { vec![0] } else { vec![any, 0] });
        }
    }

    /// Starts a node now, as this generation.
    pub fn start_as(&mut self, node: usize, generation: u64, contacts: &[usize]) {
        let seed = scramble(self.seed ^ scramble(node as u64) ^ generation);
        let machine = Membership::new(self.now, member(node, generation), seed).unwrap();
        self.nodes[node].machine = Some(machine);
        self.drain(node);
        for contact in contacts {
            let peer = self.nodes[*contact].peer;
            self.tell(node, Input::Contact { peer });
        }
    }

    /// Takes a node's power away. Where broken connections are told, some of the others had one.
    pub fn kill(&mut self, node: usize) {
        const CONNECTIONS: usize = 10;
        let peer = self.nodes[node].peer;
        for _ in 0..if self.tells { CONNECTIONS } else { 0 } {
            let at = self.random(self.nodes.len() as u64) as usize;
            self.plan(REFUSAL_DELAY, Happening::Refusal { at, peer });
        }
        self.nodes[node].machine = None;
        self.nodes[node].planned = None;
    }

    /// Lets a node leave.
    pub fn leave(&mut self, node: usize) {
        self.tell(node, Input::Leave);
        self.kill(node);
    }

    /// Takes a node's processor away for a while.
    pub fn stop(&mut self, node: usize, time: Duration) {
        self.nodes[node].stopped_until = self.now + time;
    }

    /// Puts a node on a side of the network.
    pub fn put(&mut self, node: usize, side: u8) {
        self.nodes[node].side = side;
    }

    /// Tells a node something.
    pub fn tell(&mut self, node: usize, input: Input) {
        if let Some(machine) = &mut self.nodes[node].machine {
            machine.handle(self.now, input);
            self.drain(node);
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.happen(happening);
        }
        self.now = end;
    }

    /// Lets time pass until `is_so`, at most `most`; returns how long it took.
    pub fn run_until(&mut self, most: Duration, is_so: impl Fn(&Net) -> bool) -> Option<Duration> {
        const STEP: Duration = Duration::from_millis(100);
        let begin = self.now;
        while self.now - begin <= most {
            if is_so(self) {
                return Some(self.now - begin);
            }
            self.run(STEP);
        }
        None
    }

    // ---- what can be seen ----

    /// The nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].machine.is_some()).collect()
    }

    /// Whether every running node's list has exactly the running nodes on its side.
    pub fn agrees(&self) -> bool {
        let running = self.running();
        !running.is_empty()
            && running.iter().all(|n| {
                let node = &self.nodes[*n];
                let reachable: BTreeSet<_> = running
                    .iter()
                    .map(|m| &self.nodes[*m])
                    .filter(|m| m.side == node.side)
                    .map(|m| m.peer)
                    .collect();
                node.roster.len() == reachable.len()
                    && node.roster.iter().all(|m| reachable.contains(&m.peer))
            })
    }

    /// Whether nobody has this node on its list.
    pub fn is_gone(&self, gone: usize) -> bool {
        let peer = self.nodes[gone].peer;
        self.running().iter().all(|n| !self.nodes[*n].roster.contains(&peer))
    }

    /// Packets and bytes sent by all nodes so far.
    pub fn sent(&self) -> (u64, u64) {
        self.nodes.iter().fold((0, 0), |(p, b), node| (p + node.packets_sent, b + node.bytes_sent))
    }

    /// Name of a node.
    pub fn peer(&self, node: usize) -> PeerId {
        self.nodes[node].peer
    }

    /// A number below `bound`.
    pub fn random(&mut self, bound: u64) -> u64 {
        self.chance = self.chance.wrapping_add(1);
        scramble(self.chance ^ self.seed.rotate_left(32)) % bound
    }

    // ---- inside ----

    fn plan(&mut self, after: Duration, happening: Happening) {
        self.happened += 1;
        self.agenda.insert((self.now + after, self.happened), happening);
    }

    fn happen(&mut self, happening: Happening) {
        let (Happening::Wakeup(node)
        | Happening::Arrival { to: node, .. }
        | Happening::Refusal { at: node, .. }
        | Happening::Start(node, _)) = happening;
        let resumes = self.nodes[node].stopped_until;
        if self.now < resumes {
            if let Happening::Wakeup(_) = happening {
                // At the worst its timer fires before it reads what has come: the first numbers are long used up.
                if self.nodes[node].planned == Some(self.now) {
                    self.nodes[node].planned = Some(resumes);
                    self.agenda.insert((resumes, node as u64), happening);
                }
            } else {
                self.plan(resumes - self.now, happening);
            }
            return;
        }
        match happening {
            Happening::Wakeup(node) => {
                if self.nodes[node].planned == Some(self.now) {
                    self.nodes[node].planned = None;
                    self.tell(node, Input::Wakeup);
                }
            }
            Happening::Arrival { to, from, bytes } => self.tell(to, Input::Packet { from, bytes }),
            Happening::Refusal { at, peer } => self.tell(at, Input::Unreachable { peer }),
            Happening::Start(node, contacts) => self.start_as(node, 1, &contacts),
        }
    }

    fn drain(&mut self, at: usize) {
        while let Some(output) = self.nodes[at].machine.as_mut().and_then(Membership::poll_output) {
            let node = &mut self.nodes[at];
            match output {
                Output::Packet { to, bytes } => self.carry(at, &to, bytes),
                Output::Roster(roster) => {
                    assert!(roster.contains(&node.peer), "a node is on its own list");
                    node.rosters += 1;
                    node.roster = roster;
                }
                Output::Answered { peer, after } => drop(node.answers.insert(peer, after)),
                Output::Reconnect { peer } => node.reconnects.push(peer),
                Output::Event(Event::Refused { from, fault }) => panic!("{from:?}: {fault}"),
                Output::Event(event) => node.events.push(event),
            }
        }
        let wakeup = self.nodes[at].machine.as_ref().and_then(Membership::next_wakeup);
        if let Some(wakeup) = wakeup
            && self.nodes[at].planned.is_none_or(|planned| wakeup < planned || planned < self.now)
        {
            let wakeup = wakeup.max(self.now);
            self.nodes[at].planned = Some(wakeup);
            self.plan(wakeup - self.now, Happening::Wakeup(at));
        }
    }

    fn carry(&mut self, at: usize, to: &Member, bytes: Vec<u8>) {
        let node = &mut self.nodes[at];
        node.packets_sent += 1;
        node.bytes_sent += bytes.len() as u64;
        node.largest = node.largest.max(bytes.len());
        self.transcript = bytes.chunks(8).fold(scramble(self.transcript), |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3)
        });
        let (from, side) = (node.peer, node.side);
        let target = self.by_peer[&to.peer];
        self.connections.insert((at.min(target), at.max(target)));
        let arrives = self.nodes[target].machine.is_some() && self.nodes[target].side == side;
        if self.cut.is_some_and(|pair| pair == (at, target) || pair == (target, at)) {
            return;
        }
        if !arrives {
            if self.tells {
                self.plan(REFUSAL_DELAY, Happening::Refusal { at, peer: to.peer });
            }
        } else if self.random(1000) >= self.loss {
            let delay = DELAY_MIN + DELAY_MIN * self.random(2048) as u32 / 1024;
            self.plan(delay, Happening::Arrival { to: target, from, bytes });
        }
    }
}
