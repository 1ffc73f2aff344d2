//! What is to be written where no file can be, or where a file would not stay: word for word.

use super::plan::{Advice, Wish};
use super::{Kind, Platform, containerd};

/// What to know about a platform, and whether files that are written there stay.
pub(super) fn for_platform(platform: Platform, kind: Kind, wish: &Wish) -> (Option<Advice>, bool) {
    let is_containerd = kind == Kind::Containerd;
    let advice = match platform {
        Platform::Eks if is_containerd => Advice::new(
            "EKS: nodeadm writes containerd's configuration at each boot; for one folder of hosts put this into the node's user data",
            Some(eks()),
        ),
        Platform::Aks if is_containerd => Advice::new(
            "AKS: a node that is re-imaged loses these files; install from a DaemonSet, which writes them again",
            None,
        ),
        Platform::Bottlerocket => Advice::new(
            "Bottlerocket: its files cannot be written; put this into the node's settings (user data)",
            Some(bottlerocket(wish)),
        ),
        Platform::Talos => for_talos(wish),
        Platform::Gke if is_containerd => Advice::new(
            "GKE: containerd's configuration is the node pool's; give this file to `gcloud container node-pools update --containerd-config-from-file`",
            Some(gke(wish)),
        ),
        Platform::OpenShift if kind == Kind::CriO => Advice::new(
            "OpenShift: the machine configuration operator reverts files; put this into a MachineConfig as /etc/containers/registries.conf.d/zz-shoal.conf",
            Some(open_shift(wish)),
        ),
        // Their file is the same as CRI-O's.
        Platform::OpenShift if kind == Kind::Podman => return (None, false),
        _ => return (None, true),
    };
    let is_writable = matches!(platform, Platform::Eks | Platform::Aks);
    (Some(advice), is_writable)
}

/// What to write for Talos.
pub(super) fn for_talos(wish: &Wish) -> Advice {
    Advice::new(
        "Talos: its files cannot be written; put this into the machine configuration",
        Some(talos(wish)),
    )
}

/// The lines that give containerd its folder of hosts.
pub(super) fn config_path(format: i64, hosts_dir: &str) -> String {
    let plugin = match containerd::section(format) {
        [plugins, plugin] if plugin.contains('.') => format!("{plugins}.\"{plugin}\""),
        names => names.join("."),
    };
    format!("[{plugin}.registry]\n  config_path = \"{hosts_dir}\"\n")
}

fn eks() -> String {
    let lines = config_path(2, "/etc/containerd/certs.d");
    let lines: String = lines.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  containerd:\n    config: |\n{lines}"
    )
}

fn bottlerocket(wish: &Wish) -> String {
    let entry = |name: &String| {
        format!(
            "[[settings.container-registry.mirrors]]\nregistry = \"{name}\"\nendpoint = [\"{}\"]\n",
            wish.mirror
        )
    };
    wish.registries.iter().map(entry).collect()
}

fn talos(wish: &Wish) -> String {
    let entry =
        |name: &String| format!("      \"{name}\":\n        endpoints:\n          - {}\n", wish.mirror);
    let entries: String = wish.registries.iter().map(entry).collect();
    format!("machine:\n  registries:\n    mirrors:\n{entries}")
}

fn gke(wish: &Wish) -> String {
    let entry = |name: &String| {
        format!(
            "- server: \"{name}\"\n  hosts:\n  - host: \"{}\"\n    capabilities:\n    - HOST_CAPABILITY_PULL\n    - HOST_CAPABILITY_RESOLVE\n",
            wish.mirror
        )
    };
    let entries: String = wish.names().iter().map(entry).collect();
    format!("registryHosts:\n{entries}")
}

fn open_shift(wish: &Wish) -> String {
    let tables = wish.names().iter().map(|name| wish.table(name)).collect();
    let text = super::merge::Wanted::RegistriesConf { tables }.add(None, &wish.mirror);
    text.unwrap_or_default()
}
