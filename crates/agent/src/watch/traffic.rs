//! Bytes by where they came from, and how they were over the last ten minutes.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::metrics::{Counters, Served};

/// Pause between two moments of the history.
pub(super) const MOMENT_EVERY: Duration = Duration::from_secs(10);
/// Moments that are kept: ten minutes, and the one before.
const MOMENTS_MAX: usize = 61;

/// Bytes since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Traffic {
    /// Received from registries.
    pub registries: u64,
    /// Received from mirrors.
    pub mirrors: u64,
    /// Received from the shared object store.
    pub object_store: u64,
    /// Received from other members.
    pub members: u64,
    /// Sent to clients from what was on this node already.
    pub store: u64,
    /// Sent to clients in all.
    pub served: u64,
    /// Sent to other members.
    pub given: u64,
}

impl Traffic {
    /// What the counters say; registries in `mirrors` are mirrors.
    pub(super) fn of(counters: &Counters<'_>, mirrors: &BTreeSet<String>) -> Self {
        let by_registry = counters.by("upstream_bytes_total", "registry");
        let upstream = |is_mirror: bool| {
            by_registry.iter().filter(|(name, _)| mirrors.contains(*name) == is_mirror).map(|(_, n)| n).sum()
        };
        let served = counters.by("served_bytes_total", "source");
        let local = [Served::Store, Served::Runtime, Served::Stale];
        Traffic {
            registries: upstream(false),
            mirrors: upstream(true),
            object_store: counters.sum("tier_received_bytes_total"),
            members: counters.sum("peer_received_bytes_total"),
            store: local.iter().filter_map(|source| served.get(source.as_str())).sum(),
            served: served.values().sum(),
            given: counters.sum("peer_sent_bytes_total"),
        }
    }
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Moment {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// The counters.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// The last ten minutes, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Moment>);

impl History {
    pub fn write(&mut self, at_ms: u64, traffic: Traffic) {
        if self.0.len() == MOMENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Moment { at_ms, traffic });
    }

    pub fn moments(&self) -> Vec<Moment> {
        self.0.iter().copied().collect()
    }
}
