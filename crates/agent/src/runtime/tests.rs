//! Trees as distributions have them, and what is found in them.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

pub(super) const MIRROR: &str = "http://127.0.0.1:5000";

/// A tree with these files; a path that ends with `/` is a folder.
pub(super) fn tree(files: &[(&str, &str)]) -> (TempDir, Root) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path_there = folder.path().join(path);
        if path.ends_with('/') {
            fs::create_dir_all(path_there).unwrap();
        } else {
            fs::create_dir_all(path_there.parent().unwrap()).unwrap();
            fs::write(path_there, text).unwrap();
        }
    }
    let root = Root::new(folder.path());
    (folder, root)
}

fn own() -> Own {
    Own::new(["127.0.0.1:5000".parse().unwrap()])
}

#[test]
fn names_of_the_agent() {
    let table = [
        ("127.0.0.1:5000", "http://127.0.0.1:5000", true),
        ("127.0.0.1:5000", "localhost:5000", true),
        ("127.0.0.1:5000", "http://127.0.0.1:5001", false),
        ("0.0.0.0:5000", "http://127.0.0.1:5000/v2", true),
        ("[::]:5000", "http://[::1]:5000", true),
        ("[::]:5000", "http://127.0.0.1:5000", true),
        ("[::1]:5000", "http://127.0.0.1:5000", false),
        ("10.0.0.7:5000", "localhost:5000", false),
    ];
    for (listener, mirror, expected) in table {
        let own = Own::new([listener.parse().unwrap()]);
        assert_eq!(own.has(mirror), expected, "{listener} {mirror}");
    }
}

fn version(text: &str) -> Option<Version> {
    (!text.is_empty()).then(|| text.parse().unwrap())
}

/// What is found, in words: `kind: trap, trap`.
fn said(survey: &Survey) -> Vec<String> {
    let trap =
        |finding: &Finding| serde_json::to_value(finding).unwrap()["trap"].as_str().unwrap().to_owned();
    let line = |runtime: &Runtime| {
        let traps: Vec<String> = runtime.findings.iter().map(trap).collect();
        format!(
            "{}{}: {}",
            runtime.kind,
            if runtime.uses_agent() { " uses it" } else { "" },
            traps.join(", ")
        )
    };
    survey.runtimes.iter().map(line).collect()
}

#[test]
fn runtimes_and_platforms_are_detected() {
    let table: &[(&[(&str, &str)], &[Kind], Option<Platform>)] = &[
        (&[], &[], None),
        (&[("etc/containerd/config.toml", "version = 2")], &[Kind::Containerd], None),
        (&[("usr/bin/containerd", ""), ("usr/sbin/dockerd", "")], &[Kind::Containerd, Kind::Docker], None),
        (&[("usr/bin/crio", ""), ("usr/bin/skopeo", "")], &[Kind::CriO, Kind::Podman], None),
        (&[("etc/rancher/k3s/", "")], &[Kind::K3s], None),
        (&[("var/lib/rancher/rke2/agent/", "")], &[Kind::Rke2], None),
        (&[("var/snap/microk8s/current/args/", "")], &[Kind::Microk8s], None),
        (&[("etc/k0s/", "")], &[Kind::K0s], None),
        (&[("etc/buildkit/buildkitd.toml", "")], &[Kind::Buildkit], None),
        (
            &[("etc/os-release", "ID=talos\n"), ("etc/cri/conf.d/hosts/", "")],
            &[Kind::Talos],
            Some(Platform::Talos),
        ),
        (&[("etc/os-release", "NAME=x\nID=\"bottlerocket\"\n")], &[], Some(Platform::Bottlerocket)),
        (&[("etc/eks/", ""), ("etc/containerd/", "")], &[Kind::Containerd], Some(Platform::Eks)),
        (&[("etc/kubernetes/azure.json", "{}")], &[], Some(Platform::Aks)),
        (&[("home/kubernetes/kube-env", "")], &[], Some(Platform::Gke)),
        (&[("etc/machine-config-daemon/", ""), ("etc/crio/", "")], &[Kind::CriO], Some(Platform::OpenShift)),
    ];
    for (files, kinds, platform) in table {
        let (_folder, root) = tree(files);
        let survey = survey(&root, &own(), None);
        let found: Vec<Kind> = survey.runtimes.iter().map(|runtime| runtime.kind).collect();
        assert_eq!((found.as_slice(), survey.platform), (*kinds, *platform), "{files:?}");
    }
}

const OURS: &str = "[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
const V2: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = ";
const V3: &str = "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = ";

#[test]
fn the_traps_of_containerd() {
    const LIST: &str = "\"/etc/containerd/certs.d:/etc/docker/certs.d\"\n";
    const ONE: &str = "\"/etc/containerd/certs.d\"\n";
    let discards =
        format!("{V3}{LIST}[plugins.\"io.containerd.cri.v1.images\"]\ndiscard_unpacked_layers = true\n");
    let table: &[(&str, &str, &str)] = &[
        // version, config.toml, what is found
        ("1.7", "version = 2\n", ": hosts-dir-unset"),
        ("", "version = 2\n", ": hosts-dir-unset"),
        ("2.1", "version = 3\n", ": hosts-dir-unset"),
        ("2.2", "version = 3\n", ": hosts-dir-list"),
        ("1.7", &format!("{V2}{ONE}"), " uses it: "),
        ("1.7", &format!("{V2}{LIST}"), " uses it: "),
        ("2.1", &format!("{V3}{ONE}"), " uses it: "),
        ("2.1", &format!("{V3}{LIST}"), ": hosts-dir-list"),
        // A file of the old format, which a new containerd converts.
        ("2.2", &format!("{V2}{LIST}"), ": hosts-dir-list"),
        ("", &format!("{V3}{LIST}"), ": hosts-dir-list"),
        ("2.2", &discards, " uses it: hosts-dir-list-in-use, discards-layers"),
        ("1.7", "disabled_plugins = [\"cri\"]\n", ": cri-disabled"),
        ("1.7", "version = [\n", ": unreadable, hosts-dir-unset"),
        (
            "1.6",
            "[plugins.cri.registry.mirrors.\"docker.io\"]\nendpoint = [\"https://m.test\"]\n",
            ": hosts-dir-unset, old-mirrors",
        ),
        (
            "1.6",
            "[plugins.cri.registry]\nconfig_path = \"/etc/containerd/certs.d\"\n[plugins.cri.registry.mirrors.\"*\"]\n",
            ": old-mirrors-beside",
        ),
    ];
    for (of, config, expected) in table {
        let (_folder, root) = tree(&[
            ("etc/containerd/config.toml", config),
            ("etc/containerd/certs.d/_default/hosts.toml", OURS),
        ]);
        let survey = survey(&root, &own(), version(of));
        assert_eq!(said(&survey), [format!("containerd{expected}")], "{of}: {config}");
    }
}

#[test]
fn what_is_imported_counts() {
    let config = "version = 2\nimports = [\"conf.d/*.toml\", \"/etc/more.toml\"]\n";
    let (_folder, root) = tree(&[
        ("etc/containerd/config.toml", config),
        ("etc/containerd/conf.d/a.toml", &format!("{V2}\"/first\"")),
        ("etc/containerd/conf.d/b.txt", "not = read"),
        ("etc/more.toml", &format!("{V2}\"/hosts\"")),
        ("hosts/docker.io/hosts.toml", OURS),
    ]);
    let survey = survey(&root, &own(), version("2.1"));
    assert_eq!(survey.runtimes[0].mirrors_at, Path::new("/hosts"));
    assert_eq!(survey.runtimes[0].mirrors[0].own, Some(0));
    assert_eq!(said(&survey), ["containerd uses it: "]);
}

/// Containerd 1 looks for a relative pattern in its own working folder.
#[test]
fn a_relative_pattern_is_followed_by_containerd_2_alone() {
    let main = "version = 2\nimports = [\"conf.d/*.toml\"]\n";
    let drop_in = format!("{V2}\"/hosts\"");
    for (of, mirrors_at) in
        [("1.6", "/etc/containerd/certs.d"), ("1.7", "/etc/containerd/certs.d"), ("2.1", "/hosts")]
    {
        let (_folder, root) =
            tree(&[("etc/containerd/config.toml", main), ("etc/containerd/conf.d/a.toml", &drop_in)]);
        let survey = survey(&root, &own(), version(of));
        assert_eq!(survey.runtimes[0].mirrors_at, Path::new(mirrors_at), "{of}");
    }
}

#[test]
fn the_traps_of_hosts() {
    let second = format!("server = \"https://x.test\"\n[host.\"https://m.test\"]\n{OURS}");
    let table: &[(&str, &[(&str, &str)], &[&str])] = &[
        ("2.1", &[("docker.io/hosts.toml", OURS)], &[]),
        ("2.1", &[("docker.io/hosts.toml", &second)], &["not-first"]),
        ("2.1", &[("docker.io/hosts.toml", "[host.\"http://localhost:5000\"]\n")], &[]),
        (
            "2.1",
            &[("x/hosts.toml", "[host.\"https://m.test\"]\ncapabilities = [\"pull\", \"referrers\"]\n")],
            &["unknown-capability"],
        ),
        (
            "2.2",
            &[("x/hosts.toml", "[host.\"https://m.test\"]\ncapabilities = [\"pull\", \"referrers\"]\n")],
            &[],
        ),
        ("2.2", &[("x/hosts.toml", "capabilities = [\"fly\"]\n")], &["unknown-capability"]),
        (
            "1.7",
            &[(
                "x/hosts.toml",
                "[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\"]\nskip_verify = true\n",
            )],
            &["tls-on-http", "lacks-capability"],
        ),
        ("1.7", &[("x/hosts.toml", "server = \n")], &["unreadable"]),
        ("1.7", &[("_default/hosts.toml", OURS), ("m.test/ca.crt", "")], &["hides-default"]),
        ("1.7", &[("_default/hosts.toml", OURS), ("m.test_5000_/hosts.toml", "")], &["hides-default"]),
    ];
    for (of, files, expected) in table {
        let files: Vec<(String, &str)> =
            files.iter().map(|(path, text)| (format!("d/{path}"), *text)).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let (_folder, root) = tree(&files);
        let hosts = hosts::read(&root, Path::new("/d"), &own(), version(of));
        let traps: Vec<String> = hosts
            .findings
            .iter()
            .map(|f| serde_json::to_value(f).unwrap()["trap"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(traps, *expected, "{files:?}");
    }
}

#[test]
fn other_runtimes() {
    let conf = "[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:5000/docker.io\"\n[[registry]]\nprefix = \"docker.io/library\"\nlocation = \"m.test/library\"\n";
    let yaml = "mirrors:\n  docker.io:\n    endpoint:\n      - \"http://127.0.0.1:5000\"\n  \"*\":\n";
    let (_folder, root) = tree(&[
        ("usr/bin/podman", ""),
        ("etc/containers/registries.conf.d/shoal.conf", conf),
        (
            "etc/docker/daemon.json",
            "{\"registry-mirrors\": [\"https://m.test\", \"http://127.0.0.1:5000/\"]}",
        ),
        ("etc/buildkit/buildkitd.toml", "[registry.\"docker.io\"]\nmirrors = [\"127.0.0.1:5000\"]\n"),
        ("etc/rancher/k3s/registries.yaml", yaml),
        ("var/lib/rancher/k3s/agent/etc/containerd/certs.d/", ""),
        ("etc/rancher/rke2/registries.yaml", "mirrors: [\n"),
    ]);
    let expected = [
        "podman uses it: hides-registry",
        "docker uses it: not-first",
        "buildkit uses it: ",
        "k3s uses it: not-applied",
        "rke2: unreadable",
    ];
    assert_eq!(said(&survey(&root, &own(), None)), expected);
}

#[test]
fn patterns() {
    for (pattern, name, fits) in [
        ("*.toml", "a.toml", true),
        ("*.toml", ".toml", true),
        ("?.toml", "ab.toml", false),
        ("a*b*c", "aXbYc", true),
        ("a", "b", false),
    ] {
        assert_eq!(containerd::is_match(pattern, name), fits, "{pattern} {name}");
    }
}
