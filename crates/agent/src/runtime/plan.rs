//! Which files have to say what, so that a runtime asks the agent first; and what only its operator can write.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::detect::Places;
use super::hosts::folder_for;
use super::merge::{Server, Wanted};
use super::{EVERY_REGISTRY, Kind, Platform, Root, Runtime, Trap, containerd, containers, docker, snippet};
use crate::import::hosts_dir::HOSTS_FILE;

/// The drop-in of `registries.conf`; the last in the folder overrules the others.
pub(super) const REGISTRIES_DROP_IN: &str = "/etc/containers/registries.conf.d/zz-shoal.conf";
/// The drop-in of containerd's configuration.
const CONTAINERD_DROP_IN: &str = "shoal.toml";
/// Where k0s looks for drop-ins.
const K0S_DROP_INS: &str = "/etc/k0s/containerd.d";

/// What shall be written.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The agent's URL, as the runtimes reach it.
    pub mirror: String,
    /// The agent's URL where a request that names no registry means Docker Hub; docker needs it.
    pub hub_mirror: Option<String>,
    /// Which registries; [`EVERY_REGISTRY`] is one of them.
    pub registries: Vec<String>,
    /// The registries that stand for every one where a runtime wants names.
    pub known: Vec<String>,
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
            containerd_plan(root, runtime, wish, &wish.registries, &mut plan)
        }
        Kind::CriO | Kind::Podman => {
            let path = PathBuf::from(REGISTRIES_DROP_IN);
            let tables = tables(root, &wish.names(), &mut plan.advice);
            plan.push(path, Wanted::RegistriesConf { tables }, &wish.mirror);
            plan.restart = restart;
        }
        Kind::Docker => docker_plan(runtime, wish, restart, &mut plan),
        Kind::Buildkit => {
            plan.push(runtime.config.clone(), Wanted::Buildkitd { registries: wish.names() }, &wish.mirror);
            plan.restart = restart;
        }
        Kind::K3s | Kind::Rke2 => {
            plan.push(
                runtime.config.clone(),
                Wanted::RegistriesYaml { registries: wish.registries.clone() },
                &wish.mirror,
            );
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
            "docker does not say which registry it means: add a listener that takes such requests for docker.io to the agent's configuration, then install again",
            Some("[[registry.listeners]]\naddress = \"127.0.0.1:5001\"\ndefault_registry = \"docker.io\"\n".into()),
        ));
        return;
    };
    plan.push(runtime.config.clone(), Wanted::DaemonJson, mirror);
    plan.restart = restart;
}

fn containerd_plan(root: &Root, runtime: &Runtime, wish: &Wish, registries: &[String], plan: &mut Plan) {
    for registry in registries {
        if registry.contains('/') {
            plan.advice.push(Advice::new(
                format!("{registry}: containerd has mirrors of whole registries; left out"),
                None,
            ));
            continue;
        }
        let folder = folder_for(root, &runtime.mirrors_at, registry);
        let server = server(root, &folder, registry);
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
fn server(root: &Root, folder: &Path, registry: &str) -> Server {
    let url = match registry {
        EVERY_REGISTRY => None,
        docker::HUB => Some("https://registry-1.docker.io".to_owned()),
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

/// The tables of the drop-in: what other files say about each registry.
fn tables(root: &Root, registries: &[String], advice: &mut Vec<Advice>) -> Vec<toml::Table> {
    let (known, _) = containers::read(root, &|path| path != Path::new(REGISTRIES_DROP_IN));
    let mut tables = Vec::new();
    for registry in registries {
        if registry.starts_with("*.") {
            advice.push(Advice::new(format!("{registry}: name the registries one by one; left out"), None));
            continue;
        }
        let table = known.get(registry).map(|(_, table)| table.clone()).unwrap_or_else(|| {
            toml::Table::from_iter([
                ("prefix".to_owned(), registry.as_str().into()),
                ("location".to_owned(), registry.as_str().into()),
            ])
        });
        tables.push(table);
    }
    tables
}
