//! Which runtimes are on a node and where their configuration lies, and who manages the node.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Kind, Root};

/// Where a runtime has its files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// Its own configuration.
    pub config: &'static str,
    /// The folder or file that mirrors are written in, where the configuration does not say otherwise.
    pub mirrors: &'static str,
    /// What there is where it is installed.
    signs: &'static [&'static str],
    /// What makes it read its configuration again; empty where it does that by itself.
    pub restart: &'static str,
}

const CONTAINERD_HOSTS: &str = "/etc/containerd/certs.d";
const REGISTRIES_DROP_INS: &str = "/etc/containers/registries.conf.d";

impl Places {
    /// Of a runtime.
    pub fn of(kind: Kind) -> Self {
        let (config, mirrors, restart, signs): (_, _, _, &[&str]) = match kind {
            Kind::Containerd => (
                "/etc/containerd/config.toml",
                CONTAINERD_HOSTS,
                "systemctl restart containerd",
                &["/etc/containerd", "/usr/bin/containerd", "/usr/local/bin/containerd"],
            ),
            Kind::CriO => (
                "/etc/containers/registries.conf",
                REGISTRIES_DROP_INS,
                "systemctl reload crio",
                &["/etc/crio", "/usr/bin/crio", "/usr/local/bin/crio"],
            ),
            Kind::Podman => (
                "/etc/containers/registries.conf",
                REGISTRIES_DROP_INS,
                "",
                &["/usr/bin/podman", "/usr/bin/buildah", "/usr/bin/skopeo", "/usr/local/bin/podman"],
            ),
            Kind::Docker => (
                "/etc/docker/daemon.json",
                "/etc/docker/daemon.json",
                "systemctl reload docker",
                &[
                    "/etc/docker/daemon.json",
                    "/usr/bin/dockerd",
                    "/usr/sbin/dockerd",
                    "/usr/local/bin/dockerd",
                ],
            ),
            Kind::Buildkit => (
                "/etc/buildkit/buildkitd.toml",
                "/etc/buildkit/buildkitd.toml",
                "systemctl restart buildkit",
                &["/etc/buildkit", "/usr/bin/buildkitd", "/usr/local/bin/buildkitd"],
            ),
            Kind::K3s => (
                "/etc/rancher/k3s/registries.yaml",
                "/etc/rancher/k3s/registries.yaml",
                "systemctl restart k3s (or k3s-agent)",
                &["/etc/rancher/k3s", "/var/lib/rancher/k3s/agent", "/usr/local/bin/k3s"],
            ),
            Kind::Rke2 => (
                "/etc/rancher/rke2/registries.yaml",
                "/etc/rancher/rke2/registries.yaml",
                "systemctl restart rke2-server (or rke2-agent)",
                &["/etc/rancher/rke2", "/var/lib/rancher/rke2/agent", "/usr/local/bin/rke2"],
            ),
            Kind::Microk8s => (
                "/var/snap/microk8s/current/args/containerd-template.toml",
                "/var/snap/microk8s/current/args/certs.d",
                "snap restart microk8s.daemon-containerd",
                &["/var/snap/microk8s/current/args"],
            ),
            Kind::K0s => (
                "/etc/k0s/containerd.toml",
                CONTAINERD_HOSTS,
                "systemctl restart k0sworker (or k0scontroller)",
                &["/etc/k0s", "/var/lib/k0s", "/usr/local/bin/k0s"],
            ),
            Kind::Talos => {
                ("/etc/cri/containerd.toml", "/etc/cri/conf.d/hosts", "", &["/etc/cri/conf.d/hosts"])
            }
        };
        Places { config, mirrors, signs, restart }
    }
}

/// The runtimes on the node, with what shows that they are there.
pub(super) fn kinds(root: &Root) -> Vec<(Kind, PathBuf)> {
    const ALL: [Kind; 10] = [
        Kind::Containerd,
        Kind::CriO,
        Kind::Podman,
        Kind::Docker,
        Kind::Buildkit,
        Kind::K3s,
        Kind::Rke2,
        Kind::Microk8s,
        Kind::K0s,
        Kind::Talos,
    ];
    ALL.into_iter().filter_map(|kind| Some((kind, evidence(root, kind)?))).collect()
}

/// What shows that a runtime is there.
pub(super) fn evidence(root: &Root, kind: Kind) -> Option<PathBuf> {
    Places::of(kind).signs.iter().map(PathBuf::from).find(|path| root.exists(path))
}

/// Who manages a node, where that decides whether its files stay as they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// Amazon EKS on Amazon Linux.
    Eks,
    /// Bottlerocket: read-only.
    Bottlerocket,
    /// Azure AKS.
    Aks,
    /// Google GKE.
    Gke,
    /// OpenShift, whose machine configuration operator reverts files.
    OpenShift,
    /// Talos: read-only.
    Talos,
}

impl Platform {
    /// Of a node.
    pub fn of(root: &Root) -> Option<Self> {
        const SIGNS: [(&str, Platform); 7] = [
            ("/etc/eks", Platform::Eks),
            ("/usr/bin/nodeadm", Platform::Eks),
            ("/etc/kubernetes/azure.json", Platform::Aks),
            ("/opt/azure/containers", Platform::Aks),
            ("/home/kubernetes/kube-env", Platform::Gke),
            ("/home/kubernetes/bin/configure.sh", Platform::Gke),
            ("/etc/machine-config-daemon", Platform::OpenShift),
        ];
        let release = root.read(Path::new("/etc/os-release")).ok().flatten().unwrap_or_default();
        let id = release.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or_default();
        match id.trim_matches('"') {
            "bottlerocket" => Some(Platform::Bottlerocket),
            "talos" => Some(Platform::Talos),
            _ => {
                SIGNS.into_iter().find(|(path, _)| root.exists(Path::new(path))).map(|(_, platform)| platform)
            }
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Platform::Eks => "EKS",
            Platform::Bottlerocket => "Bottlerocket",
            Platform::Aks => "AKS",
            Platform::Gke => "GKE",
            Platform::OpenShift => "OpenShift",
            Platform::Talos => "Talos",
        })
    }
}
