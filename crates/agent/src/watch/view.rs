//! What can be seen of the agent and, as far as it knows, of its cluster. Invariant: every list but that of the members has
//! a bound, and no text in it is longer than a name or [`ERROR_CHARS_MAX`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shoal_engine::Digest;

use super::Traffic;
use crate::admin::openapi::DigestText;
use crate::driver::FlightStatus;
use crate::store_health::Reason;
use crate::warm::{ImageState, Outcome, Phase, WarmStatus, ZoneStatus};

/// Blobs whose way over the members is followed.
pub const BLOBS_MAX: usize = 12;
/// Flights of this node that are shown.
pub const FLIGHTS_MAX: usize = 12;
/// Rollouts that are shown.
pub const ROLLOUTS_MAX: usize = 4;
/// Images of a rollout that are named.
const IMAGES_MAX: usize = 3;
/// Characters of an error that are shown.
const ERROR_CHARS_MAX: usize = 300;
/// Zones of a rollout that are told apart.
const ZONES_MAX: usize = 12;

/// Everything, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// This node.
    pub node: NodeView,
    /// Bytes since it started.
    pub traffic: Traffic,
    /// The members, by the beginnings of their names; this node alone if it is no member.
    pub members: BTreeMap<String, MemberView>,
    /// Blobs on their way over the members, at most [`BLOBS_MAX`].
    pub blobs: Vec<BlobView>,
    /// Blobs that this node receives, at most [`FLIGHTS_MAX`].
    pub flights: Vec<FlightStatus>,
    /// Requests to warm that this node follows, at most [`ROLLOUTS_MAX`].
    pub rollouts: Vec<RolloutView>,
}

/// This node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeView {
    /// Beginning of its name; empty for an agent that works alone.
    pub name: String,
    /// Version of its software.
    pub version: String,
    /// When it started, Unix seconds.
    pub started_at: u64,
    /// Whether blobs go past its store, straight from upstream.
    pub degraded: bool,
    /// Why, if they do.
    #[serde(default)]
    pub store_trouble: Option<Reason>,
    /// Whole blobs in its store.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Flights under way, those included that are not shown.
    pub flights: usize,
    /// Client requests that wait for bytes.
    pub waiting: u64,
    /// Registries and mirrors that are left alone because they do not answer, or want to be.
    pub unwell: Vec<String>,
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberView {
    /// Its first address.
    pub address: String,
    /// Its zone.
    pub zone: String,
    /// Version of its software.
    pub version: String,
    /// Blobs of [`View::blobs`] that it has.
    pub have: u16,
    /// Blobs of [`View::blobs`] that it receives.
    pub receiving: u16,
    /// Whether it receives one of them slowly.
    pub is_slow: bool,
    /// Whether it will not be ready in one of [`View::rollouts`] that is under way.
    pub has_failed: bool,
    /// Whether such a rollout waits for it while it is away. It may be no member meanwhile.
    pub is_away: bool,
    /// Whether it is this node.
    pub is_self: bool,
}

/// A blob on its way over the members, by the book of its home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BlobView {
    /// The blob.
    #[schema(value_type = DigestText)]
    pub digest: Digest,
    /// The repository that it is asked for through, if this node knows.
    pub repository: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// Members that have it.
    pub holders: usize,
    /// Members that receive it.
    pub receivers: usize,
    /// Those of them that receive slowly.
    pub slow: usize,
    /// Members that fetch parts of it from upstream.
    pub fetchers: usize,
}

/// A request to warm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RolloutView {
    /// Its name.
    pub id: String,
    /// How it stands.
    pub phase: Phase,
    /// What has become of it.
    #[serde(default)]
    pub outcome: Outcome,
    /// Some of its images.
    pub images: Vec<String>,
    /// How many it has.
    pub image_count: usize,
    /// Some of those that cannot be warmed: no node is ready without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingImage>,
    /// Nodes that were asked for.
    pub nodes: usize,
    /// Of them, those that have every image.
    pub ready: usize,
    /// Those that are not going to.
    pub failed: usize,
    /// The same by zone, the largest ones.
    pub zones: Vec<ZoneStatus>,
    /// When it was begun, Unix seconds.
    pub started_at: u64,
    /// Time from then to the last news of it, milliseconds.
    pub elapsed_ms: u64,
    /// Bytes that are there, on all nodes together.
    pub bytes: u64,
    /// Bytes that shall be there.
    pub bytes_of: u64,
    /// Bytes that all nodes together have received from upstream for it, if they were asked.
    pub upstream_bytes: Option<u64>,
}

/// An image that cannot be warmed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MissingImage {
    /// Its name.
    pub image: String,
    /// Why, cut where it is long.
    pub error: String,
}

impl From<&WarmStatus> for RolloutView {
    fn from(status: &WarmStatus) -> Self {
        let mut zones = status.zones.clone();
        zones.sort_by(|a, b| b.nodes.cmp(&a.nodes).then_with(|| a.zone.cmp(&b.zone)));
        zones.truncate(ZONES_MAX);
        RolloutView {
            id: status.id.clone(),
            phase: status.phase,
            outcome: status.outcome(),
            images: status.images.iter().take(IMAGES_MAX).map(|image| image.image.clone()).collect(),
            image_count: status.images.len(),
            missing: missing(status),
            nodes: status.nodes,
            ready: status.ready,
            failed: status.failed,
            zones,
            started_at: status.started_at,
            elapsed_ms: status.elapsed_ms,
            bytes: status.bytes,
            bytes_of: status.bytes_of,
            upstream_bytes: status.upstream_bytes,
        }
    }
}

fn missing(status: &WarmStatus) -> Vec<MissingImage> {
    let failed = status.images.iter().filter(|image| image.state == ImageState::Failed);
    let told = failed.take(IMAGES_MAX).map(|image| MissingImage {
        image: image.image.clone(),
        error: image.error.iter().flat_map(|error| error.chars()).take(ERROR_CHARS_MAX).collect(),
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::ImageStatus;

    #[test]
    fn what_cannot_be_warmed_is_told_with_the_reason() {
        let image = |name: &str, state, error: Option<String>| ImageStatus {
            image: name.into(),
            digest: None,
            state,
            blobs: 0,
            size: 0,
            ready: 0,
            error,
            note: None,
        };
        let images = vec![
            image("a", ImageState::Done, None),
            image("b", ImageState::Failed, Some("no source has it".into())),
            image("c", ImageState::Failed, Some("x".repeat(1000))),
        ];
        let view = RolloutView::from(&WarmStatus { images, ..WarmStatus::default() });
        let told: Vec<(&str, usize)> =
            view.missing.iter().map(|missing| (&*missing.image, missing.error.len())).collect();
        assert_eq!(told, [("b", 16), ("c", ERROR_CHARS_MAX)]);
    }
}
