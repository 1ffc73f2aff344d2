//! Do the container runtimes of this node ask the agent?
//!
//! What their files say is found out by [`crate::runtime`]; here it is judged against where the agent listens.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::finding::{Finding, Group, Level, Outcome, kinds};
use crate::config::{Config, Listener};
use crate::import::hosts_dir::HOSTS_FILE;
use crate::runtime::{
    self, DEFAULT_RECORD, FileStatus, Kind as RuntimeKind, Own, Root, Runtime, Site, Survey, Trap,
    host_and_port,
};

kinds! {
    NONE: "runtime-none", Runtimes, Hint,
        "There is nothing on this node that pulls images, as far as can be seen from here.",
        "In a pod, mount the node's file system and name it: shoal doctor --root /host.";
    NOT_POINTED: "runtime-not-pointed", Runtimes, Problem,
        "It pulls from the registries themselves; the agent is there for nothing.",
        "Point it at the agent: shoal runtime install.";
    HELD: "runtime-held-away", Runtimes, Warning,
        "The agent did not serve, so its entries were taken away: pulls go to the registries themselves, as they would without it.",
        "Mend the agent: the entries come back by themselves once it has served for a while. If nothing holds them any more (shoal-runtime.service, the chart's container): shoal runtime install.";
    OTHER_PORT: "runtime-other-port", Runtimes, Problem,
        "It asks a port of this node on which the agent does not listen: each pull waits for an error and goes to the registry.",
        "Write the address of registry.listeners there: shoal runtime install.";
    NO_DEFAULT: "docker-no-default-registry", Runtimes, Problem,
        "Docker does not say which registry it means, and this listener has none by default: it is refused.",
        "Add a listener with default_registry = \"docker.io\" and name its address in registry-mirrors.";
    UNREADABLE: "runtime-config-unreadable", Runtimes, Problem,
        "The runtime does not start with it, or passes it by without a word and asks the registries themselves.",
        "Correct the file.";
    CRI_DISABLED: "cri-disabled", Runtimes, Hint,
        "This containerd is there for docker alone and pulls nothing by itself.",
        "Nothing, unless kubelet shall use it: then remove cri from disabled_plugins.";
    PATH_UNSET: "containerd-config-path-unset", Runtimes, Problem,
        "containerd looks nowhere for hosts.toml, so it asks no mirror.",
        "Set config_path = \"/etc/containerd/certs.d\" in its configuration and restart it: shoal runtime install --write-runtime-config.";
    PATH_LIST: "containerd-config-path-list", Runtimes, Problem,
        "The transfer service of containerd 2.1 and later takes the list for one path: every hosts.toml is passed by without a word.",
        "Set config_path to one directory and restart containerd.";
    PATH_FRAGILE: "containerd-config-path-fragile", Runtimes, Warning,
        "The list works only as long as another key keeps CRI from using the transfer service.",
        "Set config_path to one directory and restart containerd.";
    OLD_MIRRORS: "containerd-old-mirrors", Runtimes, Problem,
        "Mirrors in the old form (registry.mirrors, registry.configs) cannot stand beside config_path: containerd does not start CRI, or ignores hosts.toml.",
        "Move them to hosts.toml, remove them, and set config_path.";
    DISCARDS: "containerd-discards-layers", Runtimes, Warning,
        "containerd throws layers away after unpacking: the agent finds next to nothing in store.runtime_content, and keeps each layer itself.",
        "Set discard_unpacked_layers = false, or leave store.runtime_content away.";
    UNKNOWN: "hosts-capability-unknown", Runtimes, Problem,
        "This version of containerd does not know the capability and passes by the whole file without a word.",
        "Remove the capability.";
    MISSING: "hosts-capability-missing", Runtimes, Problem,
        "containerd does not ask the agent for tags, or for blobs: pulls go past it.",
        "Write capabilities = [\"pull\", \"resolve\"] for the agent's host.";
    TLS_ON_HTTP: "hosts-tls-on-http", Runtimes, Warning,
        "containerd tries TLS first at a host that speaks http: each connection is made twice.",
        "Remove skip_verify, ca and client from the host.";
    NOT_FIRST: "mirror-not-first", Runtimes, Warning,
        "Somebody else is asked before the agent, which sees only what that one does not have.",
        "Put the agent first, and make the other one a mirror of the agent ([mirrors]).";
    HIDDEN: "mirror-hidden", Runtimes, Warning,
        "A narrower entry without the agent decides alone: what belongs to it goes past the agent.",
        "Add the agent to that entry: shoal runtime install --registry NAME.";
    NOT_RESTARTED: "runtime-not-restarted", Runtimes, Warning,
        "What is written is not yet what the runtime does.",
        "Restart the service that is named.";
}

/// Looks and judges. Blocks on the disk.
pub(super) fn check(config: &Config, root: &Path) -> Vec<Outcome> {
    let listeners = config.listeners();
    let own = Own::new(listeners.iter().map(|listener| listener.address));
    let root = Root::new(root);
    let survey = runtime::survey(&root, &own, None);
    let reads_content = config.store_options().runtime_content.is_some();
    // Root's own file: who cannot read it sees what the runtimes see.
    let written = Site { root, record: DEFAULT_RECORD.into() }.written().unwrap_or_default();
    judge(&survey, &written, listeners, reads_content)
}

fn judge(
    survey: &Survey,
    written: &[FileStatus],
    listeners: &[Listener],
    reads_content: bool,
) -> Vec<Outcome> {
    if survey.runtimes.is_empty() {
        return vec![NONE.found("no container runtime is found").into()];
    }
    let one_is_pointed = survey.runtimes.iter().any(Runtime::uses_agent);
    let judged = survey.runtimes.iter().flat_map(|runtime| {
        let is_held = |file: &&FileStatus| file.away.is_some() && file.runtime.shares_files(runtime.kind);
        let held: Vec<&FileStatus> = written.iter().filter(is_held).collect();
        let mut outcomes = judge_traps(runtime, &held, reads_content);
        outcomes.extend(judge_mirrors(runtime, listeners));
        if let Some(held) = judge_held(runtime, &held) {
            outcomes.push(held.into());
            return outcomes;
        }
        let is_told =
            outcomes.iter().any(|outcome| outcome.level().is_some_and(|level| level == Level::Problem));
        outcomes.extend(judge_whole(runtime, one_is_pointed, is_told));
        outcomes
    });
    judged.collect()
}

/// Whether it does not ask the agent because that could not serve.
fn judge_held(runtime: &Runtime, held: &[&FileStatus]) -> Option<Finding> {
    let away = held.first()?.away.as_ref()?;
    let more = match held.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(HELD.found(format!("{}, {}{more}: {away}", named(runtime), held[0].path.display())))
}

/// Whether it asks the agent at all. `is_told` says that the reason why it does not has been told already.
fn judge_whole(runtime: &Runtime, one_is_pointed: bool, is_told: bool) -> Option<Outcome> {
    let named = named(runtime);
    if runtime.uses_agent() {
        let through = runtime.mirrors.iter().filter(|mirrored| mirrored.own.is_some());
        let registries: Vec<&str> = through
            .map(|mirrored| match mirrored.registry.as_str() {
                runtime::EVERY_REGISTRY => "every registry",
                registry => registry,
            })
            .collect();
        let what = format!("{named} asks the agent for {}", registries.join(", "));
        return Some(Outcome::well(Group::Runtimes, what));
    }
    let pulls_nothing = runtime.findings.iter().any(|finding| finding.trap == Trap::CriDisabled);
    if is_told || pulls_nothing {
        return None;
    }
    let finding =
        NOT_POINTED.found(format!("{named} is not pointed at the agent ({})", runtime.mirrors_at.display()));
    let level = match runtime.kind {
        _ if one_is_pointed => Level::Hint,
        RuntimeKind::Podman | RuntimeKind::Docker | RuntimeKind::Buildkit => Level::Warning,
        _ => Level::Problem,
    };
    Some(finding.at_most(level).into())
}

fn named(runtime: &Runtime) -> String {
    let version = runtime.version.map_or_else(String::new, |version| format!(" {version}"));
    format!("{}{version}", runtime.kind)
}

fn judge_traps(runtime: &Runtime, held: &[&FileStatus], reads_content: bool) -> Vec<Outcome> {
    // What makes it look at mirrors at all was taken away with them.
    let is_config_held = held.iter().any(|file| !file.path.ends_with(HOSTS_FILE));
    let lasting = runtime.findings.iter().filter(|found| {
        !(is_config_held && matches!(found.trap, Trap::HostsDirUnset | Trap::HostsDirList { .. }))
    });
    let judged = lasting.map(|found| {
        let place = format!("{}, {}", runtime.kind, found.place.display());
        judge_trap(&place, &found.trap, reads_content).into()
    });
    judged.collect()
}

fn judge_trap(place: &str, trap: &Trap, reads_content: bool) -> Finding {
    match trap {
        Trap::Unreadable { why } => UNREADABLE.found(format!("{place}: {why}")),
        Trap::CriDisabled => CRI_DISABLED.found(format!("{place}: disabled_plugins has cri")),
        Trap::HostsDirUnset => PATH_UNSET.found(format!("{place}: config_path is not set")),
        Trap::HostsDirList { list } => PATH_LIST.found(format!("{place}: config_path is the list {list}")),
        Trap::HostsDirListInUse { list, key } => {
            PATH_FRAGILE.found(format!("{place}: config_path is the list {list}, and {key} is set"))
        }
        Trap::OldMirrors => {
            OLD_MIRRORS.found(format!("{place}: registry.mirrors or registry.configs, and no config_path"))
        }
        Trap::OldMirrorsBeside => {
            OLD_MIRRORS.found(format!("{place}: registry.mirrors or registry.configs beside config_path"))
        }
        Trap::DiscardsLayers => {
            let finding = DISCARDS.found(format!("{place}: discard_unpacked_layers = true"));
            if reads_content { finding } else { finding.at_most(Level::Hint) }
        }
        Trap::UnknownCapability { capability } => {
            UNKNOWN.found(format!("{place}: capability {capability:?}"))
        }
        Trap::TlsOnHttp { host } => {
            TLS_ON_HTTP.found(format!("{place}: skip_verify, ca or client for {host}"))
        }
        Trap::LacksCapability { host } => {
            MISSING.found(format!("{place}: {host} lacks the capability pull or resolve"))
        }
        Trap::NotFirst { before } => NOT_FIRST.found(format!("{place}: {before} stands before the agent")),
        Trap::HidesDefault { registry } => HIDDEN
            .found(format!("{place}: {registry} has an entry of its own without the agent"))
            .remedy(format!("Add the agent to that entry: shoal runtime install --registry {registry}.")),
        Trap::HidesRegistry { prefix, .. } => HIDDEN
            .found(format!("{place}: {prefix} has an entry of its own without the agent"))
            .remedy(format!("Add the agent to that entry: shoal runtime install --registry {prefix}.")),
        Trap::NotApplied { service } => NOT_RESTARTED
            .found(format!("{place}: {service} has not read it"))
            .remedy(format!("Restart {service}.")),
    }
}

/// Mirrors that are meant to be the agent, and are not, or not in this way.
fn judge_mirrors(runtime: &Runtime, listeners: &[Listener]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for mirrored in &runtime.mirrors {
        let place = format!("{}, {}", runtime.kind, mirrored.file.display());
        match mirrored.own {
            None => {
                let elsewhere = mirrored.hosts.iter().find(|host| local(host).is_some());
                if let Some(host) = elsewhere {
                    let ours: Vec<String> =
                        listeners.iter().map(|listener| listener.address.to_string()).collect();
                    let what = format!("{place}: {host}, the agent listens on {}", ours.join(", "));
                    outcomes.push(OTHER_PORT.found(what).into());
                }
            }
            Some(own) if runtime.kind == RuntimeKind::Docker => {
                let asked = local(&mirrored.hosts[own]);
                let listener = listeners.iter().find(|listener| asked == Some(listener.address.port()));
                if listener.is_some_and(|listener| listener.default_registry.is_none()) {
                    let what = format!("{place}: {} has no default_registry", mirrored.hosts[own]);
                    outcomes.push(NO_DEFAULT.found(what).into());
                }
            }
            Some(_) => {}
        }
    }
    outcomes
}

/// The port, if a mirror is on this machine, with or without scheme and path.
fn local(mirror: &str) -> Option<u16> {
    let authority = host_and_port(mirror);
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return address.ip().is_loopback().then(|| address.port());
    }
    let (host, port) = authority.rsplit_once(':')?;
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_here.then(|| port.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Wish;

    fn told(config: &str, files: &[(&str, &str)]) -> Vec<(&'static str, Level)> {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let outcomes = check(&Config::parse(config, None).unwrap(), folder.path());
        let told = |outcome| match outcome {
            Outcome::Well { .. } => None,
            Outcome::Found(finding) => Some((finding.kind.id, finding.level)),
        };
        outcomes.into_iter().filter_map(told).collect()
    }

    const CONTAINERD: &str = "etc/containerd/config.toml";
    const HOSTS: &str = "etc/containerd/certs.d/docker.io/hosts.toml";
    const ONE_DIRECTORY: &str = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";
    const GOOD: &str = "[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
    const DAEMON: &str = "etc/docker/daemon.json";

    #[test]
    fn containerd() {
        use Level::{Hint, Problem, Warning};
        let with = |hosts| vec![(CONTAINERD, ONE_DIRECTORY), (HOSTS, hosts)];
        let list = ONE_DIRECTORY.replace("certs.d\"", "certs.d:/etc/docker/certs.d\"");
        let discards = ONE_DIRECTORY.replace(
            "version = 3\n",
            "version = 3\n[plugins.\"io.containerd.cri.v1.images\"]\ndiscard_unpacked_layers = true\n",
        );
        let table: Vec<(Vec<(&str, &str)>, &[(&str, Level)])> = vec![
            (with(GOOD), &[]),
            (vec![], &[("runtime-none", Hint)]),
            (vec![(CONTAINERD, ONE_DIRECTORY)], &[("runtime-not-pointed", Problem)]),
            (
                vec![(CONTAINERD, "version = 2\n"), (HOSTS, GOOD)],
                &[("containerd-config-path-unset", Problem)],
            ),
            (vec![(CONTAINERD, &list), (HOSTS, GOOD)], &[("containerd-config-path-list", Problem)]),
            (vec![(CONTAINERD, &discards), (HOSTS, GOOD)], &[("containerd-discards-layers", Hint)]),
            (with("[host.\"http://127.0.0.1:5009\"]\n"), &[("runtime-other-port", Problem)]),
            (with("[host.\n"), &[("runtime-config-unreadable", Problem)]),
            (
                with("[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"fetch\"]\n"),
                &[("hosts-capability-unknown", Problem)],
            ),
            (
                with("[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\"]\n"),
                &[("hosts-capability-missing", Problem)],
            ),
            (
                with("[host.\"https://other.test\"]\n[host.\"http://127.0.0.1:5000\"]\n"),
                &[("mirror-not-first", Warning)],
            ),
            (
                with("[host.\"http://127.0.0.1:5000\"]\nskip_verify = true\n"),
                &[("hosts-tls-on-http", Warning)],
            ),
        ];
        for (files, expected) in table {
            assert_eq!(told("", &files), expected, "{files:?}");
        }
    }

    /// Entries that are held away are no mistake of the operator.
    #[test]
    fn entries_that_are_held_away() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join(CONTAINERD);
        std::fs::create_dir_all(config.parent().unwrap()).unwrap();
        std::fs::write(&config, "version = 2\n").unwrap();
        let root = Root::new(folder.path());
        let site = Site { root: root.clone(), record: DEFAULT_RECORD.into() };
        let wish = Wish {
            mirror: "http://127.0.0.1:5000".into(),
            registries: vec![runtime::EVERY_REGISTRY.into()],
            with_runtime_config: true,
            ..Wish::default()
        };
        let told = || {
            let outcomes = check(&Config::parse("", None).unwrap(), folder.path()).into_iter();
            let told = outcomes.filter_map(|outcome| match outcome {
                Outcome::Well { .. } => None,
                Outcome::Found(finding) => Some((finding.kind.id, finding.what)),
            });
            told.collect::<Vec<_>>()
        };
        site.install(&runtime::survey(&root, &Own::default(), None), &wish).unwrap();
        assert_eq!(told(), []);
        site.pause(&[], "no answer within 5s").unwrap();
        let found = told();
        assert!(matches!(found.as_slice(), [("runtime-held-away", _)]), "{found:?}");
        assert!(
            found[0].1.contains("hosts.toml") && found[0].1.ends_with("no answer within 5s"),
            "{found:?}"
        );
        site.resume(&[], &["http://127.0.0.1:5000"]).unwrap();
        assert_eq!(told(), []);
    }

    #[test]
    fn docker() {
        let daemon = |text| vec![(DAEMON, text)];
        let mirror = "{\"registry-mirrors\": [\"http://127.0.0.1:5000\"]}";
        assert_eq!(told("", &daemon(mirror)), [("docker-no-default-registry", Level::Problem)]);
        let listener =
            "[[registry.listeners]]\naddress = \"127.0.0.1:5000\"\ndefault_registry = \"docker.io\"\n";
        assert_eq!(told(listener, &daemon(mirror)), []);
        assert_eq!(told("", &daemon("{}")), [("runtime-not-pointed", Level::Warning)]);
        // Another runtime of the node is pointed at the agent: docker may be there for something else.
        let both = [(DAEMON, "{}"), (CONTAINERD, ONE_DIRECTORY), (HOSTS, GOOD)];
        assert_eq!(told("", &both), [("runtime-not-pointed", Level::Hint)]);
    }

    #[test]
    fn mirrors_on_this_machine() {
        for (mirror, expected) in [
            ("http://127.0.0.1:5000", Some(5000)),
            ("localhost:5000/docker.io", Some(5000)),
            ("http://[::1]:5000/x", Some(5000)),
            ("https://mirror.test:5000", None),
            ("http://10.0.0.1:5000", None),
            ("docker.io", None),
        ] {
            assert_eq!(local(mirror), expected, "{mirror}");
        }
    }
}
