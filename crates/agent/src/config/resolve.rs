//! From what the file says to what the agent can use. Every rule is tried, whatever the others found.
//!
//! Invariant: a [`Checked`] that came without problems holds only values that the rest of the agent takes without a
//! further check.

mod access;
mod admin;
mod mirrors;
mod object_store;
mod ports;
mod registries;
mod swarm;
mod traces;

pub(super) use registries::default_credentials;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use shoal_engine::Registry;
use shoal_engine::access::Rules;

use super::Listener;
use super::document::Document;
use super::facts::NodeFacts;
use super::problem::{Problem, quoted};
use super::quantity::{Period, Rate, Size};
use super::schema;
use crate::admin::remote::RemoteSettings;
use crate::logging;
use crate::swarm::SwarmSettings;
use crate::tier::TierSettings;
use crate::trace::{self, TraceSettings};
use crate::upstream::{MirrorSettings, RegistrySettings};

use ports::Ports;

/// Longest duration of anything: beyond it a typing error is more likely than an intention.
const PERIOD_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Longest timeout of anything a client waits for.
const TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);
/// Most connections: each may need three descriptors, of which the kernel gives a process 2^20 at most by default.
const CONNECTIONS_MAX: usize = 300_000;
/// Most transfers at a time: beyond, registries answer 429.
const TRANSFERS_MAX: usize = 1024;
/// Smallest rate: with less, a transfer counts as dead before its next bytes are due.
const RATE_MIN: Rate = Rate(128 << 10);
/// Smallest capacity: less holds no image, and is more likely to be a unit that was forgotten.
const CAPACITY_MIN: Size = Size(1 << 20);
/// Largest blob kept inside the index: RocksDB writes every value twice.
const INLINE_MAX: Size = Size(1 << 20);
/// Path of a unix socket, in bytes (`sun_path` without its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What has another form than in the file.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub listeners: Vec<Listener>,
    pub registries: BTreeMap<Registry, RegistrySettings>,
    pub rules: Rules,
    pub tier: Option<TierSettings>,
    pub swarm: Option<SwarmSettings>,
    pub mirrors: MirrorSettings,
    pub observe: SocketAddr,
    pub remote: Option<RemoteSettings>,
    pub log: logging::Settings,
    pub traces: Option<TraceSettings>,
}

/// Checks everything. `facts` have been put into the file already; `known` are the problems found so far, and a key that has one
/// gets no second one.
pub(super) fn resolve(
    file: &schema::File,
    document: Option<&Document<'_>>,
    facts: &NodeFacts,
    known: Vec<Problem>,
) -> (Checked, Vec<Problem>) {
    let mut findings = Findings { document, facts, problems: known };
    let found = &mut findings;
    let mut ports = Ports::of_swarm(&file.swarm);
    let observe = found.address("observe.address", Some(&file.observe.address));
    if let Some(address) = observe {
        ports.take("observe.address", address, found);
    }
    let listeners = listeners(&file.registry, &mut ports, found);
    front(&file.registry, found);
    store(&file.store, found);
    let registries = registries::resolve(&file.upstream, found);
    let rules = access::resolve(&file.access, found);
    let tier = object_store::resolve(&file.object_store, &file.upstream.user_agent, found);
    let mirrors = mirrors::resolve(file, found);
    let swarm = swarm::resolve(file, found);
    tags(&file.tags, found);
    let log = log(&file.log, found);
    let instance = listeners.first().map(|listener| listener.address);
    let traces = traces::resolve(file, instance, trace::IS_BUILT_IN, found);
    let remote = admin::resolve(&file.admin, &mut ports, found);
    found.period("shutdown.drain_deadline", file.shutdown.drain_deadline, Duration::ZERO, TIMEOUT_MAX);
    let observe = observe.unwrap_or_else(unused_address);
    let checked =
        Checked { listeners, registries, mirrors, tier, swarm, rules, observe, remote, log, traces };
    // In the order of the file; what is missing from it stands at the end.
    findings.problems.sort_by_key(|problem| problem.at.unwrap_or((usize::MAX, 0)));
    (checked, findings.problems)
}

/// Checks what somebody needs who looks for the agent, and opens no file.
pub(super) fn places(
    file: &schema::File,
    document: &Document<'_>,
    known: Vec<Problem>,
) -> (Vec<Listener>, Vec<Problem>) {
    let mut found = Findings { document: Some(document), facts: &NodeFacts::default(), problems: known };
    let listeners = listeners(&file.registry, &mut Ports::default(), &mut found);
    store(&file.store, &mut found);
    socket(&file.admin.socket, &mut found);
    (listeners, found.problems)
}

/// Collects problems and knows where keys stand.
struct Findings<'d, 't> {
    document: Option<&'d Document<'t>>,
    facts: &'d NodeFacts,
    problems: Vec<Problem>,
}

impl Findings<'_, '_> {
    fn add(&mut self, key: &str, value: Option<String>, remedy: impl Into<String>) {
        let is_within =
            |outer: &str| key.strip_prefix(outer).is_some_and(|r| r.is_empty() || r.starts_with(['.', '[']));
        if self.problems.iter().any(|known| !known.key.is_empty() && is_within(&known.key)) {
            return;
        }
        let given_by = self.facts.giver(key);
        let document = self.document.filter(|_| given_by.is_none());
        let at = document.and_then(|document| document.locate(key));
        // Sizes and durations as the operator wrote them; what must not be shown is not shown in another way either.
        let value = value.map(|value| document.and_then(|document| document.written(key)).unwrap_or(value));
        self.problems.push(Problem { at, given_by, key: key.to_owned(), value, remedy: remedy.into() });
    }

    fn period(&mut self, key: &str, value: Period, least: Duration, most: Duration) {
        if value.0 < least || value.0 > most {
            let remedy = format!("must be from {} to {}", Period(least), Period(most));
            self.add(key, Some(quoted(&value.to_string())), remedy);
        }
    }

    fn rate(&mut self, key: &str, value: Option<Rate>) {
        if let Some(rate) = value.filter(|rate| rate.0 < RATE_MIN.0) {
            self.add(key, Some(quoted(&rate.to_string())), format!("must be at least {RATE_MIN}"));
        }
    }

    fn number(&mut self, key: &str, value: usize, most: usize) {
        if !(1..=most).contains(&value) {
            self.add(key, Some(value.to_string()), format!("must be from 1 to {most}"));
        }
    }

    fn absolute(&mut self, key: &str, path: &Path) -> bool {
        let is_absolute = path.is_absolute();
        if !is_absolute {
            let shown = quoted(&path.to_string_lossy());
            self.add(
                key,
                Some(shown),
                "must be an absolute path: an agent has no working directory to speak of",
            );
        }
        is_absolute
    }

    fn address(&mut self, key: &str, text: Option<&str>) -> Option<SocketAddr> {
        const FORM: &str = "must be an IP address and a port, such as \"127.0.0.1:5000\" or \"[::1]:5000\"";
        let address = text.and_then(|text| text.parse().ok());
        if address.is_none() {
            match text {
                Some(text) => self.add(key, Some(quoted(text)), FORM),
                None => self.add(key, None, format!("is missing; it {FORM}")),
            }
        }
        address
    }

    fn registry(&mut self, key: &str, name: &str) -> Option<Registry> {
        match name.parse() {
            Ok(registry) => Some(registry),
            Err(error) => {
                // The error names the value itself.
                self.add(key, None, shoal_engine::NameError::to_string(&error));
                None
            }
        }
    }
}

/// Stands for an address that has left a problem; nobody gets to see it.
fn unused_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn listeners(registry: &schema::Registry, ports: &mut Ports, found: &mut Findings<'_, '_>) -> Vec<Listener> {
    if registry.listeners.is_empty() {
        found.add(
            "registry.listeners",
            Some("[]".into()),
            "without a listener nobody can ask the agent; leave the key out for 127.0.0.1:5000",
        );
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for (index, listener) in registry.listeners.iter().enumerate() {
        let key = |name: &str| format!("registry.listeners[{index}].{name}");
        let address = found.address(&key("address"), listener.address.as_deref());
        let default = listener.default_registry.as_deref();
        let default_registry = default.and_then(|name| found.registry(&key("default_registry"), name));
        let Some(address) = address else { continue };
        ports.take(&key("address"), address, found);
        listeners.push(Listener { address, default_registry });
    }
    listeners
}

fn front(registry: &schema::Registry, found: &mut Findings<'_, '_>) {
    let second = Duration::from_secs(1);
    found.period("registry.answer_timeout", registry.answer_timeout, second, TIMEOUT_MAX);
    found.period("registry.body_idle_timeout", registry.body_idle_timeout, second, TIMEOUT_MAX);
    found.period("registry.keep_alive", registry.keep_alive, second, TIMEOUT_MAX);
    found.period("registry.write_idle_timeout", registry.write_idle_timeout, second, TIMEOUT_MAX);
    found.number("registry.connections_max", registry.connections_max, CONNECTIONS_MAX);
}

fn store(store: &schema::Store, found: &mut Findings<'_, '_>) {
    let second = Duration::from_secs(1);
    found.absolute("store.path", &store.path);
    if let Some(capacity) = store.capacity.filter(|capacity| *capacity < CAPACITY_MIN) {
        found.add(
            "store.capacity",
            Some(quoted(&capacity.to_string())),
            format!("must be at least {CAPACITY_MIN}; leave it out for no cap"),
        );
    }
    let (low, high) = (store.low_watermark, store.high_watermark);
    for (key, value) in [("store.high_watermark", high), ("store.low_watermark", low)] {
        // Written so that NaN is outside as well.
        if !(value > 0.0 && value <= 1.0) {
            found.add(key, Some(value.to_string()), "must be a part of the capacity: above 0, at most 1");
        }
    }
    if low >= high {
        found.add(
            "store.low_watermark",
            Some(low.to_string()),
            format!("must be below store.high_watermark, which is {high}"),
        );
    }
    if store.inline_max > INLINE_MAX {
        found.add(
            "store.inline_max",
            Some(quoted(&store.inline_max.to_string())),
            format!("must be at most {INLINE_MAX}"),
        );
    }
    if let Some(age) = store.max_age {
        found.period("store.max_age", age, second, PERIOD_MAX);
    }
    found.period("store.partial_max_age", store.partial_max_age, second, PERIOD_MAX);
    found.period("store.sweep_interval", store.sweep_interval, Duration::from_millis(100), TIMEOUT_MAX);
    if let Some(content) = &store.runtime_content
        && found.absolute("store.runtime_content", content)
        && (content.starts_with(&store.path) || store.path.starts_with(content))
    {
        let shown = quoted(&content.to_string_lossy());
        found.add(
            "store.runtime_content",
            Some(shown),
            "must be the runtime's directory, not inside or around store.path",
        );
    }
}

fn tags(tags: &schema::Tags, found: &mut Findings<'_, '_>) {
    found.period("tags.ttl", tags.ttl, Duration::ZERO, PERIOD_MAX);
    found.period("tags.ttl_max", tags.ttl_max, Duration::ZERO, PERIOD_MAX);
    found.period("tags.stale_max", tags.stale_max, Duration::ZERO, PERIOD_MAX);
    if tags.ttl > tags.ttl_max {
        found.add(
            "tags.ttl",
            Some(quoted(&tags.ttl.to_string())),
            format!("must not exceed tags.ttl_max, which is {}", tags.ttl_max),
        );
    }
}

fn log(log: &schema::Log, found: &mut Findings<'_, '_>) -> logging::Settings {
    let filter = logging::filter(&log.level).unwrap_or_else(|error| {
        found.add("log.level", Some(quoted(&log.level)), error.to_string());
        logging::Filter::default()
    });
    logging::Settings { format: log.format, filter }
}

fn socket(path: &Path, found: &mut Findings<'_, '_>) {
    let length = path.as_os_str().len();
    if found.absolute("admin.socket", path) && length > SOCKET_PATH_BYTES_MAX {
        let remedy =
            format!("has {length} bytes; the kernel takes socket paths of at most {SOCKET_PATH_BYTES_MAX}");
        found.add("admin.socket", Some(quoted(&path.to_string_lossy())), remedy);
    }
}
