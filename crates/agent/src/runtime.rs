//! The container runtimes of this node: which there are, what their configuration says about mirrors, and whether that leads
//! to the agent.
//!
//! Invariants: looking changes nothing; every path is one of the node's file tree, wherever that lies ([`Root`]); what cannot
//! be read is a [`Finding`], never a reason to say nothing about the rest.

mod buildkit;
mod containerd;
mod containers;
mod detect;
mod docker;
mod files;
mod hold;
mod hosts;
mod install;
mod merge;
mod plan;
mod prove;
mod rancher;
mod record;
mod root;
mod snippet;
mod taint;
#[cfg(test)]
mod tests;
mod version;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::loopback;

pub use detect::Platform;
pub use files::FileError;
pub use hold::{Hold, Patience, Step};
pub use install::{Change, Done, FileDone, FileStatus, RuntimeError, Site, State};
pub use plan::{Advice, Wish, is_plain};
pub use prove::{ProofError, authority, prove};
pub(crate) use record::RECORD_NAME;
pub use record::{Away, DEFAULT_RECORD, RecordError};
pub use root::Root;
pub use taint::{NodeTaint, Removal, TaintError, server_of};
pub use version::{Version, VersionError};

/// How every registry that has no mirrors of its own is called.
pub const EVERY_REGISTRY: &str = "*";

/// Something that pulls images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// containerd with its configuration in /etc/containerd.
    Containerd,
    /// CRI-O.
    #[value(name = "cri-o")]
    #[serde(rename = "cri-o")]
    CriO,
    /// podman, buildah and skopeo.
    Podman,
    /// The docker engine.
    Docker,
    /// buildkitd.
    Buildkit,
    /// k3s, with a containerd that it configures itself.
    K3s,
    /// RKE2, with a containerd that it configures itself.
    Rke2,
    /// MicroK8s, with a containerd of its own.
    Microk8s,
    /// k0s, with a containerd of its own.
    K0s,
    /// Talos, whose files nobody can write.
    Talos,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Containerd => "containerd",
            Kind::CriO => "cri-o",
            Kind::Podman => "podman",
            Kind::Docker => "docker",
            Kind::Buildkit => "buildkit",
            Kind::K3s => "k3s",
            Kind::Rke2 => "rke2",
            Kind::Microk8s => "microk8s",
            Kind::K0s => "k0s",
            Kind::Talos => "talos",
        })
    }
}

/// What is on a node.
#[derive(Clone, Debug, Serialize)]
pub struct Survey {
    /// Who manages the node, where that matters.
    pub platform: Option<Platform>,
    /// The runtimes.
    pub runtimes: Vec<Runtime>,
}

/// One runtime.
#[derive(Clone, Debug, Serialize)]
pub struct Runtime {
    /// Which.
    pub kind: Kind,
    /// What shows that it is there.
    pub evidence: PathBuf,
    /// Its version, where behaviour depends on it and it is known.
    pub version: Option<Version>,
    /// Its own configuration, whether there or not.
    pub config: PathBuf,
    /// The folder or file that mirrors are written in.
    pub mirrors_at: PathBuf,
    /// What is written about mirrors.
    pub mirrors: Vec<Mirrored>,
    /// What keeps it from using them, or may do so.
    pub findings: Vec<Finding>,
}

impl Runtime {
    /// Whether anything is asked of the agent, as far as its files say.
    pub fn uses_agent(&self) -> bool {
        self.mirrors.iter().any(|mirrored| mirrored.own.is_some())
            && !self.findings.iter().any(|finding| finding.trap.is_fatal_to_all())
    }
}

/// Who is asked for a registry's images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mirrored {
    /// The registry, part of one, or [`EVERY_REGISTRY`].
    pub registry: String,
    /// The file that says so.
    pub file: PathBuf,
    /// The mirrors in the order in which they are asked, as they are written.
    pub hosts: Vec<String>,
    /// Which of them is the agent, from 0.
    pub own: Option<usize>,
}

/// Something about a place that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file or folder.
    pub place: PathBuf,
    /// What.
    #[serde(flatten)]
    pub trap: Trap,
}

impl Finding {
    fn new(place: &Path, trap: Trap) -> Self {
        Finding { place: place.to_owned(), trap }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place.display(), self.trap)
    }
}

/// What keeps a runtime from using mirrors, or may do so. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "trap", rename_all = "kebab-case")]
pub enum Trap {
    /// A file that the runtime cannot read either, or passes by.
    #[error("cannot be used, and the runtime passes it by or does not start: {why}")]
    Unreadable {
        /// Why.
        why: String,
    },
    /// containerd is there for docker alone.
    #[error(
        "disabled_plugins has cri: this containerd pulls nothing by itself; remove it there if kubelet shall use it"
    )]
    CriDisabled,
    /// containerd looks nowhere for folders of hosts.
    #[error(
        "config_path is not set, so containerd asks no mirror: set it, with `shoal runtime install --write-runtime-config` or by hand, and restart containerd"
    )]
    HostsDirUnset,
    /// containerd's transfer service takes the list for one path.
    #[error(
        "config_path is the list {list}, which the transfer service of containerd 2.1 and later takes for one path: hosts.toml is passed by without a word. Set one folder, and restart containerd"
    )]
    HostsDirList {
        /// What is set, or the default.
        list: String,
    },
    /// The list works only as long as another key keeps CRI pulling by itself.
    #[error(
        "config_path is the list {list}, which works only as long as {key} keeps CRI from using the transfer service: set one folder, and restart containerd"
    )]
    HostsDirListInUse {
        /// What is set.
        list: String,
        /// The other key.
        key: String,
    },
    /// Mirrors in the old form, which end when `config_path` is set.
    #[error(
        "registry.mirrors or registry.configs is set, and config_path is not: they cannot stand beside each other. `shoal config import` does not read this form; move it to hosts.toml by hand, then set config_path"
    )]
    OldMirrors,
    /// Both are set, so CRI does not start.
    #[error(
        "registry.mirrors or registry.configs.*.tls stands beside config_path: containerd refuses to start CRI; remove them"
    )]
    OldMirrorsBeside,
    /// The runtime's content is no source.
    #[error(
        "discard_unpacked_layers = true: containerd throws layers away after unpacking them, so store.runtime_content has next to nothing to give"
    )]
    DiscardsLayers,
    /// A capability that this version does not know.
    #[error(
        "containerd of this version does not know the capability {capability:?}, and passes by the whole file: remove it"
    )]
    UnknownCapability {
        /// Which.
        capability: String,
    },
    /// TLS settings for a host without TLS.
    #[error("skip_verify, ca or client for {host}: containerd tries TLS first there; remove them")]
    TlsOnHttp {
        /// The host.
        host: String,
    },
    /// The agent is not asked for everything.
    #[error(
        "{host} is the agent and lacks the capability pull or resolve; write capabilities = [\"pull\", \"resolve\"]"
    )]
    LacksCapability {
        /// The agent, as it is written.
        host: String,
    },
    /// Somebody else is asked before the agent.
    #[error("{before} is asked before the agent, which sees only what that one has not")]
    NotFirst {
        /// Who.
        before: String,
    },
    /// A registry's own entry hides the one for every registry.
    #[error(
        "{registry} has an entry of its own without the agent, which hides the one for every registry: `shoal runtime install --registry {registry}`"
    )]
    HidesDefault {
        /// Which.
        registry: String,
    },
    /// A longer prefix hides the one of the registry.
    #[error(
        "{prefix} has an entry of its own without the agent, which hides the one for {registry}: `shoal runtime install --registry {prefix}`"
    )]
    HidesRegistry {
        /// Which.
        prefix: String,
        /// What it hides.
        registry: String,
    },
    /// What is written is not yet what the runtime does.
    #[error("is not what {service} has made of it yet: restart {service}")]
    NotApplied {
        /// What to restart.
        service: String,
    },
}

impl Trap {
    /// Whether no mirror at all is asked because of it.
    pub fn is_fatal_to_all(&self) -> bool {
        matches!(
            self,
            Trap::HostsDirUnset | Trap::HostsDirList { .. } | Trap::OldMirrorsBeside | Trap::CriDisabled
        )
    }
}

/// What the agent's registry port is called in the configuration of runtimes.
#[derive(Clone, Debug, Default)]
pub struct Own(Vec<String>);

impl Own {
    /// An agent that listens there.
    pub fn new(listeners: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut names = Vec::new();
        for address in listeners {
            let reached = loopback::reachable(address);
            names.push(reached.to_string());
            // Linux takes IPv4 there too.
            if address.ip() == Ipv6Addr::UNSPECIFIED {
                names.push(format!("{}:{}", Ipv4Addr::LOCALHOST, address.port()));
            }
            if reached.ip().is_loopback() {
                names.push(format!("localhost:{}", address.port()));
            }
        }
        Own(names)
    }

    /// The URL of a listener, as this node reaches it.
    pub fn url(listener: SocketAddr) -> String {
        format!("http://{}", loopback::reachable(listener))
    }

    /// The agent at a URL or at `host:port`.
    #[must_use]
    pub fn and(mut self, url: &str) -> Self {
        self.0.push(host_and_port(url).to_owned());
        self
    }

    /// Whether a mirror is the agent, with or without scheme and path.
    pub fn has(&self, mirror: &str) -> bool {
        self.0.iter().any(|name| name == host_and_port(mirror))
    }
}

/// `host:port` of a URL, or of a location without scheme.
pub(crate) fn host_and_port(url: &str) -> &str {
    let after = url.split_once("://").map_or(url, |(_, rest)| rest);
    after.split('/').next().unwrap_or_default()
}

/// Looks at the node. `containerd` is the version of a containerd that does not say it itself.
pub fn survey(root: &Root, own: &Own, containerd: Option<Version>) -> Survey {
    let runtimes = detect::kinds(root)
        .into_iter()
        .map(|(kind, evidence)| inspect(root, kind, evidence, own, containerd))
        .collect();
    Survey { platform: Platform::of(root), runtimes }
}

/// Looks at these runtimes, whether they are there or not.
pub fn survey_of(root: &Root, kinds: &[Kind], own: &Own, containerd: Option<Version>) -> Survey {
    let look = |kind: &Kind| {
        let evidence =
            detect::evidence(root, *kind).unwrap_or_else(|| detect::Places::of(*kind).config.into());
        inspect(root, *kind, evidence, own, containerd)
    };
    Survey { platform: Platform::of(root), runtimes: kinds.iter().map(look).collect() }
}

/// Looks at one runtime.
fn inspect(root: &Root, kind: Kind, evidence: PathBuf, own: &Own, given: Option<Version>) -> Runtime {
    let places = detect::Places::of(kind);
    let mut runtime = Runtime {
        kind,
        evidence,
        version: None,
        config: places.config.into(),
        mirrors_at: places.mirrors.into(),
        mirrors: Vec::new(),
        findings: Vec::new(),
    };
    match kind {
        Kind::Containerd => {
            let version = given.or_else(|| version::of_containerd(root));
            inspect_containerd(root, own, version, &mut runtime);
        }
        Kind::Microk8s | Kind::K0s => inspect_containerd(root, own, given, &mut runtime),
        Kind::CriO | Kind::Podman => containers::inspect(root, own, &mut runtime),
        Kind::Docker => docker::inspect(root, own, &mut runtime),
        Kind::Buildkit => buildkit::inspect(root, own, &mut runtime),
        Kind::K3s | Kind::Rke2 => rancher::inspect(root, own, &mut runtime),
        Kind::Talos => {
            let found = hosts::read(root, Path::new(places.mirrors), own, None);
            (runtime.mirrors, runtime.findings) = (found.mirrored, found.findings);
        }
    }
    runtime
}

fn inspect_containerd(root: &Root, own: &Own, version: Option<Version>, runtime: &mut Runtime) {
    let settings = containerd::Settings::read(root, runtime.kind, &runtime.config, version);
    if let Some(dir) = settings.hosts_dir(version) {
        // The only variable that the template of MicroK8s has in it.
        let data = "/var/snap/microk8s/current";
        runtime.mirrors_at =
            dir.strip_prefix("${SNAP_DATA}").map_or(dir.clone(), |rest| Path::new(data).join(rest));
    }
    let hosts = hosts::read(root, &runtime.mirrors_at, own, version);
    runtime.version = version;
    runtime.mirrors = hosts.mirrored;
    runtime.findings = settings.findings(&runtime.config, version);
    runtime.findings.extend(hosts.findings);
}
