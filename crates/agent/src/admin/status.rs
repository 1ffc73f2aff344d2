//! `GET /v1/status`: the agent at a glance.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use shoal_store::{Store, Usage};
use url::Url;

use super::{AdminState, Instance, Refusal, on_disk};
use crate::driver::FlightStatus;
use crate::metrics::Counters;
use crate::rate::Throttle;
use crate::store_health::{Reason, StoreTrouble};
use crate::upstream::SourceStatus;

/// The agent at a glance. Counters count from its start.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// What `/healthz` calls this process.
    pub instance: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Where clients connect.
    pub listeners: Vec<String>,
    /// Client connections.
    pub connections: u64,
    /// The blobs.
    pub store: StoreStatus,
    /// Blobs being received.
    pub flights: Vec<FlightStatus>,
    /// Bytes sent to clients, by where they came from.
    pub served_bytes: BTreeMap<String, u64>,
    /// GETs for blobs and manifests, of the whole or from the first byte on, answered with what was on this node, by where it was.
    pub hits: BTreeMap<String, u64>,
    /// GETs for blobs and manifests, of the whole or from the first byte on, answered with what had to be fetched.
    pub misses: u64,
    /// Body bytes received, by registry.
    pub upstream_bytes: BTreeMap<String, u64>,
    /// Bytes that clients got and that did not come over the link to registries and mirrors.
    #[serde(default)]
    pub saved_bytes: u64,
    /// Registries and mirrors that have been asked or are configured, and whether they are well.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
    /// What registries that limit have last told of it, by registry.
    #[serde(default)]
    pub rate_limits: BTreeMap<String, RateLimit>,
    /// Limits that the configuration sets, and whether they hold transfers back.
    #[serde(default)]
    pub limits: Vec<LimitStatus>,
    /// Addresses at which agents with another secret were in the last ten minutes.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub other_secrets: Vec<IpAddr>,
    /// Members of the swarm, this one included; 0 for an agent that works alone.
    #[serde(default)]
    pub members: u64,
    /// Bytes of blobs received from other members.
    #[serde(default)]
    pub peer_received_bytes: u64,
    /// Bytes of blobs sent to other members.
    #[serde(default)]
    pub peer_sent_bytes: u64,
    /// Transfers that broke and went on.
    pub upstream_resumes: u64,
    /// Blobs whose bytes did not match their digest.
    pub verify_failures: u64,
}

/// How many requests a registry allows in its window, and how many are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RateLimit {
    /// Requests in a window.
    pub limit: u64,
    /// Those left.
    pub remaining: u64,
}

/// A limit that the configuration sets, and whether it holds transfers back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LimitStatus {
    /// The key that sets it.
    pub key: String,
    /// Bytes a second.
    pub bytes_per_second: u64,
    /// Whether something waits for it now.
    pub waits: bool,
    /// Part of the last minute in which something waited for it, percent.
    pub waited_percent: u8,
    /// Seconds in which something has waited for it, since the start.
    pub waited_seconds: f64,
}

/// What metrics call all registries together that clients have named after the first ones.
pub const OTHER: &str = "other";

/// Waited for so much of the last minute, percent, a limit is what makes transfers slow.
const HOLDS_BACK_PERCENT: u8 = 50;

impl LimitStatus {
    /// Whether it is what makes transfers slow.
    pub fn holds_back(&self) -> bool {
        self.waits || self.waited_percent >= HOLDS_BACK_PERCENT
    }

    /// The key and its value, for a person.
    pub fn in_words(&self) -> String {
        format!("{} = {}/s", self.key, ByteSize(self.bytes_per_second).display().si())
    }

    fn of(key: &str, throttle: &Throttle) -> Option<Self> {
        let pressure = throttle.pressure()?;
        Some(LimitStatus {
            key: key.to_owned(),
            bytes_per_second: pressure.bytes_per_second,
            waits: pressure.waits,
            waited_percent: pressure.waited_percent,
            waited_seconds: pressure.waited.as_secs_f64(),
        })
    }
}

/// The store at a glance.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StoreStatus {
    /// Whether blobs go past it, straight from upstream.
    pub degraded: bool,
    /// Why, if they do.
    #[serde(default)]
    pub trouble: Option<StoreTrouble>,
    /// Whole blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Half-received blobs.
    pub partials: u64,
    /// Bytes kept free for them: their full size.
    pub partial_bytes: u64,
    /// Blobs that are pinned.
    #[serde(default)]
    pub pinned: u64,
    /// Their bytes.
    #[serde(default)]
    pub pinned_bytes: u64,
    /// The cap, if there is one.
    pub capacity: Option<u64>,
    /// Bytes free on the file system.
    pub disk_free: u64,
    /// Removed to make room.
    pub evicted: u64,
    /// Removed because nobody used them.
    pub expired: u64,
}

impl StoreStatus {
    /// Bytes of a blob that finds no room because all of the store has less, and how much it has.
    pub fn larger_than_all(&self) -> Option<(u64, u64)> {
        let trouble = self.trouble.as_ref().filter(|trouble| trouble.reason == Reason::Capacity)?;
        let (blob, capacity) = (trouble.needed?, self.capacity?);
        (blob > capacity).then_some((blob, capacity))
    }

    fn new(trouble: Option<StoreTrouble>, usage: &Usage) -> Self {
        StoreStatus {
            degraded: trouble.is_some(),
            trouble,
            pinned: usage.pinned,
            pinned_bytes: usage.pinned_bytes,
            blobs: usage.blobs,
            bytes: usage.file_bytes + usage.inline_bytes,
            partials: usage.partials,
            partial_bytes: usage.partial_bytes,
            capacity: usage.capacity,
            disk_free: usage.disk_free,
            evicted: usage.evicted,
            expired: usage.expired,
        }
    }
}

/// The agent at a glance.
#[utoipa::path(get, path = "/v1/status", operation_id = "status", tag = "agent", responses(
    (status = 200, description = "As it is now.", body = Status),
    (status = 503, description = "The disk does not answer, or the agent is ending.", body = Refusal),
))]
pub(super) async fn status(State(state): State<AdminState>) -> Result<Json<Status>, Refusal> {
    let usage = on_disk(&state.store, Store::usage).await?;
    let flights = state.driver.status().await;
    let exposition = state.metrics.encode();
    let counters = Counters::new(&exposition);
    let store = StoreStatus::new(state.driver.store_health().trouble(), &usage);
    let served_bytes = counters.by("served_bytes_total", "source");
    let upstream_bytes = counters.by("upstream_bytes_total", "registry");
    let sum = |parts: &BTreeMap<String, u64>| parts.values().sum::<u64>();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        instance: Instance::of_this_process().to_string(),
        pid: std::process::id(),
        uptime_seconds: state.started.elapsed().as_secs(),
        listeners: state.listeners.iter().map(ToString::to_string).collect(),
        connections: counters.sum("connections"),
        store,
        flights,
        saved_bytes: sum(&served_bytes).saturating_sub(sum(&upstream_bytes)),
        served_bytes,
        hits: counters.by("hits_total", "source"),
        misses: counters.sum("misses_total"),
        upstream_bytes,
        sources: state.upstream.sources().into_iter().map(told_apart).collect(),
        rate_limits: rate_limits(&counters),
        limits: limits(&state),
        other_secrets: state.swarm.as_ref().map(|swarm| swarm.lately().other_secrets()).unwrap_or_default(),
        members: counters.sum("members"),
        peer_received_bytes: counters.sum("peer_received_bytes_total"),
        peer_sent_bytes: counters.sum("peer_sent_bytes_total"),
        upstream_resumes: counters.sum("upstream_resumes_total"),
        verify_failures: counters.sum("verify_failures_total"),
    }))
}

fn limits(state: &AdminState) -> Vec<LimitStatus> {
    let swarm = state.swarm.iter().flat_map(|swarm| {
        let (upload, download) = swarm.throttles();
        [("swarm.upload_rate", upload), ("swarm.download_rate", download)]
    });
    let all = [("upstream.rate", state.upstream.throttle())].into_iter().chain(swarm);
    all.filter_map(|(key, throttle)| LimitStatus::of(key, throttle)).collect()
}

/// A source that shares its name with others is called by where it is.
fn told_apart(source: SourceStatus) -> SourceStatus {
    let place = Url::parse(&source.endpoint).ok().filter(|_| source.name == OTHER);
    match place.as_ref().map(Url::authority).filter(|place| !place.is_empty()) {
        Some(place) => SourceStatus { name: place.to_owned(), ..source },
        None => source,
    }
}

fn rate_limits(counters: &Counters<'_>) -> BTreeMap<String, RateLimit> {
    let remaining = counters.by("upstream_rate_limit_remaining", "registry");
    let limits = counters.by("upstream_rate_limit", "registry").into_iter();
    limits
        .filter_map(|(name, limit)| Some((RateLimit { limit, remaining: *remaining.get(&name)? }, name)))
        .map(|(told, name)| (name, told))
        .collect()
}

#[cfg(test)]
mod tests {
    use shoal_engine::Scope;

    use super::*;
    use crate::metrics::Metrics;
    use crate::upstream::{Settings, Upstream};

    /// Names that clients make up take the place of no registry.
    #[tokio::test]
    async fn registries_without_a_name_of_their_own_are_told_apart() {
        let upstream = Upstream::new(Settings::default(), Metrics::new()).unwrap();
        let labels: Vec<String> = (0..70)
            .map(|n| {
                let registry = format!("r{n:02}.test:5000").parse().unwrap();
                upstream.label(&Scope { registry, repository: "a/b".parse().unwrap() })
            })
            .collect();
        assert_eq!(labels[69], OTHER);
        let mut names: Vec<String> =
            upstream.sources().into_iter().map(told_apart).map(|source| source.name).collect();
        names.sort_unstable();
        let expected: Vec<String> = (0..70).map(|n| format!("r{n:02}.test:5000")).collect();
        assert_eq!(names, expected);
    }
}
