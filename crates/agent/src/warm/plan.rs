//! What a request would do: what each node has already, what it would receive, and what nobody has.
//!
//! Nothing moves but manifests, which say what there is to move: they are read, and stored as for a client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use shoal_engine::Digest;
use shoal_engine::peer::{Member, PeerId};

use super::job::ask::{ASKED_AT_ONCE, held, platform_note};
use super::job::joined;
use super::resolve::{Resolved, resolve};
use super::status::NodeName;
use super::{Wanted, Warmer};
use crate::admin::openapi::DigestText;

/// Images that are resolved at a time.
const RESOLVED_AT_ONCE: usize = 8;

/// One image of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PlannedImage {
    /// Its name, in full.
    pub image: String,
    /// The digest that it was resolved to.
    #[schema(value_type = Option<DigestText>)]
    pub digest: Option<Digest>,
    /// Blobs that a node has to have, manifests included.
    pub blobs: usize,
    /// Their size in bytes.
    pub size: u64,
    /// Those of them that no member has: they come from upstream, once.
    pub upstream_blobs: usize,
    /// Their size in bytes.
    pub upstream_bytes: u64,
    /// Nodes that have all of it.
    pub nodes_ready: usize,
    /// Why it cannot be warmed.
    pub error: Option<String>,
    /// What the operator should know of it.
    pub note: Option<String>,
}

/// One node of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PlannedNode {
    /// Which.
    pub node: NodeName,
    /// Whether it has said what it has.
    pub answers: bool,
    /// Bytes of the images that it has.
    pub here_bytes: u64,
    /// Bytes of the images that it would receive.
    pub missing_bytes: u64,
    /// Bytes that its store can take beside what it has of them: all may be evicted but what is pinned. Unset if it does not
    /// say.
    #[serde(default)]
    pub room_bytes: Option<u64>,
}

impl PlannedNode {
    /// Whether its store is too small for what it would receive.
    pub fn lacks_room(&self) -> bool {
        self.room_bytes.is_some_and(|room| room < self.missing_bytes)
    }
}

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WarmPlan {
    /// The images.
    pub images: Vec<PlannedImage>,
    /// The nodes that would be warm.
    pub nodes: Vec<PlannedNode>,
    /// Bytes that would come from upstream. A blob that several images have counts once.
    pub upstream_bytes: u64,
    /// Bytes that all nodes together would receive, from upstream or from each other.
    pub missing_bytes: u64,
}

impl WarmPlan {
    /// Whether every image can be warmed, and every node answers and has room.
    pub fn is_complete(&self) -> bool {
        let is_well = |node: &PlannedNode| node.answers && !node.lacks_room();
        self.images.iter().all(|image| image.error.is_none()) && self.nodes.iter().all(is_well)
    }

    /// Whether any image can be warmed.
    pub fn is_any(&self) -> bool {
        self.images.iter().any(|image| image.error.is_none())
    }
}

/// What a member has.
struct Holding {
    blobs: BTreeSet<Digest>,
    room: Option<u64>,
}

/// What each member has; those that do not answer are not in it.
type Holdings = BTreeMap<PeerId, Holding>;

pub(super) async fn plan(warmer: &Warmer, wanted: Wanted) -> WarmPlan {
    let node = &warmer.0.node;
    let platforms = &wanted.platforms;
    // A configuration is a blob; one is fetched only for somebody who asks for a platform.
    let stored = !wanted.names_platforms;
    let resolved: Vec<Result<Resolved, String>> = stream::iter(wanted.images.clone())
        .map(|image| async move {
            let mut resolved = resolve(node, &image, platforms).await.map_err(|error| error.to_string())?;
            let note = platform_note(node, &resolved, platforms, stored).await;
            resolved.note = joined(note.as_deref(), resolved.note.as_deref());
            Ok(resolved)
        })
        .buffered(RESOLVED_AT_ONCE)
        .collect()
        .await;
    // Not only the targets: what any member has need not come from upstream.
    let blobs: BTreeMap<Digest, u64> =
        resolved.iter().flatten().flat_map(|image| image.blobs.iter().copied()).collect();
    let holdings = holdings(warmer, &blobs).await;
    let somewhere: BTreeSet<Digest> = holdings.values().flat_map(|holding| &holding.blobs).copied().collect();
    let images = wanted.images.iter().zip(&resolved).map(|(name, resolved)| match resolved {
        Ok(resolved) => PlannedImage {
            image: name.to_string(),
            nodes_ready: count_ready(resolved, &holdings, &wanted.targets),
            ..planned(resolved, &somewhere)
        },
        Err(error) => {
            PlannedImage { image: name.to_string(), error: Some(error.clone()), ..Default::default() }
        }
    });
    let images: Vec<_> = images.collect();
    let nodes: Vec<_> = wanted.targets.iter().map(|member| planned_node(member, &blobs, &holdings)).collect();
    WarmPlan {
        upstream_bytes: blobs
            .iter()
            .filter(|(digest, _)| !somewhere.contains(digest))
            .map(|(_, size)| size)
            .sum(),
        missing_bytes: nodes.iter().map(|node| node.missing_bytes).sum(),
        images,
        nodes,
    }
}

async fn holdings(warmer: &Warmer, blobs: &BTreeMap<Digest, u64>) -> Holdings {
    let digests: Vec<Digest> = blobs.keys().copied().collect();
    let ask = |member: Arc<Member>| {
        let digests = &digests;
        async move {
            let (node, swarm) = (&warmer.0.node, warmer.0.swarm.as_ref());
            let held = held(node, swarm, member.peer, digests, Duration::ZERO, true).await?;
            let found = digests.iter().zip(held.here).filter(|(_, here)| *here).map(|(digest, _)| *digest);
            Some((member.peer, Holding { blobs: found.collect(), room: held.room }))
        }
    };
    let told: Vec<_> =
        stream::iter(warmer.members()).map(ask).buffer_unordered(ASKED_AT_ONCE).collect().await;
    told.into_iter().flatten().collect()
}

fn count_ready(resolved: &Resolved, holdings: &Holdings, targets: &[Arc<Member>]) -> usize {
    let has_all = |member: &&Arc<Member>| {
        let held = holdings.get(&member.peer);
        held.is_some_and(|held| resolved.blobs.iter().all(|(digest, _)| held.blobs.contains(digest)))
    };
    targets.iter().filter(has_all).count()
}

fn planned(resolved: &Resolved, somewhere: &BTreeSet<Digest>) -> PlannedImage {
    let missing: Vec<_> = resolved.blobs.iter().filter(|(digest, _)| !somewhere.contains(digest)).collect();
    PlannedImage {
        digest: Some(resolved.digest),
        blobs: resolved.blobs.len(),
        size: resolved.size(),
        upstream_blobs: missing.len(),
        upstream_bytes: missing.iter().map(|(_, size)| size).sum(),
        note: resolved.note.clone(),
        ..Default::default()
    }
}

fn planned_node(member: &Member, blobs: &BTreeMap<Digest, u64>, holdings: &Holdings) -> PlannedNode {
    let held = holdings.get(&member.peer);
    let is_here = |digest: &Digest| held.is_some_and(|held| held.blobs.contains(digest));
    let here_bytes = blobs.iter().filter(|(digest, _)| is_here(digest)).map(|(_, size)| size).sum();
    PlannedNode {
        node: NodeName::of(member),
        answers: held.is_some(),
        here_bytes,
        missing_bytes: blobs.values().sum::<u64>() - here_bytes,
        room_bytes: held.and_then(|held| held.room),
    }
}
