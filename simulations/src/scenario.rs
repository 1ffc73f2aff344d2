//! Scenarios: what a run simulates, read from a TOML file of a few lines.
//!
//! Invariant: a [`Scenario`] holds only values that can be simulated. All that is wrong with a file is reported at once.
//! Rates are bytes per second, times are seconds, sizes are bytes. A rate without limit is [`f64::INFINITY`].

mod library;
mod overrides;
mod problem;
mod quantity;
mod reading;
mod resolve;
pub mod schema;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use library::{LIBRARY, built_in};
pub use overrides::Override;
pub use problem::{Problem, ScenarioErrors};
pub use quantity::{Period, Rate, Size, Start, Uplink};

/// One run: a scenario file with all its defaults filled in, one value of each swept key, and the seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Name of the file's scenario; a run of a sweep has the swept values behind it: `volcano-50-500MB`.
    pub name: String,
    /// One sentence for the document.
    pub description: String,
    /// Seed of all chance.
    pub seed: u64,
    /// Number of nodes, holders and late joiners included.
    pub nodes: usize,
    /// Sizes of the image's layers, bytes, in the order in which clients ask for them. Empty: nobody asks for anything.
    pub layers: Vec<u64>,
    /// Every node's own link.
    pub link: Link,
    /// Zones; at least one. Nodes are assigned in blocks: the first `zones[0].nodes` nodes are in zone 0, and so on.
    pub zones: Vec<Zone>,
    /// One-way delay between nodes of different zones, seconds.
    pub delay_between: f64,
    /// Time that a server is busy with one request, seconds.
    pub request_cost: f64,
    /// SHA-256 of one core, bytes per second.
    pub hash_speed: f64,
    /// What a node's disk takes, bytes per second.
    pub disk_speed: f64,
    /// The registry.
    pub origin: Origin,
    /// Who asks, and when.
    pub clients: Clients,
    /// What goes wrong.
    pub faults: Faults,
    /// Whether membership is found by the engines themselves, instead of given.
    pub swim: bool,
    /// When the run ends at the latest, simulated seconds.
    pub deadline: f64,
    /// What is to be reached.
    pub goals: schema::Goals,
    /// Whether the document shows the other systems as well.
    pub baselines: bool,
    /// Which plots the document shows.
    pub plots: Vec<schema::Plot>,
}

/// Bandwidth of a link, bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// From the node.
    pub up: f64,
    /// To the node.
    pub down: f64,
}

/// Nodes behind one uplink.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// How many nodes it has.
    pub nodes: usize,
    /// What its uplink carries in each direction, bytes per second.
    pub uplink: f64,
    /// One-way delay between two of its nodes, seconds.
    pub delay: f64,
}

/// The registry that everything comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// Of its link, bytes per second.
    pub bandwidth: f64,
    /// Of one connection at most, bytes per second.
    pub per_connection: f64,
    /// Connections at a time; `None` is without limit.
    pub connections_max: Option<usize>,
    /// From a request to its first byte, propagation included, seconds.
    pub first_byte: f64,
    /// Requests per second beyond which it answers 429; infinite if it never does.
    pub requests_per_s: f64,
    /// Whether it answers ranges. Without, every request gets the whole blob from its beginning.
    pub ranges: bool,
    /// When it does not answer.
    pub outages: Vec<Span>,
}

/// A stretch of simulated time, seconds since the beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Its beginning.
    pub from: f64,
    /// Its end.
    pub until: f64,
}

/// Who asks, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Clients {
    /// How fast a client reads what it is given, bytes per second.
    pub read_speed: f64,
    /// Clients begin within this many seconds, evenly at random; 0 is all at once. With
    /// `swim` a node's agent starts when its client begins.
    pub spread: f64,
    /// How many nodes begin late: the last ones.
    pub late: usize,
    /// When they begin, seconds.
    pub late_at: f64,
    /// How many nodes hold the whole image already: the first ones. They ask for nothing, so their outcomes are not
    /// `expected`.
    pub holders: usize,
    /// Other blobs that each node holds and has announced, the same on every node.
    pub stored: usize,
    /// Layers that a client asks for at a time, in order.
    pub parallel: usize,
    /// Nobody pulls: one node is asked to warm the image on all that do not hold it.
    pub warm: bool,
}

/// What goes wrong. Shares are of all nodes, 0 to 1; times are seconds since the beginning.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// Share of nodes whose links are slow.
    pub slow_share: f64,
    /// What a slow node's link is divided by.
    pub slow_factor: f64,
    /// Share of nodes killed per minute.
    pub deaths_per_minute: f64,
    /// When the killing ends.
    pub deaths_until: f64,
    /// When a killed node comes back with what it had on disk; `None` is never.
    pub restart_after: Option<f64>,
    /// Nodes that serve wrong pieces.
    pub liars: usize,
    /// Nodes that accept requests and never answer.
    pub silent: usize,
    /// When the first home of the first layer is killed.
    pub home_dies_at: Option<f64>,
    /// When all homes of the first layer are killed at once.
    pub all_homes_die_at: Option<f64>,
    /// When one node that fetches from the origin stops to receive, without closing.
    pub lease_holder_stalls_at: Option<f64>,
    /// Zones cut off from the other zones and from the origin.
    pub partition: Option<Partition>,
    /// The agents restart one after another.
    pub rolling_update: Option<RollingUpdate>,
}

/// Zones that are cut off for a while. Among themselves they stay connected.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Indices of zones.
    pub zones: Vec<usize>,
    /// When.
    pub span: Span,
    /// Whether the cut-off zones lose the origin too.
    pub origin: bool,
}

/// Every agent is stopped and started again, in the order of the nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RollingUpdate {
    /// When the first one stops, seconds.
    pub from: f64,
    /// Between one stop and the next, seconds.
    pub gap: f64,
    /// From stop to start, seconds.
    pub down: f64,
}

impl Scenario {
    /// Reads the runs of a scenario: one, or one for each combination of swept values. `name` is a built-in scenario or
    /// the path of a file.
    pub fn load(name: &str, overrides: &[Override]) -> Result<Vec<Scenario>, ScenarioErrors> {
        match built_in(name) {
            Some(text) => Self::parse(name, text, overrides),
            None => {
                let text = std::fs::read_to_string(Path::new(name))
                    .map_err(|source| ScenarioErrors::unreadable(name, source))?;
                Self::parse(name, &text, overrides)
            }
        }
    }

    /// Reads the runs of a scenario from the text of its file; `file` is what messages call it.
    pub fn parse(file: &str, text: &str, overrides: &[Override]) -> Result<Vec<Scenario>, ScenarioErrors> {
        let wrong = |problems| ScenarioErrors::Wrong { file: file.to_owned(), problems };
        let variants = overrides::variants(text, overrides).map_err(wrong)?;
        let mut scenarios = Vec::new();
        let mut problems: Vec<Problem> = Vec::new();
        for (suffix, table) in variants {
            let (read, found) = reading::read(&table);
            let (mut scenario, found) = resolve::resolve(&read, found);
            scenario.name.push_str(&suffix);
            scenarios.push(scenario);
            for problem in found {
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        if problems.is_empty() { Ok(scenarios) } else { Err(wrong(problems)) }
    }

    /// Bytes of the whole image.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().sum()
    }

    /// Nodes that want the image.
    pub fn receivers(&self) -> usize {
        self.nodes - self.clients.holders
    }

    /// The zone of a node.
    pub fn zone_of(&self, node: usize) -> usize {
        let mut end = 0;
        let found = self.zones.iter().position(|zone| {
            end += zone.nodes;
            node < end
        });
        found.unwrap_or(self.zones.len() - 1)
    }

    /// One-way delay from node to node, seconds.
    pub fn delay(&self, from_zone: usize, to_zone: usize) -> f64 {
        if from_zone == to_zone { self.zones[from_zone].delay } else { self.delay_between }
    }
}
