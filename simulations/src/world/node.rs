//! A node: its engine, its disk, its links, and what it has been through.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_engine::engine::Settings;
use shoal_engine::membership::Membership;
use shoal_engine::{ByteRanges, Engine, Member, PeerId, TicketId};

use super::NodeId;
use crate::net::Links;
use crate::outcome::NodeOutcome;
use crate::queue::Nanos;
use crate::scenario::Scenario;

/// What a node has of a layer.
#[derive(Clone, Debug, Default)]
pub struct Blob {
    /// Bytes in their place, right or wrong.
    pub written: ByteRanges,
    /// Pieces whose bytes are wrong.
    pub wrong: BTreeSet<u32>,
    /// What survives a kill.
    pub saved: ByteRanges,
    /// Whether the store has all of it.
    pub stored: bool,
    /// Whether the digest has been verified.
    pub verified: bool,
    /// SHA-256 has read this far.
    pub hashed: u64,
    /// When it will have done so.
    pub hashed_at: Nanos,
    /// The client's open request.
    pub ticket: Option<TicketId>,
    /// Bytes that the client was promised, and those it may read.
    pub served: Option<u64>,
    /// Whether the client has all of it.
    pub done: bool,
    /// Size, for counting.
    pub size: u64,
}

impl Blob {
    /// Bytes that are there.
    pub fn received(&self) -> u64 {
        if self.stored { self.size } else { self.written.len() }
    }
}

/// See the module's head.
pub struct Node {
    pub member: Arc<Member>,
    pub engine: Option<Engine>,
    pub membership: Option<Membership>,
    /// Counts the starts of the agent: what is on its way to an earlier life is lost.
    pub life: u32,
    pub links: Links,
    pub seed: u64,
    pub blobs: Vec<Blob>,
    /// Pieces that came from members and wait for the engine's word: layer, piece, sender, and whether they are right.
    pub aside: BTreeMap<(u16, u32, u32), bool>,
    pub wake_at: Option<Nanos>,
    /// When its engine was woken last, and how often at that moment.
    pub woken: (Nanos, u32),
    /// Whether it has been seen to ask for wakeups without end.
    pub spins: bool,
    pub member_wake_at: Option<Nanos>,
    pub control_until: Nanos,
    pub disk_until: Nanos,
    /// When the client has read what it was given.
    pub read_until: Nanos,
    /// Nodes that it has connections to.
    pub peers: BTreeSet<NodeId>,
    /// Bytes from each node.
    pub received_from: BTreeMap<NodeId, u64>,
    pub holds: bool,
    pub lies: bool,
    pub silent: bool,
    pub asked: bool,
    pub outcome: NodeOutcome,
}

impl Node {
    /// A node whose agent has not been started.
    pub fn new(scenario: &Scenario, node: NodeId, member: Arc<Member>, seed: u64) -> Self {
        let zone = scenario.zone_of(node);
        let holds = node < scenario.clients.holders;
        let blob =
            |&size: &u64| Blob { size, stored: holds, verified: holds, done: holds, ..Blob::default() };
        Node {
            member,
            engine: None,
            membership: None,
            life: 0,
            links: Links { up: scenario.link.up, down: scenario.link.down, zone },
            seed,
            blobs: scenario.layers.iter().map(blob).collect(),
            aside: BTreeMap::new(),
            wake_at: None,
            woken: (0, 0),
            spins: false,
            member_wake_at: None,
            control_until: 0,
            disk_until: 0,
            read_until: 0,
            peers: BTreeSet::new(),
            received_from: BTreeMap::new(),
            holds,
            lies: false,
            silent: false,
            asked: false,
            outcome: NodeOutcome {
                zone,
                expected: !holds && !scenario.layers.is_empty(),
                ..NodeOutcome::default()
            },
        }
    }

    /// Whether its agent runs.
    pub fn is_up(&self) -> bool {
        self.engine.is_some()
    }

    /// Its name.
    pub fn peer(&self) -> PeerId {
        self.member.peer
    }

    /// What its engine is made with.
    pub fn settings(&self) -> Settings {
        Settings { peer: Some(self.peer()), ..Settings::default() }
    }

    /// The agent starts.
    pub fn start(&mut self) {
        self.life += 1;
        (self.wake_at, self.member_wake_at) = (None, None);
        self.engine = Some(Engine::new(self.settings()));
    }

    /// The agent is killed: what is on disk stays.
    pub fn kill(&mut self) {
        self.engine = None;
        self.membership = None;
        self.aside.clear();
        self.peers.clear();
        for blob in self.blobs.iter_mut().filter(|b| !b.stored) {
            blob.written = ByteRanges::new();
            (blob.hashed, blob.hashed_at, blob.verified) = (0, 0, false);
            (blob.ticket, blob.served) = (None, None);
        }
    }
}
