//! From a file's text to the same text with the agent in it, and back.
//!
//! Invariants: pure, text in and text out; everything that a file says besides is kept as it is written; adding twice is
//! adding once; a text that cannot be added to safely is refused, never guessed at. Taking out is for files that somebody
//! has changed since: of a file that nobody has changed, the earlier text is put back instead.

mod buildkitd;
mod containerd_config;
mod daemon_json;
pub(super) mod hosts_toml;
mod registries_conf;
mod registries_yaml;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub(super) use hosts_toml::Server;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// containerd's hosts of one registry.
    HostsToml,
    /// A drop-in of `registries.conf`, all of it ours.
    RegistriesConf,
    /// docker's `daemon.json`.
    DaemonJson,
    /// `buildkitd.toml`.
    Buildkitd,
    /// `registries.yaml` of k3s and RKE2.
    RegistriesYaml,
    /// containerd's own configuration.
    ContainerdConfig,
}

/// What a file shall say.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// The agent first among the hosts; `server` is for a file that is not there yet.
    HostsToml { server: Server },
    /// The agent first among the mirrors of these tables.
    RegistriesConf { tables: Vec<toml::Table> },
    /// The agent first among Docker Hub's mirrors.
    DaemonJson,
    /// The agent first among the mirrors of these registries, of which some speak plain HTTP.
    Buildkitd { registries: Vec<String>, plain: BTreeSet<String> },
    /// The same.
    RegistriesYaml { registries: Vec<String> },
    /// `config_path` is this folder, in a file of this format.
    ContainerdConfig { format: i64, hosts_dir: String },
}

impl Wanted {
    /// What the file is.
    pub fn format(&self) -> Format {
        match self {
            Wanted::HostsToml { .. } => Format::HostsToml,
            Wanted::RegistriesConf { .. } => Format::RegistriesConf,
            Wanted::DaemonJson => Format::DaemonJson,
            Wanted::Buildkitd { .. } => Format::Buildkitd,
            Wanted::RegistriesYaml { .. } => Format::RegistriesYaml,
            Wanted::ContainerdConfig { .. } => Format::ContainerdConfig,
        }
    }

    /// The text with it. The same text if it is there already.
    pub fn add(&self, text: Option<&str>, mirror: &str) -> Result<String, MergeError> {
        let text = text.unwrap_or_default();
        match self {
            Wanted::HostsToml { server } => hosts_toml::add(text, mirror, server),
            Wanted::RegistriesConf { tables } => registries_conf::add(text, mirror, tables),
            Wanted::DaemonJson => daemon_json::add(text, mirror),
            Wanted::Buildkitd { registries, plain } => buildkitd::add(text, mirror, registries, plain),
            Wanted::RegistriesYaml { registries } => registries_yaml::add(text, mirror, registries),
            Wanted::ContainerdConfig { format, hosts_dir } => {
                containerd_config::add(text, *format, hosts_dir)
            }
        }
    }
}

/// The text without the agent; `before` is what it was before the agent was added, and keeps what it had.
pub(super) fn remove(
    format: Format,
    text: &str,
    mirror: &str,
    before: Option<&str>,
) -> Result<String, MergeError> {
    match format {
        Format::HostsToml => hosts_toml::remove(text, mirror),
        Format::RegistriesConf => registries_conf::remove(text, mirror),
        Format::DaemonJson => daemon_json::remove(text, mirror),
        Format::Buildkitd => buildkitd::remove(text, mirror, before.unwrap_or_default()),
        Format::RegistriesYaml => registries_yaml::remove(text, mirror),
        Format::ContainerdConfig => containerd_config::remove(text, before.unwrap_or_default()),
    }
}

/// Why a text is left as it is. The file is its owner's; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// It is not what it should be.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It is right, and written in a form that nothing can be added to by text alone.
    #[error("it is written in a form that is not added to automatically ({0})")]
    Form(&'static str),
    /// A file with our name that is somebody else's.
    #[error("it is there, and `shoal runtime install` has not written it")]
    Foreign,
}

/// `host:port` and path of a URL.
fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/')
}
