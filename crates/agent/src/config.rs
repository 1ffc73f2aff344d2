//! Configuration: one TOML file, read once, checked as a whole, and handed to each part in the part's own words.
//!
//! Invariants: a [`Config`] is right, so nobody behind it checks again; all problems of a file are reported at once;
//! nobody else reads configuration, and nobody but the command line reads the environment (but for the credentials that a
//! cloud gives to a process, which the object store takes from there when told to); no secret is in it but the
//! private keys, which have no text form.

mod document;
mod facts;
mod files;
mod paths;
mod problem;
mod quantity;
mod regular;
mod resolve;
mod schema;
#[cfg(test)]
mod tests;
mod whereabouts;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use shoal_engine::Registry;
use shoal_engine::access::Rules;
use shoal_engine::tags::TagPolicy;

use crate::admin::remote::RemoteSettings;
use crate::rate::Throttle;
use crate::registry::listen::ConnectionLimits;
use crate::swarm::SwarmSettings;
use crate::tier::TierSettings;
use crate::trace::TraceSettings;
use crate::upstream::{MirrorSettings, RegistrySettings};
use crate::{driver, logging, node, upstream};

pub(crate) use document::line_and_column;
pub use facts::NodeFacts;
pub use files::{Holds, NamedFile};
pub use problem::{ConfigErrors, Problem};
pub use quantity::Rate;
pub use schema::LogFormat;
pub use whereabouts::Whereabouts;

use document::Document;
use resolve::Checked;

/// Where the file is looked for when none is named.
pub const DEFAULT_PATH: &str = "/etc/shoal/shoal.toml";

/// Every key with its explanation, at its default.
pub const SAMPLE: &str = include_str!("../../../config/shoal.toml");

/// A configuration that is right.
#[derive(Clone, Debug)]
pub struct Config {
    file: schema::File,
    checked: Checked,
}

/// A place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// The registry that is meant where a request names none.
    pub default_registry: Option<Registry>,
}

impl Default for Config {
    fn default() -> Self {
        Config::without_file(&NodeFacts::default()).expect("the defaults are right")
    }
}

impl Config {
    /// Reads a file; what the node says of itself goes before it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path, facts: &NodeFacts) -> Result<Self, ConfigErrors> {
        let unreadable = |source| ConfigErrors::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Config::read(&text, Some(path), facts)
    }

    /// The defaults, and what the node says of itself.
    ///
    /// # Errors
    /// Facts that cannot be.
    pub fn without_file(facts: &NodeFacts) -> Result<Self, ConfigErrors> {
        let mut file = schema::File::default();
        facts.apply(&mut file);
        let (checked, problems) = resolve::resolve(&file, None, facts, Vec::new());
        if problems.is_empty() {
            Ok(Config { file, checked })
        } else {
            Err(ConfigErrors::Wrong { path: None, problems })
        }
    }

    /// Reads a text; `path` is only named in errors. Files that it names are read.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: Option<&Path>) -> Result<Self, ConfigErrors> {
        Config::read(text, path, &NodeFacts::default())
    }

    fn read(text: &str, path: Option<&Path>, facts: &NodeFacts) -> Result<Self, ConfigErrors> {
        let wrong = |problems| ConfigErrors::Wrong { path: path.map(Path::to_owned), problems };
        let document = Document::parse(text).map_err(wrong)?;
        let (mut file, problems) = document.read();
        facts.apply(&mut file);
        let (checked, problems) = resolve::resolve(&file, Some(&document), facts, problems);
        if problems.is_empty() { Ok(Config { file, checked }) } else { Err(wrong(problems)) }
    }

    /// Every key that has a value, as a file that reads back the same.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.file).expect("every value of the schema has a TOML form")
    }

    /// The same as JSON; keys without a value are null.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(&self.file).expect("every value of the schema has a JSON form")
    }

    /// Where clients connect; at least one.
    pub fn listeners(&self) -> &[Listener] {
        &self.checked.listeners
    }

    /// What client connections may use.
    pub fn connection_limits(&self) -> ConnectionLimits {
        let registry = &self.file.registry;
        ConnectionLimits {
            connections_max: registry.connections_max,
            head_timeout: registry.keep_alive.0,
            write_idle_timeout: registry.write_idle_timeout.0,
            drain_deadline: self.drain_deadline(),
            ..ConnectionLimits::default()
        }
    }

    /// How the store is opened.
    pub fn store_options(&self) -> shoal_store::Options {
        store_options(&self.file.store)
    }

    /// Time from one sweep of the store to the next.
    pub fn sweep_interval(&self) -> Duration {
        self.file.store.sweep_interval.0
    }

    /// How registries are asked. Each call makes up a new name for this agent in `Via`.
    pub fn upstream_settings(&self) -> upstream::Settings {
        let settings = &self.file.upstream;
        let credentials = resolve::default_credentials(settings);
        upstream::Settings {
            user_agent: settings.user_agent.clone(),
            connect_timeout: settings.connect_timeout.0,
            header_timeout: settings.header_timeout.0,
            idle_timeout: settings.idle_timeout.0,
            throttle: Throttle::new(settings.rate.map(|rate| rate.0)),
            forward_client_address: settings.forward_client_address,
            registries: self.checked.registries.clone(),
            default: RegistrySettings { credentials, ..RegistrySettings::default() },
            mirrors: self.mirror_settings(),
            own_addresses: self.listeners().iter().map(|listener| listener.address).collect(),
            routes: self.access_rules().clone(),
            ..upstream::Settings::default()
        }
    }

    /// The object store that nodes share, if there is one.
    pub fn tier_settings(&self) -> Option<&TierSettings> {
        self.checked.tier.as_ref()
    }

    /// How the agent is a member; `None` if it works alone.
    pub fn swarm_settings(&self) -> Option<&SwarmSettings> {
        self.checked.swarm.as_ref()
    }

    /// Which mirrors are asked, and what they may cost.
    pub fn mirror_settings(&self) -> MirrorSettings {
        self.checked.mirrors.clone()
    }

    /// How the driver and its engine are bounded.
    pub fn driver_settings(&self) -> driver::Settings {
        driver::Settings {
            engine: shoal_engine::engine::Settings {
                fetches_max: self.file.upstream.transfers_max,
                ..Default::default()
            },
            inline_max: self.file.store.inline_max.0,
            body_idle_timeout: self.file.registry.body_idle_timeout.0,
        }
    }

    /// How requests are answered.
    pub fn node_settings(&self) -> node::Settings {
        let (registry, tags) = (&self.file.registry, &self.file.tags);
        node::Settings {
            answer_timeout: registry.answer_timeout.0,
            body_idle_timeout: registry.body_idle_timeout.0,
            tags: TagPolicy { ttl: tags.ttl.0, ttl_max: tags.ttl_max.0, stale_max: tags.stale_max.0 },
            prefetch_layers: self.file.prefetch.layers,
            rules: self.access_rules().clone(),
        }
    }

    /// What is served at all, and from where.
    pub fn access_rules(&self) -> &Rules {
        &self.checked.rules
    }

    /// What is logged, and how.
    pub fn log(&self) -> &logging::Settings {
        &self.checked.log
    }

    /// Where traces go; `None` if nobody takes them.
    pub fn traces(&self) -> Option<&TraceSettings> {
        self.checked.traces.as_ref()
    }

    /// Where metrics and health are served.
    pub fn observe_address(&self) -> SocketAddr {
        self.checked.observe
    }

    /// Whether the status page is served there.
    pub fn observe_page(&self) -> bool {
        self.file.observe.page.unwrap_or(self.checked.observe.ip().is_loopback())
    }

    /// The unix socket of the command line.
    pub fn admin_socket(&self) -> &Path {
        &self.file.admin.socket
    }

    /// Where the admin API is served to other machines, if it is.
    pub fn remote_settings(&self) -> Option<&RemoteSettings> {
        self.checked.remote.as_ref()
    }

    /// Transfers from registries and mirrors at once.
    pub fn transfers_max(&self) -> usize {
        self.file.upstream.transfers_max
    }

    /// How long requests under way may go on after the agent was told to stop.
    pub fn drain_deadline(&self) -> Duration {
        self.file.shutdown.drain_deadline.0
    }
}

fn store_options(store: &schema::Store) -> shoal_store::Options {
    shoal_store::Options {
        path: store.path.clone(),
        capacity: store.capacity.map(|size| size.0),
        high_watermark: store.high_watermark,
        low_watermark: store.low_watermark,
        disk_free_min: store.disk_free_min.0,
        inline_max: store.inline_max.0,
        max_age: store.max_age.map(|age| age.0),
        partial_max_age: store.partial_max_age.0,
        runtime_content: store.runtime_content.clone(),
    }
}
