//! Every metric of the agent, in one place: name, help text, labels. Nobody else registers any, and every one that is
//! registered here is set through a method or a handle below.

mod counters;

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::store_health::Reason;

pub(crate) use counters::Counters;

/// Where the bytes of an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Served {
    /// The node's own store.
    Store,
    /// The container runtime's content store on this node.
    Runtime,
    /// An upstream transfer that this request started.
    Upstream,
    /// An upstream transfer that another request had started.
    Shared,
    /// Straight from upstream, because the store could not be used.
    PassThrough,
    /// A cached answer whose source could not be asked.
    Stale,
}

impl Served {
    /// Value of the `source` label and of the log field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Served::Store => "store",
            Served::Runtime => "runtime",
            Served::Upstream => "upstream",
            Served::Shared => "shared",
            Served::PassThrough => "pass-through",
            Served::Stale => "stale",
        }
    }

    /// Whether the content was on this node, so that nothing had to be fetched.
    pub const fn is_hit(self) -> bool {
        match self {
            Served::Store | Served::Runtime | Served::Stale => true,
            Served::Upstream | Served::Shared | Served::PassThrough => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySource {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRequest {
    kind: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByUpstream {
    registry: String,
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOperation {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRegistry {
    registry: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVersion {
    version: &'static str,
}

/// Handles to all metrics. Cheap to share; every update is one atomic operation, plus a read lock for a family.
pub struct Metrics {
    registry: Mutex<Registry>,
    served_bytes: Family<BySource, Counter>,
    requests: Family<ByRequest, Counter>,
    request_seconds: Histogram,
    upstream_requests: Family<ByUpstream, Counter>,
    upstream_bytes: Family<ByRegistry, Counter>,
    upstream_resumes: Family<ByRegistry, Counter>,
    on_its_own: Family<ByReason, Counter>,
    upstream_retries: Family<ByRegistry, Counter>,
    hits: Family<BySource, Counter>,
    misses: Counter,
    verify_failures: Counter,
    tier_requests: Family<ByOperation, Counter>,
    tier_uploads_dropped: Family<ByReason, Counter>,
    /// Bytes of blobs received from the object store.
    pub tier_received_bytes: Counter,
    /// Bytes sent to the object store, markers included.
    pub tier_sent_bytes: Counter,
    /// Bytes of pieces received from other members.
    pub peer_received_bytes: Counter,
    /// Bytes of pieces sent to other members.
    pub peer_sent_bytes: Counter,
    /// Members that are believed to be alive, this one included.
    pub members: Gauge,
    /// Of those, members whose port for pieces could not be connected to at the last attempt.
    pub members_unreachable: Gauge,
    quarantines: Family<ByRegistry, Counter>,
    source_down: Family<ByRegistry, Gauge>,
    rate_limit: Family<ByRegistry, Gauge>,
    rate_limit_remaining: Family<ByRegistry, Gauge>,
    /// Flights under way.
    pub flights: Gauge,
    /// Tickets that wait for bytes.
    pub tickets: Gauge,
    /// Client connections to the registry port.
    pub connections: Gauge,
    /// Bytes of whole blobs in the store.
    pub store_bytes: Gauge,
    /// Whole blobs in the store.
    pub store_blobs: Gauge,
    /// Most bytes that the store may hold: the configured capacity, or what the file system allows.
    pub store_capacity_bytes: Gauge,
    /// Bytes that half-received blobs hold on disk.
    pub store_partial_bytes: Gauge,
    store_degraded: Family<ByReason, Gauge>,
    /// Blobs evicted for space or age.
    pub evictions: Counter,
    /// Bytes evicted for space or age.
    pub evicted_bytes: Counter,
}

impl Metrics {
    /// A fresh set, all zero.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("shoal");
        macro_rules! add {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let served_bytes = add!(
            "served_bytes",
            "Bytes of blobs and manifests sent to clients, by where they came from",
            Family::default()
        );
        let requests =
            add!("requests", "Registry requests answered, by kind and HTTP status", Family::default());
        // Buckets from 0.25 ms, below a stored manifest, to 17 s, just under the answer budget.
        let request_seconds = add!(
            "request_seconds",
            "Seconds from a registry request to its response headers",
            Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.00025, 4.0, 9))
        );
        let upstream_requests = add!(
            "upstream_requests",
            "Requests sent upstream, by registry, kind and outcome",
            Family::default()
        );
        let upstream_bytes = add!("upstream_bytes", "Body bytes received from upstream", Family::default());
        let upstream_resumes = add!(
            "upstream_resumes",
            "Transfers that went on in the middle of a blob after they broke",
            Family::default()
        );
        let on_its_own = add!(
            "swarm_on_its_own",
            "Transfers from upstream that this node began by itself although there are other members, by reason",
            Family::default()
        );
        let upstream_retries = add!(
            "upstream_retries",
            "Requests to upstream that were repeated after a failure",
            Family::default()
        );
        let hits = add!(
            "hits",
            "GETs for blobs and manifests, of the whole or from the first byte on, answered with what was on the node, by where it was",
            Family::default()
        );
        let misses = add!(
            "misses",
            "GETs for blobs and manifests, of the whole or from the first byte on, answered with what had to be fetched",
            Counter::default()
        );
        let verify_failures =
            add!("verify_failures", "Blobs whose bytes did not match their digest", Counter::default());
        let tier_requests = add!(
            "tier_requests",
            "Questions to the object store and uploads to it, by operation and outcome",
            Family::default()
        );
        let tier_uploads_dropped = add!(
            "tier_uploads_dropped",
            "Blobs that were not uploaded to the object store, by reason",
            Family::default()
        );
        let tier_received_bytes =
            add!("tier_received_bytes", "Bytes of blobs received from the object store", Counter::default());
        let tier_sent_bytes = add!("tier_sent_bytes", "Bytes sent to the object store", Counter::default());
        let peer_received_bytes =
            add!("peer_received_bytes", "Bytes of blobs received from other members", Counter::default());
        let peer_sent_bytes =
            add!("peer_sent_bytes", "Bytes of blobs sent to other members", Counter::default());
        let members = add!(
            "members",
            "Members of the swarm that are believed to be alive, this one included",
            Gauge::default()
        );
        let members_unreachable = add!(
            "members_unreachable",
            "Members of the swarm whose port for pieces could not be connected to at the last attempt",
            Gauge::default()
        );
        let quarantines = add!(
            "quarantines",
            "Blobs for which a mirror is no longer asked, because it sent wrong bytes",
            Family::default()
        );
        let source_down = add!(
            "source_down",
            "1 while a registry or mirror is left alone because it does not answer",
            Family::default()
        );
        let rate_limit = add!(
            "upstream_rate_limit",
            "Pulls that a registry allows in its window, as it says itself",
            Family::default()
        );
        let rate_limit_remaining = add!(
            "upstream_rate_limit_remaining",
            "Pulls that a registry still allows in this window, as it says itself",
            Family::default()
        );
        let flights = add!("flights", "Blobs being received", Gauge::default());
        let tickets = add!("tickets", "Client requests that wait for bytes", Gauge::default());
        let connections =
            add!("connections", "Open client connections to the registry port", Gauge::default());
        let store_bytes = add!("store_bytes", "Bytes of whole blobs in the store", Gauge::default());
        let store_blobs = add!("store_blobs", "Whole blobs in the store", Gauge::default());
        let store_capacity_bytes = add!(
            "store_capacity_bytes",
            "Bytes that the store may hold, as configured or as the file system allows",
            Gauge::default()
        );
        let store_partial_bytes =
            add!("store_partial_bytes", "Bytes of half-received blobs in the store", Gauge::default());
        let store_degraded = add!(
            "store_degraded",
            "1 while blobs go past the store straight from upstream, by reason: it is full, or its disk is, or fails",
            Family::default()
        );
        let build_info: Family<ByVersion, Gauge> =
            add!("build_info", "1, with the version of this agent", Family::default());
        build_info.get_or_create(&ByVersion { version: env!("CARGO_PKG_VERSION") }).set(1);
        let evictions = add!("evictions", "Blobs evicted for space or age", Counter::default());
        let evicted_bytes = add!("evicted_bytes", "Bytes evicted for space or age", Counter::default());
        Arc::new(Metrics {
            registry: Mutex::new(registry),
            served_bytes,
            requests,
            request_seconds,
            upstream_requests,
            upstream_bytes,
            upstream_resumes,
            on_its_own,
            upstream_retries,
            hits,
            misses,
            verify_failures,
            tier_requests,
            tier_uploads_dropped,
            tier_received_bytes,
            tier_sent_bytes,
            peer_received_bytes,
            peer_sent_bytes,
            members,
            members_unreachable,
            quarantines,
            source_down,
            rate_limit,
            rate_limit_remaining,
            flights,
            tickets,
            connections,
            store_bytes,
            store_blobs,
            store_capacity_bytes,
            store_partial_bytes,
            store_degraded,
            evictions,
            evicted_bytes,
        })
    }

    /// Body bytes handed to a client's connection.
    pub fn served(&self, source: Served, bytes: u64) {
        self.served_bytes.get_or_create(&BySource { source: source.as_str() }).inc_by(bytes);
    }

    /// A registry request was answered; `kind` is `blob`, `manifest`, `tags`, `referrers`, `base` or `other`.
    pub fn request(&self, kind: &'static str, status: u16, seconds: f64) {
        self.requests.get_or_create(&ByRequest { kind, status }).inc();
        self.request_seconds.observe(seconds);
    }

    /// A request went upstream; `kind` is `manifest-head`, `manifest-get`, `blob-get`, `blob-head`, `list` or
    /// `token`; `outcome` is `ok`, `not-modified`, `missing`, `denied`, `rate-limited`, `transient`, `protocol`.
    pub fn upstream_request(&self, registry: &str, kind: &'static str, outcome: &'static str) {
        self.upstream_requests
            .get_or_create(&ByUpstream { registry: registry.to_owned(), kind, outcome })
            .inc();
    }

    /// The counter of body bytes from one registry, for a transfer to keep.
    pub fn upstream_bytes(&self, registry: &str) -> Counter {
        self.upstream_bytes.get_or_create(&ByRegistry { registry: registry.to_owned() }).clone()
    }

    /// A transfer goes on in the middle of a blob.
    pub fn upstream_resume(&self, registry: &str) {
        self.upstream_resumes.get_or_create(&ByRegistry { registry: registry.to_owned() }).inc();
    }

    /// A blob is fetched without the other members; `reason` is `silence` or `no-help`.
    pub fn on_its_own(&self, reason: &'static str) {
        self.on_its_own.get_or_create(&ByReason { reason }).inc();
    }

    /// A request is repeated after a failure.
    pub fn upstream_retry(&self, registry: &str) {
        self.upstream_retries.get_or_create(&ByRegistry { registry: registry.to_owned() }).inc();
    }

    /// A client was answered with what was on this node.
    pub fn hit(&self, source: Served) {
        self.hits.get_or_create(&BySource { source: source.as_str() }).inc();
    }

    /// A client was answered with what had to be fetched.
    pub fn miss(&self) {
        self.misses.inc();
    }

    /// A blob did not match its digest.
    pub fn verify_failure(&self) {
        self.verify_failures.inc();
    }

    /// Blobs go past the store for this reason and no other, or for none.
    pub fn store_degraded(&self, reason: Option<Reason>) {
        for each in Reason::ALL {
            let gauge = self.store_degraded.get_or_create(&ByReason { reason: each.word() });
            gauge.set(i64::from(reason == Some(each)));
        }
    }

    /// The object store was asked, or something was uploaded; `operation` is `stat`, `open`, `get` or `upload`,
    /// `outcome` is `hit`, `miss`, `left-alone` or `failed`, of an upload `stored`, `present` or `failed`.
    pub fn tier_request(&self, operation: &'static str, outcome: &'static str) {
        self.tier_requests.get_or_create(&ByOperation { operation, outcome }).inc();
    }

    /// A blob was not uploaded; `reason` is `no-room`, `left-alone`, `failed` or `stopped`.
    pub fn tier_upload_dropped(&self, reason: &'static str) {
        self.tier_uploads_dropped.get_or_create(&ByReason { reason }).inc();
    }

    /// A mirror has sent wrong bytes for a blob.
    pub fn quarantined(&self, registry: &str) {
        self.quarantines.get_or_create(&ByRegistry { registry: registry.to_owned() }).inc();
    }

    /// The gauge that says whether a source is left alone, for the source to keep.
    pub fn source_down(&self, registry: &str) -> Gauge {
        self.source_down.get_or_create(&ByRegistry { registry: registry.to_owned() }).clone()
    }

    /// What a registry has told of its limits.
    pub fn upstream_rate_limit(&self, registry: &str, limit: u64, remaining: u64) {
        let labels = ByRegistry { registry: registry.to_owned() };
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.rate_limit.get_or_create(&labels).set(gauge(limit));
        self.rate_limit_remaining.get_or_create(&labels).set(gauge(remaining));
    }

    /// The OpenMetrics text of everything.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())
            .expect("writing to a String cannot fail");
        text
    }
}
