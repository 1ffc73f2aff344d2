//! What a scenario file may say: every key with its unit and its default.
//!
//! Quantities are texts with a unit: sizes `"100MiB"`, rates `"10Gbit/s"`, durations `"5ms"`.

use serde::Deserialize;

use super::quantity::{Period, Rate, Size, Start, Uplink};

/// A scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// What it is called: lower case, digits and dashes. Required.
    pub name: String,
    /// One sentence for the document. Default: empty.
    pub description: String,
    /// Seed of all chance. Default: 1.
    pub seed: u64,
    /// Number of nodes, holders and late joiners included. Default: 1000.
    pub nodes: usize,
    /// Sizes of the image's layers, in the order in which clients ask for them. A single size is a list of one.
    /// Default: one of 1 GiB. An empty list: nobody asks for anything, the run lasts until `deadline`.
    pub image: Image,
    /// Every node's own link.
    pub link: Link,
    /// One-way delays.
    pub delay: Delay,
    /// Zones. Default: a single one without an uplink to cross.
    pub zones: Vec<Zone>,
    /// Time that a server is busy with one request. Default: 20 us.
    pub request_cost: Period,
    /// How fast a node computes SHA-256. Default: 1.8 GB/s.
    pub hash_speed: Rate,
    /// What a node's disk takes. Default: 2 GB/s.
    pub disk_speed: Rate,
    /// The registry.
    pub origin: Origin,
    /// Who asks, and when.
    pub clients: Clients,
    /// What goes wrong. Default: nothing.
    pub faults: Faults,
    /// Whether the engines find each other (SWIM); otherwise each is given the list of members. Default: false.
    pub swim: bool,
    /// When a run ends at the latest, simulated time. Default: 10 minutes.
    pub deadline: Period,
    /// What is to be reached. Default: no failed ticket, no broken rule.
    pub goals: Goals,
    /// Whether the document shows the other systems as well. Default: false.
    pub baselines: bool,
    /// Which plots the document shows: `"completion"`, `"traffic"`, `"progress"`. Default: none.
    pub plots: Vec<Plot>,
    /// Keys and the values that each takes: every combination is a run of its own. Dotted keys in quotes:
    /// `"link.up" = ["1Gbit/s", "10Gbit/s"]`. Default: one run.
    pub sweep: toml::Table,
}

/// Layers of an image.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a size such as \"1GiB\" or a list of sizes")]
pub enum Image {
    /// One layer.
    Layer(Size),
    /// Several.
    Layers(Vec<Size>),
}

/// A node's link.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// From the node. Default: 10 Gbit/s.
    pub up: Rate,
    /// To the node. Default: 10 Gbit/s.
    pub down: Rate,
}

/// One-way delays between nodes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delay {
    /// Within a zone. Default: 0.1 ms.
    pub within: Period,
    /// Between zones. Default: 0.5 ms.
    pub between: Period,
}

/// Nodes behind one uplink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// Its name. Required.
    pub name: String,
    /// Its part of the nodes, relative to the other zones' shares. Default: 1.
    #[serde(default = "one")]
    pub share: f64,
    /// What its uplink carries in each direction: a rate, or an oversubscription such as `"10:1"` (a tenth of what its
    /// nodes' links carry together). Default: unlimited.
    #[serde(default = "unlimited")]
    pub uplink: Uplink,
    /// One-way delay within it. Default: `delay.within`.
    pub delay: Option<Period>,
}

/// The registry.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// Of its link. Default: 10 Gbit/s.
    pub bandwidth: Rate,
    /// Of one connection at most. Default: unlimited.
    pub per_connection: Rate,
    /// Connections at a time; further ones wait. Default: unlimited.
    pub connections_max: Option<usize>,
    /// From a request to its first byte, propagation included. Default: 20 ms.
    pub first_byte: Period,
    /// Requests per second beyond which it answers 429. Default: never.
    pub requests_per_s: Option<f64>,
    /// Whether it answers ranges. Default: true.
    pub ranges: bool,
    /// When it does not answer: `[{ from = "1s", for = "10s" }]`. Default: never.
    pub outages: Vec<Outage>,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// Its beginning, since the beginning of the run. Required.
    pub from: Period,
    /// How long it lasts. Required.
    #[serde(rename = "for")]
    pub lasts: Period,
}

/// Who asks, and when.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clients {
    /// How fast a client reads what it is given, in order. Default: unlimited.
    pub read_speed: Rate,
    /// `"together"`, or a duration within which each begins at a random moment. With `swim` a node's agent starts at
    /// that moment as well. Default: together.
    pub start: Start,
    /// Nodes that begin later than all others: `{ nodes = 1, at = "30s" }`. Default: none.
    pub late: Option<Late>,
    /// Nodes that hold the whole image already. Default: 0.
    pub holders: usize,
    /// Other blobs that each node holds and has announced, the same on every node. Default: 0.
    pub stored: usize,
    /// Layers that a client asks for at a time, in order: 3 where containerd or docker pull. Default: all.
    pub parallel: usize,
    /// Nobody pulls: one node is asked to warm the image on all that do not hold it. Default: false.
    pub warm: bool,
}

/// Late joiners.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Late {
    /// How many. Required.
    pub nodes: usize,
    /// When they begin, since the beginning of the run. Required.
    pub at: Period,
}

/// What goes wrong.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Nodes with slow links: `{ share = 0.05, factor = 10 }`. Default: none.
    pub slow: Option<Slow>,
    /// Share of the nodes that is killed per minute, 0 to 1. Default: 0.
    pub deaths_per_minute: f64,
    /// When the killing ends, since the beginning of the run. Default: `deadline`.
    pub deaths_until: Option<Period>,
    /// When a killed node comes back, with what it had on its disk. Default: never.
    pub restart_after: Option<Period>,
    /// Nodes that serve wrong pieces. Default: 0.
    pub liars: usize,
    /// Nodes that accept requests and never answer. Default: 0.
    pub silent: usize,
    /// When the first home of the first layer is killed. Default: never.
    pub home_dies_at: Option<Period>,
    /// When all homes of the first layer are killed at once. Default: never.
    pub all_homes_die_at: Option<Period>,
    /// When a node that fetches from the origin stops to receive without closing. Default: never.
    pub lease_holder_stalls_at: Option<Period>,
    /// Zones that are cut off: `{ zones = ["b"], from = "1s", for = "5s" }`. Default: none.
    pub partition: Option<Partition>,
    /// Agents that restart one after another: `{ from = "1s", gap = "100ms" }`. Default: none.
    pub rolling_update: Option<RollingUpdate>,
}

/// Nodes with slow links.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// Share of the nodes, 0 to 1. Required.
    pub share: f64,
    /// What their links are divided by, both ways. Default: 10.
    #[serde(default = "ten")]
    pub factor: f64,
}

/// Zones that are cut off for a while.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// Names of zones. Required.
    pub zones: Vec<String>,
    /// When it begins. Required.
    pub from: Period,
    /// How long it lasts. Required.
    #[serde(rename = "for")]
    pub lasts: Period,
    /// Whether they lose the origin too. Default: false.
    #[serde(default)]
    pub origin: bool,
}

/// Agents that restart one after another.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollingUpdate {
    /// When the first one stops. Required.
    pub from: Period,
    /// Between one stop and the next. Required.
    pub gap: Period,
    /// From a stop to the start. Default: 2 s.
    #[serde(default = "two_seconds")]
    pub down: Period,
}

/// What is to be reached. Percentiles are of the healthy nodes, as multiples of the bound. All are at most, unless they
/// say otherwise; none is set by default but `failed`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Goals {
    /// Median.
    pub p50: Option<f64>,
    /// 90 of 100 nodes.
    pub p90: Option<f64>,
    /// 99 of 100.
    pub p99: Option<f64>,
    /// 999 of 1,000.
    pub p999: Option<f64>,
    /// The last one.
    pub max: Option<f64>,
    /// Bytes from the origin, as copies of the image.
    pub upstream_ratio: Option<f64>,
    /// Requests for blobs that the origin sees.
    pub upstream_requests: Option<f64>,
    /// Copies of the image into the zone that takes in most.
    pub cross_zone_ratio: Option<f64>,
    /// Bytes of control messages per byte of data.
    pub control_ratio: Option<f64>,
    /// Bytes received in vain per byte of data.
    pub duplicate_ratio: Option<f64>,
    /// Time to first byte of 99 of 100 nodes.
    pub first_byte_p99: Option<Period>,
    /// Share of the time in which the origin's link is busy until its last byte, at least.
    pub origin_busy: Option<f64>,
    /// Jain's index of what the nodes send, at least: 1 is all alike, 1/nodes is one for all.
    pub fairness: Option<f64>,
    /// Members from which a node that asked receives a part worth the name, at least.
    pub sources: Option<f64>,
    /// Control bytes that the mean node sends per second.
    pub control_rate: Option<Rate>,
    /// Memory of one engine at the end.
    pub engine_memory: Option<Size>,
    /// Tickets that fail. Default: 0.
    pub failed: u64,
}

/// A plot of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plot {
    /// Share of the nodes that are whole, over time.
    Completion,
    /// Who received from whom, and who sent.
    Traffic,
    /// Progress of all nodes over time.
    Progress,
}

impl Default for File {
    fn default() -> Self {
        File {
            name: String::new(),
            description: String::new(),
            seed: 1,
            nodes: 1000,
            image: Image::Layer(Size(1 << 30)),
            link: Link::default(),
            delay: Delay::default(),
            zones: Vec::new(),
            request_cost: Period(20e-6),
            hash_speed: Rate(1.8e9),
            disk_speed: Rate(2e9),
            origin: Origin::default(),
            clients: Clients::default(),
            faults: Faults::default(),
            swim: false,
            deadline: Period(600.0),
            goals: Goals::default(),
            baselines: false,
            plots: Vec::new(),
            sweep: toml::Table::new(),
        }
    }
}

impl Default for Link {
    fn default() -> Self {
        Link { up: Rate(1.25e9), down: Rate(1.25e9) }
    }
}

impl Default for Delay {
    fn default() -> Self {
        Delay { within: Period(0.1e-3), between: Period(0.5e-3) }
    }
}

impl Default for Origin {
    fn default() -> Self {
        Origin {
            bandwidth: Rate(1.25e9),
            per_connection: Rate(f64::INFINITY),
            connections_max: None,
            first_byte: Period(20e-3),
            requests_per_s: None,
            ranges: true,
            outages: Vec::new(),
        }
    }
}

impl Default for Clients {
    fn default() -> Self {
        Clients {
            read_speed: Rate(f64::INFINITY),
            start: Start::Together,
            late: None,
            holders: 0,
            stored: 0,
            parallel: usize::MAX,
            warm: false,
        }
    }
}

fn one() -> f64 {
    1.0
}

fn ten() -> f64 {
    10.0
}

fn two_seconds() -> Period {
    Period(2.0)
}

fn unlimited() -> Uplink {
    Uplink::Rate(Rate(f64::INFINITY))
}
