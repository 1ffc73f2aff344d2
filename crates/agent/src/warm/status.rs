//! How far a request is: what the admin API tells and the command line shows.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use shoal_engine::Digest;
use shoal_engine::peer::Member;
use shoal_engine::wire::WarmFault;

use crate::admin::openapi::DigestText;
use crate::swarm::name;

/// Nodes that are named as not ready, each with its reason. More are read by nobody.
pub const UNREADY_MAX: usize = 1024;
/// Nodes that are named as still at it.
pub const WAITING_MAX: usize = 16;

/// How a request stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It is under way.
    #[default]
    Warming,
    /// It is over: every node is ready or is not going to be.
    Done,
    /// Somebody has cancelled it.
    Cancelled,
}

/// What has become of a request, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing yet: it is under way.
    #[default]
    Warming,
    /// Every node has every image.
    Done,
    /// Some images are missing on some nodes.
    Partial,
    /// No node has any image.
    Failed,
    /// Somebody has cancelled it.
    Cancelled,
}

impl Outcome {
    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Warming => "warming",
            Outcome::Done => "done",
            Outcome::Partial => "partial",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
        }
    }
}

/// How an image stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageState {
    /// Its turn has not come.
    Waiting,
    /// Its manifests are being read.
    Resolving,
    /// Its blobs are on their way.
    Warming,
    /// Every node has it or is not going to.
    Done,
    /// It could not even be begun.
    Failed,
}

/// A node, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeName {
    /// Its name in hex; empty for an agent that works alone.
    pub peer: String,
    /// Its first address.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// Its zone.
    pub zone: String,
}

impl NodeName {
    /// An agent that has no swarm.
    pub fn alone() -> Self {
        NodeName { peer: String::new(), address: None, zone: String::new() }
    }

    /// A member's name.
    pub fn of(member: &Member) -> Self {
        let is_alone = member.peer.0 == [0; 32];
        NodeName {
            peer: if is_alone { String::new() } else { name(&member.peer) },
            address: member.addresses.first().map(|address| address.ip()),
            zone: member.zone.to_string(),
        }
    }
}

/// One image of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageStatus {
    /// Its name, in full.
    pub image: String,
    /// The digest that it was resolved to.
    #[schema(value_type = Option<DigestText>)]
    pub digest: Option<Digest>,
    /// How it stands.
    pub state: ImageState,
    /// Blobs that a node has to have, manifests included.
    pub blobs: usize,
    /// Their size in bytes.
    pub size: u64,
    /// Nodes that have all of them.
    pub ready: usize,
    /// Why it could not be begun.
    pub error: Option<String>,
    /// What the operator should know of it.
    pub note: Option<String>,
}

/// The nodes of one zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ZoneStatus {
    /// The zone; empty for nodes that have none.
    pub zone: String,
    /// Nodes that were asked for.
    pub nodes: usize,
    /// Of them, those that have every image.
    pub ready: usize,
    /// Those that are not going to.
    pub failed: usize,
}

/// A node that is not going to be ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unready {
    /// Which.
    pub node: NodeName,
    /// The first image that it does not have.
    pub image: String,
    /// Why, and what to look at.
    pub why: String,
}

/// How far a request is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WarmStatus {
    /// Its name.
    pub id: String,
    /// How it stands.
    pub phase: Phase,
    /// What has become of it. Agents of older versions do not tell.
    #[serde(default)]
    pub outcome: Outcome,
    /// When it was begun, in Unix seconds.
    pub started_at: u64,
    /// Time since then, or until it was over, milliseconds.
    pub elapsed_ms: u64,
    /// When it will be over at the latest, in Unix seconds.
    pub deadline_at: u64,
    /// Until when the blobs are kept from eviction, in Unix seconds.
    pub pinned_until: Option<u64>,
    /// The images.
    pub images: Vec<ImageStatus>,
    /// Nodes that were asked for.
    pub nodes: usize,
    /// Nodes that have every image that was asked for. One that could not be begun leaves none ready.
    pub ready: usize,
    /// Nodes that are not going to.
    pub failed: usize,
    /// The same by zone.
    pub zones: Vec<ZoneStatus>,
    /// Some of those that are still at it.
    pub waiting: Vec<NodeName>,
    /// Those of them that are away and may come back; at most [`UNREADY_MAX`].
    #[serde(default)]
    pub away: Vec<NodeName>,
    /// Those that are not going to be ready; at most [`UNREADY_MAX`].
    pub unready: Vec<Unready>,
    /// Bytes that are there, on all nodes together.
    pub bytes: u64,
    /// Bytes of all images on all nodes, as far as the images are known.
    pub bytes_of: u64,
    /// The agent that was asked for it, where that is another one than tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<NodeName>,
    /// Bytes of blobs that all nodes together have received from upstream since it was begun; unset where there are too
    /// many nodes to ask each.
    pub upstream_bytes: Option<u64>,
}

impl WarmStatus {
    /// Whether every image is on every node.
    pub fn is_complete(&self) -> bool {
        self.phase == Phase::Done && self.ready == self.nodes && self.images_failed() == 0
    }

    /// Images that could not be begun.
    pub fn images_failed(&self) -> usize {
        self.images.iter().filter(|image| image.state == ImageState::Failed).count()
    }

    /// What has become of it.
    pub fn outcome(&self) -> Outcome {
        match self.phase {
            Phase::Warming => Outcome::Warming,
            Phase::Cancelled => Outcome::Cancelled,
            Phase::Done if self.is_complete() => Outcome::Done,
            Phase::Done if self.is_any() => Outcome::Partial,
            Phase::Done => Outcome::Failed,
        }
    }

    /// Whether anything came of it: some node has some image.
    pub fn is_any(&self) -> bool {
        self.images.iter().any(|image| image.ready > 0)
    }
}

/// Why a node is not ready, and what to do about it.
pub(super) fn why(fault: WarmFault) -> &'static str {
    match fault {
        WarmFault::Unknown => "no source has one of its blobs",
        WarmFault::Denied => "the registry denies it a blob: look at its credentials and rules",
        WarmFault::Exhausted => "every source failed or broke off: its log says which",
        WarmFault::WrongContent => "what it received does not match the digest: its log says from whom",
        WarmFault::Store => {
            "its store has no room for a blob, or cannot be used: `shoal status` there says which"
        }
        WarmFault::Draining => "it has shut down: when it is back, give the same command; what it has counts",
        WarmFault::Busy => "it works on as many sets as it can: ask again later",
        WarmFault::Malformed => "it does not understand the order: look at its version in `shoal peers`",
        WarmFault::Unreachable => {
            "it cannot be reached, or has left: when it is back, give the same command; what it has counts"
        }
        WarmFault::Silent => "it does not answer: look at it; when it does, give the same command",
        WarmFault::Deadline => {
            "it was not ready at the deadline: give the same command, it goes on where it was"
        }
        WarmFault::Cancelled => "it was cancelled",
    }
}
