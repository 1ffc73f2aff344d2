//! One node of a cluster: its engine, its disk, and what its clients were promised and given.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use shoal_engine::demand::Part;
use shoal_engine::engine::Settings;
use shoal_engine::io::Outcome;
use shoal_engine::swarm::upload::UploadId;
use shoal_engine::wire::Pace;
use shoal_engine::{ByteRanges, Engine, FetchId, Member, PeerId, SourceFault, TicketId, Time};

use crate::cluster::BlobNo;

/// What a node is told by upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    /// The bytes.
    #[default]
    Works,
    /// This fault, at once.
    Fails(SourceFault),
    /// Nothing any more, in the middle of it.
    Stalls,
    /// Bytes that are not those of the blob.
    Wrong,
}

/// How a node deceives the others. Its engine is honest; what leaves the node is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lie {
    /// It sends wrong bytes.
    Bytes,
    /// It relays wrong hashes.
    Relay,
    /// It reports wrong hashes of what it has fetched or has.
    Report,
}

/// Bytes in their place.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub size: Option<u64>,
    pub written: ByteRanges,
    /// Pieces with wrong bytes.
    pub wrong: BTreeSet<u32>,
    pub verified: bool,
    /// Pieces that were taken from members.
    pub placed: BTreeSet<u32>,
    /// Pieces whose hash the engine was told.
    pub hashed: BTreeSet<u32>,
}

/// What a node has of one blob.
#[derive(Debug, Default)]
pub struct Disk {
    pub stored: bool,
    pub place: Option<Place>,
    /// What survives a kill: size, bytes, wrong pieces.
    pub saved: Option<(u64, ByteRanges, BTreeSet<u32>)>,
    /// The effect that is unanswered.
    pub busy: Option<&'static str>,
    pub checkpointing: Option<ByteRanges>,
    pub inspecting: bool,
    pub listing: bool,
    /// Hashes that were taken so far for a list.
    pub listed: usize,
    pub commits: u32,
}

/// A transfer from upstream.
#[derive(Clone, Debug)]
pub struct Transfer {
    pub blob: BlobNo,
    pub at: u64,
    pub end: Option<u64>,
    pub cancelled: bool,
    /// It was begun when nobody else was there.
    pub alone: bool,
    /// Its end has been decided, and the engine is about to hear of it.
    pub ending: bool,
}

/// A client's request.
#[derive(Debug)]
pub struct Client {
    pub node: usize,
    pub life: u32,
    pub blob: BlobNo,
    pub part: Part,
    pub served: Option<Range<u64>>,
    pub ready_to: u64,
    pub outcome: Option<Outcome>,
    pub closed: bool,
}

impl Client {
    pub fn is_open(&self) -> bool {
        self.outcome.is_none() && !self.closed
    }

    /// Whether the reader may end up with the complete blob.
    pub fn may_complete(&self) -> bool {
        matches!(self.part, Part::Whole | Part::From(_))
    }
}

/// See the module's head.
pub struct Node {
    pub member: Arc<Member>,
    pub engine: Option<Engine>,
    /// Counts the starts: what was on its way to an earlier life is lost.
    pub life: u32,
    pub disk: BTreeMap<BlobNo, Disk>,
    /// Pieces that came from members and wait for the engine's word, and whether they are wrong.
    pub aside: BTreeMap<(BlobNo, u32, PeerId), bool>,
    pub transfers: BTreeMap<FetchId, Transfer>,
    pub uploads: BTreeMap<UploadId, PeerId>,
    pub uploads_seen: BTreeSet<UploadId>,
    pub tickets: BTreeSet<TicketId>,
    pub upstream: Upstream,
    /// How fast blobs may come.
    pub paces: BTreeMap<BlobNo, Pace>,
    pub lies: BTreeSet<Lie>,
    pub frozen: bool,
    /// A firewall drops what comes to its port for pieces.
    pub walled: bool,
    /// What it sends of a blob does not arrive, and it does not notice.
    pub mute: bool,
    /// It has no place for anybody.
    pub refuses: bool,
    /// Walled members that it has tried to connect to, and when it knew: from then on attempts fail at once.
    pub dialled: BTreeMap<PeerId, Time>,
    pub draining: bool,
    /// Members that it knows of, itself included.
    pub members: usize,
}

impl Node {
    pub fn new(number: usize, zone: &str) -> Node {
        let mut id = [0; 32];
        // Keys are uniformly distributed.
        for (at, part) in id.chunks_mut(8).enumerate() {
            let seed = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ at as u64;
            part.copy_from_slice(&crate::cluster::mix(seed).to_be_bytes());
        }
        let member = Member {
            peer: PeerId(id),
            generation: 1,
            addresses: Box::default(),
            data_port: 5002,
            zone: zone.into(),
            labels: Box::default(),
            version: "".into(),
        };
        Node {
            member: Arc::new(member),
            engine: None,
            life: 0,
            disk: BTreeMap::new(),
            aside: BTreeMap::new(),
            transfers: BTreeMap::new(),
            uploads: BTreeMap::new(),
            uploads_seen: BTreeSet::new(),
            tickets: BTreeSet::new(),
            upstream: Upstream::Works,
            paces: BTreeMap::new(),
            lies: BTreeSet::new(),
            frozen: false,
            walled: false,
            mute: false,
            refuses: false,
            dialled: BTreeMap::new(),
            draining: false,
            members: 0,
        }
    }

    pub fn peer(&self) -> PeerId {
        self.member.peer
    }

    pub fn is_up(&self) -> bool {
        self.engine.is_some()
    }

    /// The agent starts; it knows nobody yet.
    pub fn start(&mut self) {
        self.life += 1;
        self.member = Arc::new(Member { generation: u64::from(self.life), ..Member::clone(&self.member) });
        self.engine = Some(Engine::new(Settings { peer: Some(self.peer()), ..Settings::default() }));
        (self.draining, self.members) = (false, 0);
    }

    /// The agent is gone at once; what is saved stays.
    pub fn kill(&mut self) {
        self.engine = None;
        self.aside.clear();
        self.transfers.clear();
        self.uploads.clear();
        self.uploads_seen.clear();
        self.tickets.clear();
        self.paces.clear();
        self.frozen = false;
        for disk in self.disk.values_mut() {
            *disk = Disk {
                stored: disk.stored,
                saved: disk.saved.take(),
                commits: disk.commits,
                ..Disk::default()
            };
        }
    }
}
