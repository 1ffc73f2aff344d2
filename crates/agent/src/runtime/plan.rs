//! Which files have to say what, so that a runtime asks the agent first; and what only its operator can write.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use url::Url;

use super::detect::Places;
use super::hosts::folder_for;
use super::merge::{Server, Wanted};
use super::{
    EVERY_REGISTRY, Finding, Kind, Mirrored, Platform, Root, Runtime, Trap, containerd, containers, docker,
    snippet,
};
use crate::import::hosts_dir::HOSTS_FILE;

/// The drop-in of `registries.conf`; the last in the folder overrules the others.
pub(super) const REGISTRIES_DROP_IN: &str = "/etc/containers/registries.conf.d/zz-shoal.conf";
/// The drop-in of containerd's configuration.
const CONTAINERD_DROP_IN: &str = "shoal.toml";
/// Where k0s looks for drop-ins.
const K0S_DROP_INS: &str = "/etc/k0s/containerd.d";
/// The listener that docker needs, at a port that nothing of the agent has by default: 5001 and 5002 are the swarm's.
const HUB_LISTENER: &str =
    "[[registry.listeners]]\naddress = \"127.0.0.1:5003\"\ndefault_registry = \"docker.io\"\n";

/// What shall be written.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The agent's URL, as the runtimes reach it.
    pub mirror: String,
    /// The agent's URL where a request that names no registry means Docker Hub; docker needs it.
    pub hub_mirror: Option<String>,
    /// Which registries; [`EVERY_REGISTRY`] is one of them.
    pub registries: Vec<String>,
    /// The registries that stand for every one where a runtime wants names.
    pub known: Vec<String>,
    /// The registries that speak plain HTTP at their own name: see [`is_plain`].
    pub plain: BTreeSet<String>,
    /// Whether to write what makes a runtime look at mirrors at all.
    pub with_runtime_config: bool,
}

/// A file and what it has to say.
pub(super) struct Target {
    pub path: PathBuf,
    pub wanted: Wanted,
    pub mirror: String,
}

/// What has to be done for one runtime.
pub(super) struct Plan {
    pub targets: Vec<Target>,
    /// What the operator has to do, or to know: each with lines to write somewhere, if there are any.
    pub advice: Vec<Advice>,
    /// What makes the runtime read its files again; none if it does by itself.
    pub restart: Option<&'static str>,
}

impl Wish {
    /// The registries by name.
    pub(super) fn names(&self) -> Vec<String> {
        let wanted = self.registries.iter().filter(|name| *name != EVERY_REGISTRY);
        let known = self.known.iter().filter(|_| self.registries.iter().any(|name| name == EVERY_REGISTRY));
        let names: BTreeSet<&String> = wanted.chain(known).collect();
        names.into_iter().cloned().collect()
    }

    /// Whether a registry, or the one that this is a part of, speaks plain HTTP.
    fn is_plain(&self, registry: &str) -> bool {
        self.plain.contains(host_of(registry))
    }

    /// A table of `registries.conf` for a registry that has none.
    pub(super) fn table(&self, registry: &str) -> toml::Table {
        let mut table = toml::Table::from_iter([
            ("prefix".to_owned(), registry.into()),
            ("location".to_owned(), registry.into()),
        ]);
        if self.is_plain(registry) {
            table.insert("insecure".to_owned(), true.into());
        }
        table
    }
}

/// Whether a registry that is asked at this endpoint is asked at its own name, and without TLS. A runtime that goes there itself, because the
/// agent is not there, has to know. An endpoint elsewhere is the agent's way to the registry, and not the runtime's: that one goes where it
/// would go without the agent.
pub fn is_plain(registry: &str, endpoint: &Url) -> bool {
    let own = Url::parse(&format!("http://{registry}/"));
    own.is_ok_and(|own| own == *endpoint)
}

/// The registry that something is a part of.
fn host_of(registry: &str) -> &str {
    registry.split_once('/').map_or(registry, |(host, _)| host)
}

/// Something that only the operator can do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Advice {
    /// What.
    pub text: String,
    /// What to write, word for word.
    pub snippet: Option<String>,
}

impl Advice {
    pub(super) fn new(text: impl Into<String>, snippet: Option<String>) -> Self {
        Advice { text: text.into(), snippet }
    }
}

/// What to do for a runtime.
pub(super) fn plan(root: &Root, runtime: &Runtime, platform: Option<Platform>, wish: &Wish) -> Plan {
    let mut plan = Plan { targets: Vec::new(), advice: Vec::new(), restart: None };
    if let Some(platform) = platform {
        let (advice, is_writable) = snippet::for_platform(platform, runtime.kind, wish);
        plan.advice.extend(advice);
        if !is_writable {
            return plan;
        }
    }
    let restart = Some(Places::of(runtime.kind).restart).filter(|text| !text.is_empty());
    match runtime.kind {
        Kind::Containerd | Kind::Microk8s | Kind::K0s => {
            containerd_plan(root, runtime, wish, &mut plan);
            plan.advice.extend(hidden_from_default(runtime, wish));
        }
        Kind::CriO | Kind::Podman => {
            let path = PathBuf::from(REGISTRIES_DROP_IN);
            let tables = tables(root, wish, &mut plan.advice);
            plan.advice.extend(hidden_from_registries(runtime, wish));
            plan.push(path, Wanted::RegistriesConf { tables }, &wish.mirror);
            plan.restart = restart;
        }
        Kind::Docker => docker_plan(runtime, wish, restart, &mut plan),
        Kind::Buildkit => {
            let registries = wish.names();
            let plain = registries.iter().filter(|name| wish.is_plain(name)).cloned().collect();
            plan.push(runtime.config.clone(), Wanted::Buildkitd { registries, plain }, &wish.mirror);
            plan.restart = restart;
        }
        Kind::K3s | Kind::Rke2 => {
            plan.push(
                runtime.config.clone(),
                Wanted::RegistriesYaml { registries: wish.registries.clone() },
                &wish.mirror,
            );
            plan.advice.extend(hidden_from_default(runtime, wish));
            plan.restart = restart;
        }
        Kind::Talos => plan.advice.push(snippet::for_talos(wish)),
    }
    plan
}

impl Plan {
    fn push(&mut self, path: PathBuf, wanted: Wanted, mirror: &str) {
        self.targets.push(Target { path, wanted, mirror: mirror.to_owned() });
    }
}

fn docker_plan(runtime: &Runtime, wish: &Wish, restart: Option<&'static str>, plan: &mut Plan) {
    if !wish.registries.iter().any(|name| name == docker::HUB || name == EVERY_REGISTRY) {
        plan.advice.push(Advice::new("docker has mirrors for docker.io alone; nothing to do", None));
        return;
    }
    let Some(mirror) = &wish.hub_mirror else {
        plan.advice.push(Advice::new(
            "docker does not say which registry it means: add a listener that takes such requests for docker.io to the agent's configuration, beside the one for other runtimes, then install again",
            Some(HUB_LISTENER.into()),
        ));
        return;
    };
    plan.push(runtime.config.clone(), Wanted::DaemonJson, mirror);
    plan.restart = restart;
}

fn containerd_plan(root: &Root, runtime: &Runtime, wish: &Wish, plan: &mut Plan) {
    for registry in &wish.registries {
        if registry.contains('/') {
            plan.advice.push(Advice::new(
                format!("{registry}: containerd has mirrors of whole registries; left out"),
                None,
            ));
            continue;
        }
        let folder = folder_for(root, &runtime.mirrors_at, registry);
        let server = server(root, &folder, registry, wish);
        plan.push(folder.join(HOSTS_FILE), Wanted::HostsToml { server }, &wish.mirror);
    }
    let Some(why) = runtime.findings.iter().find_map(|finding| why_not_asked(&finding.trap)) else { return };
    let settings = containerd::Settings::read(root, runtime.kind, &runtime.config, runtime.version);
    let (format, hosts_dir) = (settings.format, runtime.mirrors_at.display().to_string());
    let (target, restart) = (config_target(root, runtime, &settings), Places::of(runtime.kind).restart);
    if settings.old_mirrors.is_some() && settings.config_path.is_none() {
        plan.advice.push(Advice::new(format!("{why}. {}", Trap::OldMirrors), None));
    } else if wish.with_runtime_config {
        plan.push(target, Wanted::ContainerdConfig { format, hosts_dir }, &wish.mirror);
        plan.restart = Some(restart);
    } else {
        let text = format!(
            "{why}: this belongs into {}, and then `{restart}`; --write-runtime-config writes it",
            target.display()
        );
        plan.advice.push(Advice::new(text, Some(snippet::config_path(format, &hosts_dir))));
    }
}

/// The registries that go past the agent although every one is meant: those with an entry of their own.
fn hidden_from_default(runtime: &Runtime, wish: &Wish) -> Vec<Advice> {
    if !wish.registries.iter().any(|name| name == EVERY_REGISTRY) {
        return Vec::new();
    }
    let others = runtime.mirrors.iter().filter(|other| is_left_out(other, &wish.registries));
    let advice = |other: &Mirrored| {
        let trap = Trap::HidesDefault { registry: other.registry.clone() };
        Advice::new(Finding::new(&other.file, trap).to_string(), None)
    };
    others.map(advice).collect()
}

/// The parts of the registries that go past the agent: the longest prefix decides alone.
fn hidden_from_registries(runtime: &Runtime, wish: &Wish) -> Vec<Advice> {
    let names = wish.names();
    let others = runtime.mirrors.iter().filter(|other| is_left_out(other, &names));
    let advice = |other: &Mirrored| {
        let is_around =
            |name: &&String| other.registry.strip_prefix(*name).is_some_and(|rest| rest.starts_with('/'));
        let registry = names.iter().find(is_around)?.clone();
        let trap = Trap::HidesRegistry { prefix: other.registry.clone(), registry };
        Some(Advice::new(Finding::new(&other.file, trap).to_string(), None))
    };
    others.filter_map(advice).collect()
}

/// Whether an entry says nothing of the agent, and will not.
fn is_left_out(other: &Mirrored, wanted: &[String]) -> bool {
    other.own.is_none() && other.registry != EVERY_REGISTRY && !wanted.contains(&other.registry)
}

/// Why mirrors are not asked, or soon will not be, as far as `config_path` is the reason.
fn why_not_asked(trap: &Trap) -> Option<&'static str> {
    match trap {
        Trap::HostsDirUnset => Some("config_path is not set, so containerd asks no mirror"),
        Trap::HostsDirList { .. } => Some("config_path is a list, so containerd asks no mirror"),
        Trap::HostsDirListInUse { .. } => Some("config_path is a list, which works only by another key"),
        _ => None,
    }
}

/// The file that `config_path` belongs into. A drop-in replaces the plugin's whole section in containerd 1, so a file that
/// has one already is where it goes.
fn config_target(root: &Root, runtime: &Runtime, settings: &containerd::Settings) -> PathBuf {
    if let Some(file) = settings.files.iter().rev().find(|file| file.has_section) {
        return file.path.clone();
    }
    if runtime.kind == Kind::K0s {
        return Path::new(K0S_DROP_INS).join(CONTAINERD_DROP_IN);
    }
    let folder = runtime.config.parent().unwrap_or(Path::new("/"));
    let is_for_drop_ins = |pattern: &&PathBuf| pattern.file_name().is_some_and(|name| name == "*.toml");
    let patterns: Vec<PathBuf> = settings.imports.iter().map(|pattern| folder.join(pattern)).collect();
    let drop_ins = patterns.iter().find(is_for_drop_ins).filter(|_| root.exists(&runtime.config));
    drop_ins.map_or_else(|| runtime.config.clone(), |pattern| pattern.with_file_name(CONTAINERD_DROP_IN))
}

/// What a file that is not there yet has to say of the registry itself, so that nothing gets lost by there being one.
fn server(root: &Root, folder: &Path, registry: &str, wish: &Wish) -> Server {
    let url = match registry {
        EVERY_REGISTRY => None,
        docker::HUB => Some("https://registry-1.docker.io".to_owned()),
        plain if wish.is_plain(plain) => Some(format!("http://{plain}")),
        // There containerd finds out what is spoken, as long as nobody says it.
        here if is_loopback(here) => None,
        other => Some(format!("https://{other}")),
    };
    let files = root.entries(folder);
    let with = |extension: &'static str| {
        files.iter().filter(move |path| path.extension().is_some_and(|found| found == extension))
    };
    let text = |path: &Path| path.display().to_string();
    let key = |certificate: &PathBuf| {
        let key = certificate.with_extension("key");
        if root.exists(&key) { key } else { certificate.clone() }
    };
    Server {
        url,
        ca: with("crt").map(|path| text(path)).collect(),
        client: with("cert").map(|path| (text(path), text(&key(path)))).collect(),
    }
}

/// Whether containerd takes a registry for one on this machine.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The tables of the drop-in: what other files say about each registry.
fn tables(root: &Root, wish: &Wish, advice: &mut Vec<Advice>) -> Vec<toml::Table> {
    let (known, _) = containers::read(root, &|path| path != Path::new(REGISTRIES_DROP_IN));
    let mut tables = Vec::new();
    for registry in wish.names() {
        if registry.starts_with("*.") {
            advice.push(Advice::new(format!("{registry}: name the registries one by one; left out"), None));
            continue;
        }
        let table = known.get(&registry).map(|(_, table)| table.clone());
        tables.push(table.unwrap_or_else(|| wish.table(&registry)));
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Also where the agent is a member of a swarm, which has ports of its own.
    #[test]
    fn the_listener_that_docker_needs_can_be_added() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
        let text = format!(
            "[swarm]\nsecret_file = '{}'\n[[registry.listeners]]\naddress = '127.0.0.1:5000'\n{HUB_LISTENER}",
            secret.display()
        );
        let config = Config::parse(&text, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.listeners().len(), 2);
    }
}
