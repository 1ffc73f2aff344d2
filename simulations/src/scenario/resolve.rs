//! From what the file says to what can be simulated. Every rule is tried, whatever the others found.

use super::problem::{Problem, quoted};
use super::quantity::{Period, Rate, Size, Start, Uplink};
use super::schema::{self, File, Image};
use super::{Clients, Faults, Link, Origin, Partition, RollingUpdate, Scenario, Span, Zone};

/// Most nodes: beyond, a run no longer fits into the memory of a workstation.
const NODES_MAX: usize = 100_000;
/// Most layers of an image: runtimes stop at 127.
const LAYERS_MAX: usize = 127;
/// Longest run: beyond it a typing error is more likely than an intention.
const DEADLINE_MAX_S: f64 = 24.0 * 3600.0;

/// Fills in defaults and checks. `known` are the problems found so far; a key that has one gets no second one.
pub(super) fn resolve(file: &File, known: Vec<Problem>) -> (Scenario, Vec<Problem>) {
    let mut findings = Findings { problems: known };
    let found = &mut findings;
    name(&file.name, found);
    found.within("nodes", file.nodes as f64, 1.0, NODES_MAX as f64);
    let nodes = file.nodes.clamp(1, NODES_MAX);
    let deadline = file.deadline.0;
    if !(deadline > 0.0 && deadline <= DEADLINE_MAX_S) {
        found.add("deadline", quoted(&file.deadline.to_string()), "must be above 0s and at most 24h");
    }
    let layers = layers(&file.image, found);
    let zones = zones(file, nodes, found);
    found.rate("link.up", file.link.up);
    found.rate("link.down", file.link.down);
    found.rate("hash_speed", file.hash_speed);
    found.rate("disk_speed", file.disk_speed);
    let scenario = Scenario {
        name: file.name.clone(),
        description: file.description.clone(),
        seed: file.seed,
        nodes,
        layers,
        link: Link { up: file.link.up.0, down: file.link.down.0 },
        delay_between: file.delay.between.0,
        request_cost: file.request_cost.0,
        hash_speed: file.hash_speed.0,
        disk_speed: file.disk_speed.0,
        origin: origin(&file.origin, deadline, found),
        clients: clients(&file.clients, nodes, deadline, found),
        faults: faults(&file.faults, nodes, &zones, deadline, found),
        zones,
        swim: file.swim,
        deadline,
        goals: goals(&file.goals, found),
        baselines: file.baselines,
        plots: file.plots.clone(),
    };
    (scenario, findings.problems)
}

/// Collects problems.
struct Findings {
    problems: Vec<Problem>,
}

impl Findings {
    fn add(&mut self, key: &str, value: impl std::fmt::Display, remedy: impl Into<String>) {
        let is_within =
            |outer: &str| key.strip_prefix(outer).is_some_and(|r| r.is_empty() || r.starts_with(['.', '[']));
        if !self.problems.iter().any(|known| !known.key.is_empty() && is_within(&known.key)) {
            self.problems.push(Problem::new(key, value, remedy));
        }
    }

    fn rate(&mut self, key: &str, rate: Rate) {
        if rate.0 <= 0.0 {
            self.add(key, quoted(&rate.to_string()), "must be above 0");
        }
    }

    fn within(&mut self, key: &str, value: f64, least: f64, most: f64) {
        if !(least..=most).contains(&value) {
            self.add(key, value, format!("must be from {least} to {most}"));
        }
    }

    /// A moment of the run.
    fn moment(&mut self, key: &str, at: Period, deadline: f64) -> f64 {
        if at.0 >= deadline {
            let remedy = format!("must be before the deadline, which is {}", Period(deadline));
            self.add(key, quoted(&at.to_string()), remedy);
        }
        at.0
    }

    fn span(&mut self, key: &str, from: Period, lasts: Period, deadline: f64) -> Span {
        self.moment(&format!("{key}.from"), from, deadline);
        if lasts.0 <= 0.0 {
            self.add(&format!("{key}.for"), quoted(&lasts.to_string()), "must be above 0s");
        }
        Span { from: from.0, until: from.0 + lasts.0 }
    }
}

fn name(name: &str, found: &mut Findings) {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() {
        found.add("name", "", "is missing; name the scenario, such as name = \"cold-start\"");
    } else if !name.chars().all(is_plain) {
        found.add("name", quoted(name), "may have lower case letters, digits and dashes");
    }
}

fn layers(image: &Image, found: &mut Findings) -> Vec<u64> {
    let sizes = match image {
        Image::Layer(size) => vec![*size],
        Image::Layers(sizes) => sizes.clone(),
    };
    if sizes.len() > LAYERS_MAX {
        found.add("image", sizes.len(), format!("must have at most {LAYERS_MAX} layers"));
    }
    for (index, Size(bytes)) in sizes.iter().enumerate() {
        if !(1..=shoal_engine::pieces::BLOB_BYTES_MAX).contains(bytes) {
            found.add(&format!("image[{index}]"), bytes, "a layer must have from 1 byte to 1TiB");
        }
    }
    sizes.iter().map(|size| size.0).collect()
}

fn zones(file: &File, nodes: usize, found: &mut Findings) -> Vec<Zone> {
    if file.zones.is_empty() {
        let delay = file.delay.within.0;
        return vec![Zone { name: "all".into(), nodes, uplink: f64::INFINITY, delay }];
    }
    for (index, zone) in file.zones.iter().enumerate() {
        let key = |name: &str| format!("zones[{index}].{name}");
        if zone.name.is_empty() {
            found.add(&key("name"), quoted(""), "must not be empty");
        }
        if file.zones[..index].iter().any(|other| other.name == zone.name) {
            found.add(&key("name"), quoted(&zone.name), "another zone has this name");
        }
        if !(zone.share.is_finite() && zone.share > 0.0) {
            found.add(&key("share"), zone.share, "must be above 0");
        }
        if matches!(zone.uplink, Uplink::Rate(Rate(rate)) if rate <= 0.0) {
            found.add(&key("uplink"), "", "must be above 0");
        }
    }
    let counts = split(nodes, &file.zones);
    if counts.contains(&0) {
        found.add(
            "zones",
            "",
            format!("{nodes} nodes leave a zone without any; take more nodes or fewer zones"),
        );
    }
    let zone = |(zone, count): (&schema::Zone, usize)| Zone {
        name: zone.name.clone(),
        nodes: count,
        uplink: match zone.uplink {
            Uplink::Rate(rate) => rate.0,
            Uplink::Oversubscribed(ratio) => count as f64 * file.link.up.0.min(file.link.down.0) / ratio,
        },
        delay: zone.delay.unwrap_or(file.delay.within).0,
    };
    file.zones.iter().zip(counts).map(zone).collect()
}

/// Nodes of each zone: the ends of the zones are where the shares so far put them, rounded.
fn split(nodes: usize, zones: &[schema::Zone]) -> Vec<usize> {
    let total: f64 = zones.iter().map(|zone| zone.share).sum();
    let (mut share, mut begin) = (0.0, 0);
    let count = |zone: &schema::Zone| {
        share += zone.share;
        let end = ((nodes as f64 * share / total).round() as usize).clamp(begin, nodes);
        end - std::mem::replace(&mut begin, end)
    };
    zones.iter().map(count).collect()
}

fn origin(origin: &schema::Origin, deadline: f64, found: &mut Findings) -> Origin {
    found.rate("origin.bandwidth", origin.bandwidth);
    found.rate("origin.per_connection", origin.per_connection);
    if origin.connections_max == Some(0) {
        found.add("origin.connections_max", 0, "must be at least 1; leave the key out for no limit");
    }
    if let Some(limit) = origin.requests_per_s.filter(|limit| *limit <= 0.0 || limit.is_nan()) {
        found.add("origin.requests_per_s", limit, "must be above 0; leave the key out for no limit");
    }
    let outage = |(index, outage): (usize, &schema::Outage)| {
        found.span(&format!("origin.outages[{index}]"), outage.from, outage.lasts, deadline)
    };
    let outages = origin.outages.iter().enumerate().map(outage).collect();
    Origin {
        bandwidth: origin.bandwidth.0,
        per_connection: origin.per_connection.0,
        connections_max: origin.connections_max,
        first_byte: origin.first_byte.0,
        requests_per_s: origin.requests_per_s.unwrap_or(f64::INFINITY),
        ranges: origin.ranges,
        outages,
    }
}

fn clients(clients: &schema::Clients, nodes: usize, deadline: f64, found: &mut Findings) -> Clients {
    found.rate("clients.read_speed", clients.read_speed);
    let spread = match clients.start {
        Start::Together => 0.0,
        Start::Within(period) => found.moment("clients.start", period, deadline),
    };
    let (late, late_at) = match clients.late {
        None => (0, 0.0),
        Some(late) => (late.nodes, found.moment("clients.late.at", late.at, deadline)),
    };
    if clients.holders >= nodes {
        let remedy = format!("must be below nodes, which is {nodes}: somebody has to ask");
        found.add("clients.holders", clients.holders, remedy);
    } else if late > nodes - clients.holders {
        let remedy = format!("must be at most {}, the nodes that are not holders", nodes - clients.holders);
        found.add("clients.late.nodes", late, remedy);
    }
    if clients.warm && (late > 0 || spread > 0.0) {
        found.add(
            "clients.warm",
            clients.warm,
            "goes with neither late nor start: all are asked to warm at once",
        );
    }
    if clients.parallel == 0 {
        found.add("clients.parallel", clients.parallel, "must be at least 1");
    }
    let holders = clients.holders.min(nodes - 1);
    Clients {
        read_speed: clients.read_speed.0,
        spread,
        late: late.min(nodes - holders),
        late_at,
        holders,
        stored: clients.stored,
        parallel: clients.parallel.max(1),
        warm: clients.warm,
    }
}

fn faults(
    faults: &schema::Faults,
    nodes: usize,
    zones: &[Zone],
    deadline: f64,
    found: &mut Findings,
) -> Faults {
    let (slow_share, slow_factor) = faults.slow.map_or((0.0, 1.0), |slow| (slow.share, slow.factor));
    found.within("faults.slow.share", slow_share, 0.0, 1.0);
    if !(slow_factor.is_finite() && slow_factor >= 1.0) {
        found.add("faults.slow.factor", slow_factor, "must be at least 1: links are divided by it");
    }
    found.within("faults.deaths_per_minute", faults.deaths_per_minute, 0.0, 1.0);
    for (key, count) in [("faults.liars", faults.liars), ("faults.silent", faults.silent)] {
        if count >= nodes {
            found.add(key, count, format!("must be below nodes, which is {nodes}"));
        }
    }
    let mut moment = |key: &str, at: Option<Period>| at.map(|at| found.moment(key, at, deadline));
    let home_dies_at = moment("faults.home_dies_at", faults.home_dies_at);
    let all_homes_die_at = moment("faults.all_homes_die_at", faults.all_homes_die_at);
    let lease_holder_stalls_at = moment("faults.lease_holder_stalls_at", faults.lease_holder_stalls_at);
    let partition = faults.partition.as_ref().map(|partition| cut_off(partition, zones, deadline, found));
    let rolling_update = faults.rolling_update.map(|update| RollingUpdate {
        from: found.moment("faults.rolling_update.from", update.from, deadline),
        gap: update.gap.0,
        down: update.down.0,
    });
    Faults {
        slow_share,
        slow_factor,
        deaths_per_minute: faults.deaths_per_minute,
        deaths_until: faults.deaths_until.map_or(deadline, |until| until.0),
        restart_after: faults.restart_after.map(|after| after.0),
        liars: faults.liars,
        silent: faults.silent,
        home_dies_at,
        all_homes_die_at,
        lease_holder_stalls_at,
        partition,
        rolling_update,
    }
}

fn cut_off(partition: &schema::Partition, zones: &[Zone], deadline: f64, found: &mut Findings) -> Partition {
    let span = found.span("faults.partition", partition.from, partition.lasts, deadline);
    let mut indices = Vec::new();
    for name in &partition.zones {
        match zones.iter().position(|zone| zone.name == *name) {
            Some(index) => indices.push(index),
            None => {
                let names: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
                let remedy = format!("there is no such zone; there are {}", names.join(", "));
                found.add("faults.partition.zones", quoted(name), remedy);
            }
        }
    }
    if indices.is_empty() && partition.zones.is_empty() {
        found.add("faults.partition.zones", "[]", "must name at least one zone");
    }
    Partition { zones: indices, span, origin: partition.origin }
}

fn goals(goals: &schema::Goals, found: &mut Findings) -> schema::Goals {
    for (key, value) in [
        ("p50", goals.p50),
        ("p90", goals.p90),
        ("p99", goals.p99),
        ("p999", goals.p999),
        ("max", goals.max),
        ("upstream_ratio", goals.upstream_ratio),
        ("upstream_requests", goals.upstream_requests),
        ("cross_zone_ratio", goals.cross_zone_ratio),
        ("control_ratio", goals.control_ratio),
        ("duplicate_ratio", goals.duplicate_ratio),
        ("sources", goals.sources),
    ] {
        if let Some(value) = value.filter(|value| !(value.is_finite() && *value >= 0.0)) {
            found.add(&format!("goals.{key}"), value, "must be a number, 0 or more");
        }
    }
    for (key, value) in [("origin_busy", goals.origin_busy), ("fairness", goals.fairness)] {
        if let Some(value) = value {
            found.within(&format!("goals.{key}"), value, 0.0, 1.0);
        }
    }
    goals.clone()
}
